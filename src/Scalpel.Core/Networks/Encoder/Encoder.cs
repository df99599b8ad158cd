using System.Text.Json.Nodes;
using Scalpel.Checkpoints;
using Scalpel.Networks.Layers;
using TorchSharp;
using static TorchSharp.torch;

namespace Scalpel.Networks;

/// <summary>
/// A text encoder: BERT, RoBERTa, XLM-R, DistilBERT (norm after the sum), T5's encoder and CLIP's text tower (norm
/// before). Reads texts for classification, similarity, judging and conditioning.
/// </summary>
public sealed partial class Encoder : Network
{
    /// <summary>The hyper-parameters.</summary>
    public EncoderConfig Config { get; }

    /// <inheritdoc/>
    public override JsonObject ConfigJson => Config.Json;

    /// <summary>The states of a text.</summary>
    /// <param name="ids">Token ids, int64 [B, T].</param>
    /// <param name="mask">1 for tokens, 0 for padding, [B, T]; null when all are tokens.</param>
    /// <param name="tokenTypes">Token types, int64 [B, T]; 0 by default.</param>
    /// <param name="positions">Rows of the position table, int64 [B, T]; the family's own rule by default.</param>
    /// <param name="taps">Activations to read or replace.</param>
    /// <returns>[B, T, d]: after the last block, and after the final norm where the family has one.</returns>
    /// <exception cref="BadInputException">There are more tokens than positions, or an id is outside of the vocabulary.</exception>
    public Tensor Forward(Tensor ids, Tensor? mask = null, Tensor? tokenTypes = null, Tensor? positions = null, Taps? taps = null)
    {
        if (ids.dim() != 2 || ids.numel() == 0)
        {
            throw new BadInputException($"A pass needs at least one token in each row; the ids have the shape [{string.Join(", ", ids.shape)}].");
        }

        using var scope = NewDisposeScope();
        taps?.Begin();
        var pass = new EncoderPass(taps, mask);
        Tensor x = pass.At("embedding.output", Embed(ids, mask, tokenTypes, positions));
        Tensor? bias = ScoreBias(mask, ids.shape[1]);
        for (int l = 0; l < Config.Layers; l++)
        {
            Tensor next = Block(l, x, bias, pass);
            x = next;
        }

        if (finalNorm is not null)
        {
            x = pass.At("final_norm.output", finalNorm.Apply(x));
        }

        taps?.End();
        return x.MoveToOuterDisposeScope();
    }

    /// <summary>Final norm applied to an earlier state: what diffusion pipelines call clip skip.</summary>
    /// <exception cref="BadInputException">The family has no final norm.</exception>
    public Tensor FinalNorm(Tensor state) => (finalNorm ?? throw new BadInputException($"{Config.ModelType} has no final norm.")).Apply(state);

    Tensor Embed(Tensor ids, Tensor? mask, Tensor? tokenTypes, Tensor? positions)
    {
        using var scope = NewDisposeScope();
        long lowest = ids.min().item<long>(), highest = ids.max().item<long>(), count = ids.shape[1];
        if (lowest < 0 || highest >= Config.Vocabulary)
        {
            throw new BadInputException($"The token id {(lowest < 0 ? lowest : highest)} is outside of the model's {Config.Vocabulary} tokens; is the tokenizer that of this model?");
        }

        Tensor x = Embedding.Rows(embedding, ids, Config.NormFirst ? null : Config.PadId);
        if (position is not null)
        {
            Tensor at = positions ?? (Config.PositionsSkipPadding ? PositionsOf(ids) : arange(count, dtype: ScalarType.Int64).unsqueeze(0));
            if (at.max().item<long>() >= Config.PositionRows)
            {
                throw new BadInputException($"The text has {count} tokens, the model takes {Config.MaxTokens}; shorten the text or let the tokenizer truncate it.");
            }

            x = x + Embedding.Rows(position, at, Config.PositionsSkipPadding ? Config.PadId : null);
        }

        if (tokenType is not null)
        {
            x = x + Embedding.Rows(tokenType, tokenTypes ?? zeros_like(ids));
        }

        return (embeddingNorm is null ? x : embeddingNorm.Apply(x)).MoveToOuterDisposeScope();
    }

    // RoBERTa counts what is not the padding id, whatever the mask says.
    Tensor PositionsOf(Tensor ids)
    {
        Tensor token = ids.ne(Config.PadId!.Value).to_type(ScalarType.Int64);
        return token.cumsum(1) * token + Config.PadId.Value;
    }

    Tensor Block(int l, Tensor input, Tensor? bias, EncoderPass pass)
    {
        using var scope = NewDisposeScope();
        EncoderLayer layer = layers[l];
        Tensor x = pass.At(l, "input", input);
        Tensor result;
        if (Config.NormFirst)
        {
            x = x + Attention(l, layer, pass.At(l, "attention_norm.output", layer.AttentionNorm.Apply(x)), bias, pass);
            result = x + MlpOutput(l, layer, pass.At(l, "mlp_norm.output", layer.MlpNorm.Apply(x)), pass);
        }
        else
        {
            x = pass.At(l, "attention_norm.output", layer.AttentionNorm.Apply(x + Attention(l, layer, x, bias, pass)));
            result = pass.At(l, "mlp_norm.output", layer.MlpNorm.Apply(x + MlpOutput(l, layer, x, pass)));
        }

        return pass.At(l, "output", result).MoveToOuterDisposeScope();
    }

    Tensor Attention(int l, EncoderLayer layer, Tensor x, Tensor? bias, EncoderPass pass)
    {
        using var scope = NewDisposeScope();
        int h = Config.Heads, e = Config.HeadSize;
        Tensor all = layer.QueryKeyValue.Apply(x);
        Tensor query = pass.At(l, "attention.query", all.Part(0, h * e).Split(h, e), headAxis: 2).transpose(1, 2);          // [B, H, T, e]
        Tensor key = pass.At(l, "attention.key", all.Part(h * e, h * e).Split(h, e), headAxis: 2).transpose(1, 2);
        Tensor value = pass.At(l, "attention.value", all.Part(2L * h * e, h * e).Split(h, e), headAxis: 2).transpose(1, 2);
        Tensor mixed;
        if (pass.Wants(l, "attention.score") || pass.Wants(l, "attention.pattern"))
        {
            Tensor scores = query.matmul(key.transpose(-1, -2)) * Config.AttentionScale;                                     // [B, H, T, T]
            scores = pass.At(l, "attention.score", bias is null ? scores : scores + bias, headAxis: 1);
            Tensor allowed = bias is null ? ones_like(scores, dtype: ScalarType.Bool) : bias > Pass.Minimum(DType) / 2;
            mixed = pass.At(l, "attention.pattern", scores.softmax(-1), headAxis: 1, allowed.expand(scores.shape)).matmul(value);
        }
        else
        {
            double factor = Config.AttentionScale * Math.Sqrt(e);
            mixed = nn.functional.scaled_dot_product_attention(Math.Abs(factor - 1) < 1e-12 ? query : query * factor, key, value, attn_mask: bias);
        }

        Tensor heads = pass.At(l, "attention.head_value", mixed.transpose(1, 2), headAxis: 2);                               // [B, T, H, e]
        Tensor output;
        if (pass.Wants(l, "attention.head_output"))
        {
            Tensor parts = einsum("bthe,hed->bthd", heads, layer.Output.Weight.t().unflatten(0, [h, e]));
            Tensor sum = pass.At(l, "attention.head_output", parts, headAxis: 2).sum(2);
            output = layer.Output.Bias is null ? sum : sum + layer.Output.Bias;
        }
        else
        {
            output = layer.Output.Apply(heads.flatten(2));
        }

        return pass.At(l, "attention.output", output).MoveToOuterDisposeScope();
    }

    Tensor MlpOutput(int l, EncoderLayer layer, Tensor x, EncoderPass pass)
    {
        Tensor up = layer.Mlp.Up.Apply(x);
        Tensor activation = Config.Gated
            ? Config.Activation.Apply(pass.At(l, "mlp.gate", up.Part(0, Config.Inner))) * pass.At(l, "mlp.up", up.Part(Config.Inner, Config.Inner))
            : Config.Activation.Apply(pass.At(l, "mlp.up", up));
        return pass.At(l, "mlp.output", layer.Mlp.Down.Apply(pass.At(l, "mlp.activation", activation)));
    }

    // Padding, causality and relative positions as one summand of the scores, [B or 1, H or 1, T, T]; null for none.
    Tensor? ScoreBias(Tensor? mask, long count)
    {
        bool padded = mask is not null && mask.eq(0).any().item<bool>();
        if (!padded && !Config.Causal && relativeBias is null)
        {
            return null;
        }

        using var scope = NewDisposeScope();
        Tensor bias = zeros([1, 1, count, count], dtype: DType);
        Tensor at = arange(count, dtype: ScalarType.Int64);
        if (Config.Causal)
        {
            bias = bias.masked_fill(at.unsqueeze(0) > at.unsqueeze(1), Pass.Minimum(DType));
        }

        if (padded)
        {
            bias = bias.masked_fill(mask!.eq(0).view(-1, 1, 1, count), Pass.Minimum(DType));
        }

        if (relativeBias is not null)
        {
            Tensor bucket = Buckets(at.unsqueeze(0) - at.unsqueeze(1));
            bias = Embedding.Rows(relativeBias, bucket).permute(2, 0, 1).unsqueeze(0) + bias;
        }

        return bias.MoveToOuterDisposeScope();
    }

    // Half of the buckets for each direction; within one, half exact and half logarithmic up to the largest distance.
    Tensor Buckets(Tensor relative)
    {
        int half = Config.RelativeBuckets / 2, exact = half / 2;
        Tensor side = (relative > 0).to_type(ScalarType.Int64) * half, distance = relative.abs();
        Tensor far = exact + ((distance.to_type(ScalarType.Float32) / exact).log() / Math.Log((double)Config.RelativeMaxDistance / exact) * (half - exact)).to_type(ScalarType.Int64);
        return side + where(distance < exact, distance, far.clamp(max: half - 1));
    }
}

/// <summary>Taps and positions of one encoder pass.</summary>
sealed class EncoderPass(Taps? taps, Tensor? mask) : IPositions
{
    long[][]? columns;

    public Tensor At(string name, Tensor value) => taps is null ? value : taps.At(name, value, this);

    public Tensor At(int layer, string leaf, Tensor value, int headAxis = -1, Tensor? allowed = null) =>
        taps is null ? value : taps.At($"layers.{layer}.{leaf}", value, this, headAxis, allowed);

    public bool Wants(int layer, string leaf) => taps is not null && taps.Wants($"layers.{layer}.{leaf}");

    int? IPositions.Column(int row, int position, long width)
    {
        if (mask is null)
        {
            return position < 0 ? (int)width + position : position;
        }

        columns ??= [.. Enumerable.Range(0, (int)mask.shape[0]).Select(Valid)];
        int index = position < 0 ? columns[row].Length + position : position;
        return index >= 0 && index < columns[row].Length ? (int)columns[row][index]
            : throw new BadInputException($"Row {row} has {columns[row].Length} tokens; there is no position {position}.");
    }

    long[] Valid(int row)
    {
        using Tensor line = mask![row], found = line.nonzero();
        return found.data<long>().ToArray();
    }
}
