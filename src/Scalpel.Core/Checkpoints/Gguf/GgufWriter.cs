using System.Buffers.Binary;
using System.Text;

namespace Scalpel.Checkpoints.Gguf;

/// <summary>
/// Writes GGUF files of version 3, or again what a file holds with some tensors in other types: metadata and untouched
/// tensors keep their bytes, the list of tensors and the offsets are made anew. One tensor at a time is in memory.
/// </summary>
public static class GgufWriter
{
    const int DefaultAlignment = 32;

    /// <summary>Writes a file.</summary>
    /// <param name="path">The file; an old one is replaced when the new one is complete.</param>
    /// <param name="metadata">Values of the types that <see cref="GgufFile.Metadata"/> gives; <c>general.architecture</c> is what readers ask for first.</param>
    /// <param name="tensors">The tensors by their stored names, shapes slowest axis first, bytes in the order of the file.</param>
    /// <param name="store">Where to write; the disk by default.</param>
    /// <exception cref="BadInputException">The file cannot be written, or a tensor has a name, shape or type that the format lacks.</exception>
    public static void Write(string path, IReadOnlyDictionary<string, object> metadata, IReadOnlyList<TensorToWrite> tensors, FileStore? store = null)
    {
        using var pairs = new MemoryStream();
        foreach ((string key, object value) in metadata)
        {
            Text(pairs, key);
            Number(pairs, TypeOf(value));
            Value(pairs, value);
        }

        long alignment = metadata.TryGetValue("general.alignment", out object? given) ? Convert.ToInt64(given, System.Globalization.CultureInfo.InvariantCulture) : DefaultAlignment;
        AtomicFile.Write(path, stream => WriteTo(stream, 3, (ulong)metadata.Count, pairs.ToArray(), tensors, (int)alignment, padEnd: true), store);
    }

    /// <summary>Writes a file again with some tensors replaced, left out or added at the end.</summary>
    /// <param name="source">The file as it is.</param>
    /// <param name="target">Receives the whole new file.</param>
    /// <param name="replaced">New tensors by stored name, bytes in the order of the file; null leaves one out. Names that the source lacks are added.</param>
    public static void Rewrite(GgufFile source, Stream target, IReadOnlyDictionary<string, TensorToWrite?> replaced)
    {
        var tensors = new List<TensorToWrite>();
        foreach (GgufTensor tensor in source.Tensors.Values)
        {
            TensorToWrite? written = replaced.TryGetValue(tensor.Name, out TensorToWrite? other) ? other : Untouched(source, tensor);
            if (written is not null)
            {
                tensors.Add(written);
            }
        }

        tensors.AddRange(replaced.Values.Where(tensor => tensor is not null && !source.Tensors.ContainsKey(tensor.Name))!);
        ReadOnlySpan<byte> head = source.Bytes(0, 24);
        WriteTo(target, source.Version, BinaryPrimitives.ReadUInt64LittleEndian(head[16..]), source.Bytes(24, checked((int)(source.MetadataEnd - 24))), tensors, source.Alignment, source.EndsPadded, tensors.Count > 0 || source.Length > source.MetadataEnd);
    }

    static TensorToWrite Untouched(GgufFile source, GgufTensor tensor) => new(tensor.Name, tensor.Type, tensor.Shape, stream =>
    {
        const int Chunk = 1 << 22;
        for (long at = 0; at < tensor.Length; at += Chunk)
        {
            stream.Write(source.Bytes(tensor.Offset + at, (int)Math.Min(Chunk, tensor.Length - at)));
        }
    });

    static void WriteTo(Stream stream, uint version, ulong pairCount, ReadOnlySpan<byte> pairs, IReadOnlyList<TensorToWrite> tensors, int alignment, bool padEnd, bool padHead = true)
    {
        stream.Write("GGUF"u8);
        Number(stream, version);
        Number(stream, (ulong)tensors.Count);
        Number(stream, pairCount);
        stream.Write(pairs);
        long[] lengths = new long[tensors.Count];
        using var infos = new MemoryStream();
        long offset = 0;
        for (int i = 0; i < tensors.Count; i++)
        {
            lengths[i] = Info(infos, tensors[i], offset);
            offset = checked(offset + lengths[i] + Padding(offset + lengths[i], alignment));
        }

        infos.WriteTo(stream);
        Pad(stream, 24 + pairs.Length + infos.Length, padHead ? alignment : 1);
        for (int i = 0; i < tensors.Count; i++)
        {
            var counted = new CountingStream(stream);
            tensors[i].Write(counted);
            if (counted.Count != lengths[i])
            {
                throw new InvalidOperationException($"{tensors[i].Name} was announced with {lengths[i]} bytes, but {counted.Count} were written.");
            }

            if (padEnd || i + 1 < tensors.Count)
            {
                Pad(stream, lengths[i], alignment);
            }
        }
    }

    static long Info(Stream infos, TensorToWrite tensor, long offset)
    {
        if (tensor.Shape.Count > 4 || Encoding.UTF8.GetByteCount(tensor.Name) > 63)
        {
            throw new BadInputException($"The tensor {tensor.Name} of shape [{string.Join(", ", tensor.Shape)}] cannot stand in a GGUF file, which allows names of 63 bytes and 4 axes.");
        }

        Text(infos, tensor.Name);
        Number(infos, (uint)tensor.Shape.Count);
        foreach (long size in tensor.Shape.Reverse())
        {
            Number(infos, (ulong)size);
        }

        Number(infos, GgufTypes.IdOf(tensor.Type));
        Number(infos, (ulong)offset);
        try
        {
            return tensor.Type.ByteLength(tensor.Shape);
        }
        catch (OverflowException e)
        {
            throw new BadInputException($"The tensor {tensor.Name} of shape [{string.Join(", ", tensor.Shape)}] cannot be written as {tensor.Type}: {e.Message}.", e);
        }
    }

    static uint TypeOf(object value) => value switch
    {
        byte => 0,
        sbyte => 1,
        ushort => 2,
        short => 3,
        uint => 4,
        int => 5,
        float => 6,
        bool => 7,
        string => 8,
        Array => 9,
        ulong => 10,
        long => 11,
        double => 12,
        _ => throw new ArgumentException($"GGUF has no value of type {value.GetType().Name}.", nameof(value)),
    };

    static uint ElementType(Array list) => list switch
    {
        // By the exact type: the runtime takes an int[] for a uint[].
        _ when list.GetType() == typeof(byte[]) => 0,
        _ when list.GetType() == typeof(sbyte[]) => 1,
        _ when list.GetType() == typeof(ushort[]) => 2,
        _ when list.GetType() == typeof(short[]) => 3,
        _ when list.GetType() == typeof(uint[]) => 4,
        _ when list.GetType() == typeof(int[]) => 5,
        float[] => 6,
        bool[] => 7,
        string[] => 8,
        _ when list.GetType() == typeof(ulong[]) => 10,
        _ when list.GetType() == typeof(long[]) => 11,
        double[] => 12,
        _ => 9,
    };

    static void Value(Stream stream, object value)
    {
        switch (value)
        {
            case byte v: stream.WriteByte(v); break;
            case sbyte v: stream.WriteByte((byte)v); break;
            case bool v: stream.WriteByte(v ? (byte)1 : (byte)0); break;
            case ushort v: stream.Write([(byte)v, (byte)(v >> 8)]); break;
            case short v: stream.Write([(byte)v, (byte)(v >> 8)]); break;
            case uint v: Number(stream, v); break;
            case int v: Number(stream, (uint)v); break;
            case float v: Number(stream, BitConverter.SingleToUInt32Bits(v)); break;
            case ulong v: Number(stream, v); break;
            case long v: Number(stream, (ulong)v); break;
            case double v: Number(stream, BitConverter.DoubleToUInt64Bits(v)); break;
            case string v: Text(stream, v); break;
            case Array list:
                Number(stream, ElementType(list));
                Number(stream, (ulong)list.Length);
                foreach (object element in list)
                {
                    Value(stream, element);
                }

                break;
        }
    }

    static void Text(Stream stream, string text)
    {
        byte[] bytes = Encoding.UTF8.GetBytes(text);
        Number(stream, (ulong)bytes.Length);
        stream.Write(bytes);
    }

    static void Number(Stream stream, uint value)
    {
        Span<byte> bytes = stackalloc byte[4];
        BinaryPrimitives.WriteUInt32LittleEndian(bytes, value);
        stream.Write(bytes);
    }

    static void Number(Stream stream, ulong value)
    {
        Span<byte> bytes = stackalloc byte[8];
        BinaryPrimitives.WriteUInt64LittleEndian(bytes, value);
        stream.Write(bytes);
    }

    static long Padding(long length, int alignment) => (alignment - length % alignment) % alignment;

    static void Pad(Stream stream, long length, int alignment) => stream.Write(new byte[Padding(length, alignment)]);

    sealed class CountingStream(Stream inner) : Stream
    {
        public long Count { get; private set; }

        public override bool CanRead => false;

        public override bool CanSeek => false;

        public override bool CanWrite => true;

        public override long Length => Count;

        public override long Position { get => Count; set => throw new NotSupportedException(); }

        public override void Write(ReadOnlySpan<byte> buffer)
        {
            Count += buffer.Length;
            inner.Write(buffer);
        }

        public override void Write(byte[] buffer, int offset, int count) => Write(buffer.AsSpan(offset, count));

        public override void Flush() => inner.Flush();

        public override int Read(byte[] buffer, int offset, int count) => throw new NotSupportedException();

        public override long Seek(long offset, SeekOrigin origin) => throw new NotSupportedException();

        public override void SetLength(long value) => throw new NotSupportedException();
    }
}
