using System.Buffers.Binary;
using System.Text;
using System.Text.Json;
using TorchSharp;
using static TorchSharp.torch;

namespace Scalpel.Checkpoints;

/// <summary>
/// One safetensors file, memory-mapped. Opening checks everything that the format demands: header length, syntax, unique
/// names, known types, shapes that match the stored size, and tensors that cover the data exactly.
/// </summary>
public sealed class SafeTensorsFile : IDisposable
{
    const long MaxHeader = 100_000_000;
    const int MaxDepth = 4;

    readonly MappedFile file;

    SafeTensorsFile(MappedFile file, Dictionary<string, TensorEntry> entries, Dictionary<string, string> metadata, long headerLength)
    {
        this.file = file;
        Entries = entries;
        Metadata = metadata;
        HeaderLength = headerLength;
    }

    /// <summary>The file.</summary>
    public string Path => file.Path;

    /// <summary>The tensors by name, in the order of the header.</summary>
    public IReadOnlyDictionary<string, TensorEntry> Entries { get; }

    /// <summary>The header's <c>__metadata__</c>.</summary>
    public IReadOnlyDictionary<string, string> Metadata { get; }

    /// <summary>Bytes before the data.</summary>
    public long HeaderLength { get; }

    /// <summary>Opens and checks a file.</summary>
    /// <exception cref="CheckpointException">It is malformed; the error names the tensor and byte.</exception>
    public static SafeTensorsFile Open(string path)
    {
        var file = new MappedFile(path);
        try
        {
            if (file.Length < 8)
            {
                throw new CheckpointException(path, CheckpointProblem.Truncated, $"has {file.Length} bytes; a safetensors file has at least 8.");
            }

            ulong length = BinaryPrimitives.ReadUInt64LittleEndian(file.Span(0, 8));
            if (length > MaxHeader)
            {
                throw new CheckpointException(path, CheckpointProblem.HeaderSize, $"the header claims {length} bytes; at most {MaxHeader} are allowed.", offset: 0);
            }

            if ((long)length > file.Length - 8)
            {
                throw new CheckpointException(path, CheckpointProblem.Truncated, $"the header claims {length} bytes, but only {file.Length - 8} follow.", offset: 0);
            }

            var entries = new Dictionary<string, TensorEntry>(StringComparer.Ordinal);
            var metadata = new Dictionary<string, string>(StringComparer.Ordinal);
            ReadHeader(path, file.Span(8, (int)length), 8 + (long)length, file.Length, entries, metadata);
            CheckCoverage(path, entries.Values, 8 + (long)length, file.Length);
            return new SafeTensorsFile(file, entries, metadata, 8 + (long)length);
        }
        catch
        {
            file.Dispose();
            throw;
        }
    }

    /// <summary>The entry of a tensor.</summary>
    /// <exception cref="CheckpointException">There is none of that name.</exception>
    public TensorEntry Entry(string name) => Entries.TryGetValue(name, out TensorEntry? entry)
        ? entry
        : throw new CheckpointException(Path, CheckpointProblem.Missing, $"has no such tensor; the nearest are {string.Join(", ", Nearest.To(name, Entries.Keys, 3))}.", name);

    /// <summary>Stored bytes of a tensor, valid until this is disposed.</summary>
    public ReadOnlySpan<byte> Bytes(TensorEntry entry, long start, int count)
    {
        ArgumentOutOfRangeException.ThrowIfNegative(start);
        ArgumentOutOfRangeException.ThrowIfGreaterThan(start + count, entry.Length);
        return file.Span(entry.Offset + start, count);
    }

    /// <summary>Reads a tensor into memory of its own.</summary>
    public unsafe Tensor Read(string name, ScalarType? dtype = null)
    {
        TensorEntry entry = Entry(name);
        return StoredTensor.Read(Path, entry, Pointer(entry), dtype);
    }

    internal unsafe byte* Pointer(TensorEntry entry) => file.Pointer(entry.Offset, entry.Length);

    /// <inheritdoc/>
    public void Dispose() => file.Dispose();

    static void ReadHeader(string path, ReadOnlySpan<byte> header, long dataStart, long fileLength, Dictionary<string, TensorEntry> entries, Dictionary<string, string> metadata)
    {
        if (header.Length == 0 || header[0] != (byte)'{')
        {
            throw new CheckpointException(path, CheckpointProblem.HeaderSyntax, "the header does not begin with '{'.", offset: 8);
        }

        var reader = new Utf8JsonReader(header, new JsonReaderOptions { MaxDepth = MaxDepth });
        string? name = null;
        try
        {
            reader.Read();
            while (reader.Read() && reader.TokenType == JsonTokenType.PropertyName)
            {
                name = reader.GetString()!;
                reader.Read();
                if (name == "__metadata__")
                {
                    ReadMetadata(path, ref reader, metadata);
                }
                else if (!entries.TryAdd(name, ReadEntry(path, name, ref reader, dataStart, fileLength)))
                {
                    throw new CheckpointException(path, CheckpointProblem.Duplicate, "stands in the header twice.", name);
                }
            }

            while (reader.Read())
            {
                // Only white space may follow; the reader throws on anything else.
            }
        }
        catch (JsonException e)
        {
            throw new CheckpointException(path, CheckpointProblem.HeaderSyntax, $"the header is not valid JSON of depth {MaxDepth} or less: {e.Message}", name, 8 + reader.TokenStartIndex);
        }
        catch (InvalidOperationException)
        {
            throw new CheckpointException(path, CheckpointProblem.HeaderSyntax, "the header has a string that is not valid UTF-8, or a value of the wrong kind.", name, 8 + reader.TokenStartIndex);
        }
    }

    static void ReadMetadata(string path, ref Utf8JsonReader reader, Dictionary<string, string> metadata)
    {
        Expect(path, "__metadata__", ref reader, JsonTokenType.StartObject, "an object");
        if (metadata.Count > 0)
        {
            throw new CheckpointException(path, CheckpointProblem.Duplicate, "stands in the header twice.", "__metadata__");
        }

        while (reader.Read() && reader.TokenType == JsonTokenType.PropertyName)
        {
            string key = reader.GetString()!;
            reader.Read();
            Expect(path, "__metadata__", ref reader, JsonTokenType.String, $"a string under '{key}'");
            if (!metadata.TryAdd(key, reader.GetString()!))
            {
                throw new CheckpointException(path, CheckpointProblem.Duplicate, $"has the key '{key}' twice.", "__metadata__");
            }
        }
    }

    static TensorEntry ReadEntry(string path, string name, ref Utf8JsonReader reader, long dataStart, long fileLength)
    {
        Expect(path, name, ref reader, JsonTokenType.StartObject, "an object");
        string? dtype = null;
        List<long>? shape = null, offsets = null;
        while (reader.Read() && reader.TokenType == JsonTokenType.PropertyName)
        {
            string key = reader.GetString()!;
            reader.Read();
            switch (key)
            {
                case "dtype" when dtype is null:
                    Expect(path, name, ref reader, JsonTokenType.String, "a string as dtype");
                    dtype = reader.GetString();
                    break;
                case "shape" when shape is null:
                    shape = ReadNumbers(path, name, ref reader, "shape");
                    break;
                case "data_offsets" when offsets is null:
                    offsets = ReadNumbers(path, name, ref reader, "data_offsets");
                    break;
                default:
                    throw new CheckpointException(path, CheckpointProblem.HeaderSyntax, $"has the unknown or repeated key '{key}'; an entry has dtype, shape and data_offsets.", name);
            }
        }

        if (dtype is null || shape is null || offsets is not { Count: 2 })
        {
            throw new CheckpointException(path, CheckpointProblem.HeaderSyntax, "needs dtype, shape and two data_offsets.", name);
        }

        StorageType type = TypeOf(dtype) ?? throw new CheckpointException(path, CheckpointProblem.Type,
            $"has the type {dtype}, which is not supported; known are {string.Join(" ", Types.Select(pair => pair.Name))}.", name);
        long begin = offsets[0], end = offsets[1], length;
        if (end < begin || end > fileLength - dataStart)
        {
            throw new CheckpointException(path, CheckpointProblem.Layout, $"lies at {begin} to {end}, but the data has {fileLength - dataStart} bytes.", name, dataStart + Math.Min(begin, fileLength - dataStart));
        }

        try
        {
            length = type.ByteLength(shape);
        }
        catch (OverflowException)
        {
            throw new CheckpointException(path, CheckpointProblem.Shape, $"has the shape [{string.Join(", ", shape)}], whose size overflows.", name);
        }

        return length == end - begin
            ? new TensorEntry(name, type, shape, path, dataStart + begin, length)
            : throw new CheckpointException(path, CheckpointProblem.Shape, $"has {end - begin} bytes, but {dtype} [{string.Join(", ", shape)}] needs {length}.", name, dataStart + begin);
    }

    static List<long> ReadNumbers(string path, string name, ref Utf8JsonReader reader, string key)
    {
        Expect(path, name, ref reader, JsonTokenType.StartArray, $"a list as {key}");
        var numbers = new List<long>();
        while (reader.Read() && reader.TokenType != JsonTokenType.EndArray)
        {
            if (reader.TokenType != JsonTokenType.Number || !reader.TryGetInt64(out long number) || number < 0)
            {
                throw new CheckpointException(path, CheckpointProblem.HeaderSyntax, $"has something in {key} that is not a whole number from 0.", name);
            }

            numbers.Add(number);
        }

        return numbers;
    }

    static void Expect(string path, string name, ref Utf8JsonReader reader, JsonTokenType type, string what)
    {
        if (reader.TokenType != type)
        {
            throw new CheckpointException(path, CheckpointProblem.HeaderSyntax, $"must have {what}, found {reader.TokenType}.", name);
        }
    }

    static void CheckCoverage(string path, IEnumerable<TensorEntry> entries, long dataStart, long fileLength)
    {
        long at = dataStart;
        foreach (TensorEntry entry in entries.OrderBy(e => e.Offset).ThenBy(e => e.Length))
        {
            if (entry.Offset != at)
            {
                throw new CheckpointException(path, CheckpointProblem.Layout,
                    entry.Offset < at ? "overlaps the tensor before it." : $"leaves a hole of {entry.Offset - at} bytes before it.", entry.Name, entry.Offset);
            }

            at += entry.Length;
        }

        if (at != fileLength)
        {
            throw new CheckpointException(path, CheckpointProblem.Layout, $"has {fileLength - at} bytes after the last tensor.", offset: at);
        }
    }

    internal static readonly (string Name, StorageType Type)[] Types =
    [
        ("F64", StorageType.F64), ("F32", StorageType.F32), ("F16", StorageType.F16), ("BF16", StorageType.BF16),
        ("I64", StorageType.I64), ("I32", StorageType.I32), ("I16", StorageType.I16), ("I8", StorageType.I8),
        ("U64", StorageType.U64), ("U32", StorageType.U32), ("U16", StorageType.U16), ("U8", StorageType.U8),
        ("BOOL", StorageType.Bool), ("F8_E4M3", StorageType.F8E4M3), ("F8_E5M2", StorageType.F8E5M2),
    ];

    static StorageType? TypeOf(string name)
    {
        foreach ((string known, StorageType type) in Types)
        {
            if (known == name)
            {
                return type;
            }
        }

        return null;
    }
}
