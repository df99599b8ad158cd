using System.Runtime.InteropServices;
using Scalpel.Checkpoints;
using TorchSharp;
using static TorchSharp.torch;

namespace Scalpel.Patches;

/// <summary>A delta in another form, with what was lost.</summary>
/// <param name="Delta">The new form.</param>
/// <param name="Error">Frobenius norm of what was lost over that of the change; 0 when nothing was.</param>
public sealed record Converted(AdditiveDelta Delta, double Error);

/// <summary>Deltas in other forms.</summary>
public static class PatchConvert
{
    /// <summary>
    /// The change of one tensor as numbers: edited minus base, in float32 (float64 for F64 storage). Exact kinds and those
    /// that multiply need the base.
    /// </summary>
    /// <exception cref="BadInputException">The tensor changes its shape, is not of floating point, or the base is needed and not given.</exception>
    public static Tensor Difference(Patch patch, string name, Checkpoint? checkpoint)
    {
        BaseTensor target = patch.BaseTensors.GetValueOrDefault(name) ?? throw new BadInputException($"The patch adds {name}, which has no difference to a base.");
        Delta delta = patch.Deltas[name];
        if (delta is AdditiveDelta additive)
        {
            return additive.ToTensor(target.Shape, target.Type.IsQuantised() ? StorageType.F32 : target.Type);
        }

        if (checkpoint is null || !checkpoint.Tensors.TryGetValue(name, out TensorEntry? entry) || checkpoint.Hash(name) != target.Hash)
        {
            throw new BadInputException($"The patch changes {name} by {delta.Kind}, whose difference takes the base; give the base that it was made for.");
        }

        if (delta.EditedShape(target.Shape) is not { } shape || !shape.SequenceEqual(target.Shape) || delta.EditedType(target.Type) != target.Type || !Elements.IsFloat(target.Type))
        {
            throw new BadInputException($"The patch changes type, shape or integers of {name}, which is no difference of numbers.");
        }

        byte[] edited = new byte[target.Length];
        BlockWrite write = PatchFiles.Edited(checkpoint, entry, delta, 1);
        for (long at = 0; at < edited.Length; at += Delta.BlockBytes)
        {
            write(edited.AsSpan((int)at, (int)Math.Min(Delta.BlockBytes, edited.Length - at)), at);
        }

        ScalarType wide = Elements.IsDouble(target.Type) ? ScalarType.Float64 : ScalarType.Float32;
        using Tensor after = PatchTensor.Of(target.Type, target.Shape, edited).ToTensor(wide), before = checkpoint.Read(name, wide);
        return after - before;
    }

    /// <summary>Any change as a dense one.</summary>
    public static DenseAdd ToDense(Patch patch, string name, Checkpoint? checkpoint = null)
    {
        using Tensor change = Difference(patch, name, checkpoint);
        return new DenseAdd(change);
    }

    /// <summary>
    /// The best approximation of a rank (singular value decomposition, <c>up = U√S</c>, <c>down = √S·Vᵀ</c>).
    /// </summary>
    /// <param name="change">The change, of two axes or more; those after the first are taken together.</param>
    /// <param name="rank">The rank; null for the smallest that reaches the error.</param>
    /// <param name="error">Relative error to reach when no rank is given. Default 0.01.</param>
    /// <exception cref="BadInputException">The change has fewer than two axes, or the rank is not from 1 to the smaller side.</exception>
    public static Converted ToLowRank(Tensor change, int? rank = null, double error = 0.01)
    {
        if (change.dim() < 2)
        {
            throw new BadInputException($"A change of shape [{string.Join(", ", change.shape)}] has no rank; only tensors of two axes or more can be of low rank.");
        }

        using var scope = NewDisposeScope();
        Tensor matrix = change.detach().to_type(ScalarType.Float64).reshape(change.shape[0], -1);
        int most = (int)Math.Min(matrix.shape[0], matrix.shape[1]);
        if (rank is < 1 || rank > most)
        {
            throw new BadInputException($"The rank {rank} does not fit a matrix of {matrix.shape[0]} × {matrix.shape[1]}; it must be from 1 to {most}.");
        }

        (Tensor u, Tensor s, Tensor vh) = linalg.svd(matrix, fullMatrices: false);
        double[] squares = s.data<double>().Select(value => value * value).ToArray();
        double total = squares.Sum(), kept = 0;
        int r = 0;
        while (r < most && (rank is null ? r == 0 || Math.Sqrt(Math.Max(0, total - kept)) > error * Math.Sqrt(total) : r < rank))
        {
            kept += squares[r++];
        }

        double lost = squares.Skip(r).Sum();
        Tensor root = s.narrow(0, 0, r).sqrt();
        ScalarType type = change.dtype == ScalarType.Float64 ? ScalarType.Float64 : ScalarType.Float32;
        var low = new LowRank((root.unsqueeze(1) * vh.narrow(0, 0, r)).to_type(type), (u.narrow(1, 0, r) * root).to_type(type));
        return new Converted(low, total == 0 ? 0 : Math.Sqrt(lost / total));
    }

    /// <summary>The entries that change most.</summary>
    /// <param name="change">The change.</param>
    /// <param name="count">How many to keep; ties are broken by position.</param>
    public static Converted ToSparse(Tensor change, long count)
    {
        if (count < 1 || count > change.numel())
        {
            throw new BadInputException($"{count} entries cannot be kept of {change.numel()}.");
        }

        using var scope = NewDisposeScope();
        Tensor flat = change.detach().contiguous().reshape(-1), size = flat.abs();
        // A stable order, so that equal values give equal patches.
        Tensor order = size.sort(0, descending: true, stable: true).Indices.narrow(0, 0, count);
        Tensor indices = order.sort().Values, values = flat.index_select(0, indices);
        double total = flat.to_type(ScalarType.Float64).square().sum().ToDouble(), kept = values.to_type(ScalarType.Float64).square().sum().ToDouble();
        return new Converted(new Sparse(indices, values), total == 0 ? 0 : Math.Sqrt(Math.Max(0, total - kept) / total));
    }
}
