using System.Security.Cryptography;
using System.Text.Json;
using System.Text.Json.Nodes;
using TorchSharp;
using static TorchSharp.torch;

namespace Scalpel.Checkpoints;

/// <summary>A Hugging Face folder (one file or shards), or a single safetensors file.</summary>
sealed class SafeTensorsCheckpoint : Checkpoint
{
    internal const string IndexName = "model.safetensors.index.json";

    readonly Dictionary<string, SafeTensorsFile> files = new(StringComparer.Ordinal);
    readonly Dictionary<string, TensorEntry> tensors = new(StringComparer.Ordinal);
    readonly List<string> warnings = [];
    JsonObject config = [];
    string configHash = "";

    public override JsonObject Config => config;

    public override string ConfigHash => configHash;

    public override IReadOnlyDictionary<string, TensorEntry> Tensors => tensors;

    public override IReadOnlyList<string> Files => [.. files.Keys];

    public override IReadOnlyList<string> Warnings => warnings;

    public static SafeTensorsCheckpoint OpenFile(string path) =>
        Opened(new SafeTensorsCheckpoint { Location = path, Folder = Path.GetDirectoryName(Path.GetFullPath(path))! }, c => c.Add(Path.GetFullPath(path)));

    public static SafeTensorsCheckpoint OpenFolder(string path) =>
        Opened(new SafeTensorsCheckpoint { Location = path, Folder = Path.GetFullPath(path) }, c => c.AddAll());

    static SafeTensorsCheckpoint Opened(SafeTensorsCheckpoint checkpoint, Action<SafeTensorsCheckpoint> add)
    {
        try
        {
            string file = Path.Combine(checkpoint.Folder, "config.json");
            byte[] bytes = [];
            if (File.Exists(file))
            {
                checkpoint.config = JsonFile.Read(file, out bytes);
            }

            checkpoint.configHash = Convert.ToHexStringLower(SHA256.HashData(bytes));
            add(checkpoint);
            return checkpoint;
        }
        catch
        {
            checkpoint.Close();
            throw;
        }
    }

    /// <summary>The safetensors files of a folder; a patch beside a model is no part of it.</summary>
    internal static IEnumerable<string> WeightsIn(string folder) =>
        Directory.EnumerateFiles(folder, "*.safetensors").Where(file => !file.EndsWith(Patches.Patch.Suffix, StringComparison.Ordinal));

    void AddAll()
    {
        string index = Path.Combine(Folder, IndexName);
        if (File.Exists(index))
        {
            AddShards(index);
            return;
        }

        string[] found = [.. WeightsIn(Folder).Order(StringComparer.Ordinal)];
        string? main = found.Length == 1 ? found[0] : found.FirstOrDefault(file => Path.GetFileName(file) == "model.safetensors");
        Add(main ?? throw new CheckpointException(Location, CheckpointProblem.Index, $"holds {found.Length} safetensors files but neither model.safetensors nor {IndexName}; name one file."));
    }

    void AddShards(string index)
    {
        JsonObject json = JsonFile.Read(index, out _);
        if (json["weight_map"] is not JsonObject map || map.Count == 0)
        {
            throw new CheckpointException(index, CheckpointProblem.Index, "has no weight_map of tensor names to file names.");
        }

        var shardOf = new Dictionary<string, string>(StringComparer.Ordinal);
        foreach ((string name, JsonNode? value) in map)
        {
            string? shard = value is JsonValue && value.GetValueKind() == JsonValueKind.String ? value.GetValue<string>() : null;
            if (string.IsNullOrEmpty(shard) || shard != Path.GetFileName(shard) || shard.Contains('\\', StringComparison.Ordinal) || shard is "." or ".." || !shard.EndsWith(".safetensors", StringComparison.Ordinal))
            {
                throw new CheckpointException(index, CheckpointProblem.Index, $"maps to '{shard}', which is not the plain name of a safetensors file in the same folder.", name);
            }

            shardOf[name] = shard;
        }

        foreach (string shard in shardOf.Values.Distinct(StringComparer.Ordinal).Order(StringComparer.Ordinal))
        {
            string file = Path.Combine(Folder, shard);
            if (!File.Exists(file))
            {
                throw new CheckpointException(index, CheckpointProblem.Missing, $"names the shard {shard}, which is not in the folder; download it again.");
            }

            Add(file);
        }

        foreach ((string name, string shard) in shardOf)
        {
            if (!tensors.TryGetValue(name, out TensorEntry? entry) || Path.GetFileName(entry.File) != shard)
            {
                throw new CheckpointException(index, CheckpointProblem.Index, $"is mapped to {shard}, which does not hold it.", name);
            }
        }

        foreach (string name in tensors.Keys.Where(name => !shardOf.ContainsKey(name)))
        {
            throw new CheckpointException(index, CheckpointProblem.Index, "lies in a shard but is not in the index.", name);
        }

        long total = tensors.Values.Sum(entry => entry.Length);
        if (json["metadata"]?["total_size"] is JsonValue size && size.TryGetValue(out long claimed) && claimed != total)
        {
            warnings.Add($"{index}: total_size is {claimed}, but the tensors have {total} bytes.");
        }
    }

    void Add(string path)
    {
        SafeTensorsFile file = SafeTensorsFile.Open(path);
        files.Add(path, file);
        foreach ((string name, TensorEntry entry) in file.Entries)
        {
            if (!tensors.TryAdd(name, entry))
            {
                throw new CheckpointException(path, CheckpointProblem.Duplicate, $"stands in {Path.GetFileName(tensors[name].File)} as well.", name);
            }
        }
    }

    public override ReadOnlySpan<byte> Bytes(TensorEntry entry, long start, int count) => files[entry.File].Bytes(entry, start, count);

    public override Tensor Read(string name, ScalarType? dtype = null) => files[Entry(name).File].Read(name, dtype);

    private protected override unsafe bool FillDirectly(TensorEntry entry, Tensor target) =>
        StoredTensor.Fill(entry.Type, files[entry.File].Pointer(entry), target, target.numel());

    protected override void Close()
    {
        foreach (SafeTensorsFile file in files.Values)
        {
            file.Dispose();
        }
    }
}
