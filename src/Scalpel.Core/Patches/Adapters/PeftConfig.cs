using System.Globalization;
using System.Text.Json;
using System.Text.Json.Nodes;
using System.Text.RegularExpressions;
using Scalpel.Checkpoints;

namespace Scalpel.Patches.Adapters;

/// <summary>A PEFT adapter's <c>adapter_config.json</c>: which modules it adapts, at which rank and scale.</summary>
sealed class PeftConfig
{
    // Fields that change what the adapter computes in ways that are not implemented, whatever their value but absent, false or empty.
    static readonly string[] Refused = ["use_qalora", "layer_replication", "use_bdlora", "alora_invocation_tokens", "kasa_config", "target_parameters", "arrow_config", "megatron_config", "velora_config", "monteclora_config"];

    static readonly string[] Known =
    [
        "peft_type", "peft_version", "auto_mapping", "base_model_name_or_path", "revision", "task_type", "inference_mode", "r", "lora_alpha", "lora_dropout", "target_modules",
        "exclude_modules", "fan_in_fan_out", "bias", "use_rslora", "use_dora", "modules_to_save", "rank_pattern", "alpha_pattern", "layers_to_transform", "layers_pattern",
        "init_lora_weights", "lora_bias", "trainable_token_indices", "feedforward_modules", "init_ia3_weights", "megatron_core", "qalora_group_size", "loftq_config", "eva_config",
        "corda_config", "lora_ga_config", "runtime_config", "ensure_weight_tying",
    ];

    static readonly Dictionary<string, string[]> DefaultTargets = new(StringComparer.Ordinal)
    {
        ["llama"] = ["q_proj", "v_proj"], ["mistral"] = ["q_proj", "v_proj"], ["mixtral"] = ["q_proj", "v_proj"], ["qwen2"] = ["q_proj", "v_proj"], ["qwen3"] = ["q_proj", "v_proj"],
        ["gptj"] = ["q_proj", "v_proj"], ["opt"] = ["q_proj", "v_proj"], ["gpt_neo"] = ["q_proj", "v_proj"], ["gemma"] = ["q_proj", "v_proj"], ["gemma2"] = ["q_proj", "v_proj"],
        ["phi"] = ["q_proj", "v_proj", "fc1", "fc2"], ["gpt2"] = ["c_attn"], ["gpt_neox"] = ["query_key_value"], ["bloom"] = ["query_key_value"], ["falcon"] = ["query_key_value"],
        ["bert"] = ["query", "value"], ["roberta"] = ["query", "value"], ["t5"] = ["q", "v"],
    };

    readonly string path;

    PeftConfig(string path, JsonObject json)
    {
        this.path = path;
        Json = json;
        Type = Text("peft_type") ?? "";
        if (Type is not ("LORA" or "IA3"))
        {
            throw Error($"has the peft_type '{Type}'; LORA and IA3 are read");
        }

        if (Refused.FirstOrDefault(Given) is { } refused)
        {
            throw Error($"sets {refused}, which changes what the adapter computes and is not implemented; merge the adapter where it came from and make the patch with scalpel patch diff");
        }

        string? start = json["init_lora_weights"] is JsonValue value && value.TryGetValue(out string? text) ? text : null;
        if (start is not null && (start.StartsWith("pissa", StringComparison.Ordinal) || start is "olora" or "corda" or "loftq" or "lora_ga"))
        {
            throw Error($"starts from init_lora_weights '{start}', which changed the base weights; save it in its converted form (path_initial_model_for_weight_conversion) and import that");
        }

        Rank = Given("r") ? Number("r") : 8;
        Alpha = Given("lora_alpha") ? Number("lora_alpha") : 8;
        foreach (string key in json.Select(pair => pair.Key).Where(key => !Known.Contains(key) && !Refused.Contains(key) && Given(key)))
        {
            if (key.StartsWith("use_", StringComparison.Ordinal) || key.EndsWith("_config", StringComparison.Ordinal))
            {
                throw Error($"sets the unknown field {key}, which may change what the adapter computes");
            }

            Warnings.Add($"{path}: the field {key} is not known and was ignored.");
        }
    }

    public JsonObject Json { get; }

    public string Type { get; }

    public double Rank { get; }

    public double Alpha { get; }

    public List<string> Warnings { get; } = [];

    public bool IsDora => Flag("use_dora");

    public static PeftConfig Read(string folder)
    {
        string path = Path.Combine(folder, "adapter_config.json");
        return File.Exists(path)
            ? new PeftConfig(path, JsonFile.Read(path, out _))
            : throw new BadInputException($"{folder} has no adapter_config.json; a PEFT adapter is a folder with that file and adapter_model.safetensors.");
    }

    public BadInputException Error(string message) => new($"{path} {message}.");

    /// <summary>Rank that the config gives a module.</summary>
    public double RankOf(string module) => Pattern("rank_pattern", module) ?? Rank;

    /// <summary>Factor of the product B·A for a module whose factors have this rank.</summary>
    public double ScaleOf(string module, double rank) => (Pattern("alpha_pattern", module) ?? Alpha) / (Flag("use_rslora") ? Math.Sqrt(rank) : rank);

    /// <summary>Whether a module of the base is adapted.</summary>
    public bool Targets(string module, string? modelType, Func<string, bool> linear)
    {
        if (Text("exclude_modules") is { } excluded ? Full(excluded, module) : EndsWithOne(List("exclude_modules"), module))
        {
            return false;
        }

        if (Text("target_modules") is { } pattern)
        {
            return pattern == "all-linear" ? linear(module) && module.Split('.')[^1] is not ("lm_head" or "embed_out" or "score" or "classifier") : Full(pattern, module);
        }

        List<string> targets = List("target_modules");
        if (!Given("target_modules"))
        {
            targets = modelType is not null && DefaultTargets.TryGetValue(modelType, out string[]? usual) ? [.. usual]
                : throw Error($"names no target_modules, and there is no default for models of type '{modelType}'");
        }

        return targets.Contains(module) || EndsWithOne(targets, module) && LayerIsMeant(module);
    }

    /// <summary>Whether a module is stored whole.</summary>
    public bool Saves(string module) => EndsWithPlain(List("modules_to_save"), module);

    /// <summary>Token ids whose rows of an embedding are stored, in the order of the rows; null when none are.</summary>
    public List<long>? TokensOf(string module)
    {
        JsonNode? node = Json["trainable_token_indices"];
        JsonArray? ids = node as JsonArray ?? (node as JsonObject)?.FirstOrDefault(pair => module == pair.Key || module.EndsWith("." + pair.Key, StringComparison.Ordinal)).Value as JsonArray;
        return ids?.Select(id => id is JsonValue value && value.TryGetValue(out long number) && number >= 0 ? number : throw Error("has a trainable_token_indices that is no list of ids")).ToList();
    }

    bool LayerIsMeant(string module)
    {
        List<string> layers = Json["layers_to_transform"] is JsonValue single ? [single.ToString()] : List("layers_to_transform");
        if (layers.Count == 0)
        {
            return true;
        }

        List<string> patterns = Text("layers_pattern") is { Length: > 0 } one ? [one] : List("layers_pattern");
        Match match = patterns.Count == 0
            ? Regex(@"^.*\.[^.]*\.(\d+)\.").Match(module)
            : patterns.Select(pattern => Regex($@"^.*\.{pattern}\.(\d+)\.").Match(module)).FirstOrDefault(found => found.Success) ?? Match.Empty;
        return match.Success && layers.Contains(long.Parse(match.Groups[1].Value, CultureInfo.InvariantCulture).ToString(CultureInfo.InvariantCulture));
    }

    static bool EndsWithOne(List<string> names, string module) => names.Any(name => module == name || module.EndsWith("." + name, StringComparison.Ordinal));

    static bool EndsWithPlain(List<string> names, string module) => names.Any(name => module.EndsWith(name, StringComparison.Ordinal));

    bool Full(string pattern, string module) => Regex($@"\A(?:{pattern})\z").IsMatch(module);

    double? Pattern(string key, string module)
    {
        foreach ((string pattern, JsonNode? value) in Json[key] as JsonObject ?? [])
        {
            if (Regex($@"^(.*\.)?({pattern})$").IsMatch(module))
            {
                return value is JsonValue number && number.TryGetValue(out double x) ? x : throw Error($"gives '{pattern}' in {key} no number");
            }
        }

        return null;
    }

    Regex Regex(string pattern)
    {
        try
        {
            // In time linear in the name: the pattern comes from a file.
            return new Regex(pattern, RegexOptions.CultureInvariant | RegexOptions.NonBacktracking);
        }
        catch (Exception e) when (e is ArgumentException or NotSupportedException)
        {
            throw Error($"has the pattern '{pattern}', which cannot be used: {e.Message.TrimEnd('.')}");
        }
    }

    bool Given(string key) => Json[key] switch
    {
        null => false,
        JsonArray array => array.Count > 0,
        JsonObject map => map.Count > 0,
        JsonNode node => node.GetValueKind() != JsonValueKind.False,
    };

    bool Flag(string key) => Json[key] is JsonValue value && value.GetValueKind() == JsonValueKind.True;

    string? Text(string key) => Json[key] is JsonValue value && value.TryGetValue(out string? text) ? text : null;

    double Number(string key) => Json[key] is JsonValue value && value.TryGetValue(out double number) && number > 0 ? number : throw Error($"needs a number above 0 as {key}");

    List<string> List(string key) => Json[key] is JsonArray array ? [.. array.Select(node => node?.ToString() ?? "")] : [];
}
