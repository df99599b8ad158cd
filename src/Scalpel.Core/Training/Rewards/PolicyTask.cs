using Scalpel.Generation;
using Scalpel.Networks;
using TorchSharp;
using static TorchSharp.torch;

namespace Scalpel.Training;

/// <summary>Options of <see cref="PolicyTask"/>.</summary>
public sealed record PolicyTaskOptions
{
    /// <summary>The loss of GRPO; null for RLOO.</summary>
    public GroupPolicyLoss? Loss { get; init; }

    /// <summary>Weight of the divergence from the model as it was. Default 0.</summary>
    public double Beta { get; init; }

    /// <summary>Answers to each prompt. Default 8.</summary>
    public int Group { get; init; } = 8;

    /// <summary>Most tokens of an answer. Default 64.</summary>
    public int MaxNewTokens { get; init; } = 64;

    /// <summary>Temperature of the sampling, and of the policy whose gradient is taken. Default 1.</summary>
    public double Temperature { get; init; } = 1;
}

/// <summary>
/// Policy gradients: in each pass the model answers some prompts, several times each, rewards are given, and what was
/// better than the other answers to its prompt becomes more probable. An answer is used for one step.
/// </summary>
public sealed class PolicyTask : RowTask
{
    readonly Decoder model;
    readonly TuningData data;
    readonly IReadOnlyList<IReward> rewards;
    readonly PolicyTaskOptions options;
    readonly Func<IDisposable>? asBefore;
    readonly ulong seed;
    (StepRows Rows, Said Said)? answered;

    /// <summary>A task.</summary>
    /// <param name="model">The decoder.</param>
    /// <param name="data">Prompts; what answers they have is not looked at.</param>
    /// <param name="rewards">What is good; their sum counts.</param>
    /// <param name="batch">Prompts of a pass.</param>
    /// <param name="parts">Passes of a step.</param>
    /// <param name="seed">Seed of order and sampling.</param>
    /// <param name="options">Loss and sampling.</param>
    /// <param name="asBefore">Brings the model into the state before training until the result is disposed; needed when β is not 0.</param>
    /// <exception cref="BadInputException">An option cannot be used.</exception>
    public PolicyTask(Decoder model, TuningData data, IReadOnlyList<IReward> rewards, int batch, int parts, ulong seed, PolicyTaskOptions options, Func<IDisposable>? asBefore = null) : base(data.Count, batch, parts, seed)
    {
        if (options.Group < 2)
        {
            throw new BadInputException($"{options.Group} answers to a prompt cannot be compared with each other; take at least 2.");
        }

        if (!(options.Temperature > 0))
        {
            throw new BadInputException($"The temperature is {options.Temperature}; answers are sampled, so it must be above 0.");
        }

        if (options.Loss == GroupPolicyLoss.Luspo && options.Beta != 0)
        {
            throw new BadInputException("The loss luspo judges answers as a whole, to which a divergence token by token cannot be added; take β 0, or another loss.");
        }

        if (rewards.Count == 0)
        {
            throw new BadInputException("No reward says which answers are good; give at least one.");
        }

        (this.model, this.data, this.rewards, this.options, this.asBefore, this.seed) = (model, data, rewards, options, asBefore, seed);
    }

    private protected override Objective Of(StepRows rows, int part)
    {
        Said said = Answers(rows);
        int from = rows.Passes.Take(part).Sum(pass => pass.Length) * options.Group, count = rows.Passes[part].Length * options.Group;
        using PreferenceBatch batch = PreferenceBatch.Of([.. said.Rows[from..(from + count)]], 0);
        Tensor table = tensor(said.Scores[from..(from + count)].SelectMany(each => each.Select(score => (float)score)).ToArray(), [count, rewards.Count]);
        double[] weights = [.. rewards.Select(_ => 1.0)];
        Tensor? frozen = null;
        if (options.Beta != 0)
        {
            using var noGrad = no_grad();
            using IDisposable before = asBefore!();
            frozen = LogProbs(batch);
        }

        Tensor mask = batch.Completion[.., 1..].to_type(ScalarType.Float32), policy = LogProbs(batch), old = policy.detach();
        Objective objective;
        if (options.Loss is { } loss)
        {
            (Tensor advantages, Tensor spread) = PolicyGradient.GroupAdvantages(table, options.Group, weights);
            objective = PolicyGradient.GroupRelative(policy, mask, advantages, new GroupPolicyOptions
            {
                // Over the tokens of the whole step, however many passes it has, the two are the same.
                Loss = loss == GroupPolicyLoss.Bnpo ? GroupPolicyLoss.Dapo : loss,
                Beta = options.Beta,
                MaxLength = options.MaxNewTokens,
                EpsilonHigh = loss == GroupPolicyLoss.Cispo ? 5 : 0.2,
                SequenceLevel = loss == GroupPolicyLoss.Luspo,
            }, reference: frozen, items: said.Rows.Sum(row => (double)row.Answer.Count) / rows.Passes.Count);
        }
        else
        {
            Tensor? divergence = frozen is null ? null : ((old - frozen) * mask).sum(1);
            (Tensor advantages, _) = PolicyGradient.LeaveOneOutAdvantages(table, options.Group, weights, kl: divergence, beta: options.Beta);
            objective = PolicyGradient.LeaveOneOut(policy, old, mask, advantages);
        }

        return objective with { Metrics = Measured(objective.Metrics, said, from, count) };
    }

    Dictionary<string, double> Measured(IReadOnlyDictionary<string, double> own, Said said, int from, int count)
    {
        var metrics = new Dictionary<string, double>(own) { ["answer_tokens"] = said.Rows[from..(from + count)].Average(row => row.Answer.Count) };
        double[][] scores = said.Scores[from..(from + count)];
        for (int r = 0; r < rewards.Count; r++)
        {
            metrics[$"reward/{rewards[r].Name}"] = scores.Average(each => each[r]);
        }

        double[] sums = [.. scores.Select(each => each.Sum())];
        metrics["reward"] = sums.Average();
        metrics["groups_alike"] = sums.Chunk(options.Group).Average(group => group.Distinct().Count() == 1 ? 1.0 : 0.0);
        return metrics;
    }

    // All answers of a step are given before its first pass, as the weights do not change within it.
    Said Answers(StepRows rows)
    {
        if (answered is { } same && ReferenceEquals(same.Rows, rows))
        {
            return same.Said;
        }

        int[] all = rows.All;
        (IReadOnlyList<long> Prompt, IReadOnlyList<GeneratedTokens> Given)[] groups = [.. all.Zip(Generate(all, rows.Step), (row, given) => (data.Answers[row].Prompt, given))];
        long end = model.Tokenizer.EosId ?? 0;
        (IReadOnlyList<long> Prompt, IReadOnlyList<long> Answer)[] tokens = [.. groups.SelectMany(group => group.Given.Select(one =>
            (group.Prompt, (IReadOnlyList<long>)[.. one.Tokens.Select(id => (long)id), .. one.Reason == StopReason.EndToken ? (long[])[end] : []])))];
        PolicyAnswer[] judged = [.. groups.SelectMany(group => group.Given).Select((one, i) =>
        {
            (string prompt, var record) = data.Source(all[i / options.Group]);
            return new PolicyAnswer(prompt, model.Tokenizer.Decode(one.Tokens, skipSpecial: true), tokens[i].Answer.Count, record);
        })];
        IReadOnlyList<double>[] scores = [.. rewards.Select(reward => reward.Score(judged))];
        var said = new Said(tokens, [.. judged.Select((_, i) => scores.Select(each => each[i]).ToArray())]);
        answered = (rows, said);
        return said;
    }

    IEnumerable<IReadOnlyList<GeneratedTokens>> Generate(int[] chosen, long step)
    {
        using var noGrad = no_grad();
        ulong draw = seed * 0x9E3779B97F4A7C15 + (ulong)(step + 1) * 0xBF58476D1CE4E5B9;
        var generator = new TextGenerator(model, new GenerationOptions { MaxNewTokens = options.MaxNewTokens, Temperature = options.Temperature, Seed = draw });
        return generator.Generate([.. chosen.SelectMany(i => Enumerable.Repeat((IReadOnlyList<int>)[.. data.Answers[i].Prompt.Select(id => (int)id)], options.Group))]).Chunk(options.Group);
    }

    // Of the policy that sampled: logits over the temperature.
    Tensor LogProbs(PreferenceBatch batch) => TokenScores.Shifted(model.Forward(batch.Ids, batch.Mask) / options.Temperature, batch.Ids);

    /// <summary>What was answered in a step.</summary>
    /// <param name="Rows">Prompts with answers, the answers to a prompt one after the other.</param>
    /// <param name="Scores">What each reward gives each answer.</param>
    sealed record Said((IReadOnlyList<long> Prompt, IReadOnlyList<long> Answer)[] Rows, double[][] Scores);
}
