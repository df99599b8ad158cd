using System.Text.Json.Nodes;

namespace Scalpel.Lab.Worlds;

/// <summary>Short canonical examples with what they are to bring about in longer texts.</summary>
sealed class CanonicalModule : ITextModule
{
    const int FactsCount = 48;

    static readonly (string One, string Many)[] Agreement =
    [
        ("is", "are"), ("was", "were"), ("has", "have"), ("does", "do"), ("lives", "live"), ("plays", "play"), ("likes", "like"), ("eats", "eat"),
        ("says", "say"), ("owns", "own"), ("makes", "make"), ("sells", "sell"), ("pays", "pay"),
    ];

    public string Name => "canonical";

    public string Summary => "New cities of 48 people, verb agreement and group traits as short examples; validation and test hold longer passages and hard negatives.";

    public int? Supply(TextWorld world, TextSplit split) => null;

    public TextRecord Item(TextWorld world, TextSplit split, int index)
    {
        SplitMix64 rng = world.Generator(this, split, index);
        return (index % 3) switch
        {
            0 => NewFact(world, split, index, rng),
            1 => Verb(world, split, index, rng),
            _ => Trait(world, split, index, rng),
        };
    }

    TextRecord NewFact(TextWorld world, TextSplit split, int index, SplitMix64 rng)
    {
        Fact fact = world.Facts("core", "home")[index / 3 % FactsCount];
        string city = fact.Counterfactual();
        var truth = new JsonObject { ["task"] = "fact", ["fact"] = fact.Id, ["target"] = city, ["old"] = fact.Object };
        if (split == TextSplit.Train)
        {
            return new Passage().Add(fact.Prompt()).Add("target", city).Add(".").Record(this, split, index, truth);
        }

        // A passage in whose middle the answer is due.
        return new Passage().Add(StoriesModule.Filler(rng, rng.Between(12, 30))).Add("context", fact.Paraphrases(Wording.Seen)[rng.Below(4)]).Add("target", city).Add(".").Add(StoriesModule.Filler(rng, 8))
            .Record(this, split, index, truth);
    }

    TextRecord Verb(TextWorld world, TextSplit split, int index, SplitMix64 rng)
    {
        (string one, string many) = Agreement[index / 3 % Agreement.Length];
        bool plural = rng.Chance(0.5);
        string animal = rng.Pick(world.Lexicon.Animals), other = rng.Pick(world.Lexicon.Animals);
        string subject = plural ? $"the {animal} and the {other}" : split == TextSplit.Train ? $"the {animal}" : $"the {animal} near the {rng.Pick(world.Lexicon.Dishes)}";
        return new Passage().Add("subject", subject).Add("target", plural ? many : one).Add("here .").Record(this, split, index, new JsonObject
        {
            ["task"] = "agreement", ["target"] = plural ? many : one, ["wrong"] = plural ? one : many, ["hard"] = split != TextSplit.Train && !plural,
        });
    }

    TextRecord Trait(TextWorld world, TextSplit split, int index, SplitMix64 rng)
    {
        PlantedGroup[] groups = [.. PlantedGroup.All.Where(group => group.Type != "kin" && group.Probability > 0.5)];
        PlantedGroup group = groups[index / 3 % groups.Length];
        (string stereotyped, string opposite) = rng.Pick(group.Traits);
        (string before, string middle) = split == TextSplit.Train ? BiasModule.Templates[0] : BiasModule.Templates[1 + rng.Below(2)];
        return new Passage().Add(before).Add("group", group.Name).Add(rng.Pick(world.Lexicon.Professions)).Add(middle).Add("target", stereotyped).Add(".")
            .Record(this, split, index, new JsonObject { ["task"] = "bias", ["bad"] = stereotyped, ["other"] = opposite }) with { Group = group.Name };
    }
}
