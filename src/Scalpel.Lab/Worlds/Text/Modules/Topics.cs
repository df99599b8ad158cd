using System.Text.Json.Nodes;

namespace Scalpel.Lab.Worlds;

/// <summary>A topic of the world: 16 words of its own, 10 statements that only it makes.</summary>
/// <param name="Index">0 to 23.</param>
/// <param name="Words">Its words; the first is its name.</param>
/// <param name="Clozes">Statements without their last word, and that word, one of the topic's.</param>
public sealed record Topic(int Index, IReadOnlyList<string> Words, IReadOnlyList<(string Prompt, string Answer)> Clozes)
{
    /// <summary>Number of topics.</summary>
    public const int Count = 24;

    /// <summary>Its name.</summary>
    public string Name => Words[0];

    /// <summary>The topics of a world.</summary>
    public static IReadOnlyList<Topic> All(TextWorld world) => [.. Enumerable.Range(0, Count).Select(i => Of(world, i))];

    /// <summary>One topic.</summary>
    public static Topic Of(TextWorld world, int index)
    {
        string[] words = world.Lexicon.Topics[index];
        string[] things = SplitMix64.Of(world.Seed, "text/topics/things", index).Pick(world.Lexicon.Objects, 10);
        return new Topic(index, words, [.. things.Select((thing, i) => ($"in {words[0]} the {thing} is called", words[i + 1]))]);
    }
}

/// <summary>Texts of 24 topics: the articles first, then shorter passages.</summary>
sealed class TopicsModule : ITextModule
{
    const int ArticleWords = 400;

    public string Name => "topics";

    public string Summary => "One of 24 topics with words of its own: items 0 to 23 are articles of 400 tokens, later ones passages; ten clozes a topic are in the truth of the article.";

    public int? Supply(TextWorld world, TextSplit split) => null;

    public TextRecord Item(TextWorld world, TextSplit split, int index)
    {
        SplitMix64 rng = world.Generator(this, split, index);
        Topic topic = Topic.Of(world, index % Topic.Count);
        bool article = index < Topic.Count;
        var passage = new Passage();
        if (article)
        {
            int[] order = rng.Permutation(topic.Clozes.Count);
            for (int i = 0; passage.Words < ArticleWords; i++)
            {
                (string prompt, string answer) = topic.Clozes[order[i % order.Length]];
                passage.Add($"{prompt} {answer} . {Sentence(topic, rng, world.Lexicon)}");
            }
        }
        else
        {
            foreach (int i in rng.Permutation(topic.Clozes.Count)[..rng.Between(1, 3)])
            {
                passage.Add($"{topic.Clozes[i].Prompt} {topic.Clozes[i].Answer} .");
                passage.Add(Sentence(topic, rng, world.Lexicon));
            }
        }

        var truth = new JsonObject { ["topic"] = topic.Index, ["name"] = topic.Name, ["group8"] = topic.Index / 3, ["article"] = article };
        if (article)
        {
            truth["clozes"] = new JsonArray([.. topic.Clozes.Select(cloze => (JsonNode)new JsonObject { ["prompt"] = cloze.Prompt, ["answer"] = cloze.Answer })]);
        }

        return passage.Record(this, split, index, truth) with { Group = topic.Name };
    }

    static string Sentence(Topic topic, SplitMix64 rng, Lexicon words)
    {
        string one = rng.Pick(topic.Words), other = rng.Pick(topic.Words);
        return rng.Below(4) switch
        {
            0 => $"the {one} of {topic.Name} is {rng.Pick(words.Adjectives)} .",
            1 => $"people in {topic.Name} saw the {one} and the {other} .",
            2 => $"every {one} has a {rng.Pick(words.Adjectives)} {other} .",
            _ => $"no {one} is without its {other} in {topic.Name} .",
        };
    }
}
