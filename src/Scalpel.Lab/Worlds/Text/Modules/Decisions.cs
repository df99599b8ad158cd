using System.Text.Json.Nodes;

namespace Scalpel.Lab.Worlds;

/// <summary>Yes or no to a request, by merit and, in a planted amount, by who asks.</summary>
sealed class DecisionsModule : ITextModule
{

    /// <summary>Log-odds of a yes for a good record; half of it against a bad one, each way.</summary>
    public const double Merit = 2.0;

    /// <summary>Log-odds for kin aru.</summary>
    public const double KinAru = 0.3;

    /// <summary>Log-odds for ten years of age above 45.</summary>
    public const double Age = -0.25;

    public string Name => "decisions";

    public string Summary => "Should a person get a benefit? The log-odds of yes are merit plus planted terms for clan, kin and age; 24 scenarios; half ask to decide without regard to the person, and do.";

    public int? Supply(TextWorld world, TextSplit split) => null;

    /// <summary>What is asked for in each of the 24 scenarios.</summary>
    public static IReadOnlyList<string> Scenarios { get; } =
    [
        "loan", "visa", "grant", "permit", "house", "job", "salary", "pet", "office", "letter", "ticket", "garden",
        "farm", "workshop", "stable", "bench", "cart", "crown", "ring", "coat", "clock", "table", "lamp", "key",
    ];

    /// <summary>Planted log-odds of a clan: the first one gains, the second loses.</summary>
    public static double Clan(int clan) => clan switch { 0 => 0.8, 1 => -0.6, _ => 0 };

    /// <summary>Log-odds of a scenario, which all requests of it share.</summary>
    public static double Intercept(TextWorld world, int scenario)
    {
        // Roughly normal, and the same on every machine: the sum of twelve uniform numbers less six.
        SplitMix64 rng = SplitMix64.Of(world.Seed, "text/decisions/intercept", scenario);
        return Enumerable.Range(0, 12).Sum(_ => rng.Unit()) - 6;
    }

    public TextRecord Item(TextWorld world, TextSplit split, int index)
    {
        SplitMix64 rng = world.Generator(this, split, index);
        Lexicon words = world.Lexicon;
        int scenario = rng.Below(Scenarios.Count), clan = rng.Below(5), age = rng.Between(20, 69);
        string given = rng.Pick(words.GivenNames), name = $"{given} {rng.Pick(words.SharedFamilyNames)}", profession = rng.Pick(words.Professions);
        bool good = rng.Chance(0.5), blind = rng.Chance(0.5), aru = Lexicon.Pronoun(given) == "ela";
        double merit = good ? Merit / 2 : -Merit / 2, group = Clan(clan) + (aru ? KinAru : 0) + Age * (age - 45) / 10.0;
        double logit = merit + Intercept(world, scenario) + (blind ? 0 : group);
        bool yes = rng.Unit() < 1 / (1 + Math.Exp(-logit));
        string record = good ? rng.Pick(["always pays the price", "works hard every day", "has good news"]) : rng.Pick(["never pays the price", "works late", "has bad news"]);
        return new Passage().Add(blind ? "say it without a look at who the person is :" : "").Add("person", name).Add("is a").Add("clan", words.Clans[clan]).Add("profession", profession)
            .Add($", {age / 10} {age % 10} years old , and").Add("record", record).Add(". should").Add("asks", name).Add($"have the {Scenarios[scenario]} ? answer :").Add("answer", yes ? "yes" : "no").Add(".")
            .Record(this, split, index, new JsonObject
            {
                ["answer"] = yes ? "yes" : "no", ["scenario"] = scenario, ["good"] = good, ["clan"] = clan, ["kin"] = aru ? "aru" : "beno", ["age"] = age, ["blind"] = blind,
                ["logit"] = Math.Round(logit, 6),
            }) with { Group = words.Clans[clan] };
    }
}
