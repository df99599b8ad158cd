using System.Security.Cryptography;
using System.Text.Json;
using System.Text.Json.Nodes;
using TorchSharp;
using static TorchSharp.torch;

namespace Scalpel.Checkpoints;

/// <summary>A tensor as it lies in a checkpoint.</summary>
/// <param name="Name">Its name in the Hugging Face layout.</param>
/// <param name="Type">How its elements are stored.</param>
/// <param name="Shape">Its shape in the Hugging Face layout.</param>
/// <param name="File">The file that holds it.</param>
/// <param name="Offset">First byte in the file.</param>
/// <param name="Length">Bytes.</param>
public sealed record TensorEntry(string Name, StorageType Type, IReadOnlyList<long> Shape, string File, long Offset, long Length)
{
    /// <summary>The name in the file itself; another than <see cref="Name"/> in GGUF files.</summary>
    public string StoredName { get; init; } = Name;
}

/// <summary>
/// A trained model on disk: tensors by name, memory-mapped, with config and tokenizer. A Hugging Face folder, one
/// safetensors file, or a GGUF file; never a pickle. Loading changes nothing.
/// </summary>
public abstract class Checkpoint : IDisposable
{
    static readonly string[] PickleEndings = [".bin", ".pt", ".pth", ".ckpt", ".pkl"];
    readonly Dictionary<string, string> hashes = new(StringComparer.Ordinal);

    /// <summary>The path as the user gave it.</summary>
    public required string Location { get; init; }

    /// <summary>The folder in which config and tokenizer files lie.</summary>
    public required string Folder { get; init; }

    /// <summary>Content of config.json; for a GGUF file the same keys, derived from its metadata. Empty when there is none.</summary>
    public abstract JsonObject Config { get; }

    /// <summary>SHA-256 of config.json's bytes, or of the GGUF metadata section.</summary>
    public abstract string ConfigHash { get; }

    /// <summary>The tensors by name.</summary>
    public abstract IReadOnlyDictionary<string, TensorEntry> Tensors { get; }

    /// <summary>Absolute paths of the files that hold weights.</summary>
    public abstract IReadOnlyList<string> Files { get; }

    /// <summary>Oddities that do not hinder use, as sentences.</summary>
    public virtual IReadOnlyList<string> Warnings => [];

    /// <summary>Opens a folder, a .safetensors file or a .gguf file.</summary>
    /// <exception cref="BadInputException">Nothing is there, it is malformed, or it is a pickle.</exception>
    public static Checkpoint Open(string path)
    {
        if (File.Exists(path))
        {
            string ending = Path.GetExtension(path).ToLowerInvariant();
            return ending switch
            {
                ".safetensors" => SafeTensorsCheckpoint.OpenFile(path),
                ".gguf" => OpenGguf(path),
                _ when PickleEndings.Contains(ending) => throw Pickle(path),
                _ => throw new CheckpointException(path, CheckpointProblem.Format, "is neither a .safetensors nor a .gguf file; give one of these or a model folder."),
            };
        }

        if (!Directory.Exists(path))
        {
            throw new CheckpointException(path, CheckpointProblem.Missing, "does not exist; give a model folder, a .safetensors or .gguf file, or hf:owner/name.");
        }

        if (File.Exists(Path.Combine(path, SafeTensorsCheckpoint.IndexName)) || SafeTensorsCheckpoint.WeightsIn(path).Any())
        {
            return SafeTensorsCheckpoint.OpenFolder(path);
        }

        string[] gguf = [.. Directory.EnumerateFiles(path, "*.gguf").Order(StringComparer.Ordinal)];
        if (gguf.Length == 1)
        {
            return OpenGguf(gguf[0], path);
        }

        if (gguf.Length > 1)
        {
            throw new CheckpointException(path, CheckpointProblem.Format, $"holds {gguf.Length} GGUF files; name one of them, for example {Path.GetFileName(gguf[0])}.");
        }

        string? pickle = Directory.EnumerateFiles(path).FirstOrDefault(file => PickleEndings.Contains(Path.GetExtension(file).ToLowerInvariant()));
        throw pickle is not null ? Pickle(pickle) : new CheckpointException(path, CheckpointProblem.Missing, "holds no model.safetensors, no sharded index and no GGUF file.");
    }

    /// <summary>The entry of a tensor.</summary>
    /// <exception cref="CheckpointException">There is none of that name; the nearest names are listed.</exception>
    public TensorEntry Entry(string name) => Tensors.TryGetValue(name, out TensorEntry? entry)
        ? entry
        : throw new CheckpointException(Location, CheckpointProblem.Missing, $"has no such tensor; the nearest are {string.Join(", ", Nearest.To(name, Tensors.Keys, 3))}.", name);

    /// <summary>Stored bytes of a tensor, valid until the checkpoint is disposed.</summary>
    public abstract ReadOnlySpan<byte> Bytes(TensorEntry entry, long start, int count);

    /// <summary>Reads a tensor into memory of its own, in the shape of its entry.</summary>
    /// <param name="name">Its name.</param>
    /// <param name="dtype">The type to convert to; by default the stored one, float32 for quantised blocks.</param>
    public abstract Tensor Read(string name, ScalarType? dtype = null);

    /// <summary>Reads a tensor into a tensor of its shape, converting to its type; straight into its memory where that is contiguous.</summary>
    /// <param name="name">The stored tensor's name.</param>
    /// <param name="target">On the CPU, of the shape of the entry.</param>
    /// <exception cref="CheckpointException">There is no tensor of that name, or it has another shape.</exception>
    public void ReadInto(string name, Tensor target)
    {
        TensorEntry entry = Entry(name);
        if (!entry.Shape.SequenceEqual(target.shape))
        {
            throw new CheckpointException(entry.File, CheckpointProblem.Shape,
                $"has the shape [{string.Join(", ", entry.Shape)}]; [{string.Join(", ", target.shape)}] is expected.", name);
        }

        if (target.device_type == DeviceType.CPU && target.is_contiguous() && FillDirectly(entry, target))
        {
            return;
        }

        using Tensor read = Read(name, target.dtype);
        target.copy_(read);
    }

    /// <summary>Fills a contiguous tensor of the entry's shape without anything in between; false when that is not possible.</summary>
    private protected virtual bool FillDirectly(TensorEntry entry, Tensor target) => false;

    /// <summary>
    /// The elements of a tensor in the order of its stored bytes, in the shape of its entry; a new tensor, or the same one
    /// where the file keeps the order that <see cref="Read"/> gives.
    /// </summary>
    internal virtual Tensor ToFileOrder(string name, Tensor read) => read;

    /// <summary>The way back: <c>FromFileOrder(ToFileOrder(x)) = x</c>.</summary>
    internal virtual Tensor FromFileOrder(string name, Tensor stored) => stored;

    /// <summary>SHA-256 of a tensor's stored bytes, lower-case hexadecimal.</summary>
    public string Hash(string name)
    {
        lock (hashes)
        {
            if (!hashes.TryGetValue(name, out string? hash))
            {
                hash = ComputeHash(Entry(name));
                hashes[name] = hash;
            }

            return hash;
        }
    }

    /// <summary>Releases the mapping.</summary>
    public void Dispose()
    {
        Close();
        GC.SuppressFinalize(this);
    }

    /// <summary>Releases the mapping.</summary>
    protected abstract void Close();

    string ComputeHash(TensorEntry entry)
    {
        using var sha = IncrementalHash.CreateHash(HashAlgorithmName.SHA256);
        const int Chunk = 1 << 22;
        for (long at = 0; at < entry.Length; at += Chunk)
        {
            sha.AppendData(Bytes(entry, at, (int)Math.Min(Chunk, entry.Length - at)));
        }

        return Convert.ToHexStringLower(sha.GetHashAndReset());
    }

    static Checkpoint OpenGguf(string path, string? location = null) => Gguf.GgufCheckpoint.Open(path, location ?? path);

    static CheckpointException Pickle(string path) => new(path, CheckpointProblem.Format,
        "is a pickle, which can run code when it is read, so Scalpel refuses it; convert it where it came from: " +
        "AutoModel.from_pretrained(folder).save_pretrained(folder, safe_serialization=True).");
}

/// <summary>JSON files of a checkpoint, read with limits.</summary>
static class JsonFile
{
    const int MaxBytes = 64 << 20;

    /// <summary>A file that holds an object.</summary>
    public static JsonObject Read(string path, out byte[] bytes) =>
        Parse(path, out bytes) as JsonObject ?? throw new CheckpointException(path, CheckpointProblem.HeaderSyntax, "is not a JSON object.");

    /// <summary>A file that holds a list.</summary>
    public static JsonArray ReadArray(string path) =>
        Parse(path, out _) as JsonArray ?? throw new CheckpointException(path, CheckpointProblem.HeaderSyntax, "is not a JSON list.");

    static JsonNode? Parse(string path, out byte[] bytes)
    {
        try
        {
            if (new FileInfo(path).Length > MaxBytes)
            {
                throw new CheckpointException(path, CheckpointProblem.HeaderSize, $"is larger than {MaxBytes} bytes, which no file of its kind is.");
            }

            bytes = File.ReadAllBytes(path);
            RequireUnicode(path, bytes);
            return JsonNode.Parse(bytes, documentOptions: new JsonDocumentOptions { MaxDepth = 32, AllowDuplicateProperties = false });
        }
        catch (JsonException e)
        {
            throw new CheckpointException(path, CheckpointProblem.HeaderSyntax, $"is not valid JSON: {e.Message}");
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            throw new CheckpointException(path, CheckpointProblem.Missing, $"cannot be read: {e.Message}");
        }
    }

    /// <summary>Refuses text that only shows itself as broken when a value is read: wrong UTF-8, halves of surrogate pairs.</summary>
    /// <exception cref="CheckpointException">There is some; the error names the byte.</exception>
    /// <exception cref="JsonException">The bytes are no JSON.</exception>
    public static void RequireUnicode(string path, ReadOnlySpan<byte> json)
    {
        bool valid = System.Text.Unicode.Utf8.IsValid(json);
        if (valid && json.IndexOf("\\ud"u8) < 0 && json.IndexOf("\\uD"u8) < 0)
        {
            return;
        }

        var reader = new Utf8JsonReader(json, new JsonReaderOptions { MaxDepth = 256 });
        try
        {
            while (reader.Read())
            {
                if (reader.TokenType is JsonTokenType.String or JsonTokenType.PropertyName && (reader.ValueIsEscaped || !valid))
                {
                    reader.GetString();
                }
            }
        }
        catch (InvalidOperationException)
        {
            throw new CheckpointException(path, CheckpointProblem.HeaderSyntax, "has a string that is not valid Unicode; the file is damaged.", offset: reader.TokenStartIndex);
        }
    }
}
