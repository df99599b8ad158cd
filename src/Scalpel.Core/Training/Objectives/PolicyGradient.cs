using TorchSharp;
using static TorchSharp.torch;

namespace Scalpel.Training;

/// <summary>How GRPO weighs the tokens of a batch, and which ratio it takes.</summary>
public enum GroupPolicyLoss
{
    /// <summary>All tokens of the step alike.</summary>
    Dapo,

    /// <summary>Mean per answer, then over answers.</summary>
    Grpo,

    /// <summary>All tokens of the batch alike.</summary>
    Bnpo,

    /// <summary>Sum over tokens divided by rows times the greatest length.</summary>
    DrGrpo,

    /// <summary>The ratio, bounded from above, as a weight without gradient.</summary>
    Cispo,

    /// <summary>Soft gate on the ratio, mean per answer.</summary>
    Sapo,

    /// <summary>Answers weighted by their length.</summary>
    Luspo,

    /// <summary>The ratio of whole answers through a gamma-shaped weight without gradient, all tokens of the step alike.</summary>
    Vespo,
}

/// <summary>Options of <see cref="PolicyGradient.GroupRelative"/>.</summary>
public sealed record GroupPolicyOptions
{
    /// <summary>Which loss. Default Dapo.</summary>
    public GroupPolicyLoss Loss { get; init; }

    /// <summary>Weight of the divergence from the reference. Default 0.</summary>
    public double Beta { get; init; }

    /// <summary>Lower clip of the ratio, 1 − ε. Default 0.2.</summary>
    public double EpsilonLow { get; init; } = 0.2;

    /// <summary>Upper clip of the ratio, 1 + ε; for Cispo the bound itself. Default 0.2.</summary>
    public double EpsilonHigh { get; init; } = 0.2;

    /// <summary>Bound of the unclipped ratio (two-sided clipping); null for none.</summary>
    public double? Delta { get; init; }

    /// <summary>Whether the ratio is that of the whole answer, per token (GSPO). Default false.</summary>
    public bool SequenceLevel { get; init; }

    /// <summary>Greatest answer length, for DrGrpo.</summary>
    public long MaxLength { get; init; }

    /// <summary>Sapo's temperature for advantages above 0. Default 1.</summary>
    public double TemperaturePositive { get; init; } = 1;

    /// <summary>Sapo's temperature for other advantages. Default 1.05.</summary>
    public double TemperatureNegative { get; init; } = 1.05;

    /// <summary>Vespo's k and λ for advantages of at least 0, w^k e^(λ − λw). Default 2 and 3.</summary>
    public (double K, double Lambda) GammaPositive { get; init; } = (2, 3);

    /// <summary>Vespo's k and λ for advantages below 0. Default 3 and 2.</summary>
    public (double K, double Lambda) GammaNegative { get; init; } = (3, 2);

    /// <summary>Answers with an advantage below 0 are left out when their mean log-ratio of the sampling policy to this one is above this; null for none.</summary>
    public double? OffPolicyThreshold { get; init; }

    /// <summary>Whether the divergence is weighted by the ratio. Default false.</summary>
    public bool CorrectDivergence { get; init; }
}

/// <summary>How advantages are scaled.</summary>
public enum AdvantageScale
{
    /// <summary>By the spread within a prompt's group.</summary>
    Group,

    /// <summary>By the spread over the batch.</summary>
    Batch,

    /// <summary>Not at all.</summary>
    None,
}

/// <summary>Policy gradients on sampled answers: GRPO and its kin, RLOO, and their advantages.</summary>
public static class PolicyGradient
{
    const double Spread = 1e-4;

    /// <summary>GRPO: token loss −min(wA, clip(w)A) + β·k3.</summary>
    /// <param name="logProbs">[N, T] of the answers' tokens.</param>
    /// <param name="mask">[N, T].</param>
    /// <param name="advantages">[N].</param>
    /// <param name="options">Which loss.</param>
    /// <param name="old">[N, T] under the policy that sampled; null for the same policy.</param>
    /// <param name="reference">[N, T] under the reference; needed when β is not 0.</param>
    /// <param name="items">Tokens of the whole accumulation window; by default those of this batch.</param>
    public static Objective GroupRelative(Tensor logProbs, Tensor mask, Tensor advantages, GroupPolicyOptions? options = null,
        Tensor? old = null, Tensor? reference = null, double? items = null)
    {
        options ??= new();
        using var scope = NewDisposeScope();
        Tensor wide = mask.to_type(logProbs.dtype), advantage = advantages.unsqueeze(1), log = logProbs - (old ?? logProbs.detach()), tokens = log;
        Tensor lengths = wide.sum(1).clamp_min(1);
        if (options.SequenceLevel)
        {
            log = ((log * wide).sum(1) / lengths).unsqueeze(1);
        }

        Tensor ratio = log.exp(), bounded = options.Delta is { } delta ? ratio.clamp_max(delta) : ratio;
        Tensor each = options.Loss switch
        {
            GroupPolicyLoss.Cispo => -ratio.detach().clamp_max(options.EpsilonHigh) * advantage * logProbs,
            GroupPolicyLoss.Sapo => SoftGate(ratio, advantage, options),
            GroupPolicyLoss.Vespo => -GammaWeight(tokens.detach(), wide, advantage, options) * advantage * logProbs,
            _ => -minimum(bounded * advantage, ratio.clamp(1 - options.EpsilonLow, 1 + options.EpsilonHigh) * advantage),
        };
        if (options.OffPolicyThreshold is { } threshold)
        {
            Tensor drift = ((tokens.detach() * wide).sum(1).neg() / lengths).unsqueeze(1);
            each = each * advantage.ge(0).logical_or(drift.le(threshold)).to_type(each.dtype);
        }

        var metrics = new Dictionary<string, double>();
        if (options.Beta != 0)
        {
            Tensor d = (reference ?? throw new BadInputException("A divergence weight above 0 needs the reference model's log-probabilities.")) - logProbs;
            Tensor kl = d.exp() - d - 1;
            kl = options.CorrectDivergence ? kl * ratio : kl;
            metrics["kl"] = MaskedMean(kl, wide);
            each = each + kl * options.Beta;
        }

        Tensor loss = options.Loss switch
        {
            GroupPolicyLoss.Grpo or GroupPolicyLoss.Sapo => ((each * wide).sum(1) / lengths).mean(),
            GroupPolicyLoss.Bnpo => (each * wide).sum() / wide.sum().clamp_min(1),
            GroupPolicyLoss.DrGrpo when options.MaxLength > 0 => (each * wide).sum() / (each.shape[0] * (double)options.MaxLength),
            GroupPolicyLoss.DrGrpo => throw new BadInputException("The loss dr_grpo needs the greatest length of an answer."),
            GroupPolicyLoss.Luspo => (each * wide.sum(1, keepdim: true)).mean(),
            _ => (each * wide).sum() / Math.Max(1, items ?? wide.sum().ToDouble()),
        };
        if (options.Loss is not (GroupPolicyLoss.Cispo or GroupPolicyLoss.Sapo or GroupPolicyLoss.Vespo))
        {
            Clipped(bounded.detach(), advantage, options.EpsilonLow, options.EpsilonHigh, wide, metrics);
        }

        return new Objective(loss.MoveToOuterDisposeScope(), metrics);
    }

    /// <summary>RLOO: the ratio of whole answers, clipped, times the advantage; mean over answers.</summary>
    /// <param name="logProbs">[N, T] of the answers' tokens.</param>
    /// <param name="old">[N, T] under the policy that sampled.</param>
    /// <param name="mask">[N, T].</param>
    /// <param name="advantages">[N].</param>
    /// <param name="epsilonLow">Lower clip. Default 0.2.</param>
    /// <param name="epsilonHigh">Upper clip. Default 0.2.</param>
    public static Objective LeaveOneOut(Tensor logProbs, Tensor old, Tensor mask, Tensor advantages, double epsilonLow = 0.2, double epsilonHigh = 0.2)
    {
        using var scope = NewDisposeScope();
        Tensor ratio = ((logProbs - old) * mask).sum(1).exp();
        Tensor loss = -minimum(ratio * advantages, ratio.clamp(1 - epsilonLow, 1 + epsilonHigh) * advantages).mean();
        var metrics = new Dictionary<string, double>();
        Clipped(ratio.detach().unsqueeze(1), advantages.unsqueeze(1), epsilonLow, epsilonHigh, mask, metrics);
        return new Objective(loss.MoveToOuterDisposeScope(), metrics);
    }

    /// <summary>GRPO's advantages: reward minus the group's mean, divided by a spread. NaN rewards are left out and get 0.</summary>
    /// <param name="rewards">[N, functions]; the rows of a group are consecutive.</param>
    /// <param name="group">Answers per prompt.</param>
    /// <param name="weights">One per function.</param>
    /// <param name="scale">Which spread.</param>
    /// <param name="normaliseFirst">Whether each function is normalised in its group before they are summed (GDPO), and the sum over the batch.</param>
    /// <returns>Advantages and the spread, [N] each.</returns>
    public static (Tensor Advantages, Tensor Spread) GroupAdvantages(Tensor rewards, int group, IReadOnlyList<double> weights,
        AdvantageScale scale = AdvantageScale.Group, bool normaliseFirst = false)
    {
        using var scope = NewDisposeScope();
        Tensor unscorable = rewards.isnan().all(1), w = tensor(weights.ToArray(), dtype: rewards.dtype);
        Tensor sums, advantages, spread;
        if (normaliseFirst)
        {
            Tensor grouped = rewards.view(-1, group, rewards.shape[1]);
            Tensor normal = (grouped - NanMean(grouped, 1)) / (NanStd(grouped, 1) + Spread);
            sums = Sum(normal.view(-1, rewards.shape[1]), w, unscorable);
            spread = NanStd(sums, 0).expand(sums.shape);
            advantages = (sums - NanMean(sums, 0)) / (spread + Spread);
        }
        else
        {
            sums = Sum(rewards, w, unscorable);
            Tensor grouped = sums.view(-1, group);
            spread = (scale == AdvantageScale.Batch ? NanStd(sums, 0).view(1, 1) : NanStd(grouped, 1)).expand(grouped.shape).reshape(-1);
            advantages = (grouped - NanMean(grouped, 1)).reshape(-1);
            advantages = scale == AdvantageScale.None ? advantages : advantages / (spread + Spread);
        }

        return (advantages.nan_to_num(0).MoveToOuterDisposeScope(), spread.clone().MoveToOuterDisposeScope());
    }

    /// <summary>RLOO's advantages: reward (clipped, minus β times the summed log-ratio to the reference) minus the mean of the others.</summary>
    /// <param name="rewards">[N, functions].</param>
    /// <param name="group">Answers per prompt.</param>
    /// <param name="weights">One per function.</param>
    /// <param name="clip">Bounds of the summed reward, or null.</param>
    /// <param name="kl">[N], Σ(log π_old − log π_ref), or null.</param>
    /// <param name="beta">Weight of <paramref name="kl"/>.</param>
    /// <param name="normalise">Whether advantages are normalised over the batch.</param>
    /// <returns>Advantages and the rewards that they come from, [N] each.</returns>
    public static (Tensor Advantages, Tensor Rewards) LeaveOneOutAdvantages(Tensor rewards, int group, IReadOnlyList<double> weights,
        (double Low, double High)? clip = null, Tensor? kl = null, double beta = 0.05, bool normalise = false)
    {
        using var scope = NewDisposeScope();
        Tensor sums = Sum(rewards, tensor(weights.ToArray(), dtype: rewards.dtype), rewards.isnan().all(1));
        if (clip is { } bounds)
        {
            sums = sums.clamp(bounds.Low, bounds.High);
        }

        if (kl is not null && beta != 0)
        {
            sums = sums - kl * beta;
        }

        Tensor grouped = sums.view(-1, group), known = grouped.isnan().logical_not();
        Tensor others = (where(known, grouped, zeros_like(grouped)).sum(1, keepdim: true) - grouped) / (known.sum(1, keepdim: true) - 1);
        Tensor advantages = group > 1 ? sums - others.view(-1) : zeros_like(sums);
        if (normalise)
        {
            advantages = (advantages - NanMean(advantages, 0)) / (NanStd(advantages, 0) + Spread);
        }

        return (advantages.nan_to_num(0).MoveToOuterDisposeScope(), sums.MoveToOuterDisposeScope());
    }

    static Tensor SoftGate(Tensor ratio, Tensor advantage, GroupPolicyOptions options)
    {
        Tensor temperature = where(advantage.gt(0), options.TemperaturePositive, options.TemperatureNegative).to_type(ratio.dtype);
        return -((ratio - 1) * temperature).sigmoid() * 4 / temperature * advantage;
    }

    // w^k e^(λ − λw) of the whole answer's ratio, 1 at w = 1.
    static Tensor GammaWeight(Tensor log, Tensor mask, Tensor advantage, GroupPolicyOptions options)
    {
        Tensor whole = (log.clamp(-20, 20) * mask).sum(1, keepdim: true).clamp(Math.Log(1e-8), 20), better = advantage.ge(0);
        Tensor k = where(better, options.GammaPositive.K, options.GammaNegative.K), lambda = where(better, options.GammaPositive.Lambda, options.GammaNegative.Lambda).clamp_min(1e-4);
        return (lambda + k * whole - lambda * whole.exp()).exp().nan_to_num(0, 0, 0).to_type(log.dtype);
    }

    static void Clipped(Tensor ratio, Tensor advantage, double low, double high, Tensor mask, Dictionary<string, double> metrics)
    {
        Tensor below = ratio.lt(1 - low).logical_and(advantage.lt(0)), above = ratio.gt(1 + high).logical_and(advantage.gt(0));
        metrics["clip_ratio/low_mean"] = MaskedMean(below.to_type(ScalarType.Float32), mask);
        metrics["clip_ratio/high_mean"] = MaskedMean(above.to_type(ScalarType.Float32), mask);
        metrics["clip_ratio/region_mean"] = MaskedMean(below.logical_or(above).to_type(ScalarType.Float32), mask);
    }

    // A value per answer counts once, a value per token by the mask.
    static double MaskedMean(Tensor x, Tensor mask) => x.shape[1] == 1 ? TokenScores.Mean(x) : TokenScores.MaskedMean(x.detach(), mask);

    static Tensor Sum(Tensor rewards, Tensor weights, Tensor unscorable)
    {
        Tensor sums = (rewards * weights).nan_to_num(0).sum(1);
        return where(unscorable, full_like(sums, double.NaN), sums);
    }

    static Tensor NanMean(Tensor x, long axis)
    {
        Tensor known = x.isnan().logical_not();
        return where(known, x, zeros_like(x)).sum(axis, keepdim: true) / known.sum(axis, keepdim: true);
    }

    // With n − 1.
    static Tensor NanStd(Tensor x, long axis)
    {
        Tensor known = x.isnan().logical_not();
        Tensor square = where(known, x - NanMean(x, axis), zeros_like(x)).square().sum(axis, keepdim: true);
        // A single value has no spread; of several of which one is known it is not known.
        return x.shape[(int)axis] == 1 ? square.sqrt() : (square / (known.sum(axis, keepdim: true) - 1)).sqrt();
    }
}
