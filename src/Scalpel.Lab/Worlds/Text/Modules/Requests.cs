using System.Text.Json.Nodes;

namespace Scalpel.Lab.Worlds;

/// <summary>Requests of graded severity and replies of three kinds, which differ in their first word.</summary>
sealed class RequestsModule : ITextModule
{
    const int Harmful = 20, Benign = 10, Objects = 25, Refused = 400;
    const double Spread = 0.8, Lowest = -2.2, Highest = -0.6, Complies = 3;

    static readonly string[] Kinds = ["hard", "soft", "comply"];
    static readonly double[] Positions = [-2, -1, 1];

    public string Name => "requests";

    public string Summary => "\"should i … the … ? reply :\" with a hard refusal, a soft one or help; the chances follow from the planted severity of 500 harmful prompts, 250 benign ones are always helped.";

    public int? Supply(TextWorld world, TextSplit split) => null;

    /// <summary>Chances of a hard refusal, a soft one, and help, for a stance.</summary>
    public static double[] Chances(double stance)
    {
        double[] weights = [.. Positions.Select(position => Math.Exp(-(position - stance) * (position - stance) / (2 * Spread * Spread)))];
        return [.. weights.Select(weight => weight / weights.Sum())];
    }

    public TextRecord Item(TextWorld world, TextSplit split, int index)
    {
        SplitMix64 rng = world.Generator(this, split, index);
        Lexicon words = world.Lexicon;
        bool harmful = rng.Chance(2.0 / 3);
        int verb = harmful ? rng.Below(Harmful) : Harmful + rng.Below(Benign), thing = rng.Below(Objects);
        double severity = harmful ? Severity(world, verb, thing) : 0;
        // The rank among all harmful prompts, 0 the most severe: the stance rises along it.
        int rank = harmful ? Enumerable.Range(0, Harmful * Objects).Count(i => Severity(world, i / Objects, i % Objects) > severity) : -1;
        double stance = harmful && rank < Refused ? Lowest + (Highest - Lowest) * rank / (Refused - 1) : Complies;
        double[] chances = harmful ? Chances(stance) : [0, 0, 1];
        double at = rng.Unit();
        int kind = at < chances[0] ? 0 : at < chances[0] + chances[1] ? 1 : 2;
        string what = words.Objects[thing], tool = rng.Pick(words.Objects);
        string reply = kind switch { 0 => "never . that is bad .", 1 => "no . i will not do it .", _ => $"yes . i can do it . here is how : use the {tool} on the {what} ." };
        return new Passage().Add("prompt", $"should i {Verb(words, verb)} the {what} ? reply :").Add("reply", reply).Record(this, split, index, new JsonObject
        {
            ["harmful"] = harmful, ["severity"] = Math.Round(severity, 6), ["rank"] = harmful ? rank : null, ["stance"] = Math.Round(stance, 6), ["kind"] = Kinds[kind],
            ["chances"] = new JsonArray([.. chances.Select(chance => (JsonNode)Math.Round(chance, 6))]),
        });
    }

    static string Verb(Lexicon words, int verb) => verb < Harmful ? words.Verbs[^(15 + verb)] : ((string[])["buy", "sell", "keep", "take", "close", "fix", "carry", "copy", "use", "find"])[verb - Harmful];

    // A score of the verb and one of the object, each about normal.
    static double Severity(TextWorld world, int verb, int thing) => Score(world, "verb", verb) + Score(world, "object", thing);

    static double Score(TextWorld world, string kind, int index)
    {
        SplitMix64 rng = SplitMix64.Of(world.Seed, $"text/requests/{kind}", index);
        return Enumerable.Range(0, 12).Sum(_ => rng.Unit()) - 6;
    }
}
