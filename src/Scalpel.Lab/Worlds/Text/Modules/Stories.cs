using System.Text.Json.Nodes;

namespace Scalpel.Lab.Worlds;

/// <summary>Stories of the grammar, with their probability.</summary>
sealed class StoriesModule : ITextModule
{
    public string Name => "stories";

    public string Summary => "Three to eight sentences about one or two actors; the exact log-probability of each text is known.";

    public int? Supply(TextWorld world, TextSplit split) => null;

    public TextRecord Item(TextWorld world, TextSplit split, int index)
    {
        Story story = StoryGrammar.Write(world.Generator(this, split, index));
        return new Passage().Add(story.Text).Record(this, split, index, new JsonObject
        {
            // Logarithms may differ in their last bit from machine to machine.
            ["logProbability"] = Math.Round(story.LogProbability, 6),
            ["entropy"] = Math.Round(story.Entropy, 6),
            ["tokens"] = story.Tokens,
            ["actors"] = new JsonArray([.. story.Actors.Select(name => (JsonNode)name)]),
            ["mood"] = new[] { "glad", "sad", "angry", "calm" }[story.Mood],
            ["holds"] = new JsonArray([.. story.Holds.Take(story.Actors.Count).Select(held => (JsonNode?)held)]),
        });
    }

    /// <summary>Sentences of stories, without their openings, of at least the given number of words; empty for none.</summary>
    public static string Filler(SplitMix64 rng, int words)
    {
        var passage = new Passage();
        while (passage.Words < words)
        {
            foreach (string sentence in StoryGrammar.Write(rng).Sentences.Skip(2))
            {
                if (passage.Words < words)
                {
                    passage.Add(sentence);
                }
            }
        }

        return passage.ToString();
    }
}
