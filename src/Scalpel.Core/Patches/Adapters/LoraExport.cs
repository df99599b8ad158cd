using System.Text.Encodings.Web;
using System.Text.Json;
using System.Text.Json.Nodes;
using Scalpel.Checkpoints;
using TorchSharp;
using static TorchSharp.torch;

namespace Scalpel.Patches.Adapters;

/// <summary>The tools for which a patch is exported.</summary>
public enum AdapterFormat
{
    /// <summary>A folder with adapter_config.json and adapter_model.safetensors.</summary>
    Peft,

    /// <summary>pytorch_lora_weights.safetensors with <c>unet.….lora_A.weight</c>.</summary>
    Diffusers,

    /// <summary>One safetensors file with <c>lora_unet_….lora_down.weight</c>.</summary>
    Kohya,
}

/// <summary>What was exported.</summary>
/// <param name="Files">The files written.</param>
/// <param name="Errors">For each tensor that had to be approximated, the relative error of its change; a low-rank change is exact.</param>
public sealed record ExportReport(IReadOnlyList<string> Files, IReadOnlyDictionary<string, double> Errors);

/// <summary>Writes patches as LoRA adapters of other tools: exact for low-rank changes, by singular values for other changes of matrices.</summary>
public static class LoraExport
{
    static readonly JsonSerializerOptions Indented = new() { WriteIndented = true, Encoder = JavaScriptEncoder.UnsafeRelaxedJsonEscaping };

    /// <summary>One adapted module: A [r, in], B [out, r] and what else it stores.</summary>
    sealed record Module(string Path, PatchTensor A, PatchTensor B, double Scale, PatchTensor? Magnitude, bool Embedding)
    {
        public long Rank => A.Shape[0];
    }

    /// <summary>Writes a patch into a folder.</summary>
    /// <param name="patch">The patch.</param>
    /// <param name="checkpoint">Its base.</param>
    /// <param name="format">The tool.</param>
    /// <param name="folder">The folder to make.</param>
    /// <param name="rank">Rank of changes that are not of low rank; null for the smallest within <paramref name="error"/>.</param>
    /// <param name="error">Relative error for those. Default 0.01.</param>
    /// <param name="overwrite">Whether an existing folder may be replaced.</param>
    /// <param name="store">Where to write; the disk by default.</param>
    /// <exception cref="BadInputException">The base is another, or the patch changes something that the format cannot carry.</exception>
    public static ExportReport Write(Patch patch, Checkpoint checkpoint, AdapterFormat format, string folder, int? rank = null, double error = 0.01, bool overwrite = false, FileStore? store = null)
    {
        if (patch.Differences(checkpoint) is { Count: > 0 } other)
        {
            throw Patch.OtherBase(checkpoint.Location, other, force: true);
        }

        if (patch.Structure is not null || patch.Requires.Count > 0)
        {
            throw new BadInputException("The patch changes configuration or vocabulary, or requires something, which no adapter file can say.");
        }

        var target = new AdapterTarget(checkpoint);
        var errors = new SortedDictionary<string, double>(StringComparer.Ordinal);
        var modules = new List<Module>();
        var tensors = new Dictionary<string, PatchTensor>(StringComparer.Ordinal);
        var config = new JsonObject();
        foreach ((string name, Delta delta) in patch.Deltas.OrderBy(pair => pair.Key, StringComparer.Ordinal))
        {
            if (ModuleOf(patch, name, delta, target, rank, error, errors) is { } module)
            {
                modules.Add(module);
            }
            else if (format == AdapterFormat.Peft)
            {
                AddPlain(patch, name, delta, target, tensors, config);
            }
            else
            {
                throw new BadInputException($"The patch changes {name} by {delta.Kind}, which {format} files cannot carry; export it as peft or apply it.");
            }
        }

        string file = format switch { AdapterFormat.Peft => "adapter_model.safetensors", AdapterFormat.Diffusers => "pytorch_lora_weights.safetensors", _ => "lora.safetensors" };
        if (format == AdapterFormat.Peft)
        {
            AddPeft(patch, modules, target, tensors, config);
        }
        else
        {
            AddOther(format, modules, tensors);
        }

        AtomicFolder.Write(folder, overwrite, partial =>
        {
            SafeTensorsWriter.Write(Path.Combine(partial, file), [.. tensors.Select(pair => new TensorToWrite(pair.Key, pair.Value.Type, pair.Value.Shape, pair.Value.WriteTo))], new Dictionary<string, string> { ["format"] = "pt" }, store);
            if (format == AdapterFormat.Peft)
            {
                AtomicFile.WriteText(Path.Combine(partial, "adapter_config.json"), config.ToJsonString(Indented) + "\n", store);
            }
        }, store);
        return new ExportReport([.. format == AdapterFormat.Peft ? (string[])["adapter_config.json", file] : [file]], errors);
    }

    static Module? ModuleOf(Patch patch, string name, Delta delta, AdapterTarget target, int? rank, double error, SortedDictionary<string, double> errors)
    {
        TensorEntry? entry = target.Checkpoint.Tensors.GetValueOrDefault(name);
        if (entry is null || entry.Shape.Count < 2 || !name.EndsWith(".weight", StringComparison.Ordinal) || delta is Scaled or SetRows or Replace)
        {
            return null;
        }

        string path = name[..^7];
        bool embedding = AdapterTarget.IsEmbedding(path), turned = embedding || target.IsTransposed(path);
        (PatchTensor down, PatchTensor up, double scale, PatchTensor? magnitude) = delta switch
        {
            LowRank low => (low.Down, low.Up, low.Scale, null),
            Dora dora => (dora.Down, dora.Up, dora.Scale, dora.Magnitude),
            _ => Approximated(patch, name, target, rank, error, errors),
        };
        if (!turned)
        {
            return new Module(path, Convolved(down, entry.Shape), entry.Shape.Count > 2 ? Reshaped(up, [.. up.Shape, .. entry.Shape.Skip(2).Select(_ => 1L)]) : up, scale, magnitude, false);
        }

        using Tensor d = down.ToTensor(), u = up.ToTensor(), a = u.t(), b = d.t();
        return new Module(path, PatchTensor.Of(a), PatchTensor.Of(b), scale, magnitude, embedding);
    }

    static PatchTensor Convolved(PatchTensor down, IReadOnlyList<long> shape) => shape.Count > 2 ? Reshaped(down, [down.Shape[0], .. shape.Skip(1)]) : down;

    static PatchTensor Reshaped(PatchTensor tensor, long[] shape) => PatchTensor.From(tensor.Type, shape, tensor.Bytes);

    static (PatchTensor Down, PatchTensor Up, double Scale, PatchTensor? Magnitude) Approximated(Patch patch, string name, AdapterTarget target, int? rank, double error, SortedDictionary<string, double> errors)
    {
        using Tensor change = PatchConvert.Difference(patch, name, target.Checkpoint);
        Converted low = PatchConvert.ToLowRank(change, rank is null ? null : (int)Math.Min(rank.Value, Math.Min(change.shape[0], change.numel() / change.shape[0])), error);
        errors[name] = low.Error;
        var found = (LowRank)low.Delta;
        return (found.Down, found.Up, 1, null);
    }

    static void AddPlain(Patch patch, string name, Delta delta, AdapterTarget target, Dictionary<string, PatchTensor> tensors, JsonObject config)
    {
        TensorEntry entry = target.Checkpoint.Tensors.GetValueOrDefault(name) ?? throw new BadInputException($"The patch adds {name}, which an adapter cannot.");
        int dot = name.LastIndexOf('.');
        string module = name[..dot];
        switch (delta)
        {
            case Scaled scaled when name.EndsWith(".bias", StringComparison.Ordinal) && patch.Deltas.GetValueOrDefault(module + ".weight") is Scaled:
                // The factors of the weight scale the bias as well.
                return;
            case Scaled scaled:
                bool inputs = scaled.Axis == (target.IsTransposed(module) ? 0 : 1);
                long size = scaled.Factors.Count;
                tensors[$"base_model.model.{module}.ia3_l"] = Reshaped(scaled.Factors, inputs ? [1, size] : [size, 1]);
                Add(config, "target_modules", module);
                if (inputs)
                {
                    Add(config, "feedforward_modules", module);
                }

                return;
            case SetRows rows:
                var ids = new JsonArray([.. Enumerable.Range(0, (int)rows.Indices.Count).Select(i => (JsonNode?)rows.Indices.Integer(i))]);
                config["trainable_token_indices"] ??= new JsonObject();
                config["trainable_token_indices"]![module.Split('.')[^1]] = ids;
                tensors[$"base_model.model.{module}.token_adapter.trainable_tokens_delta"] = rows.Contents;
                return;
        }

        bool bias = name.EndsWith(".bias", StringComparison.Ordinal);
        bool adapted = bias && patch.Deltas.GetValueOrDefault(module + ".weight") is LowRank or Dora;
        if (adapted && delta is DenseAdd add && patch.Deltas[module + ".weight"] is LowRank low && patch.Info.Options["lora_bias"]?.GetValueKind() == JsonValueKind.True)
        {
            using Tensor sum = add.Values.ToTensor(ScalarType.Float32), part = sum / low.Scale;
            tensors[$"base_model.model.{module}.lora_B.bias"] = PatchTensor.Of(part);
            config["lora_bias"] = true;
            return;
        }

        tensors[$"base_model.model.{module}{(adapted ? ".base_layer" : "")}{name[dot..]}"] = EditedWhole(patch, name, entry, delta, target);
        if (bias)
        {
            config["bias"] = adapted && config["bias"]?.ToString() != "all" ? "lora_only" : "all";
        }
        else
        {
            Add(config, "modules_to_save", module);
        }
    }

    static PatchTensor EditedWhole(Patch patch, string name, TensorEntry entry, Delta delta, AdapterTarget target)
    {
        if (delta.EditedShape(entry.Shape) is not { } shape || !shape.SequenceEqual(entry.Shape) || entry.Type.IsQuantised())
        {
            throw new BadInputException($"The patch changes {name} by {delta.Kind}, which an adapter cannot carry.");
        }

        if (delta is Replace replace)
        {
            return replace.Contents;
        }

        byte[] bytes = new byte[entry.Length];
        BlockWrite write = PatchFiles.Edited(target.Checkpoint, entry, delta, 1);
        for (long at = 0; at < bytes.Length; at += Delta.BlockBytes)
        {
            write(bytes.AsSpan((int)at, (int)Math.Min(Delta.BlockBytes, bytes.Length - at)), at);
        }

        return PatchTensor.Of(entry.Type, entry.Shape, bytes);
    }

    static void AddPeft(Patch patch, List<Module> modules, AdapterTarget target, Dictionary<string, PatchTensor> tensors, JsonObject found)
    {
        bool dora = modules.Any(module => module.Magnitude is not null), ia3 = found.ContainsKey("target_modules");
        if (dora && modules.Any(module => module.Magnitude is null) || ia3 && modules.Count > 0)
        {
            throw new BadInputException("The patch mixes kinds (low rank, DoRA, factors) that one PEFT adapter cannot hold together; export them from separate patches.");
        }

        foreach (Module module in modules)
        {
            string key = $"base_model.model.{module.Path}";
            tensors[key + (module.Embedding ? ".lora_embedding_A" : ".lora_A.weight")] = module.A;
            tensors[key + (module.Embedding ? ".lora_embedding_B" : ".lora_B.weight")] = module.B;
            if (module.Magnitude is not null)
            {
                tensors[key + ".lora_magnitude_vector"] = module.Magnitude;
            }
        }

        JsonObject config = ia3 ? Ia3(found) : Lora(modules, dora, target, found);
        config["task_type"] = target.Task;
        config["base_model_name_or_path"] = target.Checkpoint.Config["_name_or_path"]?.DeepClone();
        // PEFT keeps the embedding and the head beside an adapted embedding.
        if (modules.Any(module => module.Embedding))
        {
            foreach (string name in target.Checkpoint.Tensors.Keys.Where(name => name.EndsWith("embed_tokens.weight", StringComparison.Ordinal) || name == "lm_head.weight"))
            {
                bool adapted = patch.Deltas.GetValueOrDefault(name) is LowRank or Dora;
                TensorEntry entry = target.Checkpoint.Entry(name);
                string key = $"base_model.model.{name[..^7]}{(adapted ? ".base_layer" : "")}.weight";
                tensors.TryAdd(key, PatchTensor.From(entry.Type, entry.Shape, (at, count) => target.Checkpoint.Bytes(entry, at, count)));
            }
        }

        foreach (string key in found.Select(pair => pair.Key).ToList())
        {
            found.Remove(key);
        }

        foreach ((string key, JsonNode? value) in config.OrderBy(pair => pair.Key, StringComparer.Ordinal))
        {
            found[key] = value?.DeepClone();
        }
    }

    static JsonObject Ia3(JsonObject found) => new()
    {
        ["peft_type"] = "IA3", ["inference_mode"] = true, ["init_ia3_weights"] = true, ["fan_in_fan_out"] = false,
        ["target_modules"] = found["target_modules"]!.DeepClone(), ["feedforward_modules"] = found["feedforward_modules"]?.DeepClone() ?? new JsonArray(), ["modules_to_save"] = found["modules_to_save"]?.DeepClone(),
    };

    static JsonObject Lora(List<Module> modules, bool dora, AdapterTarget target, JsonObject found)
    {
        if (modules.Count == 0)
        {
            throw new BadInputException("The patch changes no matrix that a LoRA could adapt; apply it to the model instead.");
        }

        long rank = modules.GroupBy(module => module.Rank).OrderByDescending(group => group.Count()).ThenBy(group => group.Key).First().Key;
        double alpha = AlphaOf(modules.First(module => module.Rank == rank));
        var ranks = new JsonObject(modules.Where(module => module.Rank != rank).Select(module => KeyValuePair.Create<string, JsonNode?>(Escaped(module), module.Rank)));
        var alphas = new JsonObject(modules.Where(module => AlphaOf(module) != alpha).Select(module => KeyValuePair.Create<string, JsonNode?>(Escaped(module), Number(AlphaOf(module)))));
        return new JsonObject
        {
            ["peft_type"] = "LORA", ["inference_mode"] = true, ["init_lora_weights"] = true,
            ["r"] = rank, ["lora_alpha"] = Number(alpha), ["lora_dropout"] = 0.0, ["rank_pattern"] = ranks, ["alpha_pattern"] = alphas,
            ["target_modules"] = new JsonArray([.. modules.Select(module => (JsonNode?)module.Path)]), ["use_dora"] = dora, ["use_rslora"] = false,
            ["fan_in_fan_out"] = modules.Any(module => !module.Embedding && target.IsTransposed(module.Path)), ["bias"] = found["bias"]?.DeepClone() ?? "none",
            ["lora_bias"] = found["lora_bias"]?.DeepClone() ?? false, ["modules_to_save"] = found["modules_to_save"]?.DeepClone(), ["trainable_token_indices"] = found["trainable_token_indices"]?.DeepClone(),
        };
    }

    static string Escaped(Module module) => module.Path.Replace(".", "\\.", StringComparison.Ordinal);

    static double AlphaOf(Module module) => module.Scale * module.Rank;

    static JsonNode Number(double value) => value == Math.Floor(value) && Math.Abs(value) < 1e9 ? JsonValue.Create((long)value) : JsonValue.Create(value);

    static void AddOther(AdapterFormat format, List<Module> modules, Dictionary<string, PatchTensor> tensors)
    {
        foreach (Module module in modules)
        {
            bool kohya = format == AdapterFormat.Kohya;
            string key = kohya ? "lora_unet_" + module.Path.Replace('.', '_') : "unet." + module.Path;
            if (module.Magnitude is not null || module.Embedding)
            {
                throw new BadInputException($"The patch adapts {module.Path} by DoRA or as an embedding, which {format} files cannot carry; export it as peft.");
            }

            if (kohya)
            {
                tensors[key + ".lora_down.weight"] = module.A;
                tensors[key + ".lora_up.weight"] = module.B;
                tensors[key + ".alpha"] = PatchTensor.Of(StorageType.F32, [], BitConverter.GetBytes((float)AlphaOf(module)));
                continue;
            }

            // Without an alpha diffusers multiplies by 1: the scale goes into B.
            using Tensor b = module.B.ToTensor(), scaled = b * module.Scale;
            tensors[key + ".lora_A.weight"] = module.A;
            tensors[key + ".lora_B.weight"] = module.Scale == 1 ? module.B : PatchTensor.Of(scaled);
        }
    }

    static void Add(JsonObject config, string key, string module)
    {
        if (config[key] is not JsonArray list)
        {
            config[key] = list = [];
        }

        list.Add(module);
    }
}
