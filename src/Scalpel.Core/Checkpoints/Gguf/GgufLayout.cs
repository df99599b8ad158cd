using System.Globalization;
using TorchSharp;
using static TorchSharp.torch;

namespace Scalpel.Checkpoints.Gguf;

/// <summary>How the rows of a GGUF tensor relate to those of the Hugging Face tensor.</summary>
enum RowOrder
{
    /// <summary>Equal.</summary>
    Same,

    /// <summary>Stored [out, in], canonical [in, out] (GPT-2's Conv1D).</summary>
    Transposed,

    /// <summary>Query rows re-ordered within each head so that interleaved rotary applies.</summary>
    PermutedQuery,

    /// <summary>The same for key rows.</summary>
    PermutedKey,

    /// <summary>Stored [q; k; v], canonical [head][q, k, v] (GPT-NeoX).</summary>
    Fused,
}

/// <summary>Where a GGUF tensor stands in the Hugging Face layout of its family.</summary>
/// <param name="Name">Canonical name; with {j} for a stack of experts.</param>
/// <param name="Order">Order of its rows.</param>
/// <param name="Stacked">Whether it stacks the matrices of all experts.</param>
readonly record struct CanonicalPlace(string Name, RowOrder Order, bool Stacked = false);

/// <summary>Names and row orders of the GGUF architectures, and the way between stored and canonical tensors.</summary>
static class GgufLayout
{
    public static readonly string[] Architectures = ["llama", "qwen2", "qwen3", "gpt2", "gptj", "gptneox"];

    /// <summary>The canonical place of a stored tensor; null when the architecture has no such tensor.</summary>
    public static CanonicalPlace? PlaceOf(string architecture, string stored)
    {
        int dot = stored.LastIndexOf('.');
        if (dot < 0)
        {
            return null;
        }

        string stem = stored[..dot], kind = stored[(dot + 1)..], layer = "", part = stem;
        if (stem.StartsWith("blk.", StringComparison.Ordinal))
        {
            int end = stem.IndexOf('.', 4);
            if (end < 0 || !int.TryParse(stem.AsSpan(4, end - 4), NumberStyles.None, CultureInfo.InvariantCulture, out int l))
            {
                return null;
            }

            layer = l.ToString(CultureInfo.InvariantCulture);
            part = stem[(end + 1)..];
        }

        bool matrix = kind == "weight";
        CanonicalPlace? place = architecture switch
        {
            "llama" or "qwen2" or "qwen3" => Llama(architecture, layer, part),
            "gpt2" => Gpt2(layer, part, matrix),
            "gptj" => GptJ(layer, part),
            "gptneox" => GptNeoX(layer, part),
            _ => null,
        };
        return place is { } p ? p with { Name = $"{p.Name}.{kind}" } : null;
    }

    static CanonicalPlace? Llama(string architecture, string layer, string part)
    {
        string block = $"model.layers.{layer}";
        bool permuted = architecture == "llama";
        (string Name, RowOrder Order, bool Stacked)? place = part switch
        {
            "token_embd" => ("model.embed_tokens", RowOrder.Same, false),
            "output_norm" => ("model.norm", RowOrder.Same, false),
            "output" => ("lm_head", RowOrder.Same, false),
            _ when layer.Length == 0 => null,
            "attn_norm" => ($"{block}.input_layernorm", RowOrder.Same, false),
            "ffn_norm" => ($"{block}.post_attention_layernorm", RowOrder.Same, false),
            "attn_q" => ($"{block}.self_attn.q_proj", permuted ? RowOrder.PermutedQuery : RowOrder.Same, false),
            "attn_k" => ($"{block}.self_attn.k_proj", permuted ? RowOrder.PermutedKey : RowOrder.Same, false),
            "attn_v" => ($"{block}.self_attn.v_proj", RowOrder.Same, false),
            "attn_output" => ($"{block}.self_attn.o_proj", RowOrder.Same, false),
            "attn_q_norm" => ($"{block}.self_attn.q_norm", RowOrder.Same, false),
            "attn_k_norm" => ($"{block}.self_attn.k_norm", RowOrder.Same, false),
            "ffn_gate" or "ffn_up" or "ffn_down" => ($"{block}.mlp.{part[4..]}_proj", RowOrder.Same, false),
            "ffn_gate_inp" => ($"{block}.block_sparse_moe.gate", RowOrder.Same, false),
            "ffn_gate_exps" => ($"{block}.block_sparse_moe.experts.{{j}}.w1", RowOrder.Same, true),
            "ffn_down_exps" => ($"{block}.block_sparse_moe.experts.{{j}}.w2", RowOrder.Same, true),
            "ffn_up_exps" => ($"{block}.block_sparse_moe.experts.{{j}}.w3", RowOrder.Same, true),
            _ when part.Split('.') is ["ffn_gate" or "ffn_up" or "ffn_down", var j] && j.All(char.IsAsciiDigit) =>
                ($"{block}.block_sparse_moe.experts.{j}.{(part[4] == 'g' ? "w1" : part[4] == 'd' ? "w2" : "w3")}", RowOrder.Same, false),
            _ => null,
        };
        return place is { } p ? new CanonicalPlace(p.Name, p.Order, p.Stacked) : null;
    }

    static CanonicalPlace? Gpt2(string layer, string part, bool matrix)
    {
        string block = $"transformer.h.{layer}";
        RowOrder order = matrix ? RowOrder.Transposed : RowOrder.Same;
        return part switch
        {
            "token_embd" => new("transformer.wte", RowOrder.Same),
            "position_embd" => new("transformer.wpe", RowOrder.Same),
            "output_norm" => new("transformer.ln_f", RowOrder.Same),
            "output" => new("lm_head", RowOrder.Same),
            _ when layer.Length == 0 => null,
            "attn_norm" => new($"{block}.ln_1", RowOrder.Same),
            "ffn_norm" => new($"{block}.ln_2", RowOrder.Same),
            "attn_qkv" => new($"{block}.attn.c_attn", order),
            "attn_output" => new($"{block}.attn.c_proj", order),
            "ffn_up" => new($"{block}.mlp.c_fc", order),
            "ffn_down" => new($"{block}.mlp.c_proj", order),
            _ => null,
        };
    }

    static CanonicalPlace? GptJ(string layer, string part)
    {
        string block = $"transformer.h.{layer}";
        return part switch
        {
            "token_embd" => new("transformer.wte", RowOrder.Same),
            "output_norm" => new("transformer.ln_f", RowOrder.Same),
            "output" => new("lm_head", RowOrder.Same),
            _ when layer.Length == 0 => null,
            "attn_norm" => new($"{block}.ln_1", RowOrder.Same),
            "attn_q" or "attn_k" or "attn_v" => new($"{block}.attn.{part[5]}_proj", RowOrder.Same),
            "attn_output" => new($"{block}.attn.out_proj", RowOrder.Same),
            "ffn_up" => new($"{block}.mlp.fc_in", RowOrder.Same),
            "ffn_down" => new($"{block}.mlp.fc_out", RowOrder.Same),
            _ => null,
        };
    }

    static CanonicalPlace? GptNeoX(string layer, string part)
    {
        string block = $"gpt_neox.layers.{layer}";
        return part switch
        {
            "token_embd" => new("gpt_neox.embed_in", RowOrder.Same),
            "output_norm" => new("gpt_neox.final_layer_norm", RowOrder.Same),
            "output" => new("embed_out", RowOrder.Same),
            _ when layer.Length == 0 => null,
            "attn_norm" => new($"{block}.input_layernorm", RowOrder.Same),
            "ffn_norm" => new($"{block}.post_attention_layernorm", RowOrder.Same),
            "attn_qkv" => new($"{block}.attention.query_key_value", RowOrder.Fused),
            "attn_output" => new($"{block}.attention.dense", RowOrder.Same),
            "ffn_up" => new($"{block}.mlp.dense_h_to_4h", RowOrder.Same),
            "ffn_down" => new($"{block}.mlp.dense_4h_to_h", RowOrder.Same),
            _ => null,
        };
    }

    /// <summary>The canonical shape of a tensor stored with <paramref name="shape"/>.</summary>
    public static IReadOnlyList<long> CanonicalShape(IReadOnlyList<long> shape, RowOrder order) =>
        order == RowOrder.Transposed && shape.Count == 2 ? [shape[1], shape[0]] : shape;

    /// <summary>Re-orders a stored tensor into the canonical layout; a new tensor unless the order is the same.</summary>
    public static Tensor ToCanonical(Tensor stored, RowOrder order, int queryHeads, int keyHeads) => order switch
    {
        RowOrder.Transposed => Transposed(stored),
        RowOrder.PermutedQuery => Swap(stored, queryHeads, -1, 2),
        RowOrder.PermutedKey => Swap(stored, keyHeads, -1, 2),
        RowOrder.Fused => SwapFused(stored, 3, queryHeads),
        _ => stored,
    };

    /// <summary>The way back: <c>ToStored(ToCanonical(x)) = x</c>.</summary>
    public static Tensor ToStored(Tensor canonical, RowOrder order, int queryHeads, int keyHeads) => order switch
    {
        RowOrder.Transposed => Transposed(canonical),
        RowOrder.PermutedQuery => Swap(canonical, queryHeads, 2, -1),
        RowOrder.PermutedKey => Swap(canonical, keyHeads, 2, -1),
        RowOrder.Fused => SwapFused(canonical, queryHeads, 3),
        _ => canonical,
    };

    static Tensor Transposed(Tensor matrix)
    {
        using Tensor view = matrix.t();
        return view.contiguous();
    }

    // Rows [head][a][b] become [head][b][a].
    static Tensor Swap(Tensor rows, int heads, long a, long b)
    {
        using var scope = NewDisposeScope();
        return rows.reshape([heads, a, b, .. rows.shape[1..]]).transpose(1, 2).contiguous().reshape(rows.shape).MoveToOuterDisposeScope();
    }

    // Rows [a][b][e] become [b][a][e].
    static Tensor SwapFused(Tensor rows, long a, long b)
    {
        using var scope = NewDisposeScope();
        return rows.reshape([a, b, -1, .. rows.shape[1..]]).transpose(0, 1).contiguous().reshape(rows.shape).MoveToOuterDisposeScope();
    }
}
