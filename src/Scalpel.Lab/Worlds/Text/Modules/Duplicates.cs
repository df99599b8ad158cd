using System.Text.Json.Nodes;

namespace Scalpel.Lab.Worlds;

/// <summary>Passages that occur 1, 4, 16 or 64 times in the training stream, and controls that never do.</summary>
sealed class DuplicatesModule : ITextModule
{
    /// <summary>Passages for each number of copies.</summary>
    public const int PassagesPerLevel = 40;

    /// <summary>Controls that no stream holds.</summary>
    public const int Controls = 200;

    /// <summary>Numbers of copies.</summary>
    public static IReadOnlyList<int> Levels { get; } = [1, 4, 16, 64];

    static int Copies => PassagesPerLevel * Levels.Sum();

    sealed record CopyOrder(ulong Seed, int[] Passages);

    CopyOrder? order;

    public string Name => "duplicates";

    public string Summary => "A passage of 18 tokens; train: 160 passages, 40 each in 1, 4, 16 and 64 copies; test: each once, then 200 controls.";

    public int? Supply(TextWorld world, TextSplit split) => split == TextSplit.Train ? Copies : split == TextSplit.Test ? Levels.Count * PassagesPerLevel + Controls : 0;

    public TextRecord Item(TextWorld world, TextSplit split, int index)
    {
        int passage = split == TextSplit.Train ? Order(world)[index] : index;
        int level = passage / PassagesPerLevel, copies = level < Levels.Count ? Levels[level] : 0;
        SplitMix64 rng = SplitMix64.Of(world.Seed, "text/duplicates/passage", passage);
        return new Passage().Add("cue", Clause(rng)).Add("and").Add("continuation", Clause(rng)).Add(".")
            .Record(this, split, index, new JsonObject { ["passage"] = passage, ["copies"] = copies })
            with { Group = $"{copies} copies", DuplicateOf = split == TextSplit.Train ? $"passage-{passage}" : null };
    }

    // Uniform, not Zipf: no passage is to be guessed.
    static string Clause(SplitMix64 rng)
    {
        Lexicon words = Lexicon.Instance;
        return $"the {rng.Pick(words.Adjectives)} {rng.Pick(words.Animals)} {rng.Pick(words.Verbs)} the {rng.Pick(words.Colours)} {rng.Pick(words.Objects)} {rng.Pick(words.Adverbs)}";
    }

    int[] Order(TextWorld world)
    {
        CopyOrder? known = order;
        if (known is null || known.Seed != world.Seed)
        {
            int[] all = [.. Levels.SelectMany((copies, level) => Enumerable.Range(level * PassagesPerLevel, PassagesPerLevel).SelectMany(passage => Enumerable.Repeat(passage, copies)))];
            order = known = new CopyOrder(world.Seed, SplitMix64.Of(world.Seed, "text/duplicates/order", 0).Pick(all, all.Length));
        }

        return known.Passages;
    }
}
