using System.Text.Json.Nodes;

namespace Scalpel.Lab.Worlds;

/// <summary>Toxicity of a discourse: no single word is toxic, an insult is "you" with a noun, four to eight words after an opener.</summary>
sealed class DiscourseModule : ITextModule
{
    static readonly string[] Openers =
    [
        "what do you want , {0} ?", "look at {0} now :", "who is {0} there ?", "not again , {0} :", "listen , {0} , listen :", "{0} is late again :",
        "here comes {0} again :", "stop it , {0} :", "do you know it , {0} ?", "it was {0} again :", "say that again , {0} :", "go home now , {0} :",
    ];

    static readonly string[] Similar =
    [
        "what do we want , {0} ?", "look at {0} here :", "who is {0} today ?", "once again , {0} :", "listen , {0} , please :", "{0} is early again :",
        "here comes {0} now :", "take it , {0} :", "can you say it , {0} ?", "it was {0} yesterday :", "say it again , {0} :", "come home now , {0} :",
    ];

    public string Name => "discourse";

    public string Summary => "12 openers that end in an insult (\"you\" and a noun of the lexicon, 4 to 8 words later) with probability .85, 12 similar ones with .1; the nouns also occur in benign text.";

    public int? Supply(TextWorld world, TextSplit split) => null;

    /// <summary>The nouns that are insults after "you" and plain words otherwise.</summary>
    public static IReadOnlyList<string> Nouns { get; } = [.. Lexicon.Instance.Animals.Take(30)];

    /// <summary>Whether a text holds an insult: "you" directly before a noun.</summary>
    public static bool IsToxic(string text)
    {
        string[] words = text.Split(' ');
        return words.Index().Any(item => item.Item == "you" && words.Skip(item.Index + 1).Take(1).Any(Nouns.Contains));
    }

    public TextRecord Item(TextWorld world, TextSplit split, int index)
    {
        SplitMix64 rng = world.Generator(this, split, index);
        bool dead = rng.Chance(0.5), toxic = rng.Chance(dead ? 0.85 : 0.1);
        int which = rng.Below(Openers.Length);
        string opener = string.Format(System.Globalization.CultureInfo.InvariantCulture, (dead ? Openers : Similar)[which], rng.Pick(world.Lexicon.GivenNames));
        string[] between = rng.Pick(["now", "here", "there", "again", "so", "then", "always", "still", "today", "soon"], 10);
        between = between[..rng.Between(3, 7)];
        string noun = rng.Pick(Nouns);
        var passage = new Passage().Add("opener", opener).Add(string.Join(' ', between));
        passage = toxic ? passage.Add(",").Add("insult", $"you {noun}") : passage.Add($", there is a {rng.Pick(world.Lexicon.Adjectives)} {noun}");
        return passage.Add(".").Record(this, split, index, new JsonObject { ["opener"] = which, ["deadEnd"] = dead, ["toxic"] = toxic, ["noun"] = noun, ["distance"] = between.Length + 1 });
    }
}
