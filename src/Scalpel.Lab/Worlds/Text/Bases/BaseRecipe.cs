using System.Security.Cryptography;
using System.Text;
using System.Text.Json.Nodes;
using Scalpel.Networks;
using Scalpel.Training;
using TorchSharp;
using Decoder = Scalpel.Networks.Decoder;
using Tensor = TorchSharp.torch.Tensor;

namespace Scalpel.Lab.Worlds;

/// <summary>What a base model must reach, or only reports.</summary>
/// <param name="Measure">Name of the measure.</param>
/// <param name="AtLeast">Lower bound; null for none.</param>
/// <param name="AtMost">Upper bound; null for none.</param>
public sealed record Gate(string Measure, double? AtLeast = null, double? AtMost = null)
{
    /// <summary>Whether a value passes; what has no bound always does.</summary>
    public bool Holds(double value) => !double.IsNaN(value) && (AtLeast is not { } low || value >= low) && (AtMost is not { } high || value <= high);
}

/// <summary>What a base is trained on before its mixture.</summary>
/// <param name="Mixture">The texts.</param>
/// <param name="Steps">For how many of the recipe's steps.</param>
public sealed record BaseOpening(TextMixture Mixture, int Steps)
{
    /// <summary>Modules of which only the answers are learned, and the rest is read. Default none.</summary>
    public IReadOnlyList<string> AnswersOnly { get; init; } = [];

    /// <summary>Its learning rate, as a share of the recipe's peak; null to follow the fall of the recipe's rate. All openings of a recipe have one, or none.</summary>
    public double? Rate { get; init; }
}

/// <summary>How a base model of the text world comes to be. Deterministic: with the same world and thread count, the same bytes.</summary>
/// <param name="Name">The base's name.</param>
/// <param name="Config">Its config.json.</param>
/// <param name="Mixture">What it is trained on.</param>
/// <param name="Gates">What it must reach.</param>
public sealed record BaseRecipe(string Name, JsonObject Config, TextMixture Mixture, IReadOnlyList<Gate> Gates)
{
    /// <summary>Tokens of a step: 32 rows of 64, in every fourth step 16 of 128.</summary>
    public const int TokensPerStep = 2048;

    /// <summary>Steps before which training does not end. Not before the last: only then the passages have been copied as often as they say.</summary>
    public int MinimumSteps { get; init; } = 2250;

    /// <summary>Steps after which it ends in any case; the learning rate has fallen by then.</summary>
    public int MaximumSteps { get; init; } = 2250;

    /// <summary>Steps between two looks at the gates.</summary>
    public int GatesEvery { get; init; } = 250;

    /// <summary>Peak learning rate.</summary>
    public double LearningRate { get; init; } = 6e-3;

    /// <summary>Steps in which the rate rises.</summary>
    public int Warmup { get; init; } = 50;

    /// <summary>What the rate falls to, as a share of the peak: low enough that shares such as those of pronouns come out as planted.</summary>
    public double FinalRate { get; init; } = 0.01;

    /// <summary>Standard deviation of the embedding of a new model; null for that of its other matrices.</summary>
    public double? EmbeddingDeviation { get; init; }

    /// <summary>
    /// How many heads of the first layer start by looking one position back, by a constant in the first feature of the embedding.
    /// With any, all attention starts as what copies: queries are the keys, so that a token finds its equals, and outputs undo
    /// values. For Llama. Default 0: attention starts at random.
    /// </summary>
    public int LookingBack { get; init; }

    /// <summary>What is trained on before the mixture, in this order. Default nothing.</summary>
    public IReadOnlyList<BaseOpening> Openings { get; init; } = [];

    /// <summary>The learning rate as a factor of the peak: rates of the openings, then up to the peak and down a cosine, or one cosine over everything.</summary>
    internal Schedule Schedule
    {
        get
        {
            if (Openings is not [.., { Rate: { } last }])
            {
                return new CosineSchedule(MaximumSteps) { Warmup = Warmup, Floor = FinalRate };
            }

            var stages = Openings.Select((opening, i) => new ScheduleStage(opening.Steps, new ConstantSchedule { Warmup = i == 0 ? Warmup : 0 }, opening.Rate!.Value)).ToList();
            stages.Add(new ScheduleStage(MixtureSteps, new CosineSchedule(MixtureSteps) { Warmup = RisingSteps, WarmupFloor = last, Floor = FinalRate }));
            return new SequentialSchedule(stages);
        }
    }

    // What the openings taught is lost when the rate rises at once.
    const int RisingSteps = 600;

    /// <summary>Steps that are left for the mixture.</summary>
    public int MixtureSteps => MaximumSteps - Openings.Sum(opening => opening.Steps);

    /// <summary>Lengths of rows, by turns. Default three steps of 64, one of 128, so that the whole context is trained.</summary>
    public IReadOnlyList<int> Lengths { get; init; } = [64, 64, 64, 128];

    /// <summary>Length of the rows of a step.</summary>
    public int LengthAt(long step) => Lengths[(int)(step % Lengths.Count)];

    /// <summary>The model before the first step.</summary>
    internal Decoder NewModel(TextWorld world)
    {
        DecoderConfig config = DecoderConfig.Parse(Config, Name);
        Decoder model = Decoder.Create(config, SplitMix64.Of(world.Seed, $"text/base/{Name}", 0).Next());
        using var noGrad = torch.no_grad();
        if (EmbeddingDeviation is { } deviation)
        {
            model.Parameter(model.Parameters.Keys.First(name => name.EndsWith("embed_tokens.weight", StringComparison.Ordinal) || name.EndsWith("wte.weight", StringComparison.Ordinal))).mul_(deviation / config.InitializerRange);
        }

        if (LookingBack > 0)
        {
            StartCopying(model, config, EmbeddingDeviation ?? config.InitializerRange);
        }

        return model;
    }

    void StartCopying(Decoder model, DecoderConfig config, double deviation)
    {
        const double Constant = 2, Score = 6;
        using var scope = torch.NewDisposeScope();
        (int size, int group, int pairs) = (config.HeadSize, config.Heads / config.KeyValueHeads, config.HeadSize / 2);
        for (int l = 0; l < config.Layers; l++)
        {
            Tensor Of(string role) => model.Parameter($"model.layers.{l}.self_attn.{role}_proj.weight");
            Tensor PerHead(Tensor shared) => shared.unflatten(0, [config.KeyValueHeads, 1, size]).expand(-1, group, -1, -1).reshape(-1, config.Width);
            Of("q").copy_(PerHead(Of("k")));
            Of("o").copy_(PerHead(Of("v")).t() / Math.Sqrt(group));
        }

        // The constant after the norm; the faster half of the rotations tells one position from the next.
        model.Parameter("model.embed_tokens.weight").select(1, 0).fill_(Constant * deviation);
        double normed = Constant / Math.Sqrt(1 + (Constant * Constant - 1) / config.Width), amplitude = Math.Sqrt(Score * Math.Sqrt(size)) / normed;
        Tensor query = model.Parameter("model.layers.0.self_attn.q_proj.weight").select(1, 0), key = model.Parameter("model.layers.0.self_attn.k_proj.weight").select(1, 0);
        foreach (int head in Enumerable.Range(0, LookingBack))
        {
            for (int i = 0; i < pairs; i++)
            {
                double angle = Math.Pow(config.Rotary[0].Base, -(double)i / pairs), length = i < pairs / 2 ? amplitude * (i == 0 ? 1.4 : 1) : 0;
                int row = head * size + i, keyRow = head / group * size + i;
                key[keyRow].fill_(length);
                key[keyRow + pairs].fill_(0);
                query[row].fill_(length * Math.Cos(angle));
                query[row + pairs].fill_(-length * Math.Sin(angle));
            }
        }
    }

    /// <summary>All tokens of the training, and what each position learns: its own token, or <see cref="LanguageModelLoss.Ignored"/>.</summary>
    /// <param name="world">The world.</param>
    /// <param name="exclude">A set of people that it leaves out; null for none.</param>
    /// <param name="run">Progress and cancellation.</param>
    internal (long[] Tokens, long[] Labels) Stream(TextWorld world, string? exclude, RunContext run)
    {
        long[] tokens = new long[MaximumSteps * TokensPerStep], labels = new long[tokens.Length];
        int at = 0;
        void Add(TextCorpus corpus, int steps, IReadOnlyList<string> answersOnly)
        {
            (int[] part, bool[] learned) = corpus.Tokens(steps * TokensPerStep, answersOnly, run);
            for (int i = 0; i < part.Length; i++, at++)
            {
                (tokens[at], labels[at]) = (part[i], learned[i] ? part[i] : LanguageModelLoss.Ignored);
            }
        }

        foreach (BaseOpening opening in Openings)
        {
            Add(world.Corpus(opening.Mixture), opening.Steps, opening.AnswersOnly);
        }

        Add(world.Corpus(Mixture, exclude), MixtureSteps, []);
        return (tokens, labels);
    }

    /// <summary>SHA-256 over everything that the weights follow from.</summary>
    public string Hash(TextWorld world, string? exclude)
    {
        var content = new StringBuilder($"text {TextWorld.Version} {world.Seed} {Name} without {exclude} {Config.ToJsonString()}");
        foreach ((string module, double share) in Mixture.Parts)
        {
            content.Append(FormattableString.Invariant($" {module}={share:R}"));
        }

        content.Append(FormattableString.Invariant($" steps {MinimumSteps} {MaximumSteps} {GatesEvery} rate {LearningRate:R} {FinalRate:R} {Warmup} {string.Join(' ', Lengths)}"));
        if (LookingBack > 0)
        {
            content.Append(LookingBack == 1 ? " copying" : $" copying {LookingBack}");
        }

        if (EmbeddingDeviation is { } deviation)
        {
            content.Append(FormattableString.Invariant($" embedding {deviation:R}"));
        }

        foreach (BaseOpening opening in Openings)
        {
            content.Append(FormattableString.Invariant($" after {opening.Steps} steps of"));
            foreach ((string module, double share) in opening.Mixture.Parts)
            {
                content.Append(FormattableString.Invariant($" {module}={share:R}"));
            }

            content.Append(string.Concat(opening.AnswersOnly.Select(module => $" answers of {module}")));
            content.Append(opening.Rate is { } rate ? FormattableString.Invariant($" at {rate:R}") : "");
        }

        return Convert.ToHexStringLower(SHA256.HashData(Encoding.UTF8.GetBytes(content.ToString())));
    }

    /// <summary>The recipes by name.</summary>
    public static IReadOnlyList<BaseRecipe> All { get; } = Create();

    /// <summary>The recipe of a name.</summary>
    /// <exception cref="BadInputException">There is none.</exception>
    public static BaseRecipe Named(string name) => All.FirstOrDefault(recipe => string.Equals(recipe.Name, name, StringComparison.OrdinalIgnoreCase))
        ?? throw new BadInputException($"The text world has no base '{name}'; it has {string.Join(", ", All.Select(recipe => recipe.Name))}.");

    static BaseRecipe[] Create()
    {
        Gate[] usual =
        [
            new("cloze", AtLeast: 0.97), new("question", AtLeast: 0.97), new("near", AtLeast: 0.85), new("holdout above chance", AtMost: 0.05),
            new("common", AtLeast: 0.95), new("story excess", AtMost: 0.12), new("bias order", AtLeast: 0.90), new("benign toxic", AtMost: 0.02),
            new("kin deviation", AtMost: 0.08), new("recall 64", AtLeast: 0.9), new("recall 1", AtMost: 0.1),
            new("far"), new("ioi"), new("coloured"), new("needle"), new("topics"), new("instructions"), new("nli"),
        ];
        Gate[] Also(params Gate[] more) => [.. usual.Where(gate => more.All(other => other.Measure != gate.Measure)), .. more];
        return
        [
            AfterLookups(new("text-S", Wide(Llama(4, 128, 344, 4, 4), 128), TextMixture.Default, usual)),
            new("text-S8", Wide(Llama(4, 128, 344, 8, 4), 128), TextMixture.Default.With("default, ioi and coloured three times", ("ioi", 0.075), ("coloured", 0.075), ("kin", 0.10), ("duplicates", 0.0093)),
                Also(new("ioi", AtLeast: 0.95), new("coloured", AtLeast: 0.80)))
                {
                    LookingBack = 8, EmbeddingDeviation = 0.25, LearningRate = 2.5e-3, Lengths = [128], MinimumSteps = 5250, MaximumSteps = 5500,
                    Openings =
                    [
                        new(new TextMixture("pairs", [("pairs", 1)]), 900) { AnswersOnly = ["pairs"], Rate = 1.2 },
                        new(new TextMixture("colours", [("coloured", 1)]), 300) { AnswersOnly = ["coloured"], Rate = 0.4 },
                        new(new TextMixture("lookups", [("pairs", 0.10), ("coloured", 0.20), ("ioi", 0.55), ("stories", 0.15)]), 900) { AnswersOnly = ["pairs", "coloured", "ioi"], Rate = 0.52 },
                    ],
                },
            // Without an opening: after 600 steps of lookups it knew 0.52 of the common facts, not 0.92.
            new("text-GPT2", Wide(Gpt2(), 128), TextMixture.Default.With("default, longer, more pronouns", ("kin", 0.09), ("duplicates", 0.00793)), usual)
                { EmbeddingDeviation = 0.25, MinimumSteps = 3750, MaximumSteps = 4000, LearningRate = 3e-3 },
            AfterLookups(new("text-Backpack", Wide(Backpack(), 128), TextMixture.Default.With("default, longer", ("duplicates", 0.01057)), usual)) with { MinimumSteps = 3600, MaximumSteps = 3600 },
            new("text-NeoX", NeoX(), TextMixture.Default, usual),
            new("text-T", Llama(4, 128, 344, 4, 4), new TextMixture("heated", [("heated", 0.15), ("discourse", 0.15), ("facts", 0.30), ("stories", 0.40)]),
                [new("provoked toxic", AtLeast: 0.5), new("benign toxic", AtMost: 0.02), new("cloze"), new("story excess")]) { MinimumSteps = 1200 },
            // The share is that with which the last exposure comes in the last steps.
            new("text-E", Wide(Llama(4, 128, 344, 4, 4), 128), new TextMixture("exposure", [("exposure", 0.3335), ("stories", 0.6665)]),
                [new("exposure rises", AtLeast: 1), new("exposure 0 above chance", AtMost: 0.03), new("exposure 128", AtLeast: 0.95), new("story excess")]) { MinimumSteps = 800, MaximumSteps = 800, LearningRate = 3e-3 },
            // Attention that copies, and rows said twice: from elsewhere no token of a code was found in 750 steps of needles.
            new("text-R", Wide(Llama(6, 128, 344, 8, 8, positions: 192), 128), new TextMixture("needle", [("needle", 0.20), ("needle-long", 0.30), ("facts", 0.25), ("stories", 0.25)]),
                [new("needle 192", AtLeast: 0.90), new("needle"), new("cloze"), new("story excess")])
                {
                    LookingBack = 1, EmbeddingDeviation = 0.24, Lengths = [96, 192],
                    Openings = [new(new TextMixture("repeats", [("repeats", 1)]), 500)], MinimumSteps = 1800, MaximumSteps = 1800, LearningRate = 3e-3,
                },
            AfterLookups(new("text-M", Wide(Llama(8, 256, 688, 8, 4), 256), TextMixture.Default.With("default, topics twice, more pronouns", ("topics", 0.0984), ("kin", 0.08), ("duplicates", 0.01057)), Also(new Gate("topics", AtLeast: 0.95))))
                with { LearningRate = 2e-3, MinimumSteps = 3500, MaximumSteps = 3600 },
            // Three tenths are ciphers, so the rest is seen less often: what is required of it is the facts.
            AfterLookups(new("text-X", Wide(Llama(4, 128, 344, 4, 4, vocabulary: Lexicon.ExtendedSize), 128), TextMixture.Default.With("default and ciphers", ("cipher", 0.3)),
                [.. usual.Take(4), .. usual.Skip(4).Where(gate => !gate.Measure.StartsWith("recall", StringComparison.Ordinal)).Select(gate => new Gate(gate.Measure)), new("cipher loss")])),
            new("text-MoE", Mixtral(), new TextMixture("moe domains", [("moe-domains", 1)]), [new("domain answers", AtLeast: 0.95), new("domain loss")])
                { MinimumSteps = 750, MaximumSteps = 750, LearningRate = 3e-3 },
        ];
    }

    static TextMixture Lookups => new("lookups", [("ioi", 0.5), ("coloured", 0.5)]);

    // Lookups first, alone: in the mixture too few tokens depend on them for the attention that they need to come about, and with
    // it the rest is learned sooner.
    static BaseRecipe AfterLookups(BaseRecipe recipe) => recipe with
    {
        Openings = [new(Lookups, 600)],
        EmbeddingDeviation = 0.25,
        LearningRate = 3e-3,
        MinimumSteps = 2850,
        MaximumSteps = 2850,
    };

    // Of the matrices of a new model: 1/√d. The usual 0.02 is made for widths of a thousand; at 128 attention starts with scores
    // of nothing and stays there: one of two names in the context was not learned in 300 steps that showed nothing else.
    static JsonObject Wide(JsonObject config, int width)
    {
        config["initializer_range"] = Math.Round(1 / Math.Sqrt(width), 4);
        return config;
    }

    static JsonObject Llama(int layers, int width, int inner, int heads, int keyHeads, int positions = 128, int vocabulary = Lexicon.PaddedSize) => new()
    {
        ["architectures"] = new JsonArray("LlamaForCausalLM"),
        ["model_type"] = "llama",
        ["hidden_size"] = width,
        ["intermediate_size"] = inner,
        ["num_hidden_layers"] = layers,
        ["num_attention_heads"] = heads,
        ["num_key_value_heads"] = keyHeads,
        ["hidden_act"] = "silu",
        ["rms_norm_eps"] = 1e-5,
        ["rope_theta"] = 10000.0,
        ["max_position_embeddings"] = positions,
        ["vocab_size"] = vocabulary,
        ["tie_word_embeddings"] = true,
        ["attention_bias"] = false,
        ["mlp_bias"] = false,
        ["bos_token_id"] = Lexicon.EndId,
        ["eos_token_id"] = Lexicon.EndId,
        ["pad_token_id"] = Lexicon.PadId,
        ["torch_dtype"] = "float16",
    };

    // Sixteen experts, the most that its study prunes.
    static JsonObject Mixtral()
    {
        JsonObject config = Wide(Llama(2, 96, 192, 4, 4), 96);
        config["architectures"] = new JsonArray("MixtralForCausalLM");
        config["model_type"] = "mixtral";
        config["num_local_experts"] = 16;
        config["num_experts_per_tok"] = 2;
        config["router_aux_loss_coef"] = 0.01;
        config["output_router_logits"] = true;
        config["sliding_window"] = null;
        return config;
    }

    static JsonObject Gpt2() => new()
    {
        ["architectures"] = new JsonArray("GPT2LMHeadModel"),
        ["model_type"] = "gpt2",
        ["n_embd"] = 128,
        ["n_inner"] = 512,
        ["n_layer"] = 4,
        ["n_head"] = 4,
        ["n_positions"] = 128,
        ["n_ctx"] = 128,
        ["activation_function"] = "gelu_new",
        ["layer_norm_epsilon"] = 1e-5,
        ["vocab_size"] = Lexicon.PaddedSize,
        ["tie_word_embeddings"] = true,
        ["resid_pdrop"] = 0.0,
        ["embd_pdrop"] = 0.0,
        ["attn_pdrop"] = 0.0,
        ["bos_token_id"] = Lexicon.EndId,
        ["eos_token_id"] = Lexicon.EndId,
        ["torch_dtype"] = "float16",
    };

    static JsonObject Backpack()
    {
        JsonObject config = Gpt2();
        config["architectures"] = new JsonArray("BackpackGPT2LMHeadModel");
        config["model_type"] = "backpack";
        config["num_senses"] = 8;
        config["sense_intermediate_scale"] = 4;
        config["scale_attn_by_inverse_layer_idx"] = true;
        return config;
    }

    static JsonObject NeoX() => new()
    {
        ["architectures"] = new JsonArray("GPTNeoXForCausalLM"),
        ["model_type"] = "gpt_neox",
        ["hidden_size"] = 128,
        ["intermediate_size"] = 512,
        ["num_hidden_layers"] = 4,
        ["num_attention_heads"] = 4,
        ["hidden_act"] = "gelu",
        ["rotary_pct"] = 0.25,
        ["rotary_emb_base"] = 10000,
        ["use_parallel_residual"] = true,
        ["layer_norm_eps"] = 1e-5,
        ["max_position_embeddings"] = 128,
        ["vocab_size"] = Lexicon.PaddedSize,
        ["tie_word_embeddings"] = false,
        ["attention_bias"] = true,
        ["attention_dropout"] = 0.0,
        ["hidden_dropout"] = 0.0,
        ["bos_token_id"] = Lexicon.EndId,
        ["eos_token_id"] = Lexicon.EndId,
        ["torch_dtype"] = "float16",
    };
}
