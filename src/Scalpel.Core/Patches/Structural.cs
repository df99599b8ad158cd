using System.Security.Cryptography;
using Scalpel.Checkpoints;
using TorchSharp;
using static TorchSharp.torch;

namespace Scalpel.Patches;

/// <summary>
/// The whole edited tensor, <c>t.replace</c>: a head, a buffer such as a BatchNorm statistic, a tensor of quantised storage,
/// another shape or type, or a tensor that the base does not have.
/// </summary>
/// <param name="Contents">The edited tensor; of quantised storage, its blocks.</param>
public sealed record Replace(PatchTensor Contents) : Delta
{
    /// <summary>The whole edited tensor; takes a copy.</summary>
    public Replace(Tensor contents) : this(PatchTensor.Of(contents)) { }

    /// <summary>SHA-256 of the edited tensor's bytes.</summary>
    public string EditedHash => field ??= Hash();

    /// <inheritdoc/>
    public override string Kind => "replace";

    /// <inheritdoc/>
    public override IReadOnlyDictionary<string, PatchTensor> Parts => new Dictionary<string, PatchTensor> { ["replace"] = Contents };

    internal override StorageType EditedType(StorageType type) => Contents.Type;

    internal override IReadOnlyList<long> EditedShape(IReadOnlyList<long> shape) => Contents.Shape;

    internal override string? Mismatch(BaseTensor target) => null;

    internal override BlockWrite Begin(DeltaTarget target, double scale) => (edited, firstByte) => Contents.Bytes(firstByte, edited.Length).CopyTo(edited);

    string Hash()
    {
        using var sha = IncrementalHash.CreateHash(HashAlgorithmName.SHA256);
        for (long at = 0; at < Contents.Length; at += BlockBytes)
        {
            sha.AppendData(Contents.Bytes(at, (int)Math.Min(BlockBytes, Contents.Length - at)));
        }

        return Convert.ToHexStringLower(sha.GetHashAndReset());
    }
}

/// <summary>Rows that take the place of the base's: <c>t.rows</c> (rising) and <c>t.contents</c> [rows, …] in the tensor's own type, or float32 rounded to it.</summary>
public sealed record SetRows(PatchTensor Indices, PatchTensor Contents) : Delta
{
    /// <summary>New contents of rows; takes copies.</summary>
    public SetRows(Tensor rows, Tensor contents) : this(PatchTensor.Of(rows), PatchTensor.Of(contents)) { }

    /// <inheritdoc/>
    public override string Kind => "set-rows";

    /// <inheritdoc/>
    public override IReadOnlyDictionary<string, PatchTensor> Parts => new Dictionary<string, PatchTensor> { ["rows"] = Indices, ["contents"] = Contents };

    internal override string? Mismatch(BaseTensor target) => Rows.RowsMismatch(Indices, Contents, target) ?? Append.Convertible(Contents, target);

    internal override BlockWrite Begin(DeltaTarget target, double scale)
    {
        PatchTensor contents = Append.Convert(Contents, target.Type);
        long row = new BaseTensor(target.Type, target.Shape, "").RowCount * target.ElementBytes;
        return (edited, firstByte) =>
        {
            target.Read(edited, firstByte);
            long last = firstByte + edited.Length;
            for (long at = Indices.LowerBound(row == 0 ? 0 : firstByte / row); at < Indices.Count && Indices.Integer(at) * row < last; at++)
            {
                long start = Indices.Integer(at) * row, from = Math.Max(firstByte, start), to = Math.Min(last, start + row);
                contents.Bytes(at * row + from - start, (int)(to - from)).CopyTo(edited[(int)(from - firstByte)..]);
            }
        };
    }
}

/// <summary>Rows below the base's: <c>t.append</c> [rows, …] in the tensor's own type, or float32 rounded to it. Embeddings of new tokens.</summary>
public sealed record Append(PatchTensor Rows) : Delta
{
    /// <summary>New rows; takes a copy.</summary>
    public Append(Tensor rows) : this(PatchTensor.Of(rows)) { }

    /// <inheritdoc/>
    public override string Kind => "append";

    /// <inheritdoc/>
    public override IReadOnlyDictionary<string, PatchTensor> Parts => new Dictionary<string, PatchTensor> { ["append"] = Rows };

    internal override IReadOnlyList<long> EditedShape(IReadOnlyList<long> shape) => [shape[0] + Rows.Shape[0], .. shape.Skip(1)];

    internal override string? Mismatch(BaseTensor target) =>
        target.Shape.Count == 0 || Rows.Shape.Count != target.Shape.Count || Rows.Shape[0] == 0 || !Rows.Shape.Skip(1).SequenceEqual(target.Shape.Skip(1))
            ? $"appends {Text(Rows.Shape)} to a tensor of {Text(target.Shape)}"
            : Convertible(Rows, target);

    internal override BlockWrite Begin(DeltaTarget target, double scale)
    {
        PatchTensor rows = Convert(Rows, target.Type);
        return (edited, firstByte) =>
        {
            int kept = (int)Math.Clamp(target.Length - firstByte, 0, edited.Length);
            if (kept > 0)
            {
                target.Read(edited[..kept], firstByte);
            }

            rows.Bytes(firstByte + kept - target.Length, edited.Length - kept).CopyTo(edited[kept..]);
        };
    }

    internal static string? Convertible(PatchTensor contents, BaseTensor target) =>
        contents.Type == target.Type && !target.Type.IsQuantised() || contents.Type == StorageType.F32 && Elements.IsFloat(target.Type)
            ? null
            : $"has contents of {contents.Type} for a tensor of {target.Type}";

    internal static PatchTensor Convert(PatchTensor contents, StorageType type)
    {
        if (contents.Type == type)
        {
            return contents;
        }

        byte[] bytes = new byte[type.ByteLength(contents.Shape)];
        if (Elements.IsDouble(type))
        {
            Elements.Write<double>(contents.Values<double>(), type, bytes);
        }
        else
        {
            Elements.Write<float>(contents.Values<float>(), type, bytes);
        }

        return PatchTensor.Of(type, contents.Shape, bytes);
    }
}

/// <summary>
/// What is left when units are taken out: the slices along an axis whose numbers stand in <c>t.keep</c> (rising). Heads,
/// experts and neurons are removed by keeping the others in every tensor that they have a share in.
/// </summary>
/// <param name="Indices">Slices to keep.</param>
/// <param name="Axis">The axis of the stored tensor.</param>
public sealed record Keep(PatchTensor Indices, int Axis) : Delta
{
    /// <summary>Slices to keep; takes a copy.</summary>
    public Keep(Tensor indices, int axis) : this(PatchTensor.Of(indices), axis) { }

    /// <inheritdoc/>
    public override string Kind => "keep";

    /// <inheritdoc/>
    public override IReadOnlyDictionary<string, PatchTensor> Parts => new Dictionary<string, PatchTensor> { ["keep"] = Indices };

    internal override IReadOnlyDictionary<string, long> Numbers => new Dictionary<string, long> { ["axis"] = Axis };

    internal override IReadOnlyList<long> EditedShape(IReadOnlyList<long> shape) => [.. shape.Take(Axis), Indices.Count, .. shape.Skip(Axis + 1)];

    internal override string? Mismatch(BaseTensor target)
    {
        if (Axis < 0 || Axis >= target.Shape.Count || target.Type.IsQuantised())
        {
            return $"keeps slices along axis {Axis} of a tensor of {target.Type} {Text(target.Shape)}";
        }

        return AdditiveDelta.BadPositions(Indices, "slice", target.Shape[Axis]);
    }

    internal override BlockWrite Begin(DeltaTarget target, double scale)
    {
        long run = target.Shape.Skip(Axis + 1).Aggregate((long)target.ElementBytes, (product, size) => product * size);
        long size = target.Shape[Axis], kept = Indices.Count;
        return (edited, firstByte) =>
        {
            for (int at = 0; at < edited.Length;)
            {
                long position = firstByte + at, slice = position / run, inside = position % run;
                int count = (int)Math.Min(run - inside, edited.Length - at);
                long from = (slice / kept * size + Indices.Integer(slice % kept)) * run + inside;
                target.Read(edited.Slice(at, count), from);
                at += count;
            }
        };
    }
}

/// <summary>The tensor is left out of the edited checkpoint.</summary>
public sealed record Remove : Delta
{
    /// <inheritdoc/>
    public override string Kind => "remove";

    /// <inheritdoc/>
    public override IReadOnlyDictionary<string, PatchTensor> Parts => new Dictionary<string, PatchTensor>();

    internal override IReadOnlyList<long>? EditedShape(IReadOnlyList<long> shape) => null;

    internal override string? Mismatch(BaseTensor target) => null;

    internal override BlockWrite Begin(DeltaTarget target, double scale) => throw new InvalidOperationException("A removed tensor has no bytes.");
}
