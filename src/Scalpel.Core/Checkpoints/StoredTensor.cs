using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using TorchSharp;
using static TorchSharp.torch;
using TensorPrimitives = System.Numerics.Tensors.TensorPrimitives;

namespace Scalpel.Checkpoints;

/// <summary>Converts stored elements to tensors and back.</summary>
public static unsafe class StoredTensor
{
    const long ParallelFrom = 1 << 18, MaxPart = 1 << 24;

    /// <summary>The tensor type that holds a storage type exactly; float32 for F8 and quantised blocks.</summary>
    /// <exception cref="BadInputException">libtorch has no such type (unsigned integers above 8 bits).</exception>
    public static ScalarType NaturalType(StorageType type) => type switch
    {
        StorageType.F64 => ScalarType.Float64,
        StorageType.F32 => ScalarType.Float32,
        StorageType.F16 => ScalarType.Float16,
        StorageType.BF16 => ScalarType.BFloat16,
        StorageType.I64 => ScalarType.Int64,
        StorageType.I32 => ScalarType.Int32,
        StorageType.I16 => ScalarType.Int16,
        StorageType.I8 => ScalarType.Int8,
        StorageType.U8 => ScalarType.Byte,
        StorageType.Bool => ScalarType.Bool,
        StorageType.F8E4M3 or StorageType.F8E5M2 => ScalarType.Float32,
        _ when type.IsQuantised() => ScalarType.Float32,
        _ => throw new BadInputException($"Tensors of type {type} can be carried and compared, but not computed with; convert them to I64."),
    };

    /// <summary>The storage type of a tensor's own type.</summary>
    public static StorageType TypeOf(ScalarType type) => type switch
    {
        ScalarType.Float64 => StorageType.F64,
        ScalarType.Float32 => StorageType.F32,
        ScalarType.Float16 => StorageType.F16,
        ScalarType.BFloat16 => StorageType.BF16,
        ScalarType.Int64 => StorageType.I64,
        ScalarType.Int32 => StorageType.I32,
        ScalarType.Int16 => StorageType.I16,
        ScalarType.Int8 => StorageType.I8,
        ScalarType.Byte => StorageType.U8,
        ScalarType.Bool => StorageType.Bool,
        _ => throw new BadInputException($"Tensors of type {type} cannot be stored in a safetensors file."),
    };

    /// <summary>Address of a contiguous CPU tensor's first element.</summary>
    public static byte* Pointer(Tensor tensor)
    {
        if (!tensor.is_contiguous() || tensor.device_type != DeviceType.CPU)
        {
            throw new ArgumentException("The tensor must be contiguous and on the CPU.", nameof(tensor));
        }

        return tensor.numel() == 0 ? null : (byte*)Address(tensor);
    }

    static IntPtr Address(Tensor tensor)
    {
        // Of one element: a span over more than 2 GB cannot be.
        using Tensor flat = tensor.detach(), line = flat.view(-1), first = line.narrow(0, 0, 1);
        return (IntPtr)Unsafe.AsPointer(ref MemoryMarshal.GetReference(first.bytes));
    }

    /// <summary>The bytes of a contiguous CPU tensor of at most 2 GB, valid while it lives.</summary>
    public static Span<byte> Bytes(Tensor tensor, long start, int count) => new(Pointer(tensor) + start, count);

    internal static Tensor Read(string path, TensorEntry entry, byte* source, ScalarType? dtype)
    {
        ScalarType target = dtype ?? NaturalType(entry.Type);
        long count = 1;
        foreach (long size in entry.Shape)
        {
            count *= size;
        }

        if (entry.Type.IsQuantised())
        {
            throw new CheckpointException(path, CheckpointProblem.Type, $"has the block type {entry.Type}, which only GGUF files hold.", entry.Name);
        }

        Tensor result = empty(entry.Shape.ToArray(), dtype: target);
        if (Fill(entry.Type, source, result, count))
        {
            return result;
        }

        result.Dispose();
        using Tensor natural = Read(path, entry, source, null);
        return natural.to_type(target);
    }

    /// <summary>
    /// Converts stored elements straight into a contiguous tensor's memory, on all cores; false when there is no direct way
    /// from the one type to the other.
    /// </summary>
    internal static bool Fill(StorageType type, byte* source, Tensor target, long count)
    {
        if (count == 0)
        {
            return true;
        }

        byte* into = Pointer(target);
        if (type.IsQuantised())
        {
            if (target.dtype != ScalarType.Float32)
            {
                return false;
            }

            Gguf.Dequantiser.Expand(type, source, (float*)into, count / type.BlockElements());
            return true;
        }

        int size = type.BlockBytes();
        if (NaturalType(type) == target.dtype && type is not (StorageType.F8E4M3 or StorageType.F8E5M2))
        {
            InChunks(count, (at, length) => Buffer.MemoryCopy(source + at * size, into + at * size, length * size, length * size));
            return true;
        }

        if (target.dtype == ScalarType.Float32 && FloatReader(type) is { } read)
        {
            InChunks(count, (at, length) => read((IntPtr)(source + at * size), (IntPtr)(into + at * 4), checked((int)length)));
            return true;
        }

        return false;
    }

    static Action<IntPtr, IntPtr, int>? FloatReader(StorageType type) => type switch
    {
        StorageType.F16 => static (from, to, n) => TensorPrimitives.ConvertToSingle(new ReadOnlySpan<Half>((void*)from, n), new Span<float>((void*)to, n)),
        StorageType.BF16 => static (from, to, n) =>
        {
            var source = (ushort*)from;
            var target = (uint*)to;
            for (int i = 0; i < n; i++)
            {
                target[i] = (uint)source[i] << 16;
            }
        },
        StorageType.F8E4M3 => static (from, to, n) => Convert8(from, to, n, exponentBits: 4),
        StorageType.F8E5M2 => static (from, to, n) => Convert8(from, to, n, exponentBits: 5),
        _ => null,
    };

    static void Convert8(IntPtr from, IntPtr to, int n, int exponentBits)
    {
        var source = (byte*)from;
        var target = (float*)to;
        int mantissaBits = 7 - exponentBits, bias = (1 << (exponentBits - 1)) - 1;
        for (int i = 0; i < n; i++)
        {
            int exponent = (source[i] & 0x7f) >> mantissaBits, mantissa = source[i] & ((1 << mantissaBits) - 1);
            bool last = exponent == (1 << exponentBits) - 1;
            // E4M3 has no infinity and one NaN pattern; E5M2 follows IEEE.
            float value = exponentBits == 4 && last && mantissa == 7 ? float.NaN
                : exponentBits == 5 && last ? (mantissa == 0 ? float.PositiveInfinity : float.NaN)
                : exponent == 0 ? MathF.ScaleB(mantissa, 1 - bias - mantissaBits)
                : MathF.ScaleB(mantissa + (1 << mantissaBits), exponent - bias - mantissaBits);
            target[i] = (source[i] & 0x80) != 0 ? -value : value;
        }
    }

    /// <summary>Splits <paramref name="count"/> units of <paramref name="elements"/> elements among the cores when they are many.</summary>
    internal static void InChunks(long count, Action<long, long> action, int elements = 1)
    {
        if (count * elements < ParallelFrom)
        {
            action(0, count);
            return;
        }

        long parts = Math.Max(Environment.ProcessorCount, (count * elements + MaxPart - 1) / MaxPart), part = (count + parts - 1) / parts;
        Parallel.For(0, parts, i => action(Math.Min(i * part, count), Math.Min(part, Math.Max(0, count - i * part))));
    }
}
