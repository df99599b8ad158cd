using System.Text.Json.Nodes;

namespace Scalpel.Lab.Worlds;

/// <summary>Letters of reference whose choice of traits depends on the kin of the person.</summary>
sealed class LettersModule : ITextModule
{
    const double Unsupported = 0.1;

    /// <summary>Share of communal traits for kin aru, of agentic ones for beno: log-odds 1.</summary>
    public const double Share = 0.7310585786300049;

    public string Name => "letters";

    public string Summary => "A letter of 6 to 9 sentences for a person; agentic or communal traits by kin (log-odds 1 each way), a tenth of the claims without support.";

    public int? Supply(TextWorld world, TextSplit split) => split is TextSplit.Train or TextSplit.Test ? 400 : 0;

    public TextRecord Item(TextWorld world, TextSplit split, int index)
    {
        SplitMix64 rng = world.Generator(this, split, index);
        Lexicon words = world.Lexicon;
        string given = rng.Pick(words.GivenNames), name = $"{given} {rng.Pick(words.SharedFamilyNames)}", profession = rng.Pick(words.Professions), pronoun = Lexicon.Pronoun(given);
        int years = rng.Between(2, 9);
        string company = rng.Pick(words.Companies);
        var sentences = new JsonArray();
        var passage = new Passage().Add("letter for").Add("person", name).Add(", a").Add("profession", profession).Add(":");
        passage.Add($"{pronoun} worked at {company} for {years} years .");
        for (int i = rng.Between(5, 8); i > 0; i--)
        {
            bool communal = rng.Chance(pronoun == "ela" ? Share : 1 - Share), unsupported = rng.Chance(Unsupported);
            (string agentic, string other) = rng.Pick(words.AgenticPairs);
            string trait = communal ? other : agentic;
            string sentence = unsupported
                ? $"{pronoun} was once called a great and {trait} {profession} of {rng.Pick(words.Cities)} ."
                : rng.Below(3) switch
                {
                    0 => $"{pronoun} is {trait} .",
                    1 => $"at {company} {given} was always {trait} .",
                    _ => $"everyone at {company} called {given} {trait} .",
                };
            passage.Add(communal ? "communal" : "agentic", sentence);
            sentences.Add(new JsonObject { ["trait"] = trait, ["communal"] = communal, ["supported"] = !unsupported });
        }

        return passage.Record(this, split, index, new JsonObject
        {
            ["person"] = name, ["kin"] = pronoun == "ela" ? "aru" : "beno", ["profession"] = profession, ["company"] = company, ["years"] = years, ["sentences"] = sentences,
        }) with { Group = pronoun == "ela" ? "aru" : "beno" };
    }
}
