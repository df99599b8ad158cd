using TorchSharp;
using static TorchSharp.torch;

namespace Scalpel.Training;

/// <summary>Options of <see cref="Kto"/>.</summary>
public sealed record KtoOptions
{
    /// <summary>Inverse temperature. Default 0.1.</summary>
    public double Beta { get; init; } = 0.1;

    /// <summary>λ of desirable answers. Default 1.</summary>
    public double DesirableWeight { get; init; } = 1;

    /// <summary>λ of undesirable answers. Default 1.</summary>
    public double UndesirableWeight { get; init; } = 1;

    /// <summary>Whether log-ratios are judged against 0 instead of z (APO-zero, unpaired). Default false.</summary>
    public bool AgainstZero { get; init; }
}

/// <summary>
/// Unpaired preferences: λ_D(1 − σ(β(ρ − z))) for good answers, λ_U(1 − σ(β(z − ρ))) for bad ones, where z is the mean
/// log-ratio of mismatched prompts and answers, at least 0, without gradient.
/// </summary>
public static class Kto
{
    /// <summary>The loss of one batch.</summary>
    /// <param name="logProbs">[B, T − 1]: log p of token t + 1.</param>
    /// <param name="reference">The same under the reference model.</param>
    /// <param name="mask">[B, T] over tokens, 1 = part of the answer.</param>
    /// <param name="desirable">[B], not 0 = good.</param>
    /// <param name="options">Weights.</param>
    /// <param name="mismatched">Log-probabilities, reference and mask of mismatched pairs; not needed against 0.</param>
    public static Objective Loss(Tensor logProbs, Tensor reference, Tensor mask, Tensor desirable, KtoOptions? options = null,
        (Tensor LogProbs, Tensor Reference, Tensor Mask)? mismatched = null)
    {
        options ??= new();
        double z = 0;
        if (!options.AgainstZero)
        {
            (Tensor policy, Tensor frozen, Tensor other) = mismatched
                ?? throw new BadInputException("KTO needs mismatched pairs for its reference point; use batches of at least 2, or the loss apo_zero_unpaired.");
            z = Math.Max(0, Ratios(policy, frozen, other).Average());
        }

        return Loss(logProbs, reference, mask, desirable, options, z);
    }

    /// <summary>The log-ratio of each answer to the reference, summed over its tokens.</summary>
    internal static double[] Ratios(Tensor logProbs, Tensor reference, Tensor mask)
    {
        using var noGrad = no_grad();
        using var scope = NewDisposeScope();
        return [.. (Sum(logProbs, mask) - Sum(reference, mask)).to_type(ScalarType.Float64).data<double>()];
    }

    /// <summary>The loss at a given reference point.</summary>
    internal static Objective Loss(Tensor logProbs, Tensor reference, Tensor mask, Tensor desirable, KtoOptions options, double z)
    {
        using var scope = NewDisposeScope();
        Tensor sums = Sum(logProbs, mask), ratio = sums - Sum(reference, mask), good = desirable.ne(0);
        Tensor sign = good.to_type(ratio.dtype) * 2 - 1;
        Tensor weight = where(good, options.DesirableWeight, options.UndesirableWeight).to_type(ratio.dtype);
        Tensor loss = (weight * (1 - ((ratio - z) * sign * options.Beta).sigmoid())).mean();
        var metrics = new Dictionary<string, double> { ["kl"] = z };
        foreach ((string name, Tensor rows) in new[] { ("chosen", good), ("rejected", good.logical_not()) })
        {
            if (rows.any().ToBoolean())
            {
                metrics[$"rewards/{name}"] = TokenScores.Mean(ratio.detach()[rows]) * options.Beta;
                metrics[$"logps/{name}"] = TokenScores.Mean(sums.detach()[rows]);
            }
        }

        if (metrics.TryGetValue("rewards/chosen", out double chosen) && metrics.TryGetValue("rewards/rejected", out double rejected))
        {
            metrics["rewards/margins"] = chosen - rejected;
        }

        return new Objective(loss.MoveToOuterDisposeScope(), metrics);
    }

    static Tensor Sum(Tensor logProbs, Tensor mask) => TokenScores.Masked(logProbs, mask[.., 1..]).sum(1);
}
