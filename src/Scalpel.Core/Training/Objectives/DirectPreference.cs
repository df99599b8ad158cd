using TorchSharp;
using static TorchSharp.torch;
using static TorchSharp.torch.nn.functional;

namespace Scalpel.Training;

/// <summary>The losses on pairs with a reference model; names as in TRL. Δ = score(chosen) − score(rejected).</summary>
public enum DirectPreferenceLoss
{
    /// <summary>DPO: −log σ(βΔ).</summary>
    Sigmoid,

    /// <summary>Length-normalised DPO: scores per token.</summary>
    SigmoidNorm,

    /// <summary>Conservative DPO: −(1−ε) log σ(βΔ) − ε log σ(−βΔ).</summary>
    Conservative,

    /// <summary>(Δ/length − 1/(2β))².</summary>
    Ipo,

    /// <summary>max(0, 1 − βΔ).</summary>
    Hinge,

    /// <summary>Unbiased under label noise ε.</summary>
    Robust,

    /// <summary>Reverse KL to the smoothed preference.</summary>
    ExoPair,

    /// <summary>Noise-contrastive alignment.</summary>
    NcaPair,

    /// <summary>Binary classifier of both answers.</summary>
    BcoPair,

    /// <summary>Self-play with hard preferences.</summary>
    SppoHard,

    /// <summary>Conservative DPO on log-ratios that are sorted over the batch.</summary>
    Aot,

    /// <summary>Aot on the log-ratios to the reference, chosen and rejected sorted apart.</summary>
    AotUnpaired,

    /// <summary>Chosen up, rejected down.</summary>
    ApoZero,

    /// <summary>Chosen down, rejected further down.</summary>
    ApoDown,

    /// <summary>The blend of logistic and exponential loss that DiscoPOP found.</summary>
    Discopop,

    /// <summary>Cross-entropy of the chosen answers.</summary>
    Sft,
}

/// <summary>How a log-ratio becomes a score.</summary>
public enum Divergence
{
    /// <summary>ρ.</summary>
    ReverseKl,

    /// <summary>1 − e^(−ρ).</summary>
    ForwardKl,

    /// <summary>log 2 + log σ(ρ).</summary>
    JensenShannon,

    /// <summary>(e^((α−1)ρ) − 1)/(α − 1).</summary>
    Alpha,
}

/// <summary>Options of <see cref="DirectPreference"/>.</summary>
public sealed record DirectPreferenceOptions
{
    /// <summary>The losses and their weights. Default DPO alone.</summary>
    public IReadOnlyList<(DirectPreferenceLoss Loss, double Weight)> Losses { get; init; } = [(DirectPreferenceLoss.Sigmoid, 1)];

    /// <summary>Inverse temperature. Default 0.1.</summary>
    public double Beta { get; init; } = 0.1;

    /// <summary>ε of the conservative, robust, exo and aot losses. Default 0.</summary>
    public double LabelSmoothing { get; init; }

    /// <summary>The divergence that is regularised. Default reverse KL.</summary>
    public Divergence Divergence { get; init; }

    /// <summary>α of the α-divergence. Default 0.5.</summary>
    public double AlphaCoefficient { get; init; } = 0.5;

    /// <summary>Weight of tokens beyond the shorter answer of a pair (LD-DPO); null for 1.</summary>
    public double? TailWeight { get; init; }

    /// <summary>Temperature of DiscoPOP's blend. Default 0.05.</summary>
    public double DiscopopTau { get; init; } = 0.05;
}

/// <summary>Preference optimisation on pairs against a reference model, DPO and its kin.</summary>
public static class DirectPreference
{
    /// <summary>The loss of one batch; rows are all chosen answers, then all rejected ones in the same order.</summary>
    /// <param name="logProbs">[2B, T − 1]: log p of token t + 1.</param>
    /// <param name="reference">The same under the reference model.</param>
    /// <param name="mask">[2B, T] over tokens, 1 = part of the answer.</param>
    /// <param name="options">Which losses.</param>
    /// <param name="pairWeights">[B] factors of the pairs' losses without gradient (WPO), or null.</param>
    /// <param name="items">What the sum over the chosen answers' tokens (sft) is divided by; by default their number in this batch. In an accumulation window the mean of its batches, so that the mean of the losses is that of one large batch.</param>
    public static Objective Loss(Tensor logProbs, Tensor reference, Tensor mask, DirectPreferenceOptions? options = null, Tensor? pairWeights = null, double? items = null)
    {
        options ??= new();
        Check(options);
        using var scope = NewDisposeScope();
        Tensor inner = mask[.., 1..];
        Tensor weights = options.TailWeight is { } tail ? TailWeights(inner, tail).to_type(logProbs.dtype) : ones([], dtype: logProbs.dtype);
        Tensor policy = (TokenScores.Masked(logProbs, inner) * weights).sum(1), frozen = (TokenScores.Masked(reference, inner) * weights).sum(1);
        (Tensor chosen, Tensor rejected) = Halves(policy - frozen);
        (Tensor chosenLength, Tensor rejectedLength) = Halves(mask.sum(1).clamp_min(1));
        (Tensor chosenScore, Tensor rejectedScore) = (Score(chosen, options), Score(rejected, options));
        double beta = options.Beta, epsilon = options.LabelSmoothing;
        Tensor delta = chosenScore - rejectedScore;
        Tensor perToken = chosenScore / chosenLength - rejectedScore / rejectedLength;
        Tensor? loss = null;
        foreach ((DirectPreferenceLoss kind, double weight) in options.Losses)
        {
            Tensor each = kind switch
            {
                DirectPreferenceLoss.Sigmoid => -logsigmoid(delta * beta),
                DirectPreferenceLoss.SigmoidNorm => -logsigmoid(perToken * beta),
                DirectPreferenceLoss.Conservative => Smoothed(delta * beta, epsilon),
                DirectPreferenceLoss.Ipo => (perToken - 1 / (2 * beta)).square(),
                DirectPreferenceLoss.Hinge => relu(1 - delta * beta),
                DirectPreferenceLoss.Robust => (-(1 - epsilon) * logsigmoid(delta * beta) + epsilon * logsigmoid(-delta * beta)) / (1 - 2 * epsilon),
                DirectPreferenceLoss.ExoPair => (delta * beta).sigmoid() * (logsigmoid(delta * beta) - Math.Log(1 - epsilon))
                    + (-delta * beta).sigmoid() * (logsigmoid(-delta * beta) - Math.Log(epsilon)),
                DirectPreferenceLoss.NcaPair => -logsigmoid(chosenScore * beta) - 0.5 * logsigmoid(-chosenScore * beta) - 0.5 * logsigmoid(-rejectedScore * beta),
                DirectPreferenceLoss.BcoPair => -logsigmoid(chosenScore * beta) - logsigmoid(-rejectedScore * beta),
                DirectPreferenceLoss.SppoHard => (chosenScore - 0.5 / beta).square() + (rejectedScore + 0.5 / beta).square(),
                DirectPreferenceLoss.Aot => Smoothed(Transport(policy, frozen) * beta, epsilon),
                DirectPreferenceLoss.AotUnpaired => Smoothed((Sorted(chosen) - Sorted(rejected)) * beta, epsilon),
                DirectPreferenceLoss.ApoZero => 1 - (chosen * beta).sigmoid() + (rejected * beta).sigmoid(),
                DirectPreferenceLoss.ApoDown => (chosen * beta).sigmoid() + 1 - (delta * beta).sigmoid(),
                DirectPreferenceLoss.Discopop => Blend(delta * beta, options.DiscopopTau),
                _ => CrossEntropy(logProbs, inner, items),
            };
            if (pairWeights is not null)
            {
                each = each * pairWeights;
            }

            Tensor term = each.mean() * weight;
            loss = loss is null ? term : loss + term;
        }

        (Tensor chosenSum, Tensor rejectedSum) = Halves(policy);
        return new Objective(loss!.MoveToOuterDisposeScope(), new Dictionary<string, double>
        {
            ["rewards/chosen"] = TokenScores.Mean(chosen) * beta,
            ["rewards/rejected"] = TokenScores.Mean(rejected) * beta,
            ["rewards/accuracies"] = TokenScores.Mean((chosen * beta).gt(rejected * beta).to_type(ScalarType.Float32)),
            ["rewards/margins"] = TokenScores.Mean(chosen * beta - rejected * beta),
            ["logps/chosen"] = TokenScores.Mean(chosenSum),
            ["logps/rejected"] = TokenScores.Mean(rejectedSum),
        });
    }

    /// <summary>WPO's factors of the pairs: how probable both answers are under the policy, per token and relative to its own sharpness.</summary>
    /// <param name="logits">[2B, T, vocabulary].</param>
    /// <param name="logProbs">[2B, T − 1].</param>
    /// <param name="mask">[2B, T].</param>
    /// <returns>[B], detached.</returns>
    public static Tensor PolicyWeights(Tensor logits, Tensor logProbs, Tensor mask)
    {
        using var noGrad = no_grad();
        using var scope = NewDisposeScope();
        Tensor shifted = logits.detach()[.., ..^1], inner = mask[.., 1..];
        Tensor sharpness = (shifted * 2).logsumexp(-1) - shifted.logsumexp(-1) * 2;
        Tensor mean = TokenScores.Masked(logProbs.detach() - sharpness, inner).sum(1) / inner.sum(1).clamp_min(1);
        (Tensor chosen, Tensor rejected) = Halves(mean.exp());
        return (chosen * rejected).MoveToOuterDisposeScope();
    }

    internal static (Tensor Chosen, Tensor Rejected) Halves(Tensor rows)
    {
        long half = rows.shape[0] / 2;
        return (rows.narrow(0, 0, half), rows.narrow(0, half, half));
    }

    /// <summary>−(1−ε) log σ(x) − ε log σ(−x).</summary>
    internal static Tensor Smoothed(Tensor x, double epsilon) => -(1 - epsilon) * logsigmoid(x) - epsilon * logsigmoid(-x);

    static void Check(DirectPreferenceOptions options)
    {
        if (options.Losses.Count == 0)
        {
            throw new BadInputException("No preference loss is named; give at least one.");
        }

        foreach ((DirectPreferenceLoss loss, _) in options.Losses)
        {
            if (loss == DirectPreferenceLoss.ExoPair && options.LabelSmoothing <= 0)
            {
                throw new BadInputException("The loss exo_pair needs a label smoothing above 0, for example 0.001: it takes its logarithm.");
            }

            if (loss == DirectPreferenceLoss.Robust && options.LabelSmoothing >= 0.5)
            {
                throw new BadInputException($"The loss robust has a label smoothing of {options.LabelSmoothing}; it must be below 0.5.");
            }
        }
    }

    static Tensor Score(Tensor ratio, DirectPreferenceOptions options) => options.Divergence switch
    {
        Divergence.ReverseKl => ratio,
        Divergence.ForwardKl => 1 - (-ratio).exp(),
        Divergence.JensenShannon => logsigmoid(ratio) + Math.Log(2),
        _ when Math.Abs(options.AlphaCoefficient - 1) < 1e-6 => ratio,
        // Bounded so that the exponential stays finite.
        _ => ((ratio * (options.AlphaCoefficient - 1)).clamp_max(80).exp() - 1) / (options.AlphaCoefficient - 1),
    };

    static Tensor TailWeights(Tensor mask, double tail)
    {
        (Tensor chosen, Tensor rejected) = Halves(mask.sum(1));
        Tensor shared = minimum(chosen, rejected), position = mask.cumsum(1);
        return where(position.gt(cat([shared, shared]).unsqueeze(1)), tail, 1.0);
    }

    static Tensor Sorted(Tensor x) => x.sort(0).Values;

    static Tensor Transport(Tensor policy, Tensor frozen)
    {
        (Tensor chosen, Tensor rejected) = Halves(policy);
        (Tensor frozenChosen, Tensor frozenRejected) = Halves(frozen);
        return Sorted(chosen - rejected) - Sorted(frozenChosen - frozenRejected);
    }

    static Tensor Blend(Tensor x, double tau)
    {
        Tensor share = (x / tau).sigmoid();
        return -logsigmoid(x) * (1 - share) + (-x).exp() * share;
    }

    /// <summary>−Σ log p of the chosen answers' tokens over their number, or over <paramref name="items"/>.</summary>
    internal static Tensor CrossEntropy(Tensor logProbs, Tensor mask, double? items)
    {
        (Tensor chosen, _) = Halves(logProbs);
        (Tensor chosenMask, _) = Halves(mask);
        Tensor sum = TokenScores.Masked(chosen, chosenMask).sum().neg();
        return items is { } count ? sum / count : sum / chosenMask.sum();
    }
}
