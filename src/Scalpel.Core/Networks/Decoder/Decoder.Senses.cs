using Scalpel.Networks.Layers;
using TorchSharp;
using static TorchSharp.torch;

namespace Scalpel.Networks;

/// <summary>
/// What a Backpack has above GPT-2's body: each word has sense vectors, from its embedding alone, and the body's states say with
/// which weights the senses of all words so far are added up. The head reads the sum.
/// </summary>
/// <param name="InputNorm">Of the embedding.</param>
/// <param name="MiddleNorm">Before the first MLP.</param>
/// <param name="OutputNorm">Before the second.</param>
/// <param name="First">The MLP of the residual block, d → 4d → d.</param>
/// <param name="Second">The MLP that makes the senses, d → s·d → S·d.</param>
/// <param name="Weights">Queries and keys of the senses, d → 2·S·e.</param>
sealed record SenseNetwork(Norm InputNorm, Norm MiddleNorm, Norm OutputNorm, Mlp First, Mlp Second, Linear Weights);

public sealed partial class Decoder
{
    const string SensePrefix = "backpack.";
    SenseNetwork? senses;

    SenseNetwork Senses(ParameterLoader loader, ParameterLoader weights)
    {
        DecoderConfig c = Config;
        const string Network = SensePrefix + "sense_network.";
        Norm Normal(string name) => loader.Norm(NormKind.Layer, Network + name, c.Width, c.Epsilon);
        Mlp Feed(string name, int inner, int outputs, TensorUse use) => new(
            loader.Joined(true, TensorUse.Matrix, c.Width, ($"{Network}{name}.c_fc", inner)),
            loader.Joined(true, use, inner, ($"{Network}{name}.c_proj", outputs)));
        return new SenseNetwork(
            Normal("ln"), Normal("block.ln_1"), Normal("block.ln_2"),
            Feed("block.mlp", 4 * c.Width, c.Width, TensorUse.ResidualMatrix), Feed("final_mlp", c.SenseInner, c.Senses * c.Width, TensorUse.Matrix),
            weights.Joined(true, TensorUse.Matrix, c.Width, (SensePrefix + "sense_weight_net.c_attn", 2 * c.Senses * c.SenseKeySize)));
    }

    // The sense vectors of tokens, [B, S, T, d]; they depend on nothing but the token.
    Tensor SensesOf(Tensor ids)
    {
        Tensor x = EmbeddingOf(ids), normed = senses!.InputNorm.Apply(x);
        // The family adds the normalised embedding back to the embedding itself.
        Tensor residual = normed + x;
        residual = Feed(senses.First, senses.MiddleNorm.Apply(residual)) + residual;
        Tensor all = Feed(senses.Second, senses.OutputNorm.Apply(residual));
        return all.Split(Config.Senses, Config.Width).transpose(1, 2);

        Tensor Feed(Mlp mlp, Tensor input) => mlp.Down.Apply(Config.Activation.Apply(mlp.Up.Apply(input)));
    }

    // Σ over senses and earlier tokens of weight · sense, [B, T, d], for the normalised states of the body.
    Tensor WeighedSenses(Tensor states, Pass pass)
    {
        using var scope = NewDisposeScope();
        (int count, int size) = (Config.Senses, Config.SenseKeySize);
        Tensor both = senses!.Weights.Apply(states).Split(2, count, size);                       // [B, T, 2, S, e]
        Tensor queries = both.select(2, 0).transpose(1, 2), keys = both.select(2, 1).transpose(1, 2);      // [B, S, T, e]
        Tensor vectors = pass.At("senses", SensesOf(pass.Ids!), headAxis: 1);                              // [B, S, T, d]
        if (pass.Cache is not null)
        {
            (keys, vectors) = pass.Cache.Append(Config.Layers, keys, vectors);
        }

        (Tensor allowed, Tensor additive) = pass.CausalMask();
        Tensor scores = queries.matmul(keys.transpose(-1, -2)) / Math.Sqrt(size) + additive;               // [B, S, T, all]
        Tensor wide = DType == ScalarType.Float64 ? scores : scores.to_type(ScalarType.Float32);
        Tensor weights = pass.At("sense_weights", wide.softmax(-1).to_type(DType), headAxis: 1, allowed);
        // Senses and tokens are summed over alike, so one product does both sums.
        return weights.transpose(1, 2).flatten(2).matmul(vectors.flatten(1, 2)).MoveToOuterDisposeScope();
    }

    /// <summary>Refuses what reads the residual stream as if the head did.</summary>
    /// <param name="what">What was asked for, as the subject of a sentence.</param>
    /// <exception cref="BadInputException">The network sums senses.</exception>
    internal void RequirePlainHead(string what)
    {
        if (senses is not null)
        {
            throw new BadInputException($"{what} reads the residual stream by the head, but the logits of a {Config.ModelType} are sums of the senses of all words; take another method, such as ft.");
        }
    }
}
