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
    (long Step, int Part) at;

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

        if (rewards.Count == 0)
        {
            throw new BadInputException("No reward says which answers are good; give at least one.");
        }

        (this.model, this.data, this.rewards, this.options, this.asBefore, this.seed) = (model, data, rewards, options, asBefore, seed);
    }

    /// <inheritdoc/>
    public override Objective Loss(long step, int part)
    {
        at = (step, part);
        return base.Loss(step, part);
    }

    private protected override Objective Of(int[] chosen)
    {
        IReadOnlyList<long>[] prompts = [.. chosen.SelectMany(i => Enumerable.Repeat(data.Answers[i].Prompt, options.Group))];
        IReadOnlyList<GeneratedTokens> said = Answer(prompts);
        long end = model.Tokenizer.EosId ?? 0;
        IReadOnlyList<long>[] answers = [.. said.Select(one => (IReadOnlyList<long>)[.. one.Tokens.Select(id => (long)id), .. one.Reason == StopReason.EndToken ? (long[])[end] : []])];
        PolicyAnswer[] judged = [.. said.Select((one, i) =>
        {
            (string prompt, var record) = data.Source(chosen[i / options.Group]);
            return new PolicyAnswer(prompt, model.Tokenizer.Decode(one.Tokens, skipSpecial: true), answers[i].Count, record);
        })];
        double[][] scores = [.. rewards.Select(reward => reward.Score(judged).ToArray())];
        Tensor table = tensor(Enumerable.Range(0, judged.Length).SelectMany(i => scores.Select(score => (float)score[i])).ToArray(), [judged.Length, rewards.Count]);
        double[] weights = [.. rewards.Select(_ => 1.0)];
        using PreferenceBatch batch = PreferenceBatch.Of([.. prompts.Zip(answers)], 0);
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
            objective = PolicyGradient.GroupRelative(policy, mask, advantages, new GroupPolicyOptions { Loss = loss, Beta = options.Beta, MaxLength = options.MaxNewTokens, EpsilonHigh = loss == GroupPolicyLoss.Cispo ? 5 : 0.2 }, reference: frozen);
        }
        else
        {
            Tensor? divergence = frozen is null ? null : ((old - frozen) * mask).sum(1);
            (Tensor advantages, _) = PolicyGradient.LeaveOneOutAdvantages(table, options.Group, weights, kl: divergence, beta: options.Beta);
            objective = PolicyGradient.LeaveOneOut(policy, old, mask, advantages);
        }

        var metrics = new Dictionary<string, double>(objective.Metrics) { ["answer_tokens"] = answers.Average(answer => answer.Count) };
        for (int r = 0; r < rewards.Count; r++)
        {
            metrics[$"reward/{rewards[r].Name}"] = scores[r].Average();
        }

        double[] sums = [.. Enumerable.Range(0, judged.Length).Select(i => scores.Sum(score => score[i]))];
        metrics["reward"] = sums.Average();
        metrics["groups_alike"] = sums.Chunk(options.Group).Average(group => group.Distinct().Count() == 1 ? 1.0 : 0.0);
        return objective with { Metrics = metrics };
    }

    IReadOnlyList<GeneratedTokens> Answer(IReadOnlyList<long>[] prompts)
    {
        using var noGrad = no_grad();
        ulong draw = seed * 0x9E3779B97F4A7C15 + (ulong)(at.Step * Parts + at.Part + 1) * 0xBF58476D1CE4E5B9;
        var generator = new TextGenerator(model, new GenerationOptions { MaxNewTokens = options.MaxNewTokens, Temperature = options.Temperature, Seed = draw });
        return generator.Generate([.. prompts.Select(prompt => (IReadOnlyList<int>)[.. prompt.Select(id => (int)id)])]);
    }

    // Of the policy that sampled: logits over the temperature.
    Tensor LogProbs(PreferenceBatch batch) => TokenScores.Shifted(model.Forward(batch.Ids, batch.Mask) / options.Temperature, batch.Ids);
}
