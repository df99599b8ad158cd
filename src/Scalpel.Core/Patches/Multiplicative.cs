using System.Numerics;
using Scalpel.Checkpoints;
using TorchSharp;
using static TorchSharp.torch;

namespace Scalpel.Patches;

/// <summary>
/// Each slice along an axis times a factor, as (IA)³ trains them: <c>edited = round(widen(base)·factor[j])</c>. Stored as
/// <c>t.factors</c> [size of the axis].
/// </summary>
/// <param name="Factors">One factor a slice.</param>
/// <param name="Axis">The axis of the stored tensor along which the factors lie.</param>
public sealed record Scaled(PatchTensor Factors, int Axis) : Delta
{
    /// <summary>Factors along an axis; takes a copy.</summary>
    public Scaled(Tensor factors, int axis) : this(PatchTensor.Of(factors), axis) { }

    /// <inheritdoc/>
    public override string Kind => "factors";

    /// <inheritdoc/>
    public override IReadOnlyDictionary<string, PatchTensor> Parts => new Dictionary<string, PatchTensor> { ["factors"] = Factors };

    internal override IReadOnlyDictionary<string, long> Numbers => new Dictionary<string, long> { ["axis"] = Axis };

    internal override string? Mismatch(BaseTensor target) => AlongAxis(Factors, Axis, target, "factors") ?? NotFloat(target);

    internal static string? AlongAxis(PatchTensor values, int axis, BaseTensor target, string what) =>
        axis < 0 || axis >= target.Shape.Count || values.Shape.Count != 1 || values.Count != target.Shape[axis] || !Elements.IsFloat(values.Type)
            ? $"has {what} {values.Type} {Text(values.Shape)} along axis {axis} of a tensor of {Text(target.Shape)}"
            : null;

    internal override BlockWrite Begin(DeltaTarget target, double scale) => Elements.IsDouble(target.Type) ? Begin<double>(target) : Begin<float>(target);

    BlockWrite Begin<T>(DeltaTarget target) where T : unmanaged, IFloatingPointIeee754<T>
    {
        T[] factors = Factors.Values<T>();
        return InTiles<T>(target, (values, change, first) =>
        {
            var slice = new AxisWalk(target.Shape, Axis, first);
            for (int i = 0; i < values.Length; i++)
            {
                T factor = factors[slice.Next()];
                change[i] = factor - T.One;
                values[i] *= factor;
            }

            return true;
        });
    }
}

/// <summary>
/// Single elements set to zero, as pruning does: <c>edited = 0</c> where the mask has a one, the stored bits elsewhere. One bit
/// an element, <c>t.zeros</c> [elements / 8, rounded up] U8, the lowest bit of a byte first; elements in row-major order.
/// </summary>
/// <param name="Mask">The bits.</param>
public sealed record Zeroed(PatchTensor Mask) : Delta
{
    /// <summary>The elements where <paramref name="mask"/> (bool, the tensor's shape) is true.</summary>
    public static Zeroed Where(Tensor mask)
    {
        PatchTensor flags = PatchTensor.Of(mask);
        byte[] bits = new byte[(flags.Count + 7) / 8];
        ReadOnlySpan<byte> each = flags.Bytes(0, checked((int)flags.Length));
        for (int i = 0; i < each.Length; i++)
        {
            bits[i >> 3] |= (byte)((each[i] != 0 ? 1 : 0) << (i & 7));
        }

        return new Zeroed(PatchTensor.Of(StorageType.U8, [bits.LongLength], bits));
    }

    /// <inheritdoc/>
    public override string Kind => "zeros";

    /// <inheritdoc/>
    public override IReadOnlyDictionary<string, PatchTensor> Parts => new Dictionary<string, PatchTensor> { ["zeros"] = Mask };

    internal override string? Mismatch(BaseTensor target) => Mask.Type != StorageType.U8 || Mask.Shape.Count != 1 || Mask.Count != (target.Count + 7) / 8
        ? $"has a mask {Mask.Type} {Text(Mask.Shape)} for a tensor of {Text(target.Shape)}; U8 [{(target.Count + 7) / 8}] was expected"
        : NotFloat(target);

    internal override BlockWrite Begin(DeltaTarget target, double scale) => (edited, firstByte) =>
    {
        target.Read(edited, firstByte);
        int size = target.ElementBytes, count = edited.Length / size;
        long first = firstByte / size;
        ReadOnlySpan<byte> bits = Mask.Bytes(first >> 3, (int)(((first + count + 7) >> 3) - (first >> 3)));
        int shift = (int)(first & 7);
        for (int i = 0; i < count; i++)
        {
            if ((bits[(i + shift) >> 3] >> ((i + shift) & 7) & 1) != 0)
            {
                edited.Slice(i * size, size).Clear();
            }
        }
    };
}

/// <summary>
/// Weight decomposition (DoRA): <c>V = widen(base) + Σ_k (scale·up)·down</c>, <c>edited = round((magnitude[j] / ‖V_j‖)·V)</c>,
/// the norm of slice j along the axis summed in float64. Needs the base to be computed. Stored as <c>t.down</c>,
/// <c>t.up</c>, <c>t.scale</c> as in <see cref="LowRank"/>, and <c>t.magnitude</c>.
/// </summary>
/// <param name="Down">[rank, in].</param>
/// <param name="Up">[out, rank].</param>
/// <param name="Magnitude">One norm a slice.</param>
/// <param name="Axis">The axis of the stored tensor along which the magnitudes lie.</param>
/// <param name="Scale">Factor of the product.</param>
public sealed record Dora(PatchTensor Down, PatchTensor Up, PatchTensor Magnitude, int Axis, double Scale = 1) : Delta
{
    /// <inheritdoc/>
    public override string Kind => "dora";

    /// <inheritdoc/>
    public override IReadOnlyDictionary<string, PatchTensor> Parts =>
        new Dictionary<string, PatchTensor>(LowRank.FactorParts(Down, Up, Scale)) { ["magnitude"] = Magnitude };

    internal override IReadOnlyDictionary<string, long> Numbers => new Dictionary<string, long> { ["axis"] = Axis };

    internal override string? Mismatch(BaseTensor target) => new LowRank(Down, Up, Scale).Mismatch(target) ?? Scaled.AlongAxis(Magnitude, Axis, target, "magnitudes");

    internal override BlockWrite Begin(DeltaTarget target, double scale) => Elements.IsDouble(target.Type) ? Begin<double>(target) : Begin<float>(target);

    BlockWrite Begin<T>(DeltaTarget target) where T : unmanaged, IFloatingPointIeee754<T>
    {
        TileFill<T> fill = new LowRank(Down, Up, Scale).Change<T>(target.Type, target.Shape, 1);
        double[] squares = new double[Magnitude.Count];
        BlockWrite measure = InTiles<T>(target, (values, change, first) =>
        {
            fill(change, first);
            Elements.Add<T>(values, change);
            var slice = new AxisWalk(target.Shape, Axis, first);
            foreach (T value in values)
            {
                double x = double.CreateChecked(value);
                squares[slice.Next()] += x * x;
            }

            return false;
        });
        byte[] block = new byte[(int)Math.Min(BlockBytes, target.Length)];
        for (long at = 0; at < target.Length; at += BlockBytes)
        {
            measure(block.AsSpan(0, (int)Math.Min(BlockBytes, target.Length - at)), at);
        }

        T[] factors = Magnitude.Values<T>();
        for (int j = 0; j < factors.Length; j++)
        {
            factors[j] /= T.CreateChecked(Math.Sqrt(squares[j]));
        }

        return InTiles<T>(target, (values, change, first) =>
        {
            fill(change, first);
            Elements.Add<T>(values, change);
            var slice = new AxisWalk(target.Shape, Axis, first);
            for (int i = 0; i < values.Length; i++)
            {
                values[i] *= factors[slice.Next()];
            }

            change.Fill(T.One);
            return true;
        });
    }
}

/// <summary>Walks over consecutive elements and says in which slice along an axis each lies.</summary>
struct AxisWalk
{
    readonly long stride, size;
    long inside, slice;

    public AxisWalk(IReadOnlyList<long> shape, int axis, long first)
    {
        stride = 1;
        for (int i = axis + 1; i < shape.Count; i++)
        {
            stride *= shape[i];
        }

        size = shape[axis];
        inside = first % stride;
        slice = first / stride % size;
    }

    public long Next()
    {
        long current = slice;
        if (++inside == stride)
        {
            inside = 0;
            if (++slice == size)
            {
                slice = 0;
            }
        }

        return current;
    }
}
