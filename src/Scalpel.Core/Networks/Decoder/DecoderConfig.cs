using System.Globalization;
using System.Text.Json;
using System.Text.Json.Nodes;
using Scalpel.Networks.Layers;

namespace Scalpel.Networks;

/// <summary>How the two branches of a block are put together; A is attention, M the MLP, n a normalisation.</summary>
public enum BlockKind
{
    /// <summary>x += A(n1 x); x += M(n2 x).</summary>
    Sequential,

    /// <summary>x += A(n x) + M(n x), one norm for both (GPT-J, Phi, Falcon).</summary>
    ParallelOneNorm,

    /// <summary>x += A(n1 x) + M(n2 x) (GPT-NeoX).</summary>
    ParallelTwoNorms,

    /// <summary>x += n1(A x); x += n2(M x) (OLMo 2).</summary>
    NormAfter,

    /// <summary>x += n2(A(n1 x)); x += n4(M(n3 x)) (Gemma 2 and 3).</summary>
    Sandwich,
}

/// <summary>A decoder's hyper-parameters, whatever family and style its config.json is of.</summary>
public sealed record DecoderConfig
{
    /// <summary>The families that are known, by <c>model_type</c>.</summary>
    public static IReadOnlyList<string> Families { get; } =
        ["backpack", "falcon", "gemma", "gemma2", "gemma3_text", "gpt2", "gpt_neox", "gptj", "llama", "mistral", "mixtral", "olmo", "olmo2", "phi", "phi3", "qwen2", "qwen3", "starcoder2"];

    /// <summary>The family: <c>model_type</c>.</summary>
    public required string ModelType { get; init; }

    /// <summary>d, width of the residual stream.</summary>
    public required int Width { get; init; }

    /// <summary>L, number of blocks.</summary>
    public required int Layers { get; init; }

    /// <summary>H, query heads.</summary>
    public required int Heads { get; init; }

    /// <summary>K, key/value heads; divides H.</summary>
    public required int KeyValueHeads { get; init; }

    /// <summary>e, size of a head; not always d/H.</summary>
    public required int HeadSize { get; init; }

    /// <summary>f, width of the MLP.</summary>
    public required int Inner { get; init; }

    /// <summary>V, rows of the embedding; may exceed the tokenizer.</summary>
    public required int Vocabulary { get; init; }

    /// <summary>P, positions that the model was made for.</summary>
    public required int MaxPositions { get; init; }

    /// <summary>ε of the norms.</summary>
    public required double Epsilon { get; init; }

    /// <summary>Activation of the MLP.</summary>
    public required Activation Activation { get; init; }

    /// <summary>Kind of the norms.</summary>
    public required NormKind Norm { get; init; }

    /// <summary>How the branches are put together.</summary>
    public required BlockKind Block { get; init; }

    /// <summary>down(act(gate x) ⊙ up x) rather than down(act(up x)).</summary>
    public bool Gated { get; init; }

    /// <summary>Whether the head is the embedding.</summary>
    public bool TiedHead { get; init; }

    /// <summary>Learned positions that are added to the embedding (GPT-2).</summary>
    public bool LearnedPositions { get; init; }

    /// <summary>Biases of query, key and value.</summary>
    public bool QueryKeyValueBias { get; init; }

    /// <summary>Bias of the attention output.</summary>
    public bool OutputBias { get; init; }

    /// <summary>Biases of the MLP.</summary>
    public bool MlpBias { get; init; }

    /// <summary>Bias of the head.</summary>
    public bool HeadBias { get; init; }

    /// <summary>RMSNorm of query and key before rotary: per head (Qwen 3, Gemma 3), over all heads (OLMo 2), or none.</summary>
    public QueryKeyNorm QueryKeyNorm { get; init; }

    /// <summary>Bound to which query, key and value are clipped (OLMo); null for none.</summary>
    public double? ClipQueryKeyValue { get; init; }

    /// <summary>Factor of the scores; 1/√e by default.</summary>
    public required double AttentionScale { get; init; }

    /// <summary>Divides the scores of layer l by l + 1 as well (GPT-2, option).</summary>
    public bool ScaleByInverseLayer { get; init; }

    /// <summary>c of c·tanh(score/c), before the mask; null for none.</summary>
    public double? ScoreCap { get; init; }

    /// <summary>c of c·tanh(logit/c); null for none.</summary>
    public double? LogitCap { get; init; }

    /// <summary>Factor of the embeddings (Gemma: √d), 1 by default.</summary>
    public double EmbeddingScale { get; init; } = 1;

    /// <summary>Rotary embeddings in use; layer l uses the one at <see cref="RotaryOfLayer"/>[l]. Empty without rotary.</summary>
    public IReadOnlyList<RotaryConfig> Rotary { get; init; } = [];

    /// <summary>Index into <see cref="Rotary"/> per layer.</summary>
    public required IReadOnlyList<int> RotaryOfLayer { get; init; }

    /// <summary>Window per layer, counting the token itself; null where attention reaches all earlier tokens.</summary>
    public required IReadOnlyList<int?> Window { get; init; }

    /// <summary>Whether a layer sees earlier tokens only. All true unless a method unmasks layers.</summary>
    public required IReadOnlyList<bool> Causal { get; init; }

    /// <summary>E, experts of each MLP (Mixtral); 0 for a dense MLP.</summary>
    public int Experts { get; init; }

    /// <summary>k, experts that a token goes to.</summary>
    public int ExpertsPerToken { get; init; }

    /// <summary>Weight of the router's balance loss in training.</summary>
    public double BalanceLossWeight { get; init; }

    /// <summary>S, sense vectors of a word (Backpack); 0 for a network whose head reads the residual stream.</summary>
    public int Senses { get; init; }

    /// <summary>Width of the MLP that makes the senses.</summary>
    public int SenseInner { get; init; }

    /// <summary>Size of a sense's query and key: ⌊d/S⌋.</summary>
    internal int SenseKeySize => Width / Senses;

    /// <summary>What a <see cref="KeyValueCache"/> holds: the layers, and the senses of a Backpack as one more.</summary>
    public int CacheLayers => Layers + (Senses > 0 ? 1 : 0);

    /// <summary>Standard deviation of the matrices of a model that is made from a seed: <c>initializer_range</c>, 0.02 by default.</summary>
    public double InitializerRange { get; init; } = 0.02;

    /// <summary>Token ids that end a text, from the configuration; empty when it names none.</summary>
    public IReadOnlyList<int> EndIds { get; init; } = [];

    /// <summary>The padding token of the configuration.</summary>
    public int? PadId { get; init; }

    /// <summary>What stands on top: the language model's head, or a classifier, by the first of <c>architectures</c>.</summary>
    public HeadKind Head { get; init; }

    /// <summary>Labels of a classifier: entries of <c>id2label</c>, else <c>num_labels</c>; null when the configuration does not say.</summary>
    public int? Labels { get; init; }

    /// <summary>The configuration as it was read; unknown keys are kept and written back.</summary>
    public JsonObject Json { get; init; } = [];

    const int MostLayers = 4096;

    /// <summary>Reads a config.json of Hugging Face, old or new style.</summary>
    /// <param name="json">The file's content.</param>
    /// <param name="where">What to name in errors.</param>
    /// <exception cref="BadInputException">A key is missing or contradicts another, or the family or a feature is not known.</exception>
    public static DecoderConfig Parse(JsonObject json, string where)
    {
        var keys = new ConfigKeys(json, where);
        string family = keys.Text("model_type")
            ?? throw new BadInputException($"{where} has no model_type in its config.json; a model folder needs the config.json that came with it.");
        if (!Families.Contains(family))
        {
            throw new BadInputException($"{where} is of the family '{family}', which is not known; known are {string.Join(", ", Families)} (nearest: {Nearest.To(family, Families)[0]}).");
        }

        int d = keys.Size("hidden_size", "n_embd"), layers = keys.Size("num_hidden_layers", "n_layer"), heads = keys.Size("num_attention_heads", "n_head");
        if (layers > MostLayers || heads > d)
        {
            throw new BadInputException($"{where}: {layers} layers of {heads} heads and width {d} are no model; at most {MostLayers} layers and as many heads as the width are expected.");
        }

        bool gemma = family.StartsWith("gemma", StringComparison.Ordinal);
        int headSize = keys.Integer("head_dim") ?? (family == "qwen3" ? 128 : gemma ? 256 : d / heads);
        int keyHeads = family == "falcon"
            ? (keys.Flag("multi_query") ?? true ? 1 : heads)
            : keys.Integer("num_key_value_heads") ?? (family is "gemma2" ? 4 : heads);
        if (headSize < 1 || keyHeads < 1 || heads % keyHeads != 0)
        {
            throw new BadInputException($"{where}: {heads} query heads cannot share {keyHeads} key/value heads of size {headSize}; the number of query heads must be a multiple.");
        }

        keys.Refuse("new_decoder_architecture", "the second form of Falcon");
        keys.Refuse("alibi", "ALiBi");
        keys.Refuse("qk_layernorm", "Phi's query/key LayerNorm");
        keys.Refuse("use_bidirectional_attention", "attention to later tokens");
        bool backpack = family == "backpack";
        // A Backpack's body is GPT-2's in all but some defaults.
        string body = backpack ? "gpt2" : family;
        bool ones = body is "gpt2" or "gptj" or "gpt_neox" or "phi" or "starcoder2" or "falcon" or "olmo";
        (IReadOnlyList<RotaryConfig> rotary, int[] rotaryOfLayer) = RotaryConfig.ParseAll(keys, body, headSize, layers);
        return new DecoderConfig
        {
            ModelType = family,
            Width = d,
            Layers = layers,
            Heads = heads,
            KeyValueHeads = keyHeads,
            HeadSize = headSize,
            Inner = keys.Integer("intermediate_size", "n_inner", "ffn_hidden_size") ?? (body is "gpt2" or "gptj" or "falcon" ? 4 * d : keys.Size("intermediate_size")),
            Vocabulary = backpack ? keys.Integer("vocab_size") ?? 50264 : keys.Size("vocab_size"),
            MaxPositions = keys.Integer("max_position_embeddings", "n_positions") ?? (backpack ? 512 : 2048),
            Epsilon = keys.Number("rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon", "norm_epsilon") ?? (ones || family is "mixtral" or "olmo2" or "phi3" ? 1e-5 : 1e-6),
            Activation = ActivationOf(keys, body, where),
            Norm = family == "olmo" ? NormKind.LayerPlain : ones ? NormKind.Layer : gemma ? NormKind.RmsPlusOne : NormKind.Rms,
            Block = BlockOf(keys, family),
            Gated = body is not ("gpt2" or "gptj" or "gpt_neox" or "phi" or "starcoder2" or "falcon"),
            TiedHead = keys.Flag("tie_word_embeddings") ?? (gemma || body is "gpt2" or "starcoder2" or "falcon"),
            LearnedPositions = body == "gpt2",
            QueryKeyValueBias = body switch
            {
                "gpt2" or "phi" or "qwen2" => true,
                "gpt_neox" => keys.Flag("attention_bias") ?? true,
                "starcoder2" => keys.Flag("use_bias") ?? true,
                "falcon" => keys.Flag("bias") ?? false,
                _ => keys.Flag("attention_bias") ?? false,
            },
            OutputBias = body switch
            {
                "gpt2" or "phi" => true,
                "qwen2" => false,
                "gpt_neox" => keys.Flag("attention_bias") ?? true,
                "starcoder2" => keys.Flag("use_bias") ?? true,
                "falcon" => keys.Flag("bias") ?? false,
                _ => keys.Flag("attention_bias") ?? false,
            },
            MlpBias = body switch
            {
                "gpt2" or "gptj" or "gpt_neox" or "phi" => true,
                "starcoder2" => keys.Flag("use_bias") ?? true,
                "falcon" => keys.Flag("bias") ?? false,
                _ => keys.Flag("mlp_bias") ?? false,
            },
            HeadBias = family is "gptj" or "phi",
            QueryKeyNorm = family switch { "qwen3" or "gemma3_text" => QueryKeyNorm.PerHead, "olmo2" => QueryKeyNorm.AllHeads, _ => QueryKeyNorm.None },
            ClipQueryKeyValue = family == "olmo" ? keys.Number("clip_qkv") : null,
            AttentionScale = family is "gemma2" or "gemma3_text" ? Math.Pow(keys.Number("query_pre_attn_scalar") ?? 256, -0.5)
                : body == "gpt2" && keys.Flag("scale_attn_weights") == false ? 1 : 1 / Math.Sqrt(headSize),
            ScaleByInverseLayer = body == "gpt2" && (keys.Flag("scale_attn_by_inverse_layer_idx") ?? backpack),
            ScoreCap = family == "gemma2" ? keys.Default("attn_logit_softcapping", 50) : family == "gemma3_text" ? keys.Number("attn_logit_softcapping") : null,
            LogitCap = family == "gemma2" ? keys.Default("final_logit_softcapping", 30) : family == "gemma3_text" ? keys.Number("final_logit_softcapping") : null,
            EmbeddingScale = gemma ? Math.Sqrt(d) : 1,
            Rotary = rotary,
            RotaryOfLayer = rotaryOfLayer,
            Window = Windows(keys, family, layers),
            Causal = [.. Enumerable.Repeat(true, layers)],
            Experts = family == "mixtral" ? keys.Integer("num_local_experts") ?? 8 : 0,
            ExpertsPerToken = family == "mixtral" ? keys.Integer("num_experts_per_tok") ?? 2 : 0,
            BalanceLossWeight = family == "mixtral" ? keys.Number("router_aux_loss_coef") ?? 0.001 : 0,
            Senses = backpack ? SenseCount(keys, d) : 0,
            SenseInner = backpack ? (keys.Integer("sense_intermediate_scale") ?? 4) * d : 0,
            InitializerRange = keys.Number("initializer_range") is { } range
                ? range >= 0 && double.IsFinite(range) ? range : throw new BadInputException(FormattableString.Invariant($"{where}: initializer_range is {range}; a standard deviation of at least 0 is expected."))
                : 0.02,
            EndIds = keys.Ids("eos_token_id"),
            PadId = keys.Integer("pad_token_id"),
            Head = HeadOf(keys),
            Labels = keys.Object("id2label")?.Count ?? keys.Integer("num_labels"),
            Json = (JsonObject)json.DeepClone(),
        };
    }

    static int SenseCount(ConfigKeys keys, int d) => keys.Integer("num_senses") switch
    {
        null => 16,
        >= 1 and { } count when count <= d => count,
        var wrong => throw new BadInputException($"{keys.Where}: num_senses is {wrong}; from 1 to the width {d} is expected."),
    };

    static Activation ActivationOf(ConfigKeys keys, string family, string where)
    {
        // Gemma 1 says "gelu" and means the tanh form.
        if (family == "gemma")
        {
            return Activation.GeluTanh;
        }

        string name = keys.Text("hidden_activation") ?? keys.Text("hidden_act") ?? keys.Text("activation_function") ?? keys.Text("activation") ?? family switch
        {
            "gpt2" or "gptj" or "phi" => "gelu_new",
            "gpt_neox" or "falcon" => "gelu",
            "starcoder2" or "gemma2" or "gemma3_text" => "gelu_pytorch_tanh",
            _ => "silu",
        };
        return Activations.Parse(name, where);
    }

    static HeadKind HeadOf(ConfigKeys keys) => keys.Texts("architectures") is not [var name, ..] ? HeadKind.LanguageModel
        : name.EndsWith("ForSequenceClassification", StringComparison.Ordinal) ? HeadKind.SequenceClassification
        : name.EndsWith("ForTokenClassification", StringComparison.Ordinal) ? HeadKind.TokenClassification
        : HeadKind.LanguageModel;

    static BlockKind BlockOf(ConfigKeys keys, string family) => family switch
    {
        "gptj" or "phi" => BlockKind.ParallelOneNorm,
        "falcon" => keys.Flag("parallel_attn") ?? true ? BlockKind.ParallelOneNorm : BlockKind.Sequential,
        "gpt_neox" => keys.Flag("use_parallel_residual") ?? true ? BlockKind.ParallelTwoNorms : BlockKind.Sequential,
        "olmo2" => BlockKind.NormAfter,
        "gemma2" or "gemma3_text" => BlockKind.Sandwich,
        _ => BlockKind.Sequential,
    };

    static int?[] Windows(ConfigKeys keys, string family, int layers)
    {
        int? window = family switch
        {
            "mistral" => keys.Default("sliding_window", 4096) is { } w ? (int)w : null,
            "gemma2" or "gemma3_text" => keys.Default("sliding_window", 4096) is { } w ? (int)w : null,
            "mixtral" or "phi3" or "starcoder2" => keys.Integer("sliding_window"),
            "qwen2" or "qwen3" => keys.Flag("use_sliding_window") == true ? keys.Integer("sliding_window") : null,
            _ => null,
        };
        var result = new int?[layers];
        if (window is null)
        {
            return result;
        }

        IReadOnlyList<string>? types = keys.Texts("layer_types");
        int pattern = keys.Integer("sliding_window_pattern") ?? 6, from = keys.Integer("max_window_layers") ?? layers;
        for (int l = 0; l < layers; l++)
        {
            bool slides = types is not null && l < types.Count ? types[l] == "sliding_attention" : family switch
            {
                "gemma2" => l % 2 == 0,
                "gemma3_text" => (l + 1) % pattern != 0,
                "qwen2" or "qwen3" => l >= from,
                _ => true,
            };
            result[l] = slides ? window : null;
        }

        return result;
    }
}

/// <summary>What stands on top of a decoder.</summary>
public enum HeadKind
{
    /// <summary>Logits of the next token.</summary>
    LanguageModel,

    /// <summary>Logits of a text, from the state of its last token; with one label a scalar score, as reward models have.</summary>
    SequenceClassification,

    /// <summary>Logits of each token's labels.</summary>
    TokenClassification,
}

/// <summary>Over what query and key are normalised before rotary.</summary>
public enum QueryKeyNorm
{
    /// <summary>Not at all.</summary>
    None,

    /// <summary>Each head for itself.</summary>
    PerHead,

    /// <summary>All heads together.</summary>
    AllHeads,
}

/// <summary>Typed look-up in a config.json; a key of the wrong kind is an error that names it.</summary>
sealed class ConfigKeys(JsonObject json, string where)
{
    public string Where => where;

    public JsonObject? Object(string key) => json[key] as JsonObject;

    public string? Text(string key) => json[key] is JsonValue value
        ? value.GetValueKind() == JsonValueKind.String ? value.GetValue<string>() : throw Wrong(key, "a string")
        : null;

    public IReadOnlyList<string>? Texts(string key) => json[key] is JsonArray array ? [.. array.Select(item => item?.ToString() ?? "")] : null;

    public bool? Flag(string key) => json[key] is JsonValue value ? value.GetValueKind() switch
    {
        JsonValueKind.True => true,
        JsonValueKind.False => false,
        _ => throw Wrong(key, "true or false"),
    } : null;

    public double? Number(params ReadOnlySpan<string> names)
    {
        foreach (string key in names)
        {
            if (json[key] is JsonValue value)
            {
                return Parse(value) ?? throw Wrong(key, "a number");
            }
        }

        return null;
    }

    /// <summary>The number; the default when the key is absent, null when it is there and null.</summary>
    public double? Default(string key, double absent) => json.ContainsKey(key) ? Number(key) : absent;

    public int? Integer(params ReadOnlySpan<string> names)
    {
        foreach (string key in names)
        {
            if (Number(key) is { } number)
            {
                return number == Math.Floor(number) && Math.Abs(number) < int.MaxValue ? (int)number : throw Wrong(key, "an integer");
            }
        }

        return null;
    }

    /// <summary>A required size of at least 1.</summary>
    public int Size(params ReadOnlySpan<string> names) => Integer(names) switch
    {
        >= 1 and { } size => size,
        null => throw new BadInputException($"{where} has no {names[0]} in its config.json."),
        var wrong => throw new BadInputException($"{where}: {names[0]} is {wrong}; it must be at least 1."),
    };

    public IReadOnlyList<int> Ids(string key) => json[key] switch
    {
        JsonArray array => [.. array.Select(item => Parse(item) is { } id && id == (int)id ? (int)id : throw Wrong(key, "a list of integers"))],
        JsonValue => [Integer(key)!.Value],
        _ => [],
    };

    /// <summary>A list of exactly <paramref name="count"/> numbers; null when the key is absent.</summary>
    public IReadOnlyList<double>? Numbers(string key, int count)
    {
        if (json[key] is not JsonArray array)
        {
            return null;
        }

        return array.Count == count
            ? [.. array.Select(item => Parse(item) ?? throw Wrong(key, "a list of numbers"))]
            : throw new BadInputException($"{where}: {key} has {array.Count} entries; {count} are expected.");
    }

    public void Refuse(string key, string feature)
    {
        if (json[key] is JsonValue value && value.GetValueKind() == JsonValueKind.True)
        {
            throw new BadInputException($"{where}: config.json sets {key}, but {feature} is not supported.");
        }
    }

    // By its text: a node made in code converts to no other type than its own.
    static double? Parse(JsonNode? node) => node is JsonValue value && value.GetValueKind() == JsonValueKind.Number
        && double.TryParse(value.ToJsonString(), NumberStyles.Float, CultureInfo.InvariantCulture, out double number) ? number : null;

    BadInputException Wrong(string key, string expected) => new($"{where}: {key} is {json[key]!.ToJsonString()} in its config.json; {expected} is expected.");
}
