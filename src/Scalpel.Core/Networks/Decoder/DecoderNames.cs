namespace Scalpel.Networks;

/// <summary>How the query, key and value matrices of a layer are stored.</summary>
enum QueryKeyValueLayout
{
    /// <summary>Three tensors.</summary>
    Separate,

    /// <summary>One tensor, rows all q, all k, all v.</summary>
    Fused,

    /// <summary>One tensor, rows [head][q, k, v][e] (GPT-NeoX).</summary>
    FusedPerHead,
}

/// <summary>
/// The tensor names of a family. Names of a layer follow its <see cref="Block"/> prefix, all follow <see cref="Prefix"/>
/// but the head; each takes .weight and, where the configuration says so, .bias.
/// </summary>
sealed record DecoderNames
{
    public required string Prefix { get; init; }
    public required string Embedding { get; init; }
    public string? Position { get; init; }
    public required string Block { get; init; }
    public string? AttentionNorm { get; init; }
    public string? MlpNorm { get; init; }
    public string? AfterAttentionNorm { get; init; }
    public string? AfterMlpNorm { get; init; }
    public string? QueryNorm { get; init; }
    public string? KeyNorm { get; init; }
    public QueryKeyValueLayout Layout { get; init; }
    public string[] QueryKeyValue { get; init; } = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"];
    public string Output { get; init; } = "self_attn.o_proj";
    public string[] GateUp { get; init; } = ["mlp.gate_proj", "mlp.up_proj"];
    public string Up { get; init; } = "";
    public string Down { get; init; } = "mlp.down_proj";
    public string Router { get; init; } = "";
    public string Experts { get; init; } = "";
    public required string FinalNorm { get; init; }
    public string Head { get; init; } = "lm_head";

    /// <summary>Matrices stored as [in, out].</summary>
    public bool Transposed { get; init; }

    static readonly DecoderNames Llama = new()
    {
        Prefix = "model.",
        Embedding = "embed_tokens",
        Block = "layers.{0}.",
        AttentionNorm = "input_layernorm",
        MlpNorm = "post_attention_layernorm",
        FinalNorm = "norm",
    };

    public static DecoderNames Of(DecoderConfig config) => config.ModelType switch
    {
        "gpt2" => new()
        {
            Prefix = "transformer.",
            Embedding = "wte",
            Position = "wpe",
            Block = "h.{0}.",
            AttentionNorm = "ln_1",
            MlpNorm = "ln_2",
            Layout = QueryKeyValueLayout.Fused,
            QueryKeyValue = ["attn.c_attn"],
            Output = "attn.c_proj",
            Up = "mlp.c_fc",
            Down = "mlp.c_proj",
            FinalNorm = "ln_f",
            Transposed = true,
        },
        "backpack" => Of(config with { ModelType = "gpt2" }) with { Prefix = "backpack.gpt2_model." },
        "gptj" => new()
        {
            Prefix = "transformer.",
            Embedding = "wte",
            Block = "h.{0}.",
            AttentionNorm = "ln_1",
            QueryKeyValue = ["attn.q_proj", "attn.k_proj", "attn.v_proj"],
            Output = "attn.out_proj",
            Up = "mlp.fc_in",
            Down = "mlp.fc_out",
            FinalNorm = "ln_f",
        },
        "gpt_neox" => new()
        {
            Prefix = "gpt_neox.",
            Embedding = "embed_in",
            Block = "layers.{0}.",
            AttentionNorm = "input_layernorm",
            MlpNorm = "post_attention_layernorm",
            Layout = QueryKeyValueLayout.FusedPerHead,
            QueryKeyValue = ["attention.query_key_value"],
            Output = "attention.dense",
            Up = "mlp.dense_h_to_4h",
            Down = "mlp.dense_4h_to_h",
            FinalNorm = "final_layer_norm",
            Head = "embed_out",
        },
        "falcon" => new()
        {
            Prefix = "transformer.",
            Embedding = "word_embeddings",
            Block = "h.{0}.",
            AttentionNorm = "input_layernorm",
            MlpNorm = config.Block == BlockKind.Sequential ? "post_attention_layernorm" : null,
            // Multi-query: all q, then the one k and v. Without it every head has its own three, as in GPT-NeoX.
            Layout = config.KeyValueHeads == 1 && config.Heads > 1 ? QueryKeyValueLayout.Fused : QueryKeyValueLayout.FusedPerHead,
            QueryKeyValue = ["self_attention.query_key_value"],
            Output = "self_attention.dense",
            Up = "mlp.dense_h_to_4h",
            Down = "mlp.dense_4h_to_h",
            FinalNorm = "ln_f",
        },
        "phi" => Llama with { MlpNorm = null, Output = "self_attn.dense", Up = "mlp.fc1", Down = "mlp.fc2", FinalNorm = "final_layernorm" },
        "phi3" => Llama with { Layout = QueryKeyValueLayout.Fused, QueryKeyValue = ["self_attn.qkv_proj"], GateUp = ["mlp.gate_up_proj"] },
        "starcoder2" => Llama with { Up = "mlp.c_fc", Down = "mlp.c_proj" },
        "mixtral" => Llama with { Router = "block_sparse_moe.gate", Experts = "block_sparse_moe.experts.{0}." },
        "qwen3" => Llama with { QueryNorm = "self_attn.q_norm", KeyNorm = "self_attn.k_norm" },
        "gemma2" => Llama with { AfterAttentionNorm = "post_attention_layernorm", MlpNorm = "pre_feedforward_layernorm", AfterMlpNorm = "post_feedforward_layernorm" },
        "gemma3_text" => Llama with
        {
            AfterAttentionNorm = "post_attention_layernorm",
            MlpNorm = "pre_feedforward_layernorm",
            AfterMlpNorm = "post_feedforward_layernorm",
            QueryNorm = "self_attn.q_norm",
            KeyNorm = "self_attn.k_norm",
        },
        "olmo2" => Llama with
        {
            AttentionNorm = null,
            MlpNorm = null,
            AfterAttentionNorm = "post_attention_layernorm",
            AfterMlpNorm = "post_feedforward_layernorm",
            QueryNorm = "self_attn.q_norm",
            KeyNorm = "self_attn.k_norm",
        },
        _ => Llama,
    };

    /// <summary>Stored buffers that are no parameters, and second names of parameters.</summary>
    public static bool IsBuffer(string name) =>
        name.EndsWith(".attn.bias", StringComparison.Ordinal) || name.EndsWith(".attn.masked_bias", StringComparison.Ordinal)
        || name.EndsWith(".attention.bias", StringComparison.Ordinal) || name.EndsWith(".attention.masked_bias", StringComparison.Ordinal)
        || name.EndsWith("rotary_emb.inv_freq", StringComparison.Ordinal)
        || name is "backpack.word_embeddings.weight" or "backpack.position_embeddings.weight";
}
