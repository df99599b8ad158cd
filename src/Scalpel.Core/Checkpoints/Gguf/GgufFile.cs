using System.Buffers.Binary;
using System.Collections.Immutable;
using System.Text;
using static TorchSharp.torch;

namespace Scalpel.Checkpoints.Gguf;

/// <summary>A tensor as a GGUF file lists it.</summary>
/// <param name="Name">Its name in the file.</param>
/// <param name="Type">Its block type.</param>
/// <param name="Shape">Its shape, slowest axis first.</param>
/// <param name="Offset">First byte in the file.</param>
/// <param name="Length">Bytes.</param>
public sealed record GgufTensor(string Name, StorageType Type, IReadOnlyList<long> Shape, long Offset, long Length);

/// <summary>
/// One GGUF file of version 2 or 3, memory-mapped: its metadata and its list of tensors, checked before anything is
/// allocated. Metadata values are byte, sbyte, ushort, short, uint, int, float, bool, string, ulong, long, double, or an
/// array of one of these.
/// </summary>
public sealed class GgufFile : IDisposable
{
    const int MaxNesting = 4, MaxName = 63, MaxKey = 65535;

    readonly MappedFile file;
    readonly Dictionary<string, object> metadata = new(StringComparer.Ordinal);
    readonly Dictionary<string, GgufTensor> tensors = new(StringComparer.Ordinal);
    long at;

    GgufFile(MappedFile file) => this.file = file;

    /// <summary>The file.</summary>
    public string Path => file.Path;

    /// <summary>Bytes of the file.</summary>
    public long Length => file.Length;

    /// <summary>Format version, 2 or 3.</summary>
    public uint Version { get; private set; }

    /// <summary>Multiple of bytes at which tensors begin.</summary>
    public int Alignment { get; private set; } = 32;

    /// <summary>First byte after the metadata: where the list of tensors begins.</summary>
    public long MetadataEnd { get; private set; }

    /// <summary>First byte of the data.</summary>
    public long DataStart { get; private set; }

    /// <summary>Whether the last tensor is padded to the alignment, as most writers do.</summary>
    public bool EndsPadded { get; private set; } = true;

    /// <summary>The metadata, in the order of the file.</summary>
    public IReadOnlyDictionary<string, object> Metadata => metadata;

    /// <summary>The tensors, in the order of the file.</summary>
    public IReadOnlyDictionary<string, GgufTensor> Tensors => tensors;

    /// <summary>Opens and checks a file.</summary>
    /// <exception cref="CheckpointException">It is malformed, of version 1, or big-endian.</exception>
    public static GgufFile Open(string path)
    {
        var gguf = new GgufFile(new MappedFile(path));
        try
        {
            gguf.ReadHeader();
            return gguf;
        }
        catch
        {
            gguf.Dispose();
            throw;
        }
    }

    /// <summary>Bytes of the file, valid until this is disposed.</summary>
    public ReadOnlySpan<byte> Bytes(long offset, int count) => file.Span(offset, count);

    internal unsafe byte* Pointer(long offset, long count) => file.Pointer(offset, count);

    /// <summary>Reads a tensor into memory of its own, in the file's own shape and order.</summary>
    /// <param name="name">Its name in the file.</param>
    /// <param name="dtype">The type to convert to; by default the stored one, float32 for blocks.</param>
    /// <exception cref="CheckpointException">There is none of that name.</exception>
    public Tensor Read(string name, ScalarType? dtype = null) => tensors.TryGetValue(name, out GgufTensor? tensor)
        ? Read(name, tensor.Type, tensor.Shape, tensor.Offset, tensor.Length, dtype)
        : throw new CheckpointException(Path, CheckpointProblem.Missing, $"has no such tensor; the nearest are {string.Join(", ", Nearest.To(name, tensors.Keys, 3))}.", name);

    internal unsafe Tensor Read(string name, StorageType type, IReadOnlyList<long> shape, long offset, long length, ScalarType? dtype)
    {
        byte* source = file.Pointer(offset, length);
        if (!type.IsQuantised())
        {
            return StoredTensor.Read(Path, new TensorEntry(name, type, shape, Path, offset, length), source, dtype);
        }

        Tensor wide = empty(shape.ToArray(), dtype: ScalarType.Float32);
        Dequantiser.Expand(type, source, (float*)StoredTensor.Pointer(wide), wide.numel() / type.BlockElements());
        if (dtype is null or ScalarType.Float32)
        {
            return wide;
        }

        using (wide)
        {
            return wide.to_type(dtype.Value);
        }
    }

    /// <inheritdoc/>
    public void Dispose() => file.Dispose();

    /// <summary>A metadata value, or the default when the key is absent.</summary>
    /// <exception cref="CheckpointException">The value is of another kind.</exception>
    public T? Get<T>(string key, T? absent = default)
    {
        if (!metadata.TryGetValue(key, out object? value))
        {
            return absent;
        }

        return value is T typed ? typed : throw Malformed(CheckpointProblem.HeaderSyntax, $"the key {key} holds a {value.GetType().Name}, expected {typeof(T).Name}.");
    }

    /// <summary>A whole number under a key, whatever its width; null when absent.</summary>
    public long? Integer(string key) => !metadata.TryGetValue(key, out object? value) ? null : value switch
    {
        byte v => v,
        sbyte v => v,
        ushort v => v,
        short v => v,
        uint v => v,
        int v => v,
        long v => v,
        ulong v when v <= long.MaxValue => (long)v,
        _ => throw Malformed(CheckpointProblem.HeaderSyntax, $"the key {key} is not a whole number."),
    };

    /// <summary>A number under a key; null when absent.</summary>
    public double? Number(string key) => !metadata.TryGetValue(key, out object? value) ? null : value switch
    {
        float v => v,
        double v => v,
        _ => Integer(key),
    };

    void ReadHeader()
    {
        if (file.Length < 24)
        {
            throw Malformed(CheckpointProblem.Truncated, $"has {file.Length} bytes; a GGUF file has at least 24.");
        }

        if (!file.Span(0, 4).SequenceEqual("GGUF"u8))
        {
            throw Malformed(CheckpointProblem.Format, "does not begin with GGUF.", 0);
        }

        at = 4;
        Version = U32();
        if (Version is not (2 or 3))
        {
            throw Malformed(CheckpointProblem.Format, BinaryPrimitives.ReverseEndianness(Version) is 2 or 3
                ? "is big-endian; convert it to little-endian."
                : $"is of version {Version}; versions 2 and 3 are read, older files must be converted again.", 4);
        }

        // A tensor takes at least 8 + 4 + 4 + 8 bytes, a pair 8 + 4 + 1: counts that cannot fit are lies.
        long tensorCount = Count(24), pairs = Count(13);
        for (long i = 0; i < pairs; i++)
        {
            string key = Text(MaxKey);
            if (!metadata.TryAdd(key, Value(U32(), 0)))
            {
                throw Malformed(CheckpointProblem.Duplicate, $"the key {key} stands twice in the metadata.", at);
            }
        }

        if (Integer("general.alignment") is { } alignment)
        {
            if (alignment is < 1 or > 1 << 20 || (alignment & (alignment - 1)) != 0)
            {
                throw Malformed(CheckpointProblem.HeaderSyntax, $"general.alignment is {alignment}; it must be a power of two up to {1 << 20}.");
            }

            Alignment = (int)alignment;
        }

        MetadataEnd = at;
        var listed = new List<(string Name, StorageType Type, long[] Shape, long Offset)>();
        for (long i = 0; i < tensorCount; i++)
        {
            listed.Add(TensorInfo());
        }

        DataStart = tensorCount == 0 ? at : Align(at);
        long next = 0;
        foreach ((string name, StorageType type, long[] shape, long offset) in listed)
        {
            long length;
            try
            {
                length = type.ByteLength(shape);
            }
            catch (OverflowException e)
            {
                throw new CheckpointException(Path, CheckpointProblem.Shape, $"has the shape [{string.Join(", ", shape)}] in {type}: {e.Message}.", name);
            }

            if (offset != next)
            {
                throw new CheckpointException(Path, CheckpointProblem.Layout, $"lies at {offset} of the data, expected {next}: tensors follow one another, each at a multiple of {Alignment}.", name, DataStart);
            }

            if (DataStart > file.Length || length > file.Length - DataStart - offset)
            {
                throw new CheckpointException(Path, CheckpointProblem.Truncated, $"needs {length} bytes from {DataStart + offset} on, but the file has {file.Length} in all; download it again.", name);
            }

            if (!tensors.TryAdd(name, new GgufTensor(name, type, shape, DataStart + offset, length)))
            {
                throw new CheckpointException(Path, CheckpointProblem.Duplicate, "is listed twice.", name);
            }

            next = checked(offset + length + (Alignment - (offset + length) % Alignment) % Alignment);
        }

        EndsPadded = file.Length >= DataStart + next;
    }

    (string Name, StorageType Type, long[] Shape, long Offset) TensorInfo()
    {
        string name = Text(MaxName);
        uint dimensions = U32();
        if (dimensions > 4)
        {
            throw new CheckpointException(Path, CheckpointProblem.Shape, $"has {dimensions} axes; at most 4 are allowed.", name, at - 4);
        }

        long[] shape = new long[dimensions];
        for (int d = (int)dimensions - 1; d >= 0; d--)
        {
            ulong size = U64();
            if (size > long.MaxValue)
            {
                throw new CheckpointException(Path, CheckpointProblem.Shape, $"has an axis of {size}.", name, at - 8);
            }

            shape[d] = (long)size;
        }

        uint id = U32();
        StorageType type = GgufTypes.TypeOf(id) ?? throw new CheckpointException(Path, CheckpointProblem.Type,
            $"has the unknown type {id}; known are {string.Join(", ", GgufTypes.Names)}.", name, at - 4);
        ulong offset = U64();
        return offset <= long.MaxValue / 2 && offset % (ulong)Alignment == 0
            ? (name, type, shape, (long)offset)
            : throw new CheckpointException(Path, CheckpointProblem.Layout, $"lies at {offset}, which is no multiple of {Alignment} within the file.", name, at - 8);
    }

    object Value(uint type, int depth)
    {
        switch (type)
        {
            case 0: return Take(1)[0];
            case 1: return (sbyte)Take(1)[0];
            case 2: return BinaryPrimitives.ReadUInt16LittleEndian(Take(2));
            case 3: return BinaryPrimitives.ReadInt16LittleEndian(Take(2));
            case 4: return U32();
            case 5: return BinaryPrimitives.ReadInt32LittleEndian(Take(4));
            case 6: return BinaryPrimitives.ReadSingleLittleEndian(Take(4));
            case 7:
                byte flag = Take(1)[0];
                return flag <= 1 ? flag == 1 : throw Malformed(CheckpointProblem.HeaderSyntax, $"a truth value is {flag}; it must be 0 or 1.", at - 1);
            case 8: return Text(int.MaxValue);
            case 9: return List(depth);
            case 10: return U64();
            case 11: return BinaryPrimitives.ReadInt64LittleEndian(Take(8));
            case 12: return BinaryPrimitives.ReadDoubleLittleEndian(Take(8));
            default: throw Malformed(CheckpointProblem.HeaderSyntax, $"a metadata value has the unknown type {type}; known are 0 to 12.", at - 4);
        }
    }

    object List(int depth)
    {
        if (depth == MaxNesting)
        {
            throw Malformed(CheckpointProblem.HeaderSyntax, $"lists are nested more than {MaxNesting} deep.", at);
        }

        uint type = U32();
        int width = type switch { 0 or 1 or 7 => 1, 2 or 3 => 2, 4 or 5 or 6 => 4, 8 or 10 or 11 or 12 => 8, 9 => 12, _ => 1 };
        int count = checked((int)Math.Min(Count(width), int.MaxValue));
        return type switch
        {
            0 => Fill<byte>(count, type, depth),
            1 => Fill<sbyte>(count, type, depth),
            2 => Fill<ushort>(count, type, depth),
            3 => Fill<short>(count, type, depth),
            4 => Fill<uint>(count, type, depth),
            5 => Fill<int>(count, type, depth),
            6 => Fill<float>(count, type, depth),
            7 => Fill<bool>(count, type, depth),
            8 => Fill<string>(count, type, depth),
            10 => Fill<ulong>(count, type, depth),
            11 => Fill<long>(count, type, depth),
            12 => Fill<double>(count, type, depth),
            _ => Fill<object>(count, type, depth),
        };
    }

    T[] Fill<T>(int count, uint type, int depth)
    {
        T[] values = new T[count];
        for (int i = 0; i < count; i++)
        {
            values[i] = (T)Value(type, depth + 1);
        }

        return values;
    }

    long Count(int leastBytes)
    {
        ulong count = U64();
        return count <= (ulong)((file.Length - at) / leastBytes)
            ? (long)count
            : throw Malformed(CheckpointProblem.HeaderSize, $"a count is {count}, but only {file.Length - at} bytes follow.", at - 8);
    }

    string Text(int limit)
    {
        long length = Count(1);
        if (length > limit)
        {
            throw Malformed(CheckpointProblem.HeaderSyntax, $"a name has {length} bytes; at most {limit} are allowed.", at - 8);
        }

        return Encoding.UTF8.GetString(Take((int)length));
    }

    uint U32() => BinaryPrimitives.ReadUInt32LittleEndian(Take(4));

    ulong U64() => BinaryPrimitives.ReadUInt64LittleEndian(Take(8));

    ReadOnlySpan<byte> Take(int count)
    {
        if (count > file.Length - at)
        {
            throw Malformed(CheckpointProblem.Truncated, "the file ends within its header; download it again.", at);
        }

        ReadOnlySpan<byte> bytes = file.Span(at, count);
        at += count;
        return bytes;
    }

    long Align(long offset) => (offset + Alignment - 1) / Alignment * Alignment;

    CheckpointException Malformed(CheckpointProblem problem, string message, long offset = -1) => new(Path, problem, message, null, offset);
}

/// <summary>The numbers that GGUF gives to storage types.</summary>
static class GgufTypes
{
    static readonly ImmutableArray<(uint Id, StorageType Type)> Known =
    [
        (0, StorageType.F32), (1, StorageType.F16), (2, StorageType.Q4_0), (3, StorageType.Q4_1), (6, StorageType.Q5_0),
        (7, StorageType.Q5_1), (8, StorageType.Q8_0), (10, StorageType.Q2_K), (11, StorageType.Q3_K), (12, StorageType.Q4_K),
        (13, StorageType.Q5_K), (14, StorageType.Q6_K), (16, StorageType.IQ2_XXS), (17, StorageType.IQ2_XS),
        (18, StorageType.IQ3_XXS), (19, StorageType.IQ1_S), (20, StorageType.IQ4_NL), (21, StorageType.IQ3_S),
        (22, StorageType.IQ2_S), (23, StorageType.IQ4_XS), (24, StorageType.I8), (25, StorageType.I16), (26, StorageType.I32),
        (27, StorageType.I64), (28, StorageType.F64), (29, StorageType.IQ1_M), (30, StorageType.BF16), (34, StorageType.TQ1_0),
        (35, StorageType.TQ2_0), (39, StorageType.MXFP4), (40, StorageType.NVFP4),
    ];

    public static IEnumerable<string> Names => Known.Select(pair => pair.Type.ToString());

    public static StorageType? TypeOf(uint id)
    {
        foreach ((uint known, StorageType type) in Known)
        {
            if (known == id)
            {
                return type;
            }
        }

        return null;
    }

    public static uint IdOf(StorageType type) => Known.First(pair => pair.Type == type).Id;
}
