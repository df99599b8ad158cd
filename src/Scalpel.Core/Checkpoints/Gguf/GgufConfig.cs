using System.Text.Json.Nodes;

namespace Scalpel.Checkpoints.Gguf;

/// <summary>Writes a GGUF file's hyper-parameters as the keys of a Hugging Face config.json.</summary>
static class GgufConfig
{
    public static void Fill(JsonObject config, GgufFile file, string architecture)
    {
        string a = architecture;
        bool experts = a == "llama" && file.Integer($"{a}.expert_count") is > 0;
        config["model_type"] = experts ? "mixtral" : a switch
        {
            "llama" when file.Integer($"{a}.attention.sliding_window") is > 0 => "mistral",
            "gptneox" => "gpt_neox",
            _ => a,
        };
        int hidden = Required(file, $"{a}.embedding_length"), heads = Required(file, $"{a}.attention.head_count");
        config["hidden_size"] = hidden;
        config["num_hidden_layers"] = Required(file, $"{a}.block_count");
        config["num_attention_heads"] = heads;
        config["num_key_value_heads"] = Optional(file, $"{a}.attention.head_count_kv") ?? heads;
        int headDim = Optional(file, $"{a}.attention.key_length") ?? hidden / heads;
        if (a is "llama" or "qwen2" or "qwen3")
        {
            config["head_dim"] = headDim;
        }

        config["intermediate_size"] = Required(file, $"{a}.feed_forward_length");
        config["max_position_embeddings"] = Required(file, $"{a}.context_length");
        config["vocab_size"] = file.Tensors.TryGetValue("token_embd.weight", out GgufTensor? embedding) && embedding.Shape.Count == 2
            ? embedding.Shape[0]
            : throw new CheckpointException(file.Path, CheckpointProblem.Missing, "has no token_embd.weight of two axes.");
        config["tie_word_embeddings"] = !file.Tensors.ContainsKey("output.weight");
        config[a is "llama" or "qwen2" or "qwen3" ? "rms_norm_eps" : a == "gptneox" ? "layer_norm_eps" : "layer_norm_epsilon"] =
            file.Number($"{a}.attention.layer_norm_rms_epsilon") ?? file.Number($"{a}.attention.layer_norm_epsilon") ?? 1e-5;
        config["hidden_act"] = a switch { "gpt2" or "gptj" => "gelu_new", "gptneox" => "gelu", _ => "silu" };
        if (a != "gpt2")
        {
            config["rope_theta"] = file.Number($"{a}.rope.freq_base") ?? 10000;
        }

        int rotary = Optional(file, $"{a}.rope.dimension_count") ?? headDim;
        if (a == "gptneox")
        {
            // The reader takes the whole part of headDim · pct.
            double share = (double)rotary / headDim;
            config["rotary_pct"] = (int)(headDim * share) == rotary ? share : Math.BitIncrement(share);
            config["use_parallel_residual"] = file.Get($"{a}.use_parallel_residual", true);
        }
        else if (a == "gptj")
        {
            config["rotary_dim"] = rotary;
        }

        if (experts)
        {
            config["num_local_experts"] = Required(file, $"{a}.expert_count");
            config["num_experts_per_tok"] = Required(file, $"{a}.expert_used_count");
        }

        if (file.Integer($"{a}.attention.sliding_window") is > 0 and { } window)
        {
            config["sliding_window"] = window;
        }

        if (a == "llama" && file.Tensors.ContainsKey("blk.0.attn_q.bias"))
        {
            config["attention_bias"] = true;
        }

        if (file.Get<string>($"{a}.rope.scaling.type") is { } scaling && scaling != "none")
        {
            var rope = new JsonObject { ["rope_type"] = scaling, ["factor"] = file.Number($"{a}.rope.scaling.factor") ?? 1 };
            if (file.Integer($"{a}.rope.scaling.original_context_length") is { } original)
            {
                rope["original_max_position_embeddings"] = original;
            }

            config["rope_scaling"] = rope;
        }

        foreach ((string key, string name) in new[] { ("bos_token_id", "bos"), ("eos_token_id", "eos"), ("pad_token_id", "padding") })
        {
            if (file.Integer($"tokenizer.ggml.{name}_token_id") is { } id)
            {
                config[key] = id;
            }
        }
    }

    static int Required(GgufFile file, string key) => Optional(file, key)
        ?? throw new CheckpointException(file.Path, CheckpointProblem.Missing, $"has no {key} in its metadata.");

    static int? Optional(GgufFile file, string key)
    {
        // Per-layer lists (head_count_kv of some models) are read when all layers agree.
        if (file.Metadata.TryGetValue(key, out object? value) && value is Array { Length: > 0 } list)
        {
            long[] numbers = [.. list.Cast<object>().Select(Convert.ToInt64)];
            return numbers.Distinct().Count() == 1 ? Checked(file, key, numbers[0])
                : throw new CheckpointException(file.Path, CheckpointProblem.Format, $"{key} differs from layer to layer, which is not supported.");
        }

        return file.Integer(key) is { } number ? Checked(file, key, number) : null;
    }

    static int Checked(GgufFile file, string key, long number) => number is > 0 and <= int.MaxValue
        ? (int)number
        : throw new CheckpointException(file.Path, CheckpointProblem.HeaderSyntax, $"{key} is {number}; expected 1 to {int.MaxValue}.");
}
