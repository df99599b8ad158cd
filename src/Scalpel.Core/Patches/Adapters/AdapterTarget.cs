using System.Text.Json.Nodes;
using Scalpel.Checkpoints;

namespace Scalpel.Patches.Adapters;

/// <summary>The modules of a base as adapter files name them.</summary>
sealed class AdapterTarget(Checkpoint checkpoint)
{
    static readonly string[] Embeddings = ["embed_tokens", "wte", "wpe", "embed_in", "word_embeddings", "position_embeddings", "token_type_embeddings", "token_embedding", "position_embedding", "shared"];
    static readonly string[] Conv1D = ["c_attn", "c_proj", "c_fc", "q_attn"];

    // What wraps a bare model in its task's class; original GPT-2 files leave it out.
    static readonly string[] Prefixes = ["transformer.", "model.", "gpt_neox."];

    public string? ModelType => checkpoint.Config["model_type"]?.ToString();

    public Checkpoint Checkpoint => checkpoint;

    /// <summary>Modules with a weight of two axes or more, as the task's class names them.</summary>
    public IEnumerable<string> Modules => checkpoint.Tensors.Values.Where(entry => entry.Shape.Count >= 2 && entry.Name.EndsWith(".weight", StringComparison.Ordinal)).Select(entry => entry.Name[..^7]);

    /// <summary>The tensor of the base for a path in an adapter; null when there is none.</summary>
    public TensorEntry? Find(string path)
    {
        if (checkpoint.Tensors.TryGetValue(path, out TensorEntry? entry))
        {
            return entry;
        }

        string? prefix = Prefixes.FirstOrDefault(prefix => path.StartsWith(prefix, StringComparison.Ordinal) && checkpoint.Tensors.ContainsKey(path[prefix.Length..]));
        return prefix is not null ? checkpoint.Tensors[path[prefix.Length..]]
            : Prefixes.Select(p => checkpoint.Tensors.GetValueOrDefault(p + path)).FirstOrDefault(found => found is not null);
    }

    /// <summary>PEFT's name for what the base does, by which it chooses the class that wraps it.</summary>
    public string Task => (checkpoint.Config["architectures"] as JsonArray)?.FirstOrDefault()?.ToString() switch
    {
        { } name when name.EndsWith("ForSequenceClassification", StringComparison.Ordinal) => "SEQ_CLS",
        { } name when name.EndsWith("ForTokenClassification", StringComparison.Ordinal) => "TOKEN_CLS",
        { } name when !name.EndsWith("ForCausalLM", StringComparison.Ordinal) && !name.EndsWith("LMHeadModel", StringComparison.Ordinal) => "FEATURE_EXTRACTION",
        _ => "CAUSAL_LM",
    };

    public static bool IsEmbedding(string module) => Embeddings.Contains(module.Split('.')[^1]);

    /// <summary>Whether the module's matrix is stored [in, out].</summary>
    public bool IsTransposed(string module) => ModelType is "gpt2" or "openai-gpt" or "imagegpt" or "decision_transformer" or "backpack" && Conv1D.Contains(module.Split('.')[^1])
        && !module.EndsWith("sense_weight_net.c_attn", StringComparison.Ordinal);

    public bool IsLinear(string module) => !IsEmbedding(module);
}
