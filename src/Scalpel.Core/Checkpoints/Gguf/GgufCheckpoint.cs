using System.Security.Cryptography;
using System.Text.Json.Nodes;
using TorchSharp;
using static TorchSharp.torch;

namespace Scalpel.Checkpoints.Gguf;

/// <summary>
/// A GGUF file seen as a checkpoint: Hugging Face names, shapes and row order, quantised blocks expanded on reading.
/// </summary>
public sealed class GgufCheckpoint : Checkpoint
{
    readonly Dictionary<string, TensorEntry> tensors = new(StringComparer.Ordinal);
    readonly Dictionary<string, RowOrder> orders = new(StringComparer.Ordinal);
    readonly List<string> warnings = [];
    int queryHeads, keyHeads;

    GgufCheckpoint(GgufFile file) => File = file;

    /// <summary>The file with its metadata.</summary>
    public GgufFile File { get; }

    /// <inheritdoc/>
    public override JsonObject Config { get; } = [];

    /// <inheritdoc/>
    public override string ConfigHash => field ??= HashOfMetadata();

    /// <inheritdoc/>
    public override IReadOnlyDictionary<string, TensorEntry> Tensors => tensors;

    /// <inheritdoc/>
    public override IReadOnlyList<string> Files => [Path.GetFullPath(File.Path)];

    /// <inheritdoc/>
    public override IReadOnlyList<string> Warnings => warnings;

    /// <summary>Opens a GGUF file.</summary>
    /// <param name="path">The file.</param>
    /// <param name="location">What the user named: the file, or the folder that holds it.</param>
    /// <exception cref="CheckpointException">It is malformed or of an unknown architecture.</exception>
    public static GgufCheckpoint Open(string path, string location)
    {
        var checkpoint = new GgufCheckpoint(GgufFile.Open(path)) { Location = location, Folder = Path.GetDirectoryName(Path.GetFullPath(path))! };
        try
        {
            checkpoint.Build();
            return checkpoint;
        }
        catch
        {
            checkpoint.Close();
            throw;
        }
    }

    /// <inheritdoc/>
    public override ReadOnlySpan<byte> Bytes(TensorEntry entry, long start, int count)
    {
        ArgumentOutOfRangeException.ThrowIfNegative(start);
        ArgumentOutOfRangeException.ThrowIfGreaterThan(start + count, entry.Length);
        return File.Bytes(entry.Offset + start, count);
    }

    /// <inheritdoc/>
    public override Tensor Read(string name, ScalarType? dtype = null)
    {
        TensorEntry entry = Entry(name);
        Tensor stored = File.Read(entry.StoredName, entry.Type, GgufLayout.CanonicalShape(entry.Shape, orders[name]), entry.Offset, entry.Length, dtype);
        Tensor canonical = GgufLayout.ToCanonical(stored, orders[name], queryHeads, keyHeads);
        if (!ReferenceEquals(canonical, stored))
        {
            stored.Dispose();
        }

        return canonical;
    }

    private protected override unsafe bool FillDirectly(TensorEntry entry, Tensor target) =>
        orders[entry.Name] == RowOrder.Same && StoredTensor.Fill(entry.Type, File.Pointer(entry.Offset, entry.Length), target, target.numel());

    /// <summary>
    /// A changed tensor as it is written to the file: in the file's name, shape and row order and in one of
    /// <see cref="Quantiser.Types"/>.
    /// </summary>
    /// <param name="name">Its name in the Hugging Face layout.</param>
    /// <param name="value">Its new values in the Hugging Face layout; must live until the tensor has been written.</param>
    /// <param name="type">The type to store; by default float32, which is exact.</param>
    /// <exception cref="BadInputException">The type cannot be written, or the tensor is one expert of a stack, which shares one type.</exception>
    public TensorToWrite Encode(string name, Tensor value, StorageType type = StorageType.F32)
    {
        TensorEntry entry = Entry(name);
        if (File.Tensors[entry.StoredName].Length != entry.Length)
        {
            throw new BadInputException($"{name} is one of the experts in {entry.StoredName} of {File.Path}, which cannot be written one by one; apply the edit to the model's safetensors files.");
        }

        if (!Quantiser.Types.Contains(type))
        {
            throw new BadInputException($"Tensors cannot be written as {type}; choose one of {string.Join(", ", Quantiser.Types)}.");
        }

        return new TensorToWrite(entry.StoredName, type, GgufLayout.CanonicalShape(value.shape, orders[name]), stream => WriteStored(stream, name, value, type));
    }

    /// <inheritdoc/>
    internal override Tensor ToFileOrder(string name, Tensor read)
    {
        using Tensor stored = GgufLayout.ToStored(read, orders[name], queryHeads, keyHeads);
        return ReferenceEquals(stored, read) ? read.alias() : stored.reshape(read.shape);
    }

    /// <inheritdoc/>
    internal override Tensor FromFileOrder(string name, Tensor stored)
    {
        using Tensor shaped = stored.reshape([.. GgufLayout.CanonicalShape(stored.shape, orders[name])]);
        Tensor read = GgufLayout.ToCanonical(shaped, orders[name], queryHeads, keyHeads);
        return ReferenceEquals(read, shaped) ? shaped.alias() : read;
    }

    unsafe void WriteStored(Stream stream, string name, Tensor value, StorageType type)
    {
        using var scope = NewDisposeScope();
        Tensor wide = value.detach().to_type(ScalarType.Float32).contiguous();
        Tensor stored = ToFileOrder(name, wide).contiguous();
        const int Part = 1 << 20;
        byte[] buffer = new byte[Part / type.BlockElements() * type.BlockBytes()];
        var source = (float*)StoredTensor.Pointer(stored);
        for (long at = 0, count = stored.numel(); at < count; at += Part)
        {
            int length = (int)Math.Min(Part, count - at), bytes = length / type.BlockElements() * type.BlockBytes();
            Quantiser.Quantise(type, new ReadOnlySpan<float>(source + at, length), buffer.AsSpan(0, bytes));
            stream.Write(buffer, 0, bytes);
        }
    }

    /// <inheritdoc/>
    protected override void Close() => File.Dispose();

    void Build()
    {
        string architecture = File.Get<string>("general.architecture")
            ?? throw new CheckpointException(File.Path, CheckpointProblem.Missing, "has no general.architecture in its metadata.");
        if (!GgufLayout.Architectures.Contains(architecture))
        {
            throw new CheckpointException(File.Path, CheckpointProblem.Format, $"is of the architecture {architecture}; known are {string.Join(", ", GgufLayout.Architectures)}.");
        }

        GgufConfig.Fill(Config, File, architecture);
        queryHeads = Config["num_attention_heads"]!.GetValue<int>();
        keyHeads = Config["num_key_value_heads"]!.GetValue<int>();
        foreach (GgufTensor tensor in File.Tensors.Values)
        {
            if (tensor.Name == "rope_freqs.weight")
            {
                Config["rope_freqs"] = new JsonArray([.. ReadFloats(tensor).Select(value => JsonValue.Create(value))]);
            }
            else if (GgufLayout.PlaceOf(architecture, tensor.Name) is { } place)
            {
                Add(tensor, place);
            }
            else
            {
                warnings.Add($"{File.Path}: the tensor {tensor.Name} has no place in {architecture} and is carried along unread.");
            }
        }
    }

    void Add(GgufTensor tensor, CanonicalPlace place)
    {
        if (!place.Stacked)
        {
            AddOne(place.Name, tensor, tensor.Shape, tensor.Offset, tensor.Length, place.Order);
            return;
        }

        if (tensor.Shape.Count != 3 || tensor.Shape[0] is < 1 or > 4096)
        {
            throw new CheckpointException(File.Path, CheckpointProblem.Shape, $"has the shape [{string.Join(", ", tensor.Shape)}]; stacked experts have three axes, the first of at most 4096.", tensor.Name);
        }

        long bytes = tensor.Length / tensor.Shape[0];
        for (int j = 0; j < tensor.Shape[0]; j++)
        {
            AddOne(place.Name.Replace("{j}", j.ToString(System.Globalization.CultureInfo.InvariantCulture), StringComparison.Ordinal), tensor, [tensor.Shape[1], tensor.Shape[2]], tensor.Offset + j * bytes, bytes, place.Order);
        }
    }

    void AddOne(string name, GgufTensor tensor, IReadOnlyList<long> shape, long offset, long length, RowOrder order)
    {
        long heads = order switch { RowOrder.PermutedQuery => 2L * queryHeads, RowOrder.PermutedKey => 2L * keyHeads, RowOrder.Fused => 3L * queryHeads, _ => 1 };
        if (shape.Count == 0 || shape[0] % heads != 0)
        {
            throw new CheckpointException(File.Path, CheckpointProblem.Shape, $"has the shape [{string.Join(", ", shape)}], whose rows do not divide among the heads.", tensor.Name);
        }

        var entry = new TensorEntry(name, tensor.Type, GgufLayout.CanonicalShape(shape, order), Files[0], offset, length) { StoredName = tensor.Name };
        if (!tensors.TryAdd(name, entry))
        {
            throw new CheckpointException(File.Path, CheckpointProblem.Duplicate, $"and {tensors[name].StoredName} are both {name}.", tensor.Name);
        }

        orders[name] = order;
    }

    float[] ReadFloats(GgufTensor tensor)
    {
        if (tensor.Length > 1 << 16)
        {
            throw new CheckpointException(File.Path, CheckpointProblem.Shape, $"has {tensor.Length} bytes; rotary factors are one number for each pair of a head.", tensor.Name);
        }

        using Tensor values = File.Read(tensor.Name, ScalarType.Float32);
        return values.data<float>().ToArray();
    }

    string HashOfMetadata()
    {
        using var sha = IncrementalHash.CreateHash(HashAlgorithmName.SHA256);
        const int Chunk = 1 << 20;
        for (long at = 0; at < File.MetadataEnd; at += Chunk)
        {
            sha.AppendData(File.Bytes(at, (int)Math.Min(Chunk, File.MetadataEnd - at)));
        }

        return Convert.ToHexStringLower(sha.GetHashAndReset());
    }
}
