using Scalpel.Checkpoints;

namespace Scalpel.Patches;

/// <summary>What a patch does to one tensor.</summary>
/// <param name="Name">The tensor.</param>
/// <param name="Kind">The kind of its delta.</param>
/// <param name="Type">Storage type of the base; null for a tensor that is added.</param>
/// <param name="Shape">Shape of the base, or of the added tensor.</param>
/// <param name="Rank">Rank of a low-rank change; null for other kinds.</param>
/// <param name="Changed">Share of the entries whose value changes; null when it takes the base to know.</param>
/// <param name="Norm">Frobenius norm of the change; null when it takes the base to know.</param>
/// <param name="Largest">Largest absolute change of an entry; null when it takes the base to know.</param>
/// <param name="BaseNorm">Frobenius norm of the base tensor; null without the base.</param>
/// <param name="NotFinite">Edited entries that are NaN or infinite; without the base, entries of the delta's own tensors.</param>
public sealed record TensorChange(string Name, string Kind, StorageType? Type, IReadOnlyList<long> Shape, long? Rank, double? Changed, double? Norm, double? Largest, double? BaseNorm, long NotFinite)
{
    /// <summary>Norm of the change over that of the base tensor; null when one of them is not known or the base is zero.</summary>
    public double? RelativeNorm => BaseNorm > 0 ? Norm / BaseNorm : null;
}

/// <summary>Looks into patches.</summary>
public static class PatchInspection
{
    /// <summary>What the patch does to each tensor, by name.</summary>
    /// <param name="patch">The patch.</param>
    /// <param name="checkpoint">The base; without it, the exact kinds have no norm. Changes of quantised tensors are measured against their expanded values.</param>
    /// <param name="run">Progress and cancellation.</param>
    public static IReadOnlyList<TensorChange> Inspect(Patch patch, Checkpoint? checkpoint = null, RunContext? run = null)
    {
        var changes = new List<TensorChange>();
        foreach ((string name, Delta delta) in patch.Deltas.OrderBy(pair => pair.Key, StringComparer.Ordinal))
        {
            run?.Report("inspecting", changes.Count, patch.Deltas.Count);
            changes.Add(Inspect(name, delta, patch.BaseTensors.GetValueOrDefault(name), checkpoint));
        }

        return changes;
    }

    static TensorChange Inspect(string name, Delta delta, BaseTensor? target, Checkpoint? checkpoint)
    {
        IReadOnlyList<long> shape = target?.Shape ?? ((Replace)delta).Contents.Shape;
        long? rank = delta switch { LowRank low => low.Rank, Dora dora => dora.Down.Shape[0], _ => null };
        var change = new TensorChange(name, delta.Kind, target?.Type, shape, rank, null, null, null, null, delta is DenseXor ? 0 : delta.Parts.Values.Sum(NotFinite));
        bool sameShape = target is not null && delta.EditedType(target.Type) == target.Type && delta.EditedShape(target.Shape) is { } after && after.SequenceEqual(target.Shape);
        if (target is not null && checkpoint is not null && sameShape && checkpoint.Tensors.TryGetValue(name, out TensorEntry? entry) && Elements.IsFloat(entry.Type))
        {
            return Measure(change, entry.Type, entry.Length, PatchFiles.BytesOf(checkpoint, entry), PatchFiles.Edited(checkpoint, entry, delta, 1));
        }

        if (delta is AdditiveDelta && checkpoint is not null && checkpoint.Tensors.ContainsKey(name))
        {
            change = change with { BaseNorm = NormOf(checkpoint, name) };
        }

        // By what the patch holds, not by the size that it claims for its base: the file may lie.
        switch (delta)
        {
            case DenseAdd dense:
                return Stored(change, dense.Values, dense.Values.Count);
            case Sparse sparse:
                return Stored(change, sparse.Values, target!.Count);
            case Rows rows:
                return Stored(change, rows.Values, target!.Count);
            case LowRank low:
                return change with { Norm = NormOf(low) };
        }

        return delta is DenseXor xor && target is not null ? change with { Changed = ShareOfBits(xor, target) } : change;
    }

    static double NormOf(Checkpoint checkpoint, string name)
    {
        using TorchSharp.torch.Tensor values = checkpoint.Read(name, TorchSharp.torch.ScalarType.Float32), norm = values.norm();
        return norm.item<float>();
    }

    static TensorChange Measure(TensorChange change, StorageType type, long length, BlockWrite? before, BlockWrite after)
    {
        long count = length / type.BlockBytes(), changed = 0, bad = 0;
        double squares = 0, baseSquares = 0, largest = 0;
        int blockBytes = (int)Math.Min(Delta.BlockBytes, length);
        byte[] a = new byte[blockBytes], b = new byte[blockBytes];
        double[] x = new double[blockBytes / type.BlockBytes()], y = new double[x.Length];
        for (long at = 0; at < length; at += Delta.BlockBytes)
        {
            int bytes = (int)Math.Min(Delta.BlockBytes, length - at);
            int n = bytes / type.BlockBytes();
            before?.Invoke(a.AsSpan(0, bytes), at);
            after(b.AsSpan(0, bytes), at);
            Elements.Read<double>(a.AsSpan(0, bytes), type, x.AsSpan(0, n));
            Elements.Read<double>(b.AsSpan(0, bytes), type, y.AsSpan(0, n));
            for (int i = 0; i < n; i++)
            {
                double difference = y[i] - x[i];
                bad += double.IsFinite(y[i]) ? 0 : 1;
                changed += difference != 0 ? 1 : 0;
                largest = Math.Max(largest, Math.Abs(difference));
                squares += difference * difference;
                baseSquares += x[i] * x[i];
            }
        }

        return change with
        {
            Changed = count == 0 ? 0 : (double)changed / count,
            Norm = Math.Sqrt(squares),
            Largest = largest,
            BaseNorm = before is null ? change.BaseNorm : Math.Sqrt(baseSquares),
            NotFinite = before is null ? change.NotFinite : bad,
        };
    }

    static TensorChange Stored(TensorChange change, PatchTensor values, long count)
    {
        TensorChange measured = Measure(change, values.Type, values.Length, null, (into, at) => values.Bytes(at, into.Length).CopyTo(into));
        return measured with { Changed = count == 0 ? 0 : measured.Changed * values.Count / count };
    }

    // ‖U·D‖² is the sum of the products of the entries of UᵀU and D·Dᵀ.
    static double NormOf(LowRank low)
    {
        double[] up = low.Up.Values<double>(), down = low.Down.Values<double>();
        int rank = (int)low.Rank, outputs = (int)low.Up.Shape[0], inputs = (int)low.Down.Shape[1];
        double sum = 0;
        for (int i = 0; i < rank; i++)
        {
            for (int j = 0; j < rank; j++)
            {
                double left = 0, right = 0;
                for (int o = 0; o < outputs; o++)
                {
                    left += up[o * rank + i] * up[o * rank + j];
                }

                for (int k = 0; k < inputs; k++)
                {
                    right += down[i * inputs + k] * down[j * inputs + k];
                }

                sum += left * right;
            }
        }

        return Math.Abs(low.Scale) * Math.Sqrt(Math.Max(0, sum));
    }

    static double ShareOfBits(DenseXor xor, BaseTensor target)
    {
        int size = target.Type.BlockBytes();
        byte[] block = new byte[(int)Math.Min(Delta.BlockBytes, target.Length)];
        long changed = 0;
        for (long at = 0; at < target.Length; at += Delta.BlockBytes)
        {
            Span<byte> part = block.AsSpan(0, (int)Math.Min(Delta.BlockBytes, target.Length - at));
            xor.ReadBits(part, at, size);
            for (int i = 0; i < part.Length; i += size)
            {
                changed += part.Slice(i, size).ContainsAnyExcept((byte)0) ? 1 : 0;
            }
        }

        return target.Count == 0 ? 0 : (double)changed / target.Count;
    }

    static long NotFinite(PatchTensor part)
    {
        // A XOR of floating-point bits is no number.
        if (!Elements.IsFloat(part.Type))
        {
            return 0;
        }

        int size = part.Type.BlockBytes();
        long bad = 0;
        Span<double> values = stackalloc double[512];
        for (long at = 0; at < part.Count; at += values.Length)
        {
            Span<double> some = values[..(int)Math.Min(values.Length, part.Count - at)];
            Elements.Read(part.Bytes(at * size, some.Length * size), part.Type, some);
            foreach (double value in some)
            {
                bad += double.IsFinite(value) ? 0 : 1;
            }
        }

        return bad;
    }
}
