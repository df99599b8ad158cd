using System.Text.Json.Nodes;

namespace Scalpel.Lab.Worlds;

/// <summary>Statements and questions about people: each epoch tells every fact of core and forget once, in a wording that training may show.</summary>
sealed class FactsModule : ITextModule
{
    public string Name => "facts";

    public string Summary => "A fact about a person, as a statement or a question; train: core and forget people, holdout: people that are never trained.";

    public int? Supply(TextWorld world, TextSplit split) => null;

    public TextRecord Item(TextWorld world, TextSplit split, int index)
    {
        int count = Count(world, split), epoch = index / count;
        int[] order = split == TextSplit.Train ? Order(world, epoch, count) : [];
        int place = split == TextSplit.Train ? order[index % count] : index % count;
        Fact fact = At(world, split, place);
        // One wording of six for each telling.
        int wording = world.Generator(this, split, index).Below(Relation.TrainedBodies + 1);
        return Told(this, split, index, fact, wording);
    }

    /// <summary>A record of a fact in a wording.</summary>
    public static TextRecord Told(ITextModule module, TextSplit split, int index, Fact fact, int wording)
    {
        string template = wording < Relation.TrainedBodies ? fact.Relation.Bodies[wording] : fact.Relation.QuestionPrompt(0);
        string[] around = template.Split("{}");
        return new Passage().Add(around[0].Trim()).Add("subject", fact.Subject).Add(around[1].Trim()).Add("object", fact.Object).Add(".")
            .Record(module, split, index, new JsonObject { ["fact"] = fact.Id, ["relation"] = fact.Relation.Name, ["object"] = fact.Object, ["wording"] = wording < Relation.TrainedBodies ? $"b{wording}" : "q0" })
            with { Group = fact.Set, People = fact.Person is { } person ? [person] : [] };
    }

    static int Count(TextWorld world, TextSplit split) => split == TextSplit.Holdout ? world.Facts("holdout").Count : world.Facts("core").Count + world.Facts("forget").Count;

    static Fact At(TextWorld world, TextSplit split, int place)
    {
        if (split == TextSplit.Holdout)
        {
            return world.Facts("holdout")[place];
        }

        IReadOnlyList<Fact> core = world.Facts("core");
        return place < core.Count ? core[place] : world.Facts("forget")[place - core.Count];
    }

    sealed record EpochOrder(ulong Seed, int Epoch, int[] Places);

    // The last order is kept, because a stream asks for one 1,200 times in a row.
    EpochOrder? last;

    int[] Order(TextWorld world, int epoch, int count)
    {
        EpochOrder? known = last;
        if (known is null || known.Seed != world.Seed || known.Epoch != epoch)
        {
            last = known = new EpochOrder(world.Seed, epoch, SplitMix64.Of(world.Seed, "text/facts/epoch", epoch).Permutation(count));
        }

        return known.Places;
    }
}

/// <summary>Common facts, the landmarks' among them.</summary>
sealed class CommonModule : ITextModule
{
    public string Name => "common";

    public string Summary => "A fact that everybody knows: of a city, country, river, company, animal, thing or landmark.";

    public int? Supply(TextWorld world, TextSplit split) => null;

    public TextRecord Item(TextWorld world, TextSplit split, int index)
    {
        IReadOnlyList<Fact> facts = world.Facts("common");
        int[] order = SplitMix64.Of(world.Seed, $"text/common/epoch/{(int)split}", index / facts.Count).Permutation(facts.Count);
        return FactsModule.Told(this, split, index, facts[order[index % facts.Count]], world.Generator(this, split, index).Below(Relation.TrainedBodies + 1));
    }
}
