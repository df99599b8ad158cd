using System.Text.Json.Nodes;
using Scalpel.Networks.Layers;

namespace Scalpel.Networks;

/// <summary>What an encoder's checkpoint answers with, by the class in its <c>architectures</c>.</summary>
public enum EncoderTask
{
    /// <summary>States only.</summary>
    States,

    /// <summary>One label a text.</summary>
    SequenceClassification,

    /// <summary>One label a token.</summary>
    TokenClassification,

    /// <summary>The token at each position.</summary>
    MaskedLanguageModel,
}

/// <summary>A text encoder's hyper-parameters.</summary>
public sealed record EncoderConfig
{
    /// <summary>The families that are known, by <c>model_type</c>.</summary>
    public static IReadOnlyList<string> Families { get; } = ["bert", "clip_text_model", "distilbert", "roberta", "t5", "xlm-roberta"];

    /// <summary>The family: <c>model_type</c>.</summary>
    public required string ModelType { get; init; }

    /// <summary>d, width of the states.</summary>
    public required int Width { get; init; }

    /// <summary>L, number of blocks.</summary>
    public required int Layers { get; init; }

    /// <summary>H, attention heads.</summary>
    public required int Heads { get; init; }

    /// <summary>e, size of a head.</summary>
    public required int HeadSize { get; init; }

    /// <summary>f, width of the MLP.</summary>
    public required int Inner { get; init; }

    /// <summary>V, rows of the embedding.</summary>
    public required int Vocabulary { get; init; }

    /// <summary>Rows of the position table; 0 where positions are relative (T5).</summary>
    public required int PositionRows { get; init; }

    /// <summary>Longest text in tokens; RoBERTa's table has two more rows than that.</summary>
    public int MaxTokens => PositionRows == 0 ? int.MaxValue : PositionRows - PositionOffset;

    /// <summary>Position of the first token; RoBERTa counts from padding id + 1.</summary>
    public int PositionOffset { get; init; }

    /// <summary>Whether positions count the tokens of a row only, and padding keeps the padding id (RoBERTa).</summary>
    public bool PositionsSkipPadding { get; init; }

    /// <summary>Rows of the token-type table; 0 without one.</summary>
    public int TokenTypes { get; init; }

    /// <summary>ε of the norms.</summary>
    public required double Epsilon { get; init; }

    /// <summary>Activation of the MLP.</summary>
    public required Activation Activation { get; init; }

    /// <summary>down(act(gate x) ⊙ up x) (T5 1.1).</summary>
    public bool Gated { get; init; }

    /// <summary>x += A(n1 x); x += M(n2 x) with a norm at the end, rather than x = n1(x + A x); x = n2(x + M x).</summary>
    public bool NormFirst { get; init; }

    /// <summary>Kind of the norms.</summary>
    public NormKind Norm { get; init; } = NormKind.Layer;

    /// <summary>Whether attention sees earlier tokens only (CLIP's text tower).</summary>
    public bool Causal { get; init; }

    /// <summary>Whether matrices have biases.</summary>
    public bool Biases { get; init; } = true;

    /// <summary>Factor of the scores: 1/√e, or 1 (T5).</summary>
    public required double AttentionScale { get; init; }

    /// <summary>Buckets of the relative position bias; 0 for none.</summary>
    public int RelativeBuckets { get; init; }

    /// <summary>Distance from which all positions share a bucket.</summary>
    public int RelativeMaxDistance { get; init; } = 128;

    /// <summary>Padding id of the configuration.</summary>
    public int? PadId { get; init; }

    /// <summary>End id of the configuration; CLIP pools there.</summary>
    public int? EndId { get; init; }

    /// <summary>Width of the projection of the pooled state (CLIP); 0 for none.</summary>
    public int ProjectionWidth { get; init; }

    /// <summary>What the checkpoint was saved for.</summary>
    public EncoderTask Task { get; init; }

    /// <summary>Names of the labels by index; empty when there are none.</summary>
    public IReadOnlyList<string> Labels { get; init; } = [];

    /// <summary>The configuration as it was read.</summary>
    public JsonObject Json { get; init; } = [];

    /// <summary>Reads a config.json.</summary>
    /// <param name="json">The file's content.</param>
    /// <param name="where">What to name in errors.</param>
    /// <exception cref="BadInputException">A key is missing or the family is not known.</exception>
    public static EncoderConfig Parse(JsonObject json, string where)
    {
        var keys = new ConfigKeys(json, where);
        string family = keys.Text("model_type") ?? throw new BadInputException($"{where} has no model_type in its config.json; a model folder needs the config.json that came with it.");
        if (!Families.Contains(family))
        {
            throw new BadInputException($"{where} is of the family '{family}', which is no text encoder that is known; known are {string.Join(", ", Families)}.");
        }

        if (keys.Text("position_embedding_type") is { } kind && kind != "absolute")
        {
            throw new BadInputException($"{where}: position_embedding_type '{kind}' is not supported; absolute is.");
        }

        int d = keys.Size("hidden_size", "dim", "d_model"), heads = keys.Size("num_attention_heads", "n_heads", "num_heads");
        int headSize = family == "t5" ? keys.Integer("d_kv") ?? 64 : d / heads;
        bool roberta = family is "roberta" or "xlm-roberta", t5 = family == "t5", clip = family == "clip_text_model";
        int? pad = keys.Integer("pad_token_id") ?? (roberta || clip ? 1 : 0);
        string feed = keys.Text("feed_forward_proj") ?? "relu";
        bool gated = t5 && feed.StartsWith("gated-", StringComparison.Ordinal);
        string activation = t5
            ? feed == "gated-gelu" ? "gelu_new" : gated ? feed["gated-".Length..] : feed
            : keys.Text("hidden_act") ?? keys.Text("activation") ?? (clip ? "quick_gelu" : "gelu");
        string architecture = keys.Texts("architectures") is { Count: > 0 } names ? names[0] : "";
        return new EncoderConfig
        {
            ModelType = family,
            Width = d,
            Layers = keys.Size("num_hidden_layers", "n_layers", "num_layers"),
            Heads = heads,
            HeadSize = headSize,
            Inner = keys.Size("intermediate_size", "hidden_dim", "d_ff"),
            Vocabulary = keys.Size("vocab_size"),
            PositionRows = t5 ? 0 : keys.Size("max_position_embeddings"),
            PositionOffset = roberta ? pad.Value + 1 : 0,
            PositionsSkipPadding = roberta,
            TokenTypes = family is "bert" || roberta ? keys.Integer("type_vocab_size") ?? 2 : 0,
            Epsilon = keys.Number("layer_norm_eps", "layer_norm_epsilon") ?? (t5 ? 1e-6 : clip ? 1e-5 : 1e-12),
            Activation = Activations.Parse(activation, where),
            Gated = gated,
            NormFirst = t5 || clip,
            Norm = t5 ? NormKind.Rms : NormKind.Layer,
            Causal = clip,
            Biases = !t5,
            AttentionScale = t5 ? 1 : 1 / Math.Sqrt(headSize),
            RelativeBuckets = t5 ? keys.Integer("relative_attention_num_buckets") ?? 32 : 0,
            RelativeMaxDistance = keys.Integer("relative_attention_max_distance") ?? 128,
            PadId = pad,
            EndId = keys.Ids("eos_token_id") is { Count: > 0 } ends ? ends[0] : null,
            ProjectionWidth = clip ? keys.Integer("projection_dim") ?? 512 : 0,
            Task = architecture.EndsWith("ForSequenceClassification", StringComparison.Ordinal) ? EncoderTask.SequenceClassification
                : architecture.EndsWith("ForTokenClassification", StringComparison.Ordinal) ? EncoderTask.TokenClassification
                : architecture.EndsWith("ForMaskedLM", StringComparison.Ordinal) ? EncoderTask.MaskedLanguageModel : EncoderTask.States,
            Labels = keys.Object("id2label") is { } labels
                ? [.. labels.OrderBy(pair => int.TryParse(pair.Key, out int id) ? id : int.MaxValue).Select(pair => pair.Value?.ToString() ?? "")]
                : [],
            Json = (JsonObject)json.DeepClone(),
        };
    }
}
