using System.Numerics;
using Scalpel.Checkpoints;
using TorchSharp;
using static TorchSharp.torch;

namespace Scalpel.Patches;

/// <summary>A delta that is added to the base: <c>edited = round(widen(base) + change)</c>.</summary>
public abstract record AdditiveDelta : Delta
{
    /// <inheritdoc/>
    public override bool IsAdditive => true;

    /// <summary>
    /// The change as a tensor of <paramref name="shape"/> in float32 (float64 when <paramref name="type"/> is F64), as it is
    /// added, before rounding to the stored type.
    /// </summary>
    /// <exception cref="BadInputException">The delta does not fit the shape.</exception>
    public Tensor ToTensor(IReadOnlyList<long> shape, StorageType type = StorageType.F32)
    {
        if (Mismatch(new BaseTensor(type, shape, "")) is { } mismatch)
        {
            throw new BadInputException($"A delta {mismatch}.");
        }

        StorageType wide = Elements.IsDouble(type) ? StorageType.F64 : StorageType.F32;
        Tensor result = empty(shape.ToArray(), dtype: StoredTensor.NaturalType(wide));
        if (wide == StorageType.F64)
        {
            Fill<double>(result, Change<double>(wide, shape, 1));
        }
        else
        {
            Fill<float>(result, Change<float>(wide, shape, 1));
        }

        return result;
    }

    /// <summary>Fills tiles of the change; false, and nothing filled, where it is zero throughout.</summary>
    internal abstract TileFill<T> Change<T>(StorageType type, IReadOnlyList<long> shape, double scale) where T : unmanaged, IFloatingPointIeee754<T>;

    internal sealed override BlockWrite Begin(DeltaTarget target, double scale) =>
        Elements.IsDouble(target.Type) ? Begin<double>(target, scale) : Begin<float>(target, scale);

    internal override string? Mismatch(BaseTensor target)
    {
        foreach ((string suffix, PatchTensor part) in Parts)
        {
            if (suffix is not ("indices" or "rows") && !Elements.IsFloat(part.Type))
            {
                return $"stores its {suffix} as {part.Type}; F64, F32, F16 or BF16 was expected";
            }
        }

        return NotFloat(target);
    }

    BlockWrite Begin<T>(DeltaTarget target, double scale) where T : unmanaged, IFloatingPointIeee754<T>
    {
        TileFill<T> fill = Change<T>(target.Type, target.Shape, scale);
        return InTiles<T>(target, (values, change, first) =>
        {
            if (!fill(change, first))
            {
                return false;
            }

            Elements.Add<T>(values, change);
            return true;
        });
    }

    static unsafe void Fill<T>(Tensor result, TileFill<T> fill) where T : unmanaged, IFloatingPointIeee754<T>
    {
        var target = (T*)StoredTensor.Pointer(result);
        long count = result.numel(), tiles = (count + TileElements - 1) / TileElements;
        StoredTensor.InChunks(tiles, (start, length) =>
        {
            for (long at = start * TileElements; at < Math.Min(count, (start + length) * TileElements); at += TileElements)
            {
                var tile = new Span<T>(target + at, (int)Math.Min(TileElements, count - at));
                if (!fill(tile, at))
                {
                    tile.Clear();
                }
            }
        }, TileElements);
    }

    /// <summary>Mismatch of a list of positions: its type, order and range.</summary>
    internal static string? BadPositions(PatchTensor positions, string what, long limit)
    {
        if (positions.Type is not (StorageType.I32 or StorageType.I64) || positions.Shape.Count != 1)
        {
            return $"has {what} of {positions.Type} {Text(positions.Shape)}; I32 or I64 with one axis was expected";
        }

        long last = -1;
        for (long i = 0; i < positions.Count; i++)
        {
            long value = positions.Integer(i);
            if (value <= last || value >= limit)
            {
                return $"has {value} as {what} number {i}; they must rise and stay below {limit}";
            }

            last = value;
        }

        return null;
    }
}

/// <summary>Fills a tile of a change; false, and nothing filled, when it is zero throughout.</summary>
delegate bool TileFill<T>(Span<T> change, long first);

/// <summary>A dense change, <c>t.add</c> of the tensor's shape.</summary>
public sealed record DenseAdd(PatchTensor Values) : AdditiveDelta
{
    /// <summary>A dense change; takes a copy.</summary>
    public DenseAdd(Tensor values) : this(PatchTensor.Of(values)) { }

    /// <inheritdoc/>
    public override string Kind => "add";

    /// <inheritdoc/>
    public override IReadOnlyDictionary<string, PatchTensor> Parts => new Dictionary<string, PatchTensor> { ["add"] = Values };

    internal override string? Mismatch(BaseTensor target) => Values.Shape.SequenceEqual(target.Shape)
        ? base.Mismatch(target)
        : $"adds {Text(Values.Shape)} to a tensor of {Text(target.Shape)}";

    internal override TileFill<T> Change<T>(StorageType type, IReadOnlyList<long> shape, double scale)
    {
        int size = Values.Type.BlockBytes();
        T factor = T.CreateChecked(scale);
        return (change, first) =>
        {
            Elements.Read(Values.Bytes(first * size, change.Length * size), Values.Type, change);
            if (scale != 1)
            {
                System.Numerics.Tensors.TensorPrimitives.Multiply(change, factor, change);
            }

            return true;
        };
    }
}

/// <summary>A change of single entries: <c>t.indices</c> (I32 or I64, flat in row-major order, rising) and <c>t.values</c>.</summary>
public sealed record Sparse(PatchTensor Indices, PatchTensor Values) : AdditiveDelta
{
    /// <summary>A sparse change; takes copies.</summary>
    public Sparse(Tensor indices, Tensor values) : this(PatchTensor.Of(indices), PatchTensor.Of(values)) { }

    /// <inheritdoc/>
    public override string Kind => "sparse";

    /// <inheritdoc/>
    public override IReadOnlyDictionary<string, PatchTensor> Parts => new Dictionary<string, PatchTensor> { ["indices"] = Indices, ["values"] = Values };

    internal override string? Mismatch(BaseTensor target) => Values.Shape.Count != 1 || Values.Count != Indices.Count
        ? $"has {Indices.Count} indices and values of {Text(Values.Shape)}"
        : BadPositions(Indices, "index", target.Count) ?? base.Mismatch(target);

    internal override TileFill<T> Change<T>(StorageType type, IReadOnlyList<long> shape, double scale)
    {
        int size = Values.Type.BlockBytes();
        T factor = T.CreateChecked(scale);
        return (change, first) =>
        {
            long at = Indices.LowerBound(first);
            if (at == Indices.Count || Indices.Integer(at) >= first + change.Length)
            {
                return false;
            }

            change.Clear();
            Span<T> value = stackalloc T[1];
            for (; at < Indices.Count && Indices.Integer(at) < first + change.Length; at++)
            {
                Elements.Read(Values.Bytes(at * size, size), Values.Type, value);
                change[(int)(Indices.Integer(at) - first)] = scale == 1 ? value[0] : value[0] * factor;
            }

            return true;
        };
    }
}

/// <summary>A change of whole rows (entries along axis 0): <c>t.rows</c> (I32 or I64, rising) and <c>t.values</c> [rows, …].</summary>
public sealed record Rows(PatchTensor Indices, PatchTensor Values) : AdditiveDelta
{
    /// <summary>A change of rows; takes copies.</summary>
    public Rows(Tensor rows, Tensor values) : this(PatchTensor.Of(rows), PatchTensor.Of(values)) { }

    /// <inheritdoc/>
    public override string Kind => "rows";

    /// <inheritdoc/>
    public override IReadOnlyDictionary<string, PatchTensor> Parts => new Dictionary<string, PatchTensor> { ["rows"] = Indices, ["values"] = Values };

    internal override string? Mismatch(BaseTensor target) => RowsMismatch(Indices, Values, target) ?? base.Mismatch(target);

    internal static string? RowsMismatch(PatchTensor rows, PatchTensor values, BaseTensor target) =>
        target.Shape.Count == 0 || values.Shape.Count != target.Shape.Count || values.Shape[0] != rows.Count || !values.Shape.Skip(1).SequenceEqual(target.Shape.Skip(1))
            ? $"has {rows.Count} rows of values {Text(values.Shape)} for a tensor of {Text(target.Shape)}"
            : BadPositions(rows, "row", target.Shape[0]);

    internal override TileFill<T> Change<T>(StorageType type, IReadOnlyList<long> shape, double scale)
    {
        int size = Values.Type.BlockBytes();
        T factor = T.CreateChecked(scale);
        long row = new BaseTensor(type, shape, "").RowCount;
        return (change, first) =>
        {
            long at = row == 0 ? Indices.Count : Indices.LowerBound(first / row), last = first + change.Length;
            if (at == Indices.Count || Indices.Integer(at) * row >= last)
            {
                return false;
            }

            change.Clear();
            for (; at < Indices.Count && Indices.Integer(at) * row < last; at++)
            {
                long from = Math.Max(first, Indices.Integer(at) * row), to = Math.Min(last, (Indices.Integer(at) + 1) * row);
                Span<T> part = change.Slice((int)(from - first), (int)(to - from));
                Elements.Read(Values.Bytes((at * row + from - Indices.Integer(at) * row) * size, part.Length * size), Values.Type, part);
                if (scale != 1)
                {
                    System.Numerics.Tensors.TensorPrimitives.Multiply(part, factor, part);
                }
            }

            return true;
        };
    }
}

/// <summary>
/// A change of low rank, <c>change[o, i] = Σ_k (scale·up[o, k])·down[k, i]</c> summed over k from 0: <c>t.down</c> [rank, in],
/// <c>t.up</c> [out, rank] and, when it is not 1, <c>t.scale</c>. The tensor is seen as a matrix of its axis 0 by all others,
/// so a convolution is covered; a matrix that is stored [in, out] has its factors exchanged.
/// </summary>
public sealed record LowRank(PatchTensor Down, PatchTensor Up, double Scale = 1) : AdditiveDelta
{
    /// <summary>A low-rank change; takes copies.</summary>
    public LowRank(Tensor down, Tensor up, double scale = 1) : this(PatchTensor.Of(down), PatchTensor.Of(up), scale) { }

    /// <summary>The number of terms.</summary>
    public long Rank => Down.Shape.Count > 0 ? Down.Shape[0] : 0;

    /// <inheritdoc/>
    public override string Kind => "low-rank";

    /// <inheritdoc/>
    public override IReadOnlyDictionary<string, PatchTensor> Parts => FactorParts(Down, Up, Scale);

    internal static Dictionary<string, PatchTensor> FactorParts(PatchTensor down, PatchTensor up, double scale)
    {
        var parts = new Dictionary<string, PatchTensor> { ["down"] = down, ["up"] = up };
        if (scale != 1)
        {
            parts["scale"] = PatchTensor.Of(StorageType.F64, [], BitConverter.GetBytes(scale));
        }

        return parts;
    }

    internal override string? Mismatch(BaseTensor target) => FactorMismatch(Down, Up, Scale, target) ?? base.Mismatch(target);

    internal static string? FactorMismatch(PatchTensor down, PatchTensor up, double scale, BaseTensor target)
    {
        if (down.Shape.Count != 2 || up.Shape.Count != 2 || down.Shape[0] != up.Shape[1] || target.Shape.Count < 2
            || up.Shape[0] != target.Shape[0] || down.Shape[1] != target.RowCount)
        {
            return $"has down {Text(down.Shape)} and up {Text(up.Shape)} for a tensor of {Text(target.Shape)}";
        }

        if (down.Shape[0] == 0)
        {
            return "has rank 0";
        }

        return double.IsFinite(scale) ? null : $"has the scale {scale}";
    }

    internal override TileFill<T> Change<T>(StorageType type, IReadOnlyList<long> shape, double scale)
    {
        T[] down = Down.Values<T>(), up = Up.Values<T>();
        T factor = T.CreateChecked(scale * Scale);
        int rank = (int)Rank, columns = (int)Down.Shape[1];
        System.Numerics.Tensors.TensorPrimitives.Multiply(up, factor, up.AsSpan());
        return (change, first) =>
        {
            change.Clear();
            for (int at = 0; at < change.Length;)
            {
                long row = (first + at) / columns;
                int column = (int)((first + at) % columns), count = Math.Min(change.Length - at, columns - column);
                Span<T> sum = change.Slice(at, count);
                for (int k = 0; k < rank; k++)
                {
                    Elements.AddScaled<T>(sum, up[row * rank + k], down.AsSpan(k * columns + column, count));
                }

                at += count;
            }

            return true;
        };
    }
}
