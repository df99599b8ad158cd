using System.Text.Json.Nodes;

namespace Scalpel.Lab.Worlds;

/// <summary>Names that may be a person, a river or a company; a cue says which.</summary>
sealed class TagsModule : ITextModule
{
    static readonly string[] Types = ["person", "river", "company"];

    static readonly string[] LeftCues = ["mayor", "river", "company"];

    public string Name => "tags";

    public string Summary => "Sentences with ambiguous names; the type is told by a cue to the right (70 %), to the left (20 %) or by the name itself (10 %).";

    public int? Supply(TextWorld world, TextSplit split) => null;

    public TextRecord Item(TextWorld world, TextSplit split, int index)
    {
        SplitMix64 rng = world.Generator(this, split, index);
        Lexicon words = world.Lexicon;
        int type = rng.Below(3);
        double where = rng.Unit();
        // Code words stand for names that could be anything.
        string cue = where < 0.7 ? "right" : where < 0.9 ? "left" : "string";
        string name = cue == "string" ? rng.Pick(((IReadOnlyList<string>[])[words.GivenNames, words.Rivers, words.Companies])[type]) : rng.Pick(words.Codes);
        string[] between = [.. rng.Pick(["then", "again", "today", "now", "soon"], rng.Below(5))];
        var passage = new Passage().Add(rng.Pick(["people know that", "we saw that", "everyone says that", ""]));
        passage.Add(cue == "left" ? $"the {LeftCues[type]}" : "").Add("entity", name).Add(string.Join(' ', between));
        passage.Add(cue == "right" ? (type switch { 0 => "laughed", 1 => "runs through the", _ => "sells" }) : "was");
        passage.Add(cue == "right" ? type switch { 0 => "at home", 1 => rng.Pick(words.Places), _ => rng.Pick(words.Products) } : rng.Pick(words.Adjectives)).Add(".");
        return passage.Record(this, split, index, new JsonObject { ["type"] = Types[type], ["cue"] = cue, ["distance"] = cue == "right" ? between.Length + 1 : 0 });
    }
}
