using System.Globalization;
using System.Text.Json.Nodes;
using Scalpel.Checkpoints;
using Scalpel.Networks.Layers;
using TorchSharp;
using static TorchSharp.torch;

namespace Scalpel.Networks;

public sealed partial class Decoder
{
    const string ScoreName = "score.weight";
    readonly List<DecoderLayer> layers = [];
    readonly DecoderNames names;
    string prefix;
    Tensor embedding = null!;
    Tensor? position;
    Norm finalNorm = null!;
    Linear head = null!;

    Decoder(DecoderConfig config, Checkpoint? source, ScalarType dtype) : base(source, dtype)
    {
        Config = config;
        names = DecoderNames.Of(config);
        prefix = names.Prefix;
    }

    /// <summary>Loads a model folder, a .safetensors or a .gguf file.</summary>
    /// <param name="path">The folder or file.</param>
    /// <param name="dtype">Type of weights and arithmetic: float32 (default), bfloat16, or float64.</param>
    /// <exception cref="BadInputException">It is malformed, incomplete, or of an unknown family.</exception>
    public static Decoder Load(string path, ScalarType dtype = ScalarType.Float32) => Open(path, checkpoint => Load(checkpoint, dtype));

    /// <summary>Loads from an open checkpoint, which the decoder then owns.</summary>
    public static Decoder Load(Checkpoint checkpoint, ScalarType dtype = ScalarType.Float32)
    {
        var decoder = new Decoder(DecoderConfig.Parse(checkpoint.Config, checkpoint.Location), checkpoint, dtype);
        try
        {
            if (!checkpoint.Tensors.ContainsKey($"{decoder.prefix}{decoder.names.Embedding}.weight"))
            {
                // The bare body, saved without its head, has no prefix.
                decoder.prefix = checkpoint.Tensors.ContainsKey($"{decoder.names.Embedding}.weight") ? "" : decoder.prefix;
            }

            var source = new CheckpointSource(checkpoint, DecoderNames.IsBuffer);
            decoder.Build(source, name => checkpoint.Tensors.ContainsKey(name));
            decoder.warnings.AddRange(checkpoint.Warnings);
            decoder.warnings.AddRange(source.Left.Select(name => $"{checkpoint.Location}: the tensor {name} has no place in {decoder.Config.ModelType} and is not used."));
            return decoder;
        }
        catch
        {
            decoder.DisposeTensors();
            throw;
        }
    }

    /// <summary>A model with random weights.</summary>
    /// <param name="config">Its hyper-parameters.</param>
    /// <param name="seed">Of the weights: N(0, σ²) with σ = <see cref="DecoderConfig.InitializerRange"/>, output and down matrices less by 1/√(2L); gains 1, biases 0.</param>
    /// <param name="dtype">Type of weights and arithmetic.</param>
    public static Decoder Create(DecoderConfig config, ulong seed, ScalarType dtype = ScalarType.Float32)
    {
        var decoder = new Decoder(config, null, dtype);
        using var source = new SeededSource(seed, config.Layers, config.Norm == NormKind.RmsPlusOne, config.InitializerRange);
        decoder.Build(source, name => name.EndsWith("lm_head.weight", StringComparison.Ordinal) && !config.TiedHead);
        return decoder;
    }

    private protected override IEnumerable<Linear> Linears =>
        [.. layers.SelectMany(layer => (IEnumerable<Linear>)[layer.QueryKeyValue, layer.Output, .. layer.Router is null ? Array.Empty<Linear>() : [layer.Router], .. layer.Mlps.SelectMany(mlp => new[] { mlp.Up, mlp.Down })]),
            .. senses is null ? Array.Empty<Linear>() : [senses.First.Up, senses.First.Down, senses.Second.Up, senses.Second.Down, senses.Weights], head];

    internal override (string Name, List<IEmbeddingAdapter> Adapters)? TokenEmbedding => ($"{prefix}{names.Embedding}.weight", embeddingAdapters);

    internal override string? HeadName => Parameters.ContainsKey(ScoreName) ? ScoreName : $"{names.Head}.weight";

    readonly List<IEmbeddingAdapter> embeddingAdapters = [];

    void Build(ITensorSource source, Func<string, bool> has)
    {
        using var noGrad = no_grad();
        using var scope = NewDisposeScope();
        var loader = new ParameterLoader(this, source, names.Transposed);
        DecoderConfig c = Config;
        embedding = loader.Whole($"{prefix}{names.Embedding}.weight", TensorUse.Matrix, c.Vocabulary, c.Width);
        position = names.Position is null ? null : loader.Whole($"{prefix}{names.Position}.weight", TensorUse.Matrix, c.MaxPositions, c.Width);
        for (int l = 0; l < c.Layers; l++)
        {
            layers.Add(Layer(loader, prefix + string.Format(CultureInfo.InvariantCulture, names.Block, l)));
        }

        foreach (Norm? norm in layers.SelectMany(layer => (Norm?[])[layer.AttentionNorm, layer.MlpNorm]))
        {
            norm?.InOnePass = LayerTape.IsExplicit(this);
        }

        finalNorm = NormOf(loader, prefix + names.FinalNorm, c.Width)!;
        if (c.Senses > 0)
        {
            // The one matrix of the family that is stored as [out, in].
            var weights = new ParameterLoader(this, source);
            senses = Senses(loader, weights);
            weights.RequireAll(c.ModelType);
        }

        string headName = $"{names.Head}.weight";
        if (c.Head == HeadKind.LanguageModel && has(ScoreName) && !has(headName))
        {
            // A reward model or classifier whose configuration does not say so.
            Config = c = c with { Head = HeadKind.SequenceClassification };
        }

        if (c.Head != HeadKind.LanguageModel)
        {
            head = Classifier(loader, has);
            loader.RequireAll(c.ModelType);
            return;
        }

        bool own = !c.TiedHead || has(headName) && Differs(source, headName);
        Tensor weight = own ? loader.Whole(headName, TensorUse.Matrix, c.Vocabulary, c.Width) : embedding;
        head = new Linear(weight, c.HeadBias ? loader.Whole($"{names.Head}.bias", TensorUse.Bias, c.Vocabulary) : null);
        loader.RequireAll(c.ModelType);
    }

    // A tied model that stores its head nevertheless: equal to the embedding it is ignored, otherwise it wins.
    bool Differs(ITensorSource source, string headName)
    {
        source.Has(headName, embedding.shape);
        using Tensor stored = empty_like(embedding);
        source.Fill(headName, stored, TensorUse.Matrix);
        if (stored.Equals(embedding))
        {
            return false;
        }

        warnings.Add($"{Source!.Location}: the configuration ties the head to the embedding, but a different {headName} is stored; the stored one is used.");
        return true;
    }

    DecoderLayer Layer(ParameterLoader loader, string block)
    {
        DecoderConfig c = Config;
        int queryRows = c.Heads * c.HeadSize, keyRows = c.KeyValueHeads * c.HeadSize;
        Linear queryKeyValue = names.Layout == QueryKeyValueLayout.Separate
            ? loader.Joined(c.QueryKeyValueBias, TensorUse.Matrix, c.Width, (block + names.QueryKeyValue[0], queryRows), (block + names.QueryKeyValue[1], keyRows), (block + names.QueryKeyValue[2], keyRows))
            : loader.Joined(c.QueryKeyValueBias, TensorUse.Matrix, c.Width, (block + names.QueryKeyValue[0], queryRows + 2 * keyRows));
        bool all = c.QueryKeyNorm == QueryKeyNorm.AllHeads;
        return new DecoderLayer
        {
            AttentionNorm = NormOf(loader, names.AttentionNorm is null ? null : block + names.AttentionNorm, c.Width),
            MlpNorm = NormOf(loader, names.MlpNorm is null ? null : block + names.MlpNorm, c.Width),
            AfterAttentionNorm = NormOf(loader, names.AfterAttentionNorm is null ? null : block + names.AfterAttentionNorm, c.Width),
            AfterMlpNorm = NormOf(loader, names.AfterMlpNorm is null ? null : block + names.AfterMlpNorm, c.Width),
            QueryNorm = NormOf(loader, names.QueryNorm is null ? null : block + names.QueryNorm, all ? queryRows : c.HeadSize),
            KeyNorm = NormOf(loader, names.KeyNorm is null ? null : block + names.KeyNorm, all ? keyRows : c.HeadSize),
            QueryKeyValue = queryKeyValue,
            Output = loader.Joined(c.OutputBias, TensorUse.ResidualMatrix, queryRows, (block + names.Output, c.Width)),
            Router = c.Experts == 0 ? null : loader.Joined(false, TensorUse.Matrix, c.Width, (block + names.Router, c.Experts)),
            Mlps = c.Experts == 0
                ? [MlpOf(loader, block, names.GateUp, names.Down)]
                : [.. Enumerable.Range(0, c.Experts).Select(j => MlpOf(loader, block + string.Format(CultureInfo.InvariantCulture, names.Experts, j), ["w1", "w3"], "w2"))],
        };
    }

    Mlp MlpOf(ParameterLoader loader, string block, string[] gateUp, string down)
    {
        DecoderConfig c = Config;
        Linear up = !c.Gated ? loader.Joined(c.MlpBias, TensorUse.Matrix, c.Width, (block + names.Up, c.Inner))
            : gateUp.Length == 1 ? loader.Joined(c.MlpBias, TensorUse.Matrix, c.Width, (block + gateUp[0], 2 * c.Inner))
            : loader.Joined(c.MlpBias, TensorUse.Matrix, c.Width, (block + gateUp[0], c.Inner), (block + gateUp[1], c.Inner));
        return new Mlp(up, loader.Joined(c.MlpBias, TensorUse.ResidualMatrix, c.Inner, (block + down, c.Width)));
    }

    Norm? NormOf(ParameterLoader loader, string? name, int size) => name is null ? null
        : Config.Norm == NormKind.LayerPlain ? new Norm(NormKind.LayerPlain, null, null, Config.Epsilon)
        : loader.Norm(Config.Norm, name, size, Config.Epsilon);

    /// <summary>Writes a Hugging Face folder: config.json, model.safetensors in the type of the arithmetic, and the tokenizer's files of the source.</summary>
    /// <param name="folder">The folder to make.</param>
    /// <param name="overwrite">Whether an existing one is replaced.</param>
    /// <exception cref="BadInputException">It exists already or cannot be written.</exception>
    public void Save(string folder, bool overwrite = false) => AtomicFolder.Write(folder, overwrite, partial =>
    {
        JsonObject json = (JsonObject)Config.Json.DeepClone();
        json["torch_dtype"] = DType switch { ScalarType.BFloat16 => "bfloat16", ScalarType.Float64 => "float64", _ => "float32" };
        json.Remove("dtype");
        AtomicFile.WriteText(Path.Combine(partial, "config.json"), json.ToJsonString(new() { WriteIndented = true }) + "\n");
        SafeTensorsWriter.Write(Path.Combine(partial, "model.safetensors"), Parameters, new Dictionary<string, string> { ["format"] = "pt" });
        if (Source is not null)
        {
            foreach (string name in (string[])["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.json", "merges.txt", "chat_template.jinja", "generation_config.json"])
            {
                string file = Path.Combine(Source.Folder, name);
                if (File.Exists(file))
                {
                    File.Copy(file, Path.Combine(partial, name));
                }
            }
        }
    });
}
