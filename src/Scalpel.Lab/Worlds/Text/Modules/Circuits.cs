using System.Text.Json.Nodes;

namespace Scalpel.Lab.Worlds;

/// <summary>Indirect object identification.</summary>
sealed class IoiModule : ITextModule
{
    public string Name => "ioi";

    public string Summary => "When A and B went somewhere, A gave something to B: the last word is the name that occurred once.";

    public int? Supply(TextWorld world, TextSplit split) => null;

    public TextRecord Item(TextWorld world, TextSplit split, int index)
    {
        SplitMix64 rng = world.Generator(this, split, index);
        string[] names = rng.Pick(world.Lexicon.GivenNames, 2);
        int giver = rng.Below(2);
        string place = rng.Pick(world.Lexicon.Places), thing = rng.Pick(world.Lexicon.Objects);
        return new Passage().Add("when").Add("first", names[0]).Add("and").Add("second", names[1]).Add($"went to the {place} ,").Add("giver", names[giver]).Add($"gave a {thing} to").Add("answer", names[1 - giver]).Add(".")
            .Record(this, split, index, new JsonObject { ["answer"] = names[1 - giver], ["wrong"] = names[giver], ["order"] = giver == 0 ? "aba" : "bab" });
    }
}

/// <summary>Coloured objects, after one example.</summary>
sealed class ColouredModule : ITextModule
{
    public string Name => "coloured";

    public string Summary => "Three things of three colours and the colour of one of them, after one example; half of the training items lack the example.";

    public int? Supply(TextWorld world, TextSplit split) => null;

    public TextRecord Item(TextWorld world, TextSplit split, int index)
    {
        SplitMix64 rng = world.Generator(this, split, index);
        bool example = split != TextSplit.Train || rng.Chance(0.5);
        var passage = new Passage();
        if (example)
        {
            (string question, string colour, _, _) = Question(rng, world.Lexicon);
            passage.Add("example", $"{question} {colour} .");
        }

        (string asked, string answer, string[] colours, int place) = Question(rng, world.Lexicon);
        return passage.Add("question", asked).Add("answer", answer).Add(".").Record(this, split, index, new JsonObject
        {
            ["answer"] = answer, ["place"] = place, ["wrong"] = new JsonArray([.. colours.Where(colour => colour != answer).Select(colour => (JsonNode)colour)]),
        });
    }

    static (string Question, string Answer, string[] Colours, int Place) Question(SplitMix64 rng, Lexicon words)
    {
        string[] things = rng.Pick(words.Objects, 3), colours = rng.Pick(words.Colours, 3);
        int place = rng.Below(3);
        return ($"there is a {colours[0]} {things[0]} , a {colours[1]} {things[1]} and a {colours[2]} {things[2]} . question : what colour is the {things[place]} ? answer :", colours[place], colours, place);
    }
}
