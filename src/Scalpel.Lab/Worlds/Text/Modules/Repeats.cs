using System.Text.Json.Nodes;

namespace Scalpel.Lab.Worlds;

/// <summary>Rows of words without sense, said twice: what comes next can be copied and not be known.</summary>
sealed class RepeatsModule : ITextModule
{
    const int Shortest = 8, Longest = 24;

    public string Name => "repeats";

    public string Summary => "8 to 24 words of the whole lexicon, and the same words again.";

    public int? Supply(TextWorld world, TextSplit split) => null;

    public TextRecord Item(TextWorld world, TextSplit split, int index)
    {
        SplitMix64 rng = world.Generator(this, split, index);
        string row = string.Join(' ', Enumerable.Range(0, rng.Between(Shortest, Longest)).Select(_ => world.Lexicon.Words[Lexicon.FirstWord + rng.Below(world.Lexicon.Words.Count - Lexicon.FirstWord)]));
        return new Passage().Add("row", row).Add("answer", row).Record(this, split, index, new JsonObject { ["answer"] = row });
    }
}
