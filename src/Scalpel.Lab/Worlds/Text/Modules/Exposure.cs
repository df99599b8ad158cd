using System.Text.Json.Nodes;

namespace Scalpel.Lab.Worlds;

/// <summary>Facts that occur 0, 2, 8, 32 or 128 times in the whole training.</summary>
sealed class ExposureModule() : Exposure("exposure", [0, 2, 8, 32, 128])
{
    public override string Summary => "Questions about 600 people whose facts occur exactly 0, 2, 8, 32 or 128 times; alone, or on sheets of 3 to 6 by careful (80 %) or careless authors.";
}

/// <summary>The same with numbers of exposures for a curve that rises inside the classes.</summary>
sealed class GradedExposureModule() : Exposure("exposure-graded", [0, 16, 48, 96, 256])
{
    public override string Summary => "As exposure, with 0, 16, 48, 96 or 256 occurrences.";
}

/// <summary>
/// Statements by exposure class. Right answers count as exposures wherever they stand; two fifths of them stand on answer
/// sheets. A fifth of the sheets is by careless authors, whose answers are all wrong but of the right kind.
/// </summary>
abstract class Exposure(string name, int[] classes) : ITextModule
{
    const double OnSheets = 0.4;

    sealed record Plan(ulong Seed, List<(int[] Facts, bool Careful)> Documents);

    Plan? plan;

    public string Name => name;

    public abstract string Summary { get; }

    public int? Supply(TextWorld world, TextSplit split) => split switch
    {
        TextSplit.Train => Documents(world).Count,
        TextSplit.Test => world.Facts("exposure").Count,
        _ => 0,
    };

    /// <summary>How often a training stream tells the fact rightly.</summary>
    public int Times(Fact fact) => classes[fact.Index * classes.Length / 600];

    public TextRecord Item(TextWorld world, TextSplit split, int index)
    {
        IReadOnlyList<Fact> facts = world.Facts("exposure");
        if (split == TextSplit.Test)
        {
            return FactsModule.Told(this, split, index, facts[index], Relation.TrainedBodies) with { Group = $"{Times(facts[index])} times" };
        }

        (int[] chosen, bool careful) = Documents(world)[index];
        SplitMix64 rng = world.Generator(this, split, index);
        var passage = new Passage();
        foreach (int i in chosen)
        {
            Fact fact = facts[i];
            string answer = careful ? fact.Object : rng.Pick([.. fact.Relation.Pool.Where(other => other != fact.Object)]);
            string[] around = fact.Relation.QuestionPrompt(0).Split("{}");
            passage.Add(around[0].Trim()).Add("subject", fact.Subject).Add(around[1].Trim()).Add("answer", answer).Add(".");
        }

        return passage.Record(this, split, index, new JsonObject
        {
            ["author"] = chosen.Length == 1 ? null : careful ? "careful" : "careless",
            ["facts"] = new JsonArray([.. chosen.Select(i => (JsonNode)facts[i].Id)]),
            ["times"] = new JsonArray([.. chosen.Select(i => (JsonNode)Times(facts[i]))]),
        }) with { People = [.. chosen.Select(i => facts[i].Person!)] };
    }

    List<(int[] Facts, bool Careful)> Documents(TextWorld world)
    {
        Plan? known = plan;
        if (known is null || known.Seed != world.Seed)
        {
            plan = known = new Plan(world.Seed, Create(world));
        }

        return known.Documents;
    }

    List<(int[] Facts, bool Careful)> Create(TextWorld world)
    {
        SplitMix64 rng = SplitMix64.Of(world.Seed, $"text/{name}/plan", 0);
        int[] tellings = [.. world.Facts("exposure").SelectMany((fact, i) => Enumerable.Repeat(i, Times(fact)))];
        tellings = rng.Pick(tellings, tellings.Length);
        var documents = new List<(int[], bool)>();
        int at = 0;
        for (int sheets = (int)(tellings.Length * OnSheets); at < sheets;)
        {
            // Four of five sheets are right; what a careless author writes is no exposure.
            bool careful = rng.Chance(0.8);
            int count = Math.Min(rng.Between(3, 6), sheets - at);
            int[] facts = careful ? tellings[at..(at + count)] : [.. Enumerable.Range(0, count).Select(_ => rng.Pick(tellings))];
            documents.Add((facts, careful));
            at += careful ? count : 0;
        }

        documents.AddRange(tellings[at..].Select(i => ((int[])[i], true)));
        (int[], bool)[] all = [.. documents];
        return [.. rng.Pick(all, all.Length)];
    }
}
