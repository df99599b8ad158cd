using System.Runtime.InteropServices;
using Scalpel.Checkpoints;
using TorchSharp;
using static TorchSharp.torch;

namespace Scalpel.Patches;

/// <summary>
/// A tensor that belongs to a patch: in managed memory, or in a mapped file from which it is read as it is needed, so that a
/// patch of many gigabytes costs none. Immutable; holds no native memory of its own.
/// </summary>
public sealed class PatchTensor
{
    readonly byte[]? memory;
    readonly Func<long, int, ReadOnlySpan<byte>>? source;

    PatchTensor(StorageType type, IReadOnlyList<long> shape, byte[]? memory, Func<long, int, ReadOnlySpan<byte>>? source)
    {
        Type = type;
        Shape = shape;
        Length = type.ByteLength(shape);
        Count = Length / type.BlockBytes() * type.BlockElements();
        this.memory = memory;
        this.source = source;
    }

    /// <summary>How the elements are stored.</summary>
    public StorageType Type { get; }

    /// <summary>The shape.</summary>
    public IReadOnlyList<long> Shape { get; }

    /// <summary>Bytes.</summary>
    public long Length { get; }

    /// <summary>Elements.</summary>
    public long Count { get; }

    /// <summary>Bytes from <paramref name="start"/>, valid while the patch is not disposed.</summary>
    public ReadOnlySpan<byte> Bytes(long start, int count) => memory is not null ? memory.AsSpan(checked((int)start), count) : source!(start, count);

    /// <summary>A copy as a tensor.</summary>
    /// <param name="type">The type to convert to; by default the stored one.</param>
    public Tensor ToTensor(ScalarType? type = null)
    {
        Tensor result = empty(Shape.ToArray(), dtype: StoredTensor.NaturalType(Type));
        for (long at = 0; at < Length;)
        {
            int count = (int)Math.Min(Delta.BlockBytes, Length - at);
            Bytes(at, count).CopyTo(StoredTensor.Bytes(result, at, count));
            at += count;
        }

        if (type is null || type == result.dtype)
        {
            return result;
        }

        using (result)
        {
            return result.to_type(type.Value);
        }
    }

    /// <summary>Takes a copy of a tensor, which may be a view of any layout.</summary>
    /// <exception cref="BadInputException">It has 2 GB or more; write such a change with <see cref="PatchFiles.Diff"/>.</exception>
    public static PatchTensor Of(Tensor tensor)
    {
        using Tensor contiguous = tensor.detach().cpu().contiguous();
        long length = contiguous.numel() * contiguous.element_size();
        byte[] copy = Allocate(length);
        if (length > 0)
        {
            StoredTensor.Bytes(contiguous, 0, (int)length).CopyTo(copy);
        }

        return new PatchTensor(StoredTensor.TypeOf(contiguous.dtype), contiguous.shape, copy, null);
    }

    /// <summary>Wraps bytes, which must not be changed afterwards.</summary>
    /// <exception cref="ArgumentException">Their number is not that of the type and shape.</exception>
    public static PatchTensor Of(StorageType type, IReadOnlyList<long> shape, byte[] bytes)
    {
        if (type.ByteLength(shape) != bytes.LongLength)
        {
            throw new ArgumentException($"{type} [{string.Join(", ", shape)}] needs {type.ByteLength(shape)} bytes, not {bytes.LongLength}.", nameof(bytes));
        }

        return new PatchTensor(type, shape, bytes, null);
    }

    internal static PatchTensor Of(float[] values, params long[] shape) => Of(StorageType.F32, shape, MemoryMarshal.AsBytes(values.AsSpan()).ToArray());

    internal static PatchTensor Of(long[] values) => Of(StorageType.I64, [values.LongLength], MemoryMarshal.AsBytes(values.AsSpan()).ToArray());

    internal static PatchTensor From(StorageType type, IReadOnlyList<long> shape, Func<long, int, ReadOnlySpan<byte>> source) => new(type, shape, null, source);

    /// <summary>All bytes, into one array.</summary>
    internal byte[] ToArray()
    {
        byte[] bytes = Allocate(Length);
        Bytes(0, bytes.Length).CopyTo(bytes);
        return bytes;
    }

    /// <summary>All elements widened to float32 or float64; float64 is rounded to float32.</summary>
    internal T[] Values<T>() where T : unmanaged
    {
        T[] values = new T[Count];
        Elements.Read(Bytes(0, checked((int)Length)), Type, values.AsSpan());
        return values;
    }

    internal void WriteTo(Stream stream)
    {
        for (long at = 0; at < Length;)
        {
            int count = (int)Math.Min(Delta.BlockBytes, Length - at);
            stream.Write(Bytes(at, count));
            at += count;
        }
    }

    /// <summary>The element at <paramref name="index"/> of an I32 or I64 tensor.</summary>
    internal long Integer(long index) => Type == StorageType.I32
        ? MemoryMarshal.Read<int>(Bytes(index * 4, 4))
        : MemoryMarshal.Read<long>(Bytes(index * 8, 8));

    /// <summary>First position whose integer is at least <paramref name="value"/>; the integers rise.</summary>
    internal long LowerBound(long value)
    {
        long low = 0, high = Count;
        while (low < high)
        {
            long middle = low + (high - low) / 2;
            if (Integer(middle) < value)
            {
                low = middle + 1;
            }
            else
            {
                high = middle;
            }
        }

        return low;
    }

    static byte[] Allocate(long length) => length <= Array.MaxLength
        ? new byte[length]
        : throw new BadInputException($"A change of {length} bytes to one tensor does not fit in memory; write it with a diff of two checkpoints.");
}
