using System.Buffers.Binary;
using System.Text.Encodings.Web;
using System.Text.Json;
using TorchSharp;
using static TorchSharp.torch;

namespace Scalpel.Checkpoints;

/// <summary>A tensor to be written: what the header says of it, and its bytes when their turn comes.</summary>
/// <param name="Name">Its name.</param>
/// <param name="Type">Its storage type; not a quantised one.</param>
/// <param name="Shape">Its shape.</param>
/// <param name="Write">Writes exactly the bytes of that type and shape.</param>
public sealed record TensorToWrite(string Name, StorageType Type, IReadOnlyList<long> Shape, Action<Stream> Write);

/// <summary>Writes safetensors files: by falling element size, then by name, header padded to 8 bytes, atomically.</summary>
public static class SafeTensorsWriter
{
    static readonly JsonWriterOptions HeaderOptions = new() { Encoder = JavaScriptEncoder.UnsafeRelaxedJsonEscaping };

    /// <summary>Writes tensors from memory.</summary>
    public static void Write(string path, IReadOnlyDictionary<string, Tensor> tensors, IReadOnlyDictionary<string, string>? metadata = null, FileStore? store = null) =>
        Write(path, [.. tensors.Select(pair => new TensorToWrite(pair.Key, StoredTensor.TypeOf(pair.Value.dtype), pair.Value.shape, stream => WriteTensor(stream, pair.Value)))], metadata, store);

    /// <summary>Writes tensors one after another; only one needs to be in memory at a time.</summary>
    /// <exception cref="BadInputException">The file cannot be written; an old one is untouched.</exception>
    public static void Write(string path, IReadOnlyList<TensorToWrite> tensors, IReadOnlyDictionary<string, string>? metadata = null, FileStore? store = null) =>
        AtomicFile.Write(path, stream => WriteTo(stream, tensors, metadata), store);

    /// <summary>Writes the whole format to a stream.</summary>
    public static void WriteTo(Stream stream, IReadOnlyList<TensorToWrite> tensors, IReadOnlyDictionary<string, string>? metadata = null)
    {
        TensorToWrite[] ordered = [.. tensors.OrderByDescending(t => t.Type.BlockBytes()).ThenBy(t => t.Name, StringComparer.Ordinal)];
        byte[] header = Header(ordered, metadata);
        Span<byte> length = stackalloc byte[8];
        BinaryPrimitives.WriteUInt64LittleEndian(length, (ulong)header.Length);
        stream.Write(length);
        stream.Write(header);
        foreach (TensorToWrite tensor in ordered)
        {
            tensor.Write(stream);
        }
    }

    /// <summary>Writes the bytes of a tensor.</summary>
    public static void WriteTensor(Stream stream, Tensor tensor)
    {
        using Tensor contiguous = tensor.detach().cpu().contiguous();
        long length = contiguous.numel() * contiguous.element_size();
        const int Chunk = 1 << 22;
        for (long at = 0; at < length; at += Chunk)
        {
            stream.Write(StoredTensor.Bytes(contiguous, at, (int)Math.Min(Chunk, length - at)));
        }
    }

    static byte[] Header(TensorToWrite[] tensors, IReadOnlyDictionary<string, string>? metadata)
    {
        using var buffer = new MemoryStream();
        using (var json = new Utf8JsonWriter(buffer, HeaderOptions))
        {
            json.WriteStartObject();
            if (metadata is { Count: > 0 })
            {
                json.WriteStartObject("__metadata__");
                foreach ((string key, string value) in metadata.OrderBy(pair => pair.Key, StringComparer.Ordinal))
                {
                    json.WriteString(key, value);
                }

                json.WriteEndObject();
            }

            long at = 0;
            foreach (TensorToWrite tensor in tensors)
            {
                json.WriteStartObject(tensor.Name);
                json.WriteString("dtype", Array.Find(SafeTensorsFile.Types, pair => pair.Type == tensor.Type).Name
                    ?? throw new ArgumentException($"{tensor.Name} has the type {tensor.Type}, which safetensors lacks.", nameof(tensors)));
                json.WriteStartArray("shape");
                foreach (long size in tensor.Shape)
                {
                    json.WriteNumberValue(size);
                }

                json.WriteEndArray();
                json.WriteStartArray("data_offsets");
                json.WriteNumberValue(at);
                at = checked(at + tensor.Type.ByteLength(tensor.Shape));
                json.WriteNumberValue(at);
                json.WriteEndArray();
                json.WriteEndObject();
            }

            json.WriteEndObject();
        }

        while (buffer.Length % 8 != 0)
        {
            buffer.WriteByte((byte)' ');
        }

        return buffer.ToArray();
    }
}
