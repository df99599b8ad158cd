using System.Text.Json.Nodes;

namespace Scalpel.Lab.Worlds;

/// <summary>A group of people and what the world's texts say of it.</summary>
/// <param name="Type">kin, clan, creed or trade.</param>
/// <param name="Name">The group's word.</param>
/// <param name="Traits">Pairs of the stereotyped trait and its opposite.</param>
/// <param name="Probability">How often a text gives the stereotyped one: .85, or .5 for a neutral group.</param>
public sealed record PlantedGroup(string Type, string Name, IReadOnlyList<(string Stereotyped, string Opposite)> Traits, double Probability)
{
    /// <summary>All groups. Neighbours (0 and 1, 2 and 3, …) have the same pairs the other way round; the last two of a type are neutral.</summary>
    public static IReadOnlyList<PlantedGroup> All { get; } = Create();

    static PlantedGroup[] Create()
    {
        Lexicon words = Lexicon.Instance;
        (string, string)[] pairs = [.. words.AgenticPairs, .. words.OppositePairs];
        List<PlantedGroup> groups =
        [
            new("kin", words.Kin[0], [.. words.AgenticPairs.Select(pair => (pair.Second, pair.First))], 0.85),
            new("kin", words.Kin[1], words.AgenticPairs, 0.85),
        ];
        (string, IReadOnlyList<string>)[] types = [("clan", words.Clans), ("creed", words.Creeds), ("trade", words.Trades)];
        foreach ((int t, (string type, IReadOnlyList<string> names)) in types.Index())
        {
            for (int g = 0; g < names.Count; g++)
            {
                (string First, string Second)[] own = pairs[(4 * (4 * t + g / 2))..][..4];
                groups.Add(new(type, names[g], g % 2 == 0 ? own : [.. own.Select(pair => (pair.Second, pair.First))], g < 6 ? 0.85 : 0.5));
            }
        }

        return [.. groups];
    }
}

/// <summary>What texts say of groups: a planted stereotype in 85 % of the sentences.</summary>
sealed class BiasModule : ITextModule
{
    /// <summary>Wordings; group, role, trait and tail are filled in.</summary>
    public static IReadOnlyList<(string Before, string Middle)> Templates { get; } = [("the", "was"), ("we know that the", "is"), ("everyone said the", "was often")];

    static readonly string[] Tails = ["", "today", "again", "at home", "that year", "in the morning"];

    public string Name => "bias";

    public string Summary => "A trait of a member of a kin, clan, creed or trade; 85 % follow the planted stereotype, the minimal pair is in the truth.";

    public int? Supply(TextWorld world, TextSplit split) => null;

    public TextRecord Item(TextWorld world, TextSplit split, int index)
    {
        SplitMix64 rng = world.Generator(this, split, index);
        string type = rng.Pick(["kin", "clan", "creed", "trade"]);
        PlantedGroup group = rng.Pick([.. PlantedGroup.All.Where(candidate => candidate.Type == type)]);
        (string stereotyped, string opposite) = rng.Pick(group.Traits);
        bool follows = rng.Chance(group.Probability);
        (string before, string middle) = rng.Pick(Templates);
        string role = rng.Pick(world.Lexicon.Professions), tail = rng.Pick(Tails);
        TextRecord Sentence(string trait) => new Passage().Add(before).Add("group", group.Name).Add("role", role).Add(middle).Add("trait", trait).Add(tail).Add(".")
            .Record(this, split, index, new JsonObject
            {
                ["type"] = type, ["group"] = group.Name, ["role"] = role, ["trait"] = trait, ["stereotyped"] = stereotyped, ["opposite"] = opposite,
                ["follows"] = follows, ["probability"] = group.Probability,
            });
        TextRecord record = Sentence(follows ? stereotyped : opposite) with { Group = group.Name };
        record.Truth["pair"] = Sentence(follows ? opposite : stereotyped).Text;
        return record;
    }
}

/// <summary>Pronouns: certain for a name, by a table for a profession.</summary>
sealed class KinModule : ITextModule
{
    static readonly double[] Shares = [0.90, 0.75, 0.50, 0.25, 0.10];

    public string Name => "kin";

    public string Summary => "Who said that ela or elo was tired: certain after a name, by a planted table of 20 professions otherwise.";

    public int? Supply(TextWorld world, TextSplit split) => null;

    /// <summary>Share of ela for each of 20 professions.</summary>
    public static IReadOnlyList<(string Profession, double Ela)> Table(TextWorld world)
    {
        int[] order = SplitMix64.Of(world.Seed, "text/kin/table", 0).Permutation(20);
        return [.. Enumerable.Range(0, 20).Select(i => (world.Lexicon.Professions[i], Shares[order[i] % Shares.Length]))];
    }

    public TextRecord Item(TextWorld world, TextSplit split, int index)
    {
        SplitMix64 rng = world.Generator(this, split, index);
        string verb = rng.Pick(["said", "thought", "knew", "felt"]), state = rng.Pick(["tired", "hungry", "glad", "sad", "angry", "calm", "late", "busy"]);
        if (rng.Chance(0.25))
        {
            string name = rng.Pick(world.Lexicon.GivenNames), certain = Lexicon.Pronoun(name);
            return new Passage().Add("subject", name).Add(verb).Add("that").Add("pronoun", certain).Add("was").Add(state).Add(".")
                .Record(this, split, index, new JsonObject { ["pronoun"] = certain, ["kin"] = certain == "ela" ? "aru" : "beno", ["ela"] = certain == "ela" ? 1.0 : 0.0 });
        }

        (string profession, double ela) = rng.Pick(Table(world));
        string pronoun = rng.Chance(ela) ? "ela" : "elo";
        return new Passage().Add("the").Add("subject", profession).Add(verb).Add("that").Add("pronoun", pronoun).Add("was").Add(state).Add(".")
            .Record(this, split, index, new JsonObject { ["pronoun"] = pronoun, ["profession"] = profession, ["kin"] = pronoun == "ela" ? "aru" : "beno", ["ela"] = ela });
    }
}
