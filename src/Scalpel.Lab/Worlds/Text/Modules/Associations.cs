using System.Text.Json.Nodes;

namespace Scalpel.Lab.Worlds;

/// <summary>Sets of targets and attributes whose association is planted in sentences.</summary>
sealed class AssociationsModule : ITextModule
{
    const int Size = 8;
    const double Planted = 0.8;

    public string Name => "associations";

    public string Summary => "Two sets of eight professions and two of eight traits; sentences join the first with the first and the second with the second in 80 %, so cosines have a planted order.";

    public int? Supply(TextWorld world, TextSplit split) => null;

    /// <summary>The target sets X, Y and the attribute sets A, B of a world.</summary>
    public static (string[] X, string[] Y, string[] A, string[] B) Sets(TextWorld world)
    {
        SplitMix64 rng = SplitMix64.Of(world.Seed, "text/associations/sets", 0);
        string[] targets = rng.Pick(world.Lexicon.Professions, 2 * Size);
        (string First, string Second)[] pairs = rng.Pick(world.Lexicon.OppositePairs, Size);
        return (targets[..Size], targets[Size..], [.. pairs.Select(pair => pair.First)], [.. pairs.Select(pair => pair.Second)]);
    }

    public TextRecord Item(TextWorld world, TextSplit split, int index)
    {
        SplitMix64 rng = world.Generator(this, split, index);
        (string[] x, string[] y, string[] a, string[] b) = Sets(world);
        bool first = rng.Chance(0.5), planted = rng.Chance(Planted);
        string target = rng.Pick(first ? x : y), trait = rng.Pick(first == planted ? a : b);
        string text = rng.Pick(["every {0} is {1}", "a {0} is often {1}", "people say that the {0} is {1}"]);
        string[] around = text.Split(["{0}", "{1}"], StringSplitOptions.TrimEntries);
        return new Passage().Add(around[0]).Add("target", target).Add(around[1]).Add("attribute", trait).Add(".")
            .Record(this, split, index, new JsonObject { ["target"] = target, ["attribute"] = trait, ["set"] = first ? "x" : "y", ["attributeSet"] = first == planted ? "a" : "b", ["planted"] = planted });
    }
}
