using Scalpel.Networks;
using TorchSharp;
using static TorchSharp.torch;

namespace Scalpel.Methods.Editing;

/// <summary>A change up·down of the matrix [out, in] of one layer: up [out, r], down [r, in].</summary>
/// <param name="Layer">The layer.</param>
/// <param name="View">Its down projection.</param>
/// <param name="Down">[r, ff].</param>
/// <param name="Up">[d, r].</param>
sealed record LayerChange(int Layer, RoleView View, Tensor Down, Tensor Up) : IDisposable
{
    /// <summary>Keys of the facts, [n, ff]: for ROME those of the contexts, [contexts, ff].</summary>
    public Tensor? Keys { get; init; }

    /// <summary>The outputs of the last edited block at the lookup tokens before this layer was written, [n, d].</summary>
    public Tensor? Current { get; init; }

    /// <summary>The change, [d, ff], in float32.</summary>
    public Tensor Change()
    {
        using var scope = NewDisposeScope();
        return Up.matmul(Down).to_type(ScalarType.Float32).MoveToOuterDisposeScope();
    }

    public void Dispose()
    {
        Down.Dispose();
        Up.Dispose();
        Keys?.Dispose();
        Current?.Dispose();
    }
}

/// <summary>Solving with symmetric positive definite matrices that are factored once.</summary>
static class ClosedForm
{
    /// <summary>The Cholesky factor of a symmetric matrix in float64, or null when it is not positive definite.</summary>
    public static Tensor? Factor(Tensor symmetric)
    {
        using var scope = NewDisposeScope();
        (Tensor factor, Tensor info) = linalg.cholesky_ex(symmetric.to_type(ScalarType.Float64));
        return info.item<int>() == 0 ? factor.MoveToOuterDisposeScope() : null;
    }

    /// <summary>A⁻¹B with the factor of A; B is [n, m].</summary>
    public static Tensor Solve(Tensor factor, Tensor right) => cholesky_solve(right.to_type(ScalarType.Float64), factor);

    /// <summary>
    /// (λC + K Kᵀ)⁻¹ K for the keys K [ff, n], in float64. With fewer facts than dimensions only an n × n system is solved per batch.
    /// </summary>
    /// <param name="factor">Cholesky factor of C, or null when C is singular.</param>
    public static Tensor Adjusted(Tensor covariance, Tensor? factor, Tensor keys, double lambda)
    {
        using var scope = NewDisposeScope();
        Tensor k = keys.to_type(ScalarType.Float64);
        if (factor is not null && k.shape[1] < k.shape[0])
        {
            Tensor solved = Solve(factor, k) / lambda;                                               // (λC)⁻¹ K
            Tensor inner = k.t().matmul(solved);
            inner = inner + eye(inner.shape[0], dtype: ScalarType.Float64);
            // (λC + K Kᵀ)⁻¹ K = (λC)⁻¹ K (I + Kᵀ (λC)⁻¹ K)⁻¹
            Tensor innerFactor = Factor((inner + inner.t()) / 2) ?? throw new BadInputException("The keys of the facts hold values that are not finite.");
            return Solve(innerFactor, solved.t()).t().contiguous().MoveToOuterDisposeScope();
        }

        Tensor whole = covariance.to_type(ScalarType.Float64) * lambda + k.matmul(k.t());
        Tensor wholeFactor = Factor(whole) ?? throw new BadInputException("The covariance with the keys of the facts is singular; gather it over more text or set a ridge.");
        return Solve(wholeFactor, k).MoveToOuterDisposeScope();
    }

    /// <summary>Projection onto the directions in which text hardly moves: singular vectors of C with singular values below the threshold.</summary>
    public static Tensor NullSpace(Tensor covariance, double threshold)
    {
        using var scope = NewDisposeScope();
        (Tensor values, Tensor vectors) = linalg.eigh(covariance.to_type(ScalarType.Float64));
        Tensor basis = vectors.index_select(1, values.abs().lt(threshold).nonzero().squeeze(-1));
        return basis.matmul(basis.t()).MoveToOuterDisposeScope();
    }

    /// <summary>
    /// (P(K Kᵀ + C_prev) + L2·I)⁻¹ P K, [ff, n], in float64. Without earlier facts (<paramref name="previous"/> null) it is
    /// P K (Kᵀ P K + L2·I)⁻¹, an n × n system.
    /// </summary>
    public static Tensor Projected(Tensor projection, Tensor? previous, Tensor keys, double l2)
    {
        using var scope = NewDisposeScope();
        Tensor k = keys.to_type(ScalarType.Float64), p = projection.to_type(ScalarType.Float64), pk = p.matmul(k);
        if (previous is null && k.shape[1] < k.shape[0])
        {
            Tensor inner = k.t().matmul(pk);
            inner = (inner + inner.t()) / 2 + eye(inner.shape[0], dtype: ScalarType.Float64) * l2;
            Tensor factor = Factor(inner) ?? throw new BadInputException($"L2 = {l2} leaves the system of the keys singular; raise it.");
            return Solve(factor, pk.t()).t().contiguous().MoveToOuterDisposeScope();
        }

        Tensor gram = k.matmul(k.t());
        if (previous is not null)
        {
            gram = gram + previous.to_type(ScalarType.Float64);
        }

        return linalg.solve(p.matmul(gram) + eye(k.shape[0], dtype: ScalarType.Float64) * l2, pk).MoveToOuterDisposeScope();
    }
}
