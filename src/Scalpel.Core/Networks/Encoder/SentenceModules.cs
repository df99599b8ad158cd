using System.Text.Json.Nodes;
using Scalpel.Checkpoints;
using Scalpel.Networks.Layers;
using TorchSharp;
using static TorchSharp.torch;

namespace Scalpel.Networks;

/// <summary>How the states of a text's tokens become one state. Several may be asked for; their results stand side by side in this order.</summary>
[Flags]
public enum SentencePooling
{
    /// <summary>None.</summary>
    None = 0,

    /// <summary>The first token's state.</summary>
    FirstToken = 1,

    /// <summary>The largest value of each feature.</summary>
    Max = 2,

    /// <summary>The mean over the tokens.</summary>
    Mean = 4,

    /// <summary>The sum over the tokens, divided by the square root of their number.</summary>
    MeanSqrtLength = 8,

    /// <summary>The mean over the tokens, weighted by position: 1, 2, 3, …</summary>
    WeightedMean = 16,

    /// <summary>The last token's state.</summary>
    LastToken = 32,
}

/// <summary>What sentence-transformers' modules.json and the files that it names say of a sentence encoder.</summary>
sealed class SentenceModules
{
    static readonly string[] TextConfigs =
    [
        "sentence_bert_config.json", "sentence_roberta_config.json", "sentence_distilbert_config.json", "sentence_camembert_config.json", "sentence_xlm-roberta_config.json",
    ];

    static readonly (string Name, SentencePooling Pooling, string Flag)[] Poolings =
    [
        ("cls", SentencePooling.FirstToken, "pooling_mode_cls_token"), ("max", SentencePooling.Max, "pooling_mode_max_tokens"),
        ("mean", SentencePooling.Mean, "pooling_mode_mean_tokens"), ("mean_sqrt_len_tokens", SentencePooling.MeanSqrtLength, "pooling_mode_mean_sqrt_len_tokens"),
        ("weightedmean", SentencePooling.WeightedMean, "pooling_mode_weightedmean_tokens"), ("lasttoken", SentencePooling.LastToken, "pooling_mode_lasttoken"),
    ];

    /// <summary>Folder of the network and its tokenizer.</summary>
    public required string TextFolder { get; init; }

    /// <summary>Whether there is a modules.json.</summary>
    public bool Declared { get; init; }

    /// <summary>The pooling.</summary>
    public SentencePooling Pooling { get; private set; } = SentencePooling.Mean;

    /// <summary>Whether the tokens of a prompt count in the pooling.</summary>
    public bool IncludePrompt { get; private set; } = true;

    /// <summary>Steps after the pooling, in order; the folder of a dense layer, or null for the division by the length.</summary>
    public List<string?> After { get; } = [];

    /// <summary>Most tokens of a text; null when the files do not say.</summary>
    public int? MaxTokens { get; private set; }

    /// <summary>Whether texts are brought to lower case first.</summary>
    public bool LowerCase { get; private set; }

    /// <summary>Texts to put before a sentence, by what it is used for.</summary>
    public Dictionary<string, string> Prompts { get; } = new(StringComparer.Ordinal);

    /// <summary>The prompt that is used when none is named.</summary>
    public string? DefaultPrompt { get; private set; }

    /// <summary>Reads the files of a model folder; a folder without modules.json means one network and the mean over its tokens.</summary>
    /// <exception cref="BadInputException">A file is malformed, or asks for a module that is not known.</exception>
    public static SentenceModules Read(string folder)
    {
        string file = Path.Combine(folder, "modules.json");
        if (!File.Exists(file))
        {
            var plain = new SentenceModules { TextFolder = folder };
            plain.ReadText(folder);
            return plain;
        }

        (string Type, string Path)[] list = [.. JsonFile.ReadArray(file).Select(node => Module(node, file, folder))];
        if (list.Length < 2 || !IsText(list[0].Type) || list[1].Type != "Pooling")
        {
            throw new BadInputException($"{file} lists {(list.Length == 0 ? "nothing" : string.Join(", ", list.Select(m => m.Type)))}; a sentence encoder begins with Transformer, Pooling.");
        }

        var modules = new SentenceModules { TextFolder = list[0].Path, Declared = true };
        modules.ReadText(folder);
        modules.ReadPooling(Path.Combine(list[1].Path, "config.json"));
        foreach ((string type, string path) in list[2..])
        {
            switch (type)
            {
                case "Normalize":
                    modules.After.Add(null);
                    break;
                case "Dense":
                    modules.After.Add(path);
                    break;
                case "Dropout":
                    // Training only.
                    break;
                default:
                    throw new BadInputException($"{file}: the module '{type}' is not known; known are Transformer, Pooling, Dense, Normalize, Dropout.");
            }
        }

        return modules;
    }

    /// <summary>The pooling of a name as sentence-transformers writes it; several are joined by +.</summary>
    /// <exception cref="BadInputException">There is none of that name.</exception>
    public static SentencePooling ParsePooling(string text, string where)
    {
        SentencePooling result = SentencePooling.None;
        foreach (string name in text.Split('+'))
        {
            result |= Array.Find(Poolings, p => p.Name == name) is { Pooling: not SentencePooling.None and var found } ? found
                : throw new BadInputException($"{where}: the pooling '{name}' is not known; known are {string.Join(", ", Poolings.Select(p => p.Name))}.");
        }

        return result;
    }

    /// <summary>The names of a pooling, joined by +.</summary>
    public static string NameOf(SentencePooling pooling) => string.Join('+', Poolings.Where(p => pooling.HasFlag(p.Pooling)).Select(p => p.Name));

    // Files from before modules.json had one class for each family.
    static bool IsText(string type) => type is "Transformer" or "BERT" or "RoBERTa" or "DistilBERT" or "XLMRoBERTa" or "CamemBERT";

    static (string Type, string Path) Module(JsonNode? node, string file, string folder)
    {
        if (node is not JsonObject module)
        {
            throw new BadInputException($"{file}: an entry is not an object with type and path.");
        }

        var keys = new ConfigKeys(module, file);
        string type = keys.Text("type") ?? throw new BadInputException($"{file}: a module has no type.");
        string path = keys.Text("path") ?? "";
        bool plain = path.Length == 0 || (path.IndexOfAny(['/', '\\', ':']) < 0 && path is not "." and not "..");
        return plain ? (type[(type.LastIndexOf('.') + 1)..], path.Length == 0 ? folder : Path.Combine(folder, path))
            : throw new BadInputException($"{file}: the path '{path}' of a module is not a folder beside the file.");
    }

    void ReadText(string folder)
    {
        if (TextConfigs.Select(name => Path.Combine(TextFolder, name)).FirstOrDefault(File.Exists) is { } file)
        {
            var keys = new ConfigKeys(JsonFile.Read(file, out _), file);
            MaxTokens = keys.Integer("max_seq_length");
            LowerCase = keys.Flag("do_lower_case") ?? false;
        }

        string general = Path.Combine(folder, "config_sentence_transformers.json");
        if (!File.Exists(general))
        {
            return;
        }

        var config = new ConfigKeys(JsonFile.Read(general, out _), general);
        foreach ((string name, JsonNode? prompt) in config.Object("prompts") ?? [])
        {
            Prompts[name] = prompt?.ToString() ?? "";
        }

        DefaultPrompt = config.Text("default_prompt_name");
        if (DefaultPrompt is not null && !Prompts.ContainsKey(DefaultPrompt))
        {
            throw new BadInputException($"{general}: default_prompt_name is '{DefaultPrompt}', but there is no prompt of that name.");
        }
    }

    void ReadPooling(string file)
    {
        var keys = new ConfigKeys(JsonFile.Read(file, out _), file);
        IncludePrompt = keys.Flag("include_prompt") ?? true;
        if (keys.Texts("pooling_mode") is { } names)
        {
            Pooling = ParsePooling(string.Join('+', names), file);
        }
        else if (keys.Text("pooling_mode") is { } name)
        {
            Pooling = ParsePooling(name, file);
        }
        else
        {
            Pooling = Poolings.Where(p => keys.Flag(p.Flag) ?? p.Pooling == SentencePooling.Mean).Aggregate(SentencePooling.None, (all, p) => all | p.Pooling);
        }

        if (Pooling == SentencePooling.None)
        {
            throw new BadInputException($"{file} switches every pooling off; one of {string.Join(", ", Poolings.Select(p => p.Flag))} must be true.");
        }
    }
}

/// <summary>One step after the pooling: a dense layer with its activation.</summary>
sealed class SentenceDense : IDisposable
{
    readonly Tensor weight;
    readonly Tensor? bias;
    readonly string activation;

    SentenceDense(Tensor weight, Tensor? bias, string activation)
    {
        this.weight = weight;
        this.bias = bias;
        this.activation = activation;
    }

    public int Outputs => (int)weight.shape[0];

    /// <summary>Reads a Dense module.</summary>
    /// <param name="folder">Its folder.</param>
    /// <param name="inputs">Width of what comes in.</param>
    /// <param name="dtype">Type of the arithmetic.</param>
    /// <exception cref="BadInputException">It does not fit, or has an activation that is not known.</exception>
    public static SentenceDense Load(string folder, int inputs, ScalarType dtype)
    {
        string file = Path.Combine(folder, "config.json");
        var keys = new ConfigKeys(JsonFile.Read(file, out _), file);
        int from = keys.Size("in_features"), to = keys.Size("out_features");
        if (from != inputs)
        {
            throw new BadInputException($"{file}: in_features is {from}, but {inputs} features come in.");
        }

        string activation = (keys.Text("activation_function") ?? "torch.nn.modules.activation.Tanh").Split('.')[^1];
        if (activation is not ("Tanh" or "Identity" or "ReLU" or "GELU" or "Sigmoid" or "SiLU"))
        {
            throw new BadInputException($"{file}: the activation '{activation}' is not known; known are Tanh, Identity, ReLU, GELU, Sigmoid, SiLU.");
        }

        using Checkpoint checkpoint = Checkpoint.Open(folder);
        Tensor weight = Read("linear.weight", to, from);
        try
        {
            return new SentenceDense(weight, keys.Flag("bias") ?? true ? Read("linear.bias", to) : null, activation);
        }
        catch
        {
            weight.Dispose();
            throw;
        }

        Tensor Read(string name, params long[] shape)
        {
            Tensor target = empty(shape, dtype: dtype).DetachFromDisposeScope();
            try
            {
                checkpoint.ReadInto(name, target);
                return target;
            }
            catch
            {
                target.Dispose();
                throw;
            }
        }
    }

    /// <summary>[B, in] → [B, out].</summary>
    public Tensor Apply(Tensor x)
    {
        using var scope = NewDisposeScope();
        Tensor y = nn.functional.linear(x, weight, bias);
        y = activation switch
        {
            "Tanh" => y.tanh(),
            "ReLU" => nn.functional.relu(y, inplace: false),
            "GELU" => nn.functional.gelu(y),
            "Sigmoid" => y.sigmoid(),
            "SiLU" => nn.functional.silu(y, inplace: false),
            _ => y,
        };
        return y.MoveToOuterDisposeScope();
    }

    public void Dispose()
    {
        weight.Dispose();
        bias?.Dispose();
    }
}
