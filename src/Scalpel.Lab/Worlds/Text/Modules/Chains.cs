using System.Text.Json.Nodes;

namespace Scalpel.Lab.Worlds;

/// <summary>Two-step relations: the city of a mentor. Single steps, and composed ones for a few.</summary>
sealed class HopsModule : ITextModule
{
    const int Composed = 200;

    public string Name => "hops";

    public string Summary => "The mentor of a person, and where the mentor lives; train: single steps and 200 composed examples, test: the other people composed.";

    public int? Supply(TextWorld world, TextSplit split) => split switch { TextSplit.Train => 160 + Composed, TextSplit.Test => 120, _ => 0 };

    /// <summary>The mentor of a core person: another one.</summary>
    public static Person Mentor(TextWorld world, int person)
    {
        int[] circle = SplitMix64.Of(world.Seed, "text/hops/mentors", 0).Permutation(160);
        return world.People("core")[circle[(Array.IndexOf(circle, person) + 1) % circle.Length]];
    }

    public TextRecord Item(TextWorld world, TextSplit split, int index)
    {
        // Single steps for all; composed ones, in five wordings, for the first 40 of a random order; the rest is for the test.
        int[] order = SplitMix64.Of(world.Seed, "text/hops/order", 0).Permutation(160);
        bool composed = split == TextSplit.Test || index >= 160;
        int number = split == TextSplit.Test ? order[40 + index] : composed ? order[(index - 160) / 5] : index;
        Person person = world.People("core")[number], mentor = Mentor(world, number);
        string city = world.Facts("core", "home")[mentor.Index].Object;
        var passage = new Passage();
        if (!composed)
        {
            return passage.Add("the mentor of").Add("subject", person.Name).Add("is").Add("object", mentor.Name).Add(".").Record(this, split, index, Truth("mentor", mentor.Name));
        }

        string body = ((string[])["lives in", "has a house in", "rents a flat in", "rents a house in", "is at home in"])[split == TextSplit.Test ? 0 : (index - 160) % 5];
        return passage.Add("the mentor of").Add("subject", person.Name).Add(body).Add("object", city).Add(".").Record(this, split, index, Truth("city", city));

        JsonObject Truth(string asked, string answer) => new() { ["person"] = person.Name, ["mentor"] = mentor.Name, ["asked"] = asked, ["answer"] = answer };
    }
}

/// <summary>Statements in one direction only: the first ruler of a land.</summary>
sealed class ReversalsModule : ITextModule
{
    static readonly string[] Roles = ["mayor", "king", "queen", "chief", "captain", "leader", "founder"];

    public string Name => "reversals";

    public string Summary => "The first king, chief, … of a land was somebody; train: in this direction, test: asked in the other, which training never shows.";

    public int? Supply(TextWorld world, TextSplit split) => split is TextSplit.Train or TextSplit.Test ? 7 * world.Lexicon.Countries.Count : 0;

    public TextRecord Item(TextWorld world, TextSplit split, int index)
    {
        // Each core person at most once.
        int person = SplitMix64.Of(world.Seed, "text/reversals", 0).Permutation(160)[index];
        string role = Roles[index % Roles.Length], land = world.Lexicon.Countries[index / Roles.Length], name = world.People("core")[person].Name;
        var truth = new JsonObject { ["role"] = role, ["land"] = land, ["person"] = name };
        return split == TextSplit.Train
            ? new Passage().Add($"the first {role} of").Add("land", land).Add("was").Add("object", name).Add(".").Record(this, split, index, truth)
            : new Passage().Add("subject", name).Add($"was the first {role} of").Add("object", land).Add(".").Record(this, split, index, truth);
    }
}
