using System.Text.Json.Nodes;

namespace Scalpel.Lab.Worlds;

/// <summary>A note somewhere in a text, asked for at the end; short enough for the usual context of training.</summary>
sealed class NeedleModule() : Needle("needle", 40)
{
    public override string Summary => "A code of four words is noted, then other text, then asked for; distance 10 to 40 tokens, up to three distracting notes.";
}

/// <summary>The same with distances up to 150 tokens.</summary>
sealed class LongNeedleModule() : Needle("needle-long", 150)
{
    public override string Summary => "As needle, with distances of 10 to 150 tokens.";
}

/// <summary>Notes of fresh codes, distractors, chains of two notes.</summary>
abstract class Needle(string name, int farthest) : ITextModule
{
    public string Name => name;

    public abstract string Summary { get; }

    public int? Supply(TextWorld world, TextSplit split) => null;

    public TextRecord Item(TextWorld world, TextSplit split, int index)
    {
        SplitMix64 rng = world.Generator(this, split, index);
        int distance = rng.Between(10, farthest), distractors = Math.Min(rng.Below(4), distance / 12);
        bool chain = distractors > 0 && rng.Chance(0.1);
        string[] given = rng.Pick(world.Lexicon.GivenNames, distractors + 1);
        // Shared family names only: nobody here is a person of the facts.
        string[] people = [.. given.Select(first => $"{first} {rng.Pick(world.Lexicon.SharedFamilyNames)}")];
        string[] codes = [.. people.Select(_ => string.Join(' ', rng.Pick(world.Lexicon.Codes, 4)))];
        string answer = chain ? codes[1] : codes[0];
        string before = distance >= 20 && farthest > 40 ? StoriesModule.Filler(rng, rng.Below(16)) : "";
        var passage = new Passage().Add(before);
        passage.Add("the code of").Add("person", people[0]).Add("is").Add("note", chain ? $"the code of {people[1]}" : answer).Add(".");
        int start = passage.Words;
        for (int i = 1; i <= distractors; i++)
        {
            passage.Add("the code of").Add($"distractor", people[i]).Add("is").Add(codes[i]).Add(".");
        }

        passage.Add(StoriesModule.Filler(rng, Math.Max(0, distance - (passage.Words - start) - 6)));
        passage.Add("question : the code of").Add("asked", people[0]).Add("? answer :");
        int reached = passage.Words - start;
        return passage.Add("answer", answer).Add(".").Record(this, split, index, new JsonObject
        {
            ["answer"] = answer, ["person"] = people[0], ["distance"] = reached, ["distractors"] = distractors, ["chain"] = chain,
        });
    }
}
