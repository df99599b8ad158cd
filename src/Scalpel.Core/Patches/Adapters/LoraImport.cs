using System.Text.Json.Nodes;
using System.Text.RegularExpressions;
using Scalpel.Checkpoints;

namespace Scalpel.Patches.Adapters;

/// <summary>A patch that was read from another tool's adapter.</summary>
/// <param name="Patch">The patch; its options are the adapter's own configuration.</param>
/// <param name="Dialect">peft, diffusers or kohya.</param>
/// <param name="Warnings">Oddities that do not hinder use, as sentences.</param>
public sealed record ImportedAdapter(Patch Patch, string Dialect, IReadOnlyList<string> Warnings);

/// <summary>
/// Reads adapters of PEFT (LoRA, rsLoRA, DoRA, (IA)³ and what is stored with them), diffusers and kohya. Reading is strict:
/// every tensor of the adapter is used, every module that it should adapt is there; all else is an error.
/// </summary>
public static partial class LoraImport
{
    const string PeftPrefix = "base_model.model.";

    /// <summary>Reads a PEFT folder, or a safetensors file of diffusers or kohya.</summary>
    /// <param name="path">The folder or file.</param>
    /// <param name="checkpoint">The base.</param>
    /// <exception cref="BadInputException">It is none of these, does not fit the base, or computes something that is not implemented.</exception>
    public static ImportedAdapter Read(string path, Checkpoint checkpoint)
    {
        if (Directory.Exists(path) && File.Exists(Path.Combine(path, "adapter_config.json")))
        {
            return ReadPeft(path, checkpoint);
        }

        string file = Directory.Exists(path) ? Directory.EnumerateFiles(path, "*.safetensors").Order(StringComparer.Ordinal).FirstOrDefault()
            ?? throw new BadInputException($"{path} holds neither adapter_config.json nor a safetensors file; give a PEFT folder or a LoRA file.") : path;
        return ReadFile(file, checkpoint);
    }

    static ImportedAdapter ReadPeft(string folder, Checkpoint checkpoint)
    {
        PeftConfig config = PeftConfig.Read(folder);
        string path = Path.Combine(folder, "adapter_model.safetensors");
        if (!File.Exists(path))
        {
            throw new BadInputException($"{folder} has no adapter_model.safetensors{(File.Exists(Path.Combine(folder, "adapter_model.bin")) ? "; adapter_model.bin is a pickle, which can run code, so load it in PEFT and save it with safe_serialization=True" : "")}.");
        }

        using SafeTensorsFile file = SafeTensorsFile.Open(path);
        var target = new AdapterTarget(checkpoint);
        var modules = new SortedDictionary<string, AdapterModule>(StringComparer.Ordinal);
        var whole = new SortedDictionary<string, PatchTensor>(StringComparer.Ordinal);
        var deltas = new Dictionary<string, Delta>(StringComparer.Ordinal);
        foreach (TensorEntry entry in file.Entries.Values)
        {
            string name = entry.Name.StartsWith(PeftPrefix, StringComparison.Ordinal) ? entry.Name[PeftPrefix.Length..] : throw config.Error($"lies beside a tensor {entry.Name}, which does not begin with {PeftPrefix}");
            Take(name.Replace(".default.", ".", StringComparison.Ordinal).Replace(".modules_to_save.", ".", StringComparison.Ordinal), Copy(file, entry), modules, whole, config, target, deltas);
        }

        List<string> expected = [.. target.Modules.Where(module => config.Targets(module, target.ModelType, target.IsLinear))];
        foreach ((string module, AdapterModule parts) in modules)
        {
            if (parts.Factors is null && parts.A is not null && parts.Rank != config.RankOf(module))
            {
                throw config.Error($"gives {module} the rank {config.RankOf(module)}, its tensors have {parts.Rank}");
            }

            if (config.IsDora && parts.Factors is null && parts.Magnitude is null)
            {
                throw config.Error($"asks for DoRA, but {module} has no lora_magnitude_vector");
            }

            parts.AddTo(deltas, module, target, parts.Factors is null ? config.ScaleOf(module, parts.Rank) : 1);
        }

        var adapted = modules.Keys.Select(module => target.Find(module + ".weight")!.Name[..^7]).ToHashSet(StringComparer.Ordinal);
        if (expected.FirstOrDefault(module => !adapted.Contains(module)) is { } missing)
        {
            throw config.Error($"targets {missing}, for which adapter_model.safetensors has no tensors; the adapter is incomplete or for another base");
        }

        if (adapted.FirstOrDefault(module => !expected.Contains(module)) is { } extra)
        {
            throw config.Error($"does not target {extra}, for which adapter_model.safetensors has tensors");
        }

        foreach ((string name, PatchTensor values) in whole)
        {
            TakeWhole(name, values, target, config, deltas);
        }

        var info = new PatchInfo { Method = config.Type == "IA3" ? "ia3" : config.IsDora ? "dora" : "lora", Options = (JsonObject)config.Json.DeepClone() };
        return new ImportedAdapter(Patch.For(checkpoint, info, deltas), "peft", config.Warnings);
    }

    static void Take(string name, PatchTensor tensor, IDictionary<string, AdapterModule> modules, IDictionary<string, PatchTensor> whole, PeftConfig config, AdapterTarget target, Dictionary<string, Delta> deltas)
    {
        Match match = PeftSuffix().Match(name);
        if (!match.Success)
        {
            whole[name] = tensor;
            return;
        }

        string path = match.Groups[1].Value;
        if (match.Groups[2].Value.EndsWith("trainable_tokens_delta", StringComparison.Ordinal))
        {
            TensorEntry entry = target.Find(path + ".weight") ?? throw AdapterModule.NoTensor(target, path + ".weight");
            List<long> ids = config.TokensOf(path) ?? throw config.Error($"names no trainable_token_indices for {path}");
            deltas[entry.Name] = TokenRows(ids, tensor, path);
            return;
        }

        if (!modules.TryGetValue(path, out AdapterModule? module))
        {
            modules[path] = module = new AdapterModule();
        }

        switch (match.Groups[2].Value)
        {
            case "lora_A.weight": module.A = tensor; break;
            case "lora_B.weight": module.B = tensor; break;
            case "lora_B.bias": module.BiasOfB = tensor; break;
            case "lora_embedding_A": (module.A, module.IsEmbedding) = (tensor, true); break;
            case "lora_embedding_B": (module.B, module.IsEmbedding) = (tensor, true); break;
            case "ia3_l": module.Factors = tensor; break;
            default: module.Magnitude = tensor; break;
        }
    }

    static SetRows TokenRows(List<long> ids, PatchTensor rows, string module)
    {
        if (rows.Shape.Count != 2 || rows.Shape[0] != ids.Count || ids.Distinct().Count() != ids.Count)
        {
            throw new BadInputException($"The adapter stores {rows.Shape[0]} token rows of {module} for {ids.Distinct().Count()} different ids; one row for each was expected.");
        }

        int[] order = [.. Enumerable.Range(0, ids.Count).OrderBy(i => ids[i])];
        float[] values = rows.Values<float>();
        int width = (int)rows.Shape[1];
        float[] sorted = [.. order.SelectMany(i => values.Skip(i * width).Take(width))];
        return new SetRows(PatchTensor.Of(order.Select(i => ids[i]).ToArray()), PatchTensor.Of(sorted, ids.Count, width));
    }

    // Whole tensors are biases, modules to save, and, beside an adapted embedding, the base's own embedding and head.
    static void TakeWhole(string name, PatchTensor values, AdapterTarget target, PeftConfig config, Dictionary<string, Delta> deltas)
    {
        string plain = name.Replace(".base_layer.", ".", StringComparison.Ordinal);
        TensorEntry entry = target.Find(plain) ?? throw AdapterModule.NoTensor(target, plain);
        if (!values.Shape.SequenceEqual(entry.Shape) || Append.Convertible(values, new BaseTensor(entry.Type, entry.Shape, "")) is not null && !Elements.IsFloat(entry.Type))
        {
            throw new BadInputException($"The adapter stores {plain} as {values.Type} [{string.Join(", ", values.Shape)}], the base as {entry.Type} [{string.Join(", ", entry.Shape)}].");
        }

        PatchTensor stored = values.Type == entry.Type ? values : Append.Convert(Widened(values), entry.Type);
        string hash = new Replace(stored).EditedHash;
        bool same = hash == target.Checkpoint.Hash(entry.Name);
        bool bias = plain.EndsWith(".bias", StringComparison.Ordinal), saved = config.Saves(plain[..plain.LastIndexOf('.')]);
        if (same)
        {
            return;
        }

        if (deltas.ContainsKey(entry.Name) || !saved && !(bias && config.Json["bias"]?.ToString() is "all" or "lora_only"))
        {
            throw new BadInputException($"The adapter stores {name} with other values than the base, which its configuration does not provide for; it was made for another base.");
        }

        deltas[entry.Name] = new Replace(stored);
    }

    static PatchTensor Widened(PatchTensor values) => PatchTensor.Of(values.Values<float>(), [.. values.Shape]);

    static PatchTensor Copy(SafeTensorsFile file, TensorEntry entry)
    {
        if (!Elements.IsFloat(entry.Type))
        {
            throw new BadInputException($"{file.Path} holds {entry.Name} as {entry.Type}; F64, F32, F16 or BF16 was expected.");
        }

        return PatchTensor.Of(entry.Type, entry.Shape, PatchTensor.From(entry.Type, entry.Shape, (at, count) => file.Bytes(entry, at, count)).ToArray());
    }

    [GeneratedRegex(@"^(.+?)\.(lora_A\.weight|lora_B\.weight|lora_B\.bias|lora_embedding_A|lora_embedding_B|lora_magnitude_vector|lora_magnitude_vector\.weight|ia3_l|(?:token_adapter\.)?trainable_tokens_delta)$")]
    private static partial Regex PeftSuffix();
}
