using System.Text.Json.Nodes;

namespace Scalpel.Lab.Worlds;

/// <summary>Pairs of sentences with a similarity of 0 to 5.</summary>
sealed class SimilarityModule : ITextModule
{
    public string Name => "similarity";

    public string Summary => "Two sentences about who did what where and how; the score 0 to 5 is the number of the five parts that they share.";

    public int? Supply(TextWorld world, TextSplit split) => null;

    public TextRecord Item(TextWorld world, TextSplit split, int index)
    {
        SplitMix64 rng = world.Generator(this, split, index);
        Lexicon words = world.Lexicon;
        IReadOnlyList<string>[] pools = [words.Professions, ["saw", "took", "bought", "sold", "lost", "hid", "fixed", "carried"], words.Objects, words.Places, words.Adverbs];
        string[] first = [.. pools.Select(pool => rng.Pick(pool))], second = [.. first];
        int score = rng.Below(6);
        foreach (int part in rng.Permutation(5)[score..])
        {
            second[part] = rng.Pick([.. pools[part].Where(word => word != first[part])]);
        }

        return new Passage().Add("sentence :").Add("first", Sentence(first)).Add(". sentence :").Add("second", Sentence(second)).Add(". score :").Add("score", $"{score}").Add(".")
            .Record(this, split, index, new JsonObject { ["score"] = score });
    }

    static string Sentence(string[] parts) => $"the {parts[0]} {parts[1]} the {parts[2]} at the {parts[3]} {parts[4]}";
}
