using TorchSharp;
using static TorchSharp.torch;

namespace Scalpel.Methods.Interpretability;

/// <summary>How well each head's pattern fits a detection mask.</summary>
/// <param name="Product">Σ P⊙D / Σ P over the rows that the mask has, [H]; 1 for a perfect fit.</param>
/// <param name="Difference">1 − mean over these rows of Σ|P − D|, [H]; from −1 to 1.</param>
/// <param name="Rows">Rows that count: those in which the mask has a 1.</param>
public sealed record PatternFit(IReadOnlyList<double> Product, IReadOnlyList<double> Difference, long Rows);

/// <summary>Metrics of attention patterns [B, H, T, T]. Specification: taps-and-patching.</summary>
public static class AttentionPatterns
{
    /// <summary>Mask of heads that look at the previous token: D[t, t−1] = 1, float32 [1, T, T].</summary>
    public static Tensor PreviousToken(int length)
    {
        using Tensor one = ones(length - 1), mask = one.diag(-1);
        return mask.unsqueeze(0);
    }

    /// <summary>Mask of heads that look at earlier equal tokens: D[t, s] = 1 for s &lt; t with equal tokens, float32 [B, T, T].</summary>
    public static Tensor DuplicateToken(Tensor ids)
    {
        using var scope = NewDisposeScope();
        return ids.unsqueeze(2).eq(ids.unsqueeze(1)).to_type(ScalarType.Float32).tril(-1).MoveToOuterDisposeScope();
    }

    /// <summary>Mask of induction heads: D[t, s + 1] = 1 for s &lt; t with equal tokens, float32 [B, T, T]; the token after each earlier equal one.</summary>
    public static Tensor Induction(Tensor ids)
    {
        using var scope = NewDisposeScope();
        Tensor duplicate = DuplicateToken(ids);
        Tensor shifted = zeros_like(duplicate);
        shifted.narrow(2, 1, ids.shape[1] - 1).copy_(duplicate.narrow(2, 0, ids.shape[1] - 1));
        return shifted.MoveToOuterDisposeScope();
    }

    /// <summary>Compares every head's pattern with a mask, over the rows in which the mask has a 1.</summary>
    /// <param name="pattern">[B, H, T, T].</param>
    /// <param name="mask">[B or 1, T, T].</param>
    /// <param name="excludeFirst">Leaves the first column, where many heads rest, out of both. Default false.</param>
    /// <param name="excludeDiagonal">Leaves the diagonal out of both. Default false.</param>
    public static PatternFit Fit(Tensor pattern, Tensor mask, bool excludeFirst = false, bool excludeDiagonal = false)
    {
        using var scope = NewDisposeScope();
        Tensor kept = ones([pattern.shape[2], pattern.shape[3]], dtype: ScalarType.Float64);
        if (excludeFirst)
        {
            kept.narrow(1, 0, 1).zero_();
        }

        kept = excludeDiagonal ? kept * (1 - eye(pattern.shape[2], dtype: ScalarType.Float64)) : kept;
        Tensor d = (mask.to_type(ScalarType.Float64) * kept).unsqueeze(1).expand(pattern.shape[0], -1, -1, -1);        // [B, 1, T, T]
        Tensor rows = d.sum(-1).gt(0).to_type(ScalarType.Float64);                                                     // [B, 1, T]
        Tensor p = pattern.to_type(ScalarType.Float64) * kept * rows.unsqueeze(-1);
        long count = (long)rows.sum().ToDouble();
        return new PatternFit(
            ((p * d).sum([0, 2, 3]) / p.sum([0, 2, 3])).data<double>().ToArray(),
            (1 - ((p - d).abs().sum([0, 2, 3]) / count)).data<double>().ToArray(),
            count);
    }

    /// <summary>Entropy of each row in nats, [B, H, T].</summary>
    public static Tensor Entropy(Tensor pattern)
    {
        using var scope = NewDisposeScope();
        Tensor p = pattern.to_type(ScalarType.Float32);
        return where(p.gt(0), -p * p.clamp(min: 1e-38).log(), zeros_like(p)).sum(-1).MoveToOuterDisposeScope();
    }

    /// <summary>Mass on the first token, [B, H, T].</summary>
    public static Tensor SinkMass(Tensor pattern) => pattern.select(3, 0);

    /// <summary>Mass on the keys from <paramref name="start"/> to <paramref name="end"/> (exclusive), [B, H, T].</summary>
    public static Tensor Mass(Tensor pattern, int start, int end)
    {
        using Tensor span = pattern.narrow(3, start, end - start);
        return span.sum(-1);
    }

    /// <summary>Mean distance from query to key, [B, H, T].</summary>
    public static Tensor Distance(Tensor pattern)
    {
        using var scope = NewDisposeScope();
        Tensor place = arange(pattern.shape[2], dtype: ScalarType.Float32);
        return (pattern.to_type(ScalarType.Float32) * (place.unsqueeze(1) - place.unsqueeze(0))).sum(-1).MoveToOuterDisposeScope();
    }
}
