using System.Globalization;

namespace Scalpel.Networks;

/// <summary>The tensor names of an encoder family, without the prefixes that files in the wild carry or lack.</summary>
sealed record EncoderNames
{
    public required string[] Prefixes { get; init; }
    public required string Embedding { get; init; }
    public string? Position { get; init; }
    public string? TokenType { get; init; }
    public string? EmbeddingNorm { get; init; }
    public required string Block { get; init; }
    public required string[] QueryKeyValue { get; init; }
    public required string Output { get; init; }
    public required string AttentionNorm { get; init; }
    public required string[] Up { get; init; }
    public required string Down { get; init; }
    public required string MlpNorm { get; init; }
    public string? FinalNorm { get; init; }

    public string BlockOf(int layer) => string.Format(CultureInfo.InvariantCulture, Block, layer);

    public static EncoderNames Of(EncoderConfig config) => config.ModelType switch
    {
        "distilbert" => new()
        {
            Prefixes = ["distilbert.", ""],
            Embedding = "embeddings.word_embeddings",
            Position = "embeddings.position_embeddings",
            EmbeddingNorm = "embeddings.LayerNorm",
            Block = "transformer.layer.{0}.",
            QueryKeyValue = ["attention.q_lin", "attention.k_lin", "attention.v_lin"],
            Output = "attention.out_lin",
            AttentionNorm = "sa_layer_norm",
            Up = ["ffn.lin1"],
            Down = "ffn.lin2",
            MlpNorm = "output_layer_norm",
        },
        "t5" => new()
        {
            Prefixes = ["", "transformer."],
            Embedding = "shared",
            Block = "encoder.block.{0}.",
            QueryKeyValue = ["layer.0.SelfAttention.q", "layer.0.SelfAttention.k", "layer.0.SelfAttention.v"],
            Output = "layer.0.SelfAttention.o",
            AttentionNorm = "layer.0.layer_norm",
            Up = config.Gated ? ["layer.1.DenseReluDense.wi_0", "layer.1.DenseReluDense.wi_1"] : ["layer.1.DenseReluDense.wi"],
            Down = "layer.1.DenseReluDense.wo",
            MlpNorm = "layer.1.layer_norm",
            FinalNorm = "encoder.final_layer_norm",
        },
        "clip_text_model" => new()
        {
            Prefixes = ["text_model.", ""],
            Embedding = "embeddings.token_embedding",
            Position = "embeddings.position_embedding",
            Block = "encoder.layers.{0}.",
            QueryKeyValue = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
            Output = "self_attn.out_proj",
            AttentionNorm = "layer_norm1",
            Up = ["mlp.fc1"],
            Down = "mlp.fc2",
            MlpNorm = "layer_norm2",
            FinalNorm = "final_layer_norm",
        },
        _ => new()
        {
            Prefixes = [config.ModelType == "bert" ? "bert." : "roberta.", ""],
            Embedding = "embeddings.word_embeddings",
            Position = "embeddings.position_embeddings",
            TokenType = "embeddings.token_type_embeddings",
            EmbeddingNorm = "embeddings.LayerNorm",
            Block = "encoder.layer.{0}.",
            QueryKeyValue = ["attention.self.query", "attention.self.key", "attention.self.value"],
            Output = "attention.output.dense",
            AttentionNorm = "attention.output.LayerNorm",
            Up = ["intermediate.dense"],
            Down = "output.dense",
            MlpNorm = "output.LayerNorm",
        },
    };

    /// <summary>Stored buffers and copies that are no parameters of their own.</summary>
    public static bool IsBuffer(string name) =>
        name.EndsWith("position_ids", StringComparison.Ordinal) || name == "encoder.embed_tokens.weight" || name.StartsWith("decoder.", StringComparison.Ordinal);
}
