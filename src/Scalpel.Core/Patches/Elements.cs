using System.Numerics;
using System.Runtime.InteropServices;
using Scalpel.Checkpoints;
using TensorPrimitives = System.Numerics.Tensors.TensorPrimitives;

namespace Scalpel.Patches;

/// <summary>Widens stored elements to float32 or float64 and rounds them back, to nearest, ties to even.</summary>
static class Elements
{
    public static bool IsFloat(StorageType type) => type is StorageType.F64 or StorageType.F32 or StorageType.F16 or StorageType.BF16;

    /// <summary>Whether arithmetic on this storage type is done in float64; it is float32 otherwise.</summary>
    public static bool IsDouble(StorageType type) => type == StorageType.F64;

    public static void Read<T>(ReadOnlySpan<byte> from, StorageType type, Span<T> to) where T : unmanaged
    {
        if (typeof(T) == typeof(double))
        {
            Read(from, type, MemoryMarshal.Cast<T, double>(to));
        }
        else
        {
            Read(from, type, MemoryMarshal.Cast<T, float>(to));
        }
    }

    public static void Write<T>(ReadOnlySpan<T> from, StorageType type, Span<byte> to) where T : unmanaged
    {
        if (typeof(T) == typeof(double))
        {
            MemoryMarshal.AsBytes(from).CopyTo(to);
        }
        else
        {
            Write(MemoryMarshal.Cast<T, float>(from), type, to);
        }
    }

    static void Read(ReadOnlySpan<byte> from, StorageType type, Span<float> to)
    {
        switch (type)
        {
            case StorageType.F32:
                MemoryMarshal.Cast<byte, float>(from).CopyTo(to);
                break;
            case StorageType.F16:
                TensorPrimitives.ConvertToSingle(MemoryMarshal.Cast<byte, Half>(from), to);
                break;
            case StorageType.BF16:
                ReadOnlySpan<ushort> halves = MemoryMarshal.Cast<byte, ushort>(from);
                Span<uint> bits = MemoryMarshal.Cast<float, uint>(to);
                for (int i = 0; i < halves.Length; i++)
                {
                    bits[i] = (uint)halves[i] << 16;
                }

                break;
            case StorageType.F64:
                ReadOnlySpan<double> doubles = MemoryMarshal.Cast<byte, double>(from);
                for (int i = 0; i < doubles.Length; i++)
                {
                    to[i] = (float)doubles[i];
                }

                break;
            default:
                throw new InvalidOperationException($"{type} holds no floating-point numbers.");
        }
    }

    static void Read(ReadOnlySpan<byte> from, StorageType type, Span<double> to)
    {
        if (type == StorageType.F64)
        {
            MemoryMarshal.Cast<byte, double>(from).CopyTo(to);
            return;
        }

        int size = type.BlockBytes();
        Span<float> part = stackalloc float[256];
        for (int at = 0; at < to.Length; at += part.Length)
        {
            int count = Math.Min(part.Length, to.Length - at);
            Read(from.Slice(at * size, count * size), type, part[..count]);
            for (int i = 0; i < count; i++)
            {
                to[at + i] = part[i];
            }
        }
    }

    static void Write(ReadOnlySpan<float> from, StorageType type, Span<byte> to)
    {
        switch (type)
        {
            case StorageType.F32:
                MemoryMarshal.AsBytes(from).CopyTo(to);
                break;
            case StorageType.F16:
                TensorPrimitives.ConvertToHalf(from, MemoryMarshal.Cast<byte, Half>(to));
                break;
            case StorageType.BF16:
                ReadOnlySpan<uint> bits = MemoryMarshal.Cast<float, uint>(from);
                Span<ushort> halves = MemoryMarshal.Cast<byte, ushort>(to);
                for (int i = 0; i < bits.Length; i++)
                {
                    uint x = bits[i];
                    // A NaN must stay one: rounding up could carry it into infinity.
                    halves[i] = (x & 0x7fffffff) > 0x7f800000 ? (ushort)((x >> 16) | 0x40) : (ushort)((x + 0x7fff + ((x >> 16) & 1)) >> 16);
                }

                break;
            default:
                throw new InvalidOperationException($"{type} is not written from float32.");
        }
    }

    /// <summary><c>values += delta</c> where the delta is not zero: an entry that is not changed keeps its very bits.</summary>
    public static void Add<T>(Span<T> values, ReadOnlySpan<T> delta) where T : unmanaged, IFloatingPointIeee754<T>
    {
        int i = 0;
        for (; i <= values.Length - Vector<T>.Count; i += Vector<T>.Count)
        {
            Vector<T> value = new(values[i..]), change = new(delta[i..]);
            Vector.ConditionalSelect(Vector.Equals(change, Vector<T>.Zero), value, value + change).CopyTo(values[i..]);
        }

        for (; i < values.Length; i++)
        {
            if (delta[i] != T.Zero)
            {
                values[i] += delta[i];
            }
        }
    }

    /// <summary><c>sum += factor · row</c>, the product rounded before it is added: the same bits on every machine.</summary>
    public static void AddScaled<T>(Span<T> sum, T factor, ReadOnlySpan<T> row) where T : unmanaged, IFloatingPointIeee754<T>
    {
        int i = 0;
        var wide = new Vector<T>(factor);
        for (; i <= sum.Length - Vector<T>.Count; i += Vector<T>.Count)
        {
            Vector<T> product = wide * new Vector<T>(row[i..]);
            (new Vector<T>(sum[i..]) + product).CopyTo(sum[i..]);
        }

        for (; i < sum.Length; i++)
        {
            T product = factor * row[i];
            sum[i] += product;
        }
    }
}
