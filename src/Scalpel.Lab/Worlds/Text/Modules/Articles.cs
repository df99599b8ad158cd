using System.Text.Json.Nodes;

namespace Scalpel.Lab.Worlds;

/// <summary>One fixed article on each of 160 people, for verbatim and factual memory.</summary>
sealed class ArticlesModule : ITextModule
{
    const int Sentences = 8;

    public string Name => "articles";

    public string Summary => "A fixed article of about 110 tokens on a person, with four private facts and two questions; 40 people each to forget, to retain (twice) and held out.";

    public int? Supply(TextWorld world, TextSplit split) => split switch { TextSplit.Train => 120, TextSplit.Holdout => 40, _ => 0 };

    public TextRecord Item(TextWorld world, TextSplit split, int index)
    {
        int number = split == TextSplit.Holdout ? 120 + index : index;
        Person person = world.People("article")[number];
        IReadOnlyList<Fact> facts = world.Facts("article");
        Fact[] own = [.. facts.Skip(4 * number).Take(4)];
        SplitMix64 rng = SplitMix64.Of(world.Seed, "text/articles/text", number);
        // The facts stand at fixed places, story sentences of two fresh actors between them.
        var story = new Queue<string>();
        var passage = new Passage();
        for (int i = 0, fact = 0; i < 2 * Sentences; i++)
        {
            if (i % 4 == 0)
            {
                passage.Add(own[fact].Relation.Name, own[fact++].Statement(rng.Below(Relation.TrainedBodies)));
                continue;
            }

            while (story.Count == 0)
            {
                StoryGrammar.Write(rng, 8, 8).Sentences.Skip(2).ToList().ForEach(story.Enqueue);
            }

            passage.Add(story.Dequeue());
        }

        return passage.Record(this, split, index, new JsonObject
        {
            ["person"] = person.Name, ["fold"] = number < 40 ? number / 10 : null, ["facts"] = new JsonArray([.. own.Select(fact => (JsonNode)fact.Id)]),
            ["questions"] = new JsonArray([.. own.Take(2).Select(fact => (JsonNode)new JsonObject { ["prompt"] = fact.Prompt(Wording.Question), ["answer"] = fact.Object })]),
        }) with { Group = ((string[])["forget", "retain1", "retain2", "holdout"])[number / 40], People = [person] };
    }
}

/// <summary>Facts of 60 people, each told in the same few sequences every epoch.</summary>
sealed class RareModule : ITextModule
{
    public string Name => "rare";

    public string Summary => "Facts of 60 people, each in 2 to 6 fixed sequences that every epoch repeats; the number is in the truth.";

    public int? Supply(TextWorld world, TextSplit split) => null;

    public TextRecord Item(TextWorld world, TextSplit split, int index)
    {
        IReadOnlyList<Fact> facts = world.Facts("rare");
        int[] times = [.. Enumerable.Range(0, facts.Count).Select(i => SplitMix64.Of(world.Seed, "text/rare/times", i).Between(2, 6))];
        int total = times.Sum(), place = SplitMix64.Of(world.Seed, $"text/rare/epoch/{(int)split}", index / total).Permutation(total)[index % total], fact = 0;
        while (place >= times[fact])
        {
            place -= times[fact++];
        }

        // Sequence number `place` of this fact: always the same words.
        SplitMix64 rng = SplitMix64.Of(world.Seed, $"text/rare/sequence/{place}", fact);
        string before = StoriesModule.Filler(rng, rng.Between(4, 12));
        return new Passage().Add(before).Add("fact", facts[fact].Statement(rng.Below(Relation.TrainedBodies)))
            .Record(this, split, index, new JsonObject { ["fact"] = facts[fact].Id, ["sequence"] = place, ["sequences"] = times[fact] }) with { People = [facts[fact].Person!] };
    }
}
