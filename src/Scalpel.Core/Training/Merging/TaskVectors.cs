using TorchSharp;
using static TorchSharp.torch;

namespace Scalpel.Training;

/// <summary>How TIES elects the sign of an entry.</summary>
public enum SignElection
{
    /// <summary>The sign of the sum.</summary>
    Total,

    /// <summary>The sign that occurs more often.</summary>
    Frequency,
}

/// <summary>Merges changes of one tensor, as PEFT does; deltas are of equal shape.</summary>
public static class TaskVectors
{
    /// <summary>Σ w δ.</summary>
    public static Tensor Linear(IReadOnlyList<Tensor> deltas, IReadOnlyList<double> weights)
    {
        Tensor sum = zeros_like(deltas[0]);
        for (int i = 0; i < deltas.Count; i++)
        {
            sum = sum + deltas[i] * weights[i];
        }

        return sum;
    }

    /// <summary>Σ w δ with each δ cut to its largest entries.</summary>
    /// <param name="deltas">Changes.</param>
    /// <param name="weights">One each.</param>
    /// <param name="density">Share of the entries that stay.</param>
    public static Tensor MagnitudePrune(IReadOnlyList<Tensor> deltas, IReadOnlyList<double> weights, double density) =>
        Linear([.. deltas.Select(delta => Trim(delta, density))], weights);

    /// <summary>TIES: trimmed, the sign of each entry elected; the weighted sum of the entries that agree divided by their number.</summary>
    /// <param name="deltas">Changes.</param>
    /// <param name="weights">One each.</param>
    /// <param name="density">Share of the entries that stay.</param>
    /// <param name="election">How signs are elected. Default by the sum.</param>
    public static Tensor Ties(IReadOnlyList<Tensor> deltas, IReadOnlyList<double> weights, double density, SignElection election = SignElection.Total) =>
        Elected([.. deltas.Select(delta => Trim(delta, density))], weights, election);

    /// <summary>DARE: entries dropped at random, the rest divided by the density; Σ w δ.</summary>
    /// <param name="deltas">Changes.</param>
    /// <param name="weights">One each.</param>
    /// <param name="masks">What stays of each, drawn with the density.</param>
    /// <param name="density">Share of the entries that stay.</param>
    public static Tensor DareLinear(IReadOnlyList<Tensor> deltas, IReadOnlyList<double> weights, IReadOnlyList<Tensor> masks, double density) =>
        Linear(Dropped(deltas, masks, density), weights);

    /// <summary>DARE, then TIES' election.</summary>
    /// <param name="deltas">Changes.</param>
    /// <param name="weights">One each.</param>
    /// <param name="masks">What stays of each, drawn with the density.</param>
    /// <param name="density">Share of the entries that stay.</param>
    /// <param name="election">How signs are elected. Default by the sum.</param>
    public static Tensor DareTies(IReadOnlyList<Tensor> deltas, IReadOnlyList<double> weights, IReadOnlyList<Tensor> masks, double density, SignElection election = SignElection.Total) =>
        Elected(Dropped(deltas, masks, density), weights, election);

    /// <summary>The ⌊density·n⌋ largest entries, the others 0.</summary>
    internal static Tensor Trim(Tensor delta, double density, long atLeast = 0)
    {
        if (density >= 1)
        {
            return delta;
        }

        long keep = Math.Max(atLeast, (long)(density * delta.numel()));
        Tensor flat = delta.flatten();
        (_, Tensor where) = flat.abs().topk((int)keep, 0);
        return zeros_like(flat).index_copy(0, where, flat.index_select(0, where)).view(delta.shape);
    }

    static Tensor[] Dropped(IReadOnlyList<Tensor> deltas, IReadOnlyList<Tensor> masks, double density) => [.. deltas.Zip(masks, (delta, mask) => delta * mask.to_type(delta.dtype) / density)];

    static Tensor Elected(Tensor[] deltas, IReadOnlyList<double> weights, SignElection election)
    {
        // Weights take no part in the election.
        Tensor stacked = stack(deltas), votes = Sum(election == SignElection.Total ? stacked : stacked.sign());
        // A tie elects the positive sign.
        Tensor majority = where(votes.ge(0), 1.0, -1.0).to_type(stacked.dtype);
        Tensor agrees = stacked.sign().eq(majority.unsqueeze(0)).to_type(stacked.dtype);
        Tensor weighted = stack([.. deltas.Select((delta, i) => delta * weights[i])]);
        return Sum(weighted * agrees) / Sum(agrees).clamp_min(1);
    }

    // A bare sum(0) would take the 0 for a type.
    static Tensor Sum(Tensor stacked) => stacked.sum([0L]);
}
