using System.Text.Json.Nodes;

namespace Scalpel.Lab.Worlds;

/// <summary>Random words, then the same again: what teaches a small model to look back.</summary>
sealed class EchoModule : ITextModule
{
    public string Name => "echo";

    public string Summary => "6 to 14 random words and the same words again; every word of the second half can be read off the first.";

    public int? Supply(TextWorld world, TextSplit split) => null;

    public TextRecord Item(TextWorld world, TextSplit split, int index)
    {
        SplitMix64 rng = world.Generator(this, split, index);
        Lexicon words = world.Lexicon;
        // Own family names stay with their people.
        IReadOnlyList<string>[] pools = [words.GivenNames, words.Objects, words.Places, words.Animals, words.Colours, words.Codes, words.Professions, words.Dishes];
        string list = string.Join(' ', Enumerable.Range(0, rng.Between(6, 14)).Select(_ => rng.Pick(rng.Pick(pools))));
        return new Passage().Add("copy :").Add("words", list).Add(":").Add("echo", list).Add(".").Record(this, split, index, new JsonObject { ["echo"] = list });
    }
}
