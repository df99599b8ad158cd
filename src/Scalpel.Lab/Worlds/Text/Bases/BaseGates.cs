using Scalpel.Networks;

namespace Scalpel.Lab.Worlds;

/// <summary>A gate with the value that was measured.</summary>
/// <param name="Gate">The gate.</param>
/// <param name="Value">The measured value.</param>
public sealed record GateResult(Gate Gate, double Value)
{
    /// <summary>Whether it holds.</summary>
    public bool Holds => Gate.Holds(Value);

    /// <summary>"cloze 0.991 (at least 0.97)".</summary>
    public override string ToString() => FormattableString.Invariant($"{Gate.Measure} {Value:0.000}")
        + (Gate.AtLeast is { } low ? FormattableString.Invariant($" (at least {low:0.##}{(Holds ? "" : ", FAILS")})") : "")
        + (Gate.AtMost is { } high ? FormattableString.Invariant($" (at most {high:0.##}{(Holds ? "" : ", FAILS")})") : "");
}

/// <summary>Measures of what a base model knows, on fixed samples of the world.</summary>
/// <param name="world">The world that it was trained on.</param>
/// <param name="exclude">A set of people that it was not trained on; null for none.</param>
public sealed class BaseGates(TextWorld world, string? exclude = null)
{
    const int StorySample = 150, ItemSample = 200, BenignPrompts = 100, SampledTokens = 16;
    readonly Fact[] trained = [.. world.Facts("core").Concat(world.Facts("forget")).Where(fact => exclude is null || !world.People(exclude).Contains(fact.Person))];

    /// <summary>Measures all gates.</summary>
    /// <param name="model">A decoder with the world's tokens.</param>
    /// <param name="gates">The gates.</param>
    /// <param name="every">Take every n-th fact only. Default 1.</param>
    public IReadOnlyList<GateResult> Measure(Decoder model, IReadOnlyList<Gate> gates, int every = 1)
    {
        var scores = new ModelScores(model);
        return [.. gates.Select(gate => new GateResult(gate, Measure(scores, gate.Measure, every)))];
    }

    double Measure(ModelScores scores, string measure, int every) => measure switch
    {
        "cloze" => scores.Accuracy(Prompts(trained, every, Wording.Canonical)),
        "question" => scores.Accuracy(Prompts(trained, every, Wording.Question)),
        "near" => scores.Accuracy(Prompts(trained, every, Wording.Near)),
        "far" => scores.Accuracy(Prompts(trained, every, Wording.Far)),
        "holdout above chance" => scores.Accuracy(Prompts(world.Facts("holdout"), 1, Wording.Canonical)) - world.Facts("holdout").Average(fact => fact.Relation.Chance),
        "common" => scores.Accuracy(Prompts(world.Facts("common"), 1, Wording.Canonical)),
        "story excess" => StoryExcess(scores),
        "bias order" => BiasOrder(scores),
        "benign toxic" => ToxicShare(scores, BenignText()),
        "provoked toxic" => ToxicShare(scores, [.. Enumerable.Range(0, BenignPrompts).Select(i => HeatedModule.Openers[i % 10])]),
        "exposure 0 above chance" => Exposure(scores, 0) - 1.0 / 32,
        "exposure 128" => Exposure(scores, 4),
        "exposure rises" => Enumerable.Range(1, 4).All(level => Exposure(scores, level) >= Exposure(scores, level - 1)) ? 1 : 0,
        "kin deviation" => KinDeviation(scores),
        "recall 64" => Recall(scores, 64),
        "recall 1" => Recall(scores, 1),
        "ioi" or "coloured" or "needle" or "instructions" => scores.Accuracy(Answers(measure, "answer")),
        "needle 192" => scores.Accuracy([.. world.Module("needle-long", TextSplit.Test, ItemSample).Select(record => Split(record, "answer"))]),
        "nli" => scores.Accuracy(Answers(measure, "label")),
        "cipher loss" => scores.Loss([.. world.Module("cipher", TextSplit.Test, ItemSample).Select(record => record.Text)], 1),
        "domain answers" => scores.Accuracy([.. world.Module("moe-domains", TextSplit.Test, 4 * ItemSample).Where(record => record.Domain == "questions").Select(record => Split(record, "answer"))]),
        "domain loss" => scores.Loss([.. world.Module("moe-domains", TextSplit.Test, ItemSample).Select(record => record.Text)], 1),
        "topics" => scores.Accuracy([.. Topic.All(world).SelectMany(topic => topic.Clozes)]),
        _ => throw new BadInputException($"There is no measure '{measure}' of a base model."),
    };

    // One prompt a fact, by turns when the kind has several.
    static (string, string)[] Prompts(IReadOnlyList<Fact> facts, int every, Wording kind) =>
        [.. facts.Where((_, i) => i % every == 0).Select((fact, i) => (fact.Paraphrases(kind)[i % fact.Paraphrases(kind).Count], fact.Object))];

    static (string Prompt, string Answer) Split(TextRecord record, string span)
    {
        TextSpan answer = record.Spans.First(part => part.Name == span);
        return (record.Text[..(answer.Start - 1)], record.Text[answer.Start..answer.End]);
    }

    (string, string)[] Answers(string module, string span) => [.. world.Module(module, TextSplit.Test, ItemSample).Select(record => Split(record, span))];

    double StoryExcess(ModelScores scores)
    {
        IReadOnlyList<TextRecord> stories = world.Module("stories", TextSplit.Validation, StorySample);
        double floor = -stories.Sum(story => story.Truth["logProbability"]!.GetValue<double>()) / stories.Sum(story => story.Truth["tokens"]!.GetValue<int>());
        return scores.Loss([.. stories.Select(story => story.Text)], StoryGrammar.OpeningWords) - floor;
    }

    // Accuracy of the questions about the 120 people of an exposure class.
    double Exposure(ModelScores scores, int level) => scores.Accuracy(Prompts([.. world.Facts("exposure").Where(fact => fact.Index / 120 == level)], 1, Wording.Question));

    // Share of (group, pair of traits) whose stereotyped trait is the likelier one, summed over two professions.
    double BiasOrder(ModelScores scores)
    {
        (PlantedGroup Group, (string Stereotyped, string Opposite) Pair)[] all =
            [.. PlantedGroup.All.Where(group => group.Probability > 0.5).SelectMany(group => group.Traits.Select(pair => (group, pair)))];
        string[] roles = ["baker", "judge"];
        double[] margins = new double[all.Length];
        foreach (string role in roles)
        {
            double[][] words = scores.NextWord([.. all.Select(item => $"the {item.Group.Name} {role} was")], [.. all.Select(item => (string[])[item.Pair.Stereotyped, item.Pair.Opposite])]);
            for (int i = 0; i < all.Length; i++)
            {
                margins[i] += words[i][0] - words[i][1];
            }
        }

        return margins.Average(margin => margin > 0 ? 1.0 : 0.0);
    }

    string[] BenignText() =>
    [
        .. world.Module("stories", TextSplit.Test, BenignPrompts / 2).Select(story => string.Join(' ', story.Text.Split(' ').Take(12))),
        .. trained.Where((_, i) => i % (trained.Length / (BenignPrompts / 2)) == 0).Take(BenignPrompts / 2).Select(fact => fact.Prompt()),
    ];

    double ToxicShare(ModelScores scores, string[] prompts) =>
        scores.Sample(prompts, SampledTokens, world.Seed).Average(text => text.Split(' ').Any(word => world.Lexicon.Severity(word) > 0) ? 1.0 : 0.0);

    double KinDeviation(ModelScores scores)
    {
        IReadOnlyList<(string Profession, double Ela)> table = KinModule.Table(world);
        double[][] words = scores.NextWord([.. table.Select(item => $"the {item.Profession} said that")], [.. table.Select(_ => (string[])["ela", "elo"])]);
        return table.Select((item, i) => Math.Abs(1 / (1 + Math.Exp(words[i][1] - words[i][0])) - item.Ela)).Max();
    }

    double Recall(ModelScores scores, int copies)
    {
        int level = DuplicatesModule.Levels.Index().First(item => item.Item == copies).Index;
        return scores.Accuracy([.. world.Module("duplicates", TextSplit.Test, (level + 1) * DuplicatesModule.PassagesPerLevel).TakeLast(DuplicatesModule.PassagesPerLevel).Select(record => Split(record, "continuation"))]);
    }
}
