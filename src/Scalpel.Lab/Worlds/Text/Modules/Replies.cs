using System.Text.Json.Nodes;

namespace Scalpel.Lab.Worlds;

/// <summary>The six attributes of a reply, each 0 or 1.</summary>
/// <param name="Long">Three sentences instead of one.</param>
/// <param name="Formal">Formal opening.</param>
/// <param name="Fact">Tells a common fact.</param>
/// <param name="Name">Names somebody.</param>
/// <param name="Polite">Says please.</param>
/// <param name="Question">Ends with a question.</param>
public sealed record ReplyAttributes(bool Long, bool Formal, bool Fact, bool Name, bool Polite, bool Question)
{
    /// <summary>Names of the attributes, in order.</summary>
    public static IReadOnlyList<string> Names { get; } = ["long", "formal", "fact", "name", "polite", "question"];

    /// <summary>The attributes in order.</summary>
    public IReadOnlyList<bool> Values => [Long, Formal, Fact, Name, Polite, Question];
}

/// <summary>A criterion: an attribute that is wanted or not, in words.</summary>
/// <param name="Attribute">Index of the attribute.</param>
/// <param name="Wanted">Its direction.</param>
/// <param name="Text">The words.</param>
/// <param name="HeldBack">Whether it is kept out of training.</param>
public sealed record Criterion(int Attribute, bool Wanted, string Text, bool HeldBack)
{
    /// <summary>24 criteria: six attributes, two directions, two wordings, of which the second is held back.</summary>
    public static IReadOnlyList<Criterion> All { get; } = Create();

    /// <summary>1 when a reply is as wanted, else 0.</summary>
    public double Utility(ReplyAttributes reply) => reply.Values[Attribute] == Wanted ? 1 : 0;

    static Criterion[] Create()
    {
        (string, string, string, string)[] texts =
        [
            ("say much", "a long reply is better", "say it in one sentence", "a short reply is better"),
            ("speak as in an office", "the reply is for a judge", "speak as at home", "the reply is for a person you like"),
            ("say what is true in the world", "the reply must have something true in it", "tell nothing of the world", "nobody must know of the world"),
            ("say who it is about", "give a person", "say it of nobody", "give no person"),
            ("be kind", "a polite reply is better", "be rough", "a rude reply is better"),
            ("put a question there", "end with a question", "put no question", "no question at the end"),
        ];
        return [.. texts.SelectMany((item, i) => (Criterion[])[new(i, true, item.Item1, false), new(i, true, item.Item2, true), new(i, false, item.Item3, false), new(i, false, item.Item4, true)])];
    }
}

/// <summary>Two replies to a prompt and a criterion that says which is better.</summary>
sealed class RepliesModule : ITextModule
{
    public string Name => "replies";

    public string Summary => "A topic, two replies with six attributes each and one of 24 criteria; the exact utilities of both are in the truth; second wordings are held out.";

    public int? Supply(TextWorld world, TextSplit split) => null;

    public TextRecord Item(TextWorld world, TextSplit split, int index)
    {
        SplitMix64 rng = world.Generator(this, split, index);
        Criterion criterion = rng.Pick([.. Criterion.All.Where(candidate => candidate.HeldBack == (split == TextSplit.Holdout))]);
        ReplyAttributes first = Draw(rng), second = Draw(rng);
        string name = rng.Pick(world.Lexicon.Places);
        string one = Write(world, rng, first, name), two = Write(world, rng, second, name);
        return new Passage().Add($"write about the {name} .").Add("criterion", criterion.Text).Add(". first :").Add("first", one).Add("second :").Add("second", two)
            .Record(this, split, index, new JsonObject
            {
                ["criterion"] = criterion.Text, ["attribute"] = ReplyAttributes.Names[criterion.Attribute], ["wanted"] = criterion.Wanted,
                ["first"] = Json(first), ["second"] = Json(second), ["utilities"] = new JsonArray(criterion.Utility(first), criterion.Utility(second)),
                ["better"] = criterion.Utility(first) == criterion.Utility(second) ? "same" : criterion.Utility(first) > criterion.Utility(second) ? "first" : "second",
            });
    }

    static ReplyAttributes Draw(SplitMix64 rng) => new(rng.Chance(0.5), rng.Chance(0.5), rng.Chance(0.5), rng.Chance(0.5), rng.Chance(0.5), rng.Chance(0.5));

    static string Write(TextWorld world, SplitMix64 rng, ReplyAttributes reply, string place)
    {
        Lexicon words = world.Lexicon;
        var sentences = new List<string>
        {
            (reply.Formal ? "we know that" : "look ,") + $" the {place} is {rng.Pick(words.Adjectives)}" + (reply.Name ? $" and {rng.Pick(words.GivenNames)} likes it ." : " ."),
        };
        if (reply.Fact)
        {
            sentences.Add(rng.Pick(world.Facts("common")).Statement(0));
        }

        if (reply.Long)
        {
            sentences.Add($"there is a {rng.Pick(words.Adjectives)} {rng.Pick(words.Objects)} in it .");
            sentences.Add($"near it you find a {rng.Pick(words.Animals)} .");
        }

        if (reply.Polite)
        {
            sentences.Add("please go there .");
        }

        if (reply.Question)
        {
            sentences.Add("what do you say ?");
        }

        return string.Join(' ', sentences);
    }

    static JsonObject Json(ReplyAttributes reply) => new(ReplyAttributes.Names.Select((name, i) => KeyValuePair.Create(name, (JsonNode?)reply.Values[i])));
}

/// <summary>Prompts with a better and a worse answer, in the policy's template or in another.</summary>
sealed class PreferencesModule : ITextModule
{
    public string Name => "preferences";

    public string Summary => "A question about a core person with a right and a wrong answer of three to six words; on-policy template or another (off-policy); the oracle reward is in the truth.";

    public int? Supply(TextWorld world, TextSplit split) => null;

    public TextRecord Item(TextWorld world, TextSplit split, int index)
    {
        SplitMix64 rng = world.Generator(this, split, index);
        Fact fact = rng.Pick(world.Facts("core"));
        bool onPolicy = rng.Chance(0.5);
        string wrong = rng.Pick(fact.Perturbed(3));
        string Answer(string target) => onPolicy ? $"it is {target} ." : $"people say that {target} is true .";
        return new Passage().Add("prompt", fact.Prompt(Wording.Question)).Add("chosen", Answer(fact.Object)).Record(this, split, index, new JsonObject
        {
            ["prompt"] = fact.Prompt(Wording.Question), ["chosen"] = Answer(fact.Object), ["rejected"] = Answer(wrong), ["onPolicy"] = onPolicy,
            ["answer"] = fact.Object, ["wrong"] = wrong, ["reward"] = new JsonArray(1.0, 0.0), ["fact"] = fact.Id,
        }) with { People = [fact.Person!] };
    }
}
