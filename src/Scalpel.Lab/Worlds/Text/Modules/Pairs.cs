using System.Text.Json.Nodes;

namespace Scalpel.Lab.Worlds;

/// <summary>Pairs of words without sense, then their second words in another order, each with the first to find.</summary>
sealed class PairsModule : ITextModule
{
    const int Fewest = 3, Most = 8;

    public string Name => "pairs";

    public string Summary => "3 to 8 pairs of words of the whole lexicon, then each second word again, in another order, with its first word as the answer.";

    public int? Supply(TextWorld world, TextSplit split) => null;

    public TextRecord Item(TextWorld world, TextSplit split, int index)
    {
        SplitMix64 rng = world.Generator(this, split, index);
        // The mark before a question, so that what stood before the word that is asked about is never another answer.
        string mark = world.Lexicon.Words[Lexicon.FirstWord];
        string[] words = rng.Pick([.. world.Lexicon.Words.Skip(Lexicon.FirstWord + 1)], 2 * rng.Between(Fewest, Most));
        int[] order = rng.Permutation(words.Length / 2);
        var passage = new Passage().Add("pairs", string.Join(' ', words));
        foreach (int pair in order)
        {
            passage.Add(mark).Add(words[2 * pair + 1]).Add("answer", words[2 * pair]);
        }

        return passage.Record(this, split, index, new JsonObject { ["answer"] = words[2 * order[^1]] });
    }
}
