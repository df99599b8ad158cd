using System.Numerics;
using System.Text.Json.Nodes;
using Scalpel.Checkpoints;
using TorchSharp;
using static TorchSharp.torch;

namespace Scalpel.Patches;

/// <summary>A tensor that several of the composed patches change.</summary>
/// <param name="Name">The tensor.</param>
/// <param name="Patches">Positions of the patches in the list that was given, from 0.</param>
/// <param name="How">How they were put together: ranks concatenated, entries merged, summed densely, chained.</param>
public sealed record Overlap(string Name, IReadOnlyList<int> Patches, string How);

/// <summary>Several patches as one.</summary>
/// <param name="Patch">The sum.</param>
/// <param name="Overlaps">Tensors that more than one of them changes.</param>
public sealed record Composition(Patch Patch, IReadOnlyList<Overlap> Overlaps);

/// <summary>Sums of patches.</summary>
public static class PatchAlgebra
{
    /// <summary>
    /// Adds patches for one base. Low-rank changes of a tensor join their ranks, sparse and row changes their entries, both
    /// exactly; other additive kinds are summed in float32 (float64 for F64 storage). A XOR may follow a XOR whose result it
    /// was made for. All else may change a tensor in one patch only.
    /// </summary>
    /// <param name="patches">The patches, at least one.</param>
    /// <param name="scales">A factor for each; null for 1. Others than 1 only for additive patches.</param>
    /// <exception cref="BadInputException">They are for different bases, or two change a tensor in ways that do not add.</exception>
    public static Composition Compose(IReadOnlyList<Patch> patches, IReadOnlyList<double>? scales = null)
    {
        if (patches.Count == 0 || scales is not null && scales.Count != patches.Count)
        {
            throw new BadInputException($"{patches.Count} patches and {scales?.Count ?? 0} scales cannot be composed; give at least one patch, and a scale for each or none.");
        }

        var deltas = new Dictionary<string, Delta>(StringComparer.Ordinal);
        var bases = new Dictionary<string, BaseTensor>(StringComparer.Ordinal);
        var users = new Dictionary<string, List<int>>(StringComparer.Ordinal);
        var how = new Dictionary<string, string>(StringComparer.Ordinal);
        for (int i = 0; i < patches.Count; i++)
        {
            Patch patch = patches[i];
            double scale = scales?[i] ?? 1;
            patch.CheckApplicable(scale, patch.Requires);
            if (patch.Undo is not null)
            {
                throw new BadInputException($"Patch {i + 1} undoes another; it is for scalpel patch revert, not for a sum.");
            }

            foreach ((string name, Delta given) in patch.Deltas)
            {
                BaseTensor? target = patch.BaseTensors.GetValueOrDefault(name);
                Delta delta = scale == 1 ? given : Scaled((AdditiveDelta)given, scale, target!);
                if (!deltas.TryGetValue(name, out Delta? sum))
                {
                    deltas[name] = delta;
                    if (target is not null)
                    {
                        bases[name] = target;
                    }

                    users[name] = [i];
                    continue;
                }

                (deltas[name], how[name]) = Add(name, sum, delta, bases.GetValueOrDefault(name), target, i);
                users[name].Add(i);
            }
        }

        return new Composition(
            new Patch(Info(patches, scales), patches[0].BaseConfigHash, bases, deltas)
            {
                Structure = Structures(patches),
                Requires = [.. patches.SelectMany(patch => patch.Requires).Distinct(StringComparer.Ordinal)],
            },
            [.. users.Where(pair => pair.Value.Count > 1).OrderBy(pair => pair.Key, StringComparer.Ordinal).Select(pair => new Overlap(pair.Key, pair.Value, how[pair.Key]))]);
    }

    static PatchInfo Info(IReadOnlyList<Patch> patches, IReadOnlyList<double>? scales) => new()
    {
        Method = "compose",
        Options = new JsonObject
        {
            ["patches"] = new JsonArray([.. patches.Select((patch, i) => new JsonObject { ["method"] = patch.Info.Method, ["content"] = patch.ContentHash, ["scale"] = scales?[i] ?? 1 })]),
        },
    };

    static PatchStructure? Structures(IReadOnlyList<Patch> patches)
    {
        List<PatchStructure> structures = [.. patches.Where(patch => patch.Structure is not null).Select(patch => patch.Structure!)];
        return structures.Count switch
        {
            0 => null,
            1 => structures[0],
            _ => throw new BadInputException("More than one of the patches changes configuration or vocabulary; apply them one after the other."),
        };
    }

    static (Delta Sum, string How) Add(string name, Delta a, Delta b, BaseTensor? baseA, BaseTensor? baseB, int index)
    {
        if (a is DenseXor first && b is DenseXor second && baseA is not null && baseB is not null && first.EditedHash == baseB.Hash && baseA.Type == baseB.Type && baseA.Shape.SequenceEqual(baseB.Shape))
        {
            return (Chain(first, second, baseA), "chained");
        }

        if (baseA is null || baseB is null || baseA.Hash != baseB.Hash)
        {
            throw new BadInputException($"Patch {index + 1} changes {name} of another base than the patches before it; compose patches that were made for one base.");
        }

        if (a is not AdditiveDelta x || b is not AdditiveDelta y)
        {
            throw new BadInputException($"Patch {index + 1} changes {name} by {b.Kind}, an earlier one by {a.Kind}; these do not add, so leave one out or apply them one after the other.");
        }

        bool wide = Elements.IsDouble(baseA.Type);
        return (x, y) switch
        {
            (LowRank l, LowRank m) => (wide ? Join<double>(l, m) : Join<float>(l, m), "ranks concatenated"),
            (Sparse s, Sparse t) => (wide ? Merge<double>(s.Indices, s.Values, t.Indices, t.Values, 1, (i, v) => new Sparse(i, v)) : Merge<float>(s.Indices, s.Values, t.Indices, t.Values, 1, (i, v) => new Sparse(i, v)), "entries merged"),
            (Rows r, Rows q) => (wide ? MergeRows<double>(r, q, baseA) : MergeRows<float>(r, q, baseA), "rows merged"),
            _ => (Sum(x, y, baseA), "summed densely"),
        };
    }

    static DenseAdd Sum(AdditiveDelta a, AdditiveDelta b, BaseTensor target)
    {
        StorageType type = target.Type.IsQuantised() ? StorageType.F32 : target.Type;
        using Tensor x = a.ToTensor(target.Shape, type), y = b.ToTensor(target.Shape, type), sum = x + y;
        return new DenseAdd(sum);
    }

    static AdditiveDelta Scaled(AdditiveDelta delta, double scale, BaseTensor target) => delta switch
    {
        LowRank low => low with { Scale = low.Scale * scale },
        Sparse sparse => sparse with { Values = Times(sparse.Values, scale, target) },
        Rows rows => rows with { Values = Times(rows.Values, scale, target) },
        DenseAdd dense => dense with { Values = Times(dense.Values, scale, target) },
        _ => throw new InvalidOperationException($"{delta.Kind} is not scaled."),
    };

    static PatchTensor Times(PatchTensor values, double scale, BaseTensor target) => Elements.IsDouble(target.Type) ? Times<double>(values, scale) : Times<float>(values, scale);

    static PatchTensor Times<T>(PatchTensor values, double scale) where T : unmanaged, IFloatingPointIeee754<T>
    {
        T[] scaled = values.Values<T>();
        System.Numerics.Tensors.TensorPrimitives.Multiply(scaled, T.CreateChecked(scale), scaled.AsSpan());
        return Pack(scaled, values.Shape);
    }

    static PatchTensor Pack<T>(T[] values, IReadOnlyList<long> shape) where T : unmanaged =>
        PatchTensor.Of(typeof(T) == typeof(double) ? StorageType.F64 : StorageType.F32, shape, System.Runtime.InteropServices.MemoryMarshal.AsBytes(values.AsSpan()).ToArray());

    // The scale is folded into the up factors as applying folds it, so the joined change has the same terms bit for bit.
    static LowRank Join<T>(LowRank a, LowRank b) where T : unmanaged, IFloatingPointIeee754<T>
    {
        int ranks = (int)(a.Rank + b.Rank), outputs = (int)a.Up.Shape[0];
        T[] up = new T[outputs * ranks], down = [.. a.Down.Values<T>(), .. b.Down.Values<T>()];
        int column = 0;
        foreach (LowRank part in (LowRank[])[a, b])
        {
            T[] values = part.Up.Values<T>();
            T scale = T.CreateChecked(part.Scale);
            int rank = (int)part.Rank;
            for (int o = 0; o < outputs; o++)
            {
                for (int k = 0; k < rank; k++)
                {
                    up[o * ranks + column + k] = scale * values[o * rank + k];
                }
            }

            column += rank;
        }

        return new LowRank(Pack(down, [ranks, a.Down.Shape[1]]), Pack(up, [outputs, ranks]));
    }

    static Rows MergeRows<T>(Rows a, Rows b, BaseTensor target) where T : unmanaged, IFloatingPointIeee754<T> =>
        (Rows)Merge<T>(a.Indices, a.Values, b.Indices, b.Values, (int)target.RowCount, (i, v) => new Rows(i, PatchTensor.Of(v.Type, [i.Count, .. target.Shape.Skip(1)], v.ToArray())));

    static AdditiveDelta Merge<T>(PatchTensor i, PatchTensor v, PatchTensor j, PatchTensor w, int width, Func<PatchTensor, PatchTensor, AdditiveDelta> make) where T : unmanaged, IFloatingPointIeee754<T>
    {
        T[] x = v.Values<T>(), y = w.Values<T>();
        var indices = new List<long>();
        var values = new List<T>();
        for (int a = 0, b = 0; a < i.Count || b < j.Count;)
        {
            long left = a < i.Count ? i.Integer(a) : long.MaxValue, right = b < j.Count ? j.Integer(b) : long.MaxValue;
            indices.Add(Math.Min(left, right));
            int start = values.Count;
            if (left <= right)
            {
                values.AddRange(x.AsSpan(a++ * width, width));
            }

            if (right <= left)
            {
                Span<T> other = y.AsSpan(b++ * width, width);
                if (left < right || start == values.Count)
                {
                    values.AddRange(other);
                }
                else
                {
                    for (int k = 0; k < width; k++)
                    {
                        values[start + k] += other[k];
                    }
                }
            }
        }

        T[] flat = [.. values];
        return make(PatchTensor.Of([.. indices]), Pack(flat, [flat.LongLength]));
    }

    static DenseXor Chain(DenseXor first, DenseXor second, BaseTensor target)
    {
        int size = target.Type.BlockBytes();
        using var packed = new MemoryStream();
        // The XOR of two XORs, seen as the way from the one to the other.
        DenseXor.Encode(packed, target.Type, target.Length, (into, at) => first.ReadBits(into, at, size), (into, at) => second.ReadBits(into, at, size));
        return new DenseXor(PatchTensor.Of(StorageType.U8, [packed.Length], packed.ToArray()), packed: true, target.Length) { EditedHash = second.EditedHash };
    }
}
