using System.Text.Json.Nodes;
using System.Text.RegularExpressions;
using Scalpel.Checkpoints;
using Scalpel.Networks;
using TorchSharp;
using static TorchSharp.torch;

namespace Scalpel.Training;

/// <summary>
/// Reads adapters that PEFT saved: <c>adapter_config.json</c> and <c>adapter_model.safetensors</c>. Strict: every tensor of
/// the file has a place in the network, and a field that would change the mathematics without being known is refused.
/// </summary>
public static class PeftFolder
{
    /// <summary>Fields of the configuration that are harmless, or that the tensors themselves tell.</summary>
    static readonly HashSet<string> Known = new(StringComparer.Ordinal)
    {
        "peft_type", "r", "lora_alpha", "target_modules", "base_model_name_or_path", "revision", "task_type", "bias", "lora_dropout", "fan_in_fan_out", "use_rslora", "use_dora",
        "modules_to_save", "rank_pattern", "alpha_pattern", "layers_to_transform", "layers_pattern", "exclude_modules", "init_lora_weights", "lora_bias", "inference_mode", "peft_version",
        "auto_mapping", "megatron_core", "megatron_config", "loftq_config", "qalora_group_size", "ensure_weight_tying", "feedforward_modules", "init_ia3_weights", "runtime_config", "eva_config",
        "corda_config", "lora_ga_config",
    };

    /// <summary>Reads an adapter for a network.</summary>
    /// <param name="folder">The folder.</param>
    /// <param name="network">The network that it is for.</param>
    /// <exception cref="BadInputException">A file is missing or malformed, a field is not supported, or a tensor has no place.</exception>
    public static Adapter Read(string folder, Network network)
    {
        JsonObject config = JsonFile.Read(Path.Combine(folder, "adapter_config.json"), out _);
        string where = Path.Combine(folder, "adapter_config.json");
        foreach ((string key, JsonNode? value) in config)
        {
            if (!Known.Contains(key) && !IsEmpty(value))
            {
                throw new BadInputException($"{where} sets '{key}', which changes what the adapter computes and is not supported; save the adapter without it, for example merged or converted to plain LoRA.");
            }
        }

        string type = config["peft_type"]?.GetValue<string>() ?? "";
        if (type is not ("LORA" or "IA3"))
        {
            throw new BadInputException($"{where} has the peft_type '{type}'; LORA and IA3 can be read.");
        }

        using var scope = NewDisposeScope();
        using SafeTensorsFile file = SafeTensorsFile.Open(Path.Combine(folder, "adapter_model.safetensors"));
        var left = new HashSet<string>(file.Entries.Keys, StringComparer.Ordinal);
        Tensor Take(string name)
        {
            left.Remove(name);
            return file.Read(name, ScalarType.Float32);
        }

        List<AdapterModule> modules = [];
        foreach (string name in file.Entries.Keys.Order(StringComparer.Ordinal))
        {
            if (Module(name, ".lora_A.weight") is { } path)
            {
                string start = $"{Adapter.Prefix}{path}";
                Tensor down = Take(name), up = Take(Required(file, $"{start}.lora_B.weight"));
                modules.Add(new LoraModule(path, down, up, Scale(config, path, down.shape[0]),
                    left.Contains($"{start}.lora_magnitude_vector") ? Take($"{start}.lora_magnitude_vector").view(-1) : null,
                    left.Contains($"{start}.lora_B.bias") ? Take($"{start}.lora_B.bias") : null));
            }
            else if (Module(name, ".lora_embedding_A") is { } embedding)
            {
                Tensor down = Take(name);
                modules.Add(new EmbeddingLoraModule(embedding, down, Take(Required(file, $"{Adapter.Prefix}{embedding}.lora_embedding_B")), Scale(config, embedding, down.shape[0])));
            }
            else if (Module(name, ".ia3_l") is { } scaled)
            {
                modules.Add(new Ia3Module(scaled, Take(name), Matches(config["feedforward_modules"], scaled)));
            }
        }

        Dictionary<string, (string, Tensor)> full = new(StringComparer.Ordinal);
        foreach (string name in left.Order(StringComparer.Ordinal).ToArray())
        {
            string baseName = name.StartsWith(Adapter.Prefix, StringComparison.Ordinal) ? name[Adapter.Prefix.Length..].Replace(".base_layer.", ".", StringComparison.Ordinal) : name;
            if (!network.Parameters.TryGetValue(baseName, out Tensor? parameter))
            {
                throw new BadInputException($"{folder} holds {name}, which has no place in this network; the adapter belongs to another base.");
            }

            Tensor tensor = Take(name);
            // PEFT stores the unchanged weights of adapted embeddings and heads too.
            if (name.EndsWith(".base_layer.weight", StringComparison.Ordinal))
            {
                using Tensor same = parameter.to_type(ScalarType.Float32);
                if (!same.Equals(tensor))
                {
                    throw new BadInputException($"{folder} holds {name}, a base weight that differs from this network's; the adapter belongs to another base.");
                }

                continue;
            }

            full.Add(name, (baseName, tensor));
        }

        return new Adapter(modules, full);
    }

    static string? Module(string name, string suffix) =>
        name.StartsWith(Adapter.Prefix, StringComparison.Ordinal) && name.EndsWith(suffix, StringComparison.Ordinal) ? name[Adapter.Prefix.Length..^suffix.Length] : null;

    static string Required(SafeTensorsFile file, string name) => file.Entries.ContainsKey(name) ? name : throw new BadInputException($"{file.Path} has no {name}; the adapter is incomplete.");

    static double Scale(JsonObject config, string path, long rank)
    {
        double alpha = Pattern(config["alpha_pattern"], path) ?? config["lora_alpha"]?.GetValue<double>() ?? 8;
        return config["use_rslora"]?.GetValue<bool>() == true ? alpha / Math.Sqrt(rank) : alpha / rank;
    }

    // The first key whose regular expression matches the end of the path.
    static double? Pattern(JsonNode? patterns, string path)
    {
        foreach ((string key, JsonNode? value) in patterns as JsonObject ?? [])
        {
            if (Regex.IsMatch(path, $"(^|\\.)(?:{key})$", RegexOptions.None, TimeSpan.FromSeconds(2)))
            {
                return value!.GetValue<double>();
            }
        }

        return null;
    }

    static bool Matches(JsonNode? targets, string path) => targets switch
    {
        JsonArray list => list.Any(end => Adapter.EndsWith(path, end!.GetValue<string>())),
        JsonValue pattern => Regex.IsMatch(path, $"^(?:{pattern.GetValue<string>()})$", RegexOptions.None, TimeSpan.FromSeconds(2)),
        _ => false,
    };

    static bool IsEmpty(JsonNode? value) => value switch
    {
        null => true,
        JsonObject o => o.Count == 0,
        JsonArray a => a.Count == 0,
        JsonValue v when v.TryGetValue(out bool flag) => !flag,
        JsonValue v when v.TryGetValue(out string? text) => text.Length == 0,
        _ => false,
    };
}
