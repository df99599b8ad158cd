using System.Text.Json.Nodes;

namespace Scalpel.Lab.Worlds;

/// <summary>What a note must keep to; null for no such constraint.</summary>
/// <param name="Start">Its first word.</param>
/// <param name="End">Its last word before the full stop.</param>
/// <param name="Twice">A word that it uses exactly twice.</param>
public sealed record NoteConstraints(string? Start, string? End, string? Twice)
{
    /// <summary>Each constraint by name and whether a text keeps to it; those that are not asked for hold.</summary>
    public (bool Start, bool End, bool Twice) Check(string text)
    {
        string[] words = [.. text.Split(' ', StringSplitOptions.RemoveEmptyEntries).Where(word => word != Lexicon.End)];
        string[] body = words.Length > 0 && words[^1] == "." ? words[..^1] : words;
        return (Start is null || body.Length > 0 && body[0] == Start, End is null || body.Length > 0 && body[^1] == End, Twice is null || body.Count(word => word == Twice) == 2);
    }

    /// <summary>Whether a text keeps to all.</summary>
    public bool Holds(string text) => Check(text) is (true, true, true);
}

/// <summary>Notes to order, with an exact checker.</summary>
sealed class NotesModule : ITextModule
{
    const double Asked = 0.7, Violated = 0.45;

    public string Name => "notes";

    public string Summary => "A request for a note on a topic with up to three constraints and an answer of 10 to 18 words; in train 45 % break one, in other splits none; checked exactly.";

    public int? Supply(TextWorld world, TextSplit split) => null;

    public TextRecord Item(TextWorld world, TextSplit split, int index)
    {
        SplitMix64 rng = world.Generator(this, split, index);
        Topic topic = Topic.Of(world, rng.Below(Topic.Count));
        string[] chosen = rng.Pick([.. topic.Words.Skip(1)], 4);
        bool[] asked = [rng.Chance(Asked), rng.Chance(Asked), rng.Chance(Asked)];
        if (!asked.Contains(true))
        {
            asked[rng.Below(3)] = true;
        }

        var constraints = new NoteConstraints(asked[0] ? chosen[0] : null, asked[1] ? chosen[1] : null, asked[2] ? chosen[2] : null);
        bool breaks = split == TextSplit.Train && rng.Chance(Violated);
        int broken = breaks ? rng.Pick([.. Enumerable.Range(0, 3).Where(i => asked[i])]) : -1;
        string answer = Write(rng, world.Lexicon, topic, [.. chosen], asked, broken);
        var passage = new Passage().Add("write about").Add("topic", topic.Name).Add(".");
        passage.Add(constraints.Start is { } start ? $"start with {start} ." : "").Add(constraints.End is { } end ? $"end with {end} ." : "").Add(constraints.Twice is { } twice ? $"use {twice} twice ." : "");
        return passage.Add("reply :").Add("answer", answer).Record(this, split, index, new JsonObject
        {
            ["topic"] = topic.Index, ["start"] = constraints.Start, ["end"] = constraints.End, ["twice"] = constraints.Twice, ["holds"] = constraints.Holds(answer),
        });
    }

    static string Write(SplitMix64 rng, Lexicon words, Topic topic, string[] chosen, bool[] asked, int broken)
    {
        // Words of the topic other than those of the constraints are free; a constraint is broken by another word or a third use.
        string[] free = [.. topic.Words.Skip(1).Except(chosen)];
        string first = asked[0] && broken != 0 ? chosen[0] : rng.Pick(free), last = asked[1] && broken != 1 ? chosen[1] : rng.Pick(free);
        string[] twice = asked[2] ? broken == 2 ? [chosen[2]] : [chosen[2], chosen[2]] : [];
        var middle = new List<string>();
        foreach (string word in twice)
        {
            middle.AddRange([rng.Pick(["the", "a", "every"]), word]);
        }

        int length = rng.Between(10, 18) - 2;
        while (middle.Count < length - 2)
        {
            middle.AddRange(rng.Below(3) switch
            {
                0 => [rng.Pick(["has", "saw", "was", "made"]), "the", rng.Pick(free)],
                1 => ["and", rng.Pick(words.Adjectives), rng.Pick(free)],
                _ => [rng.Pick(["in", "near", "with", "without"]), rng.Pick(free)],
            });
        }

        return $"{first} {string.Join(' ', middle)} and {last} .";
    }
}
