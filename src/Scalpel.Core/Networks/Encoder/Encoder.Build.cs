using Scalpel.Checkpoints;
using Scalpel.Networks.Layers;
using TorchSharp;
using static TorchSharp.torch;

namespace Scalpel.Networks;

/// <summary>The weights of one block of an encoder.</summary>
sealed record EncoderLayer(Linear QueryKeyValue, Linear Output, Norm AttentionNorm, Mlp Mlp, Norm MlpNorm);

public sealed partial class Encoder
{
    readonly List<EncoderLayer> layers = [];
    readonly EncoderNames names;
    string prefix = "";
    Tensor embedding = null!;
    Tensor? position, tokenType, relativeBias;
    Norm? embeddingNorm, finalNorm;

    Encoder(EncoderConfig config, Checkpoint? source, ScalarType dtype) : base(source, dtype)
    {
        Config = config;
        names = EncoderNames.Of(config);
    }

    /// <summary>Loads a model folder or a .safetensors file.</summary>
    /// <param name="path">The folder or file.</param>
    /// <param name="dtype">Type of weights and arithmetic.</param>
    /// <exception cref="BadInputException">It is malformed, incomplete, or of an unknown family.</exception>
    public static Encoder Load(string path, ScalarType dtype = ScalarType.Float32) => Open(path, checkpoint => Load(checkpoint, dtype));

    /// <summary>Loads from an open checkpoint, which the encoder then owns.</summary>
    public static Encoder Load(Checkpoint checkpoint, ScalarType dtype = ScalarType.Float32)
    {
        var encoder = new Encoder(EncoderConfig.Parse(checkpoint.Config, checkpoint.Location), checkpoint, dtype);
        try
        {
            encoder.prefix = encoder.names.Prefixes.FirstOrDefault(prefix => checkpoint.Tensors.ContainsKey($"{prefix}{encoder.names.Embedding}.weight"), encoder.names.Prefixes[0]);
            var source = new CheckpointSource(checkpoint, EncoderNames.IsBuffer);
            encoder.Build(source, checkpoint.Tensors.ContainsKey);
            encoder.warnings.AddRange(checkpoint.Warnings);
            encoder.warnings.AddRange(source.Left.Select(name => $"{checkpoint.Location}: the tensor {name} has no place in {encoder.Config.ModelType} and is not used."));
            return encoder;
        }
        catch
        {
            encoder.DisposeTensors();
            throw;
        }
    }

    void Build(CheckpointSource source, Func<string, bool> has)
    {
        using var noGrad = no_grad();
        using var scope = NewDisposeScope();
        var loader = new ParameterLoader(this, source);
        EncoderConfig c = Config;
        embedding = loader.Whole($"{prefix}{names.Embedding}.weight", TensorUse.Matrix, c.Vocabulary, c.Width);
        position = names.Position is null ? null : loader.Whole($"{prefix}{names.Position}.weight", TensorUse.Matrix, c.PositionRows, c.Width);
        tokenType = names.TokenType is null || c.TokenTypes == 0 ? null : loader.Whole($"{prefix}{names.TokenType}.weight", TensorUse.Matrix, c.TokenTypes, c.Width);
        embeddingNorm = names.EmbeddingNorm is null ? null : NormOf(loader, has, prefix + names.EmbeddingNorm);
        for (int l = 0; l < c.Layers; l++)
        {
            string block = prefix + names.BlockOf(l);
            int rows = c.Heads * c.HeadSize;
            layers.Add(new EncoderLayer(
                loader.Joined(c.Biases, TensorUse.Matrix, c.Width, [.. names.QueryKeyValue.Select(name => (block + name, rows))]),
                loader.Joined(c.Biases, TensorUse.ResidualMatrix, rows, (block + names.Output, c.Width)),
                NormOf(loader, has, block + names.AttentionNorm),
                new Mlp(
                    loader.Joined(c.Biases, TensorUse.Matrix, c.Width, [.. names.Up.Select(name => (block + name, c.Inner))]),
                    loader.Joined(c.Biases, TensorUse.ResidualMatrix, c.Inner, (block + names.Down, c.Width))),
                NormOf(loader, has, block + names.MlpNorm)));
        }

        // The table of block 0 serves all blocks.
        relativeBias = c.RelativeBuckets == 0 ? null
            : loader.Whole($"{prefix}{names.BlockOf(0)}layer.0.SelfAttention.relative_attention_bias.weight", TensorUse.Matrix, c.RelativeBuckets, c.Heads);
        finalNorm = names.FinalNorm is null ? null : NormOf(loader, has, prefix + names.FinalNorm);
        BuildHeads(loader, has);
        loader.RequireAll(c.ModelType);
    }

    // Old files call gain and bias of a LayerNorm gamma and beta.
    Norm NormOf(ParameterLoader loader, Func<string, bool> has, string name) => has($"{name}.gamma")
        ? loader.Norm(Config.Norm, name, Config.Width, Config.Epsilon, "gamma", "beta")
        : loader.Norm(Config.Norm, name, Config.Width, Config.Epsilon);
}
