using System.CommandLine;
using System.Text.Json.Nodes;
using Scalpel.Cli.CommandLine;
using Scalpel.Networks;
using Scalpel.Patches;
using Scalpel.Training;

namespace Scalpel.Cli.Commands;

/// <summary>The options of <c>scalpel tune</c>, and what they come to.</summary>
sealed class TuneOptions
{
    public Option<string> Data { get; } = new("--data") { Description = "JSON lines, CSV, Parquet or text: text; prompt and completion; messages; pairs; rankings; prompts. See docs/tuning.md.", HelpName = "FILE", Required = true };

    public Option<string> Method { get; } = new("--method") { Description = "lora, dora, ia3 or full.", DefaultValueFactory = _ => "lora" };

    public Option<string?> Loss { get; } = new("--loss") { Description = "nll, dft; dpo, ipo, hinge, robust, rpo, …; kto; cpo, simpo, orpo, slic; rrhf; reward; grpo, rloo, …; by the data's layout if not given." };

    public Option<long> Steps { get; } = new("--steps") { Description = "Optimizer steps.", DefaultValueFactory = _ => 100 };

    public Option<int> BatchSize { get; } = new("--batch-size") { Description = "Rows, pairs or prompts of one pass.", DefaultValueFactory = _ => 4 };

    public Option<int> Accumulate { get; } = new("--accumulate") { Description = "Passes summed in one step.", DefaultValueFactory = _ => 1 };

    public Option<double?> LearningRate { get; } = new("--learning-rate") { Description = "Peak learning rate; 2e-4 for adapters, 2e-5 for full tuning by default." };

    public Option<string> Optimizer { get; } = new("--optimizer") { Description = "adamw, adam, sgd, lion or adafactor.", DefaultValueFactory = _ => "adamw" };

    public Option<string> Schedule { get; } = new("--schedule") { Description = "cosine, linear, constant or wsd (the last tenth falls).", DefaultValueFactory = _ => "cosine" };

    public Option<long> Warmup { get; } = new("--warmup") { Description = "Steps in which the rate rises; the first has rate 0.", DefaultValueFactory = _ => 0 };

    public Option<double> Decay { get; } = new("--weight-decay") { Description = "Weight decay of matrices.", DefaultValueFactory = _ => 0 };

    public Option<double> Clip { get; } = new("--clip") { Description = "Largest norm of a step's gradient; 0 for none.", DefaultValueFactory = _ => 1 };

    public Option<double?> Average { get; } = new("--ema") { Description = "Keep an average of the weights with this decay, which the patch holds." };

    public Option<double?> Beta { get; } = new("--beta") { Description = "Inverse temperature of a preference loss, or weight of the divergence; the loss's own default." };

    public Option<double> Smoothing { get; } = new("--label-smoothing") { Description = "Label smoothing.", DefaultValueFactory = _ => 0 };

    public Option<double?> Gamma { get; } = new("--gamma") { Description = "Margin of simpo, alphapo and slic." };

    public Option<double?> NllWeight { get; } = new("--nll-weight") { Description = "Weight of the chosen answers' cross-entropy in cpo and slic." };

    public Option<string> Divergence { get; } = new("--divergence") { Description = "Of dpo and its kin: reverse_kl, forward_kl, js_divergence, alpha_divergence.", DefaultValueFactory = _ => "reverse_kl" };

    public Option<double?> TailWeight { get; } = new("--tail-weight") { Description = "Of dpo and its kin: weight of tokens beyond the shorter answer (LD-DPO)." };

    public Option<double> Good { get; } = new("--good-weight") { Description = "Weight of good answers in kto.", DefaultValueFactory = _ => 1 };

    public Option<double> Bad { get; } = new("--bad-weight") { Description = "Weight of bad answers in kto.", DefaultValueFactory = _ => 1 };

    public Option<double> Centring { get; } = new("--centring") { Description = "Weight that keeps scores near 0 in reward; 0.01 is usual.", DefaultValueFactory = _ => 0 };

    public Option<string[]> Rewards { get; } = new("--reward") { Description = "For grpo and rloo: regex:PATTERN, contains:TEXT, field:NAME, length:TOKENS or model:PATH; several add up.", DefaultValueFactory = _ => [] };

    public Option<int> Group { get; } = new("--group") { Description = "Answers to each prompt in grpo and rloo.", DefaultValueFactory = _ => 8 };

    public Option<int> MaxTokens { get; } = new("--max-tokens") { Description = "Most tokens of an answer in grpo and rloo.", DefaultValueFactory = _ => 64 };

    public Option<double> Temperature { get; } = new("--temperature") { Description = "Temperature of the answers in grpo and rloo.", DefaultValueFactory = _ => 1 };

    public Option<int> Rank { get; } = new("--rank") { Description = "Rank of a low-rank adapter.", DefaultValueFactory = _ => 8 };

    public Option<double?> Alpha { get; } = new("--alpha") { Description = "Scale of a low-rank adapter, alpha/rank; twice the rank by default." };

    public Option<bool> RankStabilised { get; } = new("--rslora") { Description = "Scale by alpha/√rank instead." };

    public Option<string[]> Target { get; } = new("--target") { Description = "What to train: ends of module paths or a regular expression; all linear layers (full: all tensors) by default.", DefaultValueFactory = _ => [] };

    public Option<int?> MaxLength { get; } = new("--max-length") { Description = "Cut longer rows to this many tokens." };

    public Option<bool> Packing { get; } = new("--packing") { Description = "Put several texts into one row of --max-length tokens (1024 by default); they do not see each other." };

    public Option<string?> HeldOut { get; } = new("--eval-data") { Description = "Data whose loss is measured and not learned.", HelpName = "FILE" };

    public Option<long> EvaluateEvery { get; } = new("--eval-every") { Description = "Steps between evaluations of --eval-data.", DefaultValueFactory = _ => 50 };

    public Option<int> Patience { get; } = new("--patience") { Description = "Stop after this many evaluations without a better one, and take the best weights; 0 for never.", DefaultValueFactory = _ => 0 };

    public Option<ulong> Seed { get; } = new("--seed") { Description = "Seed of the run.", DefaultValueFactory = _ => 0UL };

    public Option<string?> Folder { get; } = new("--run") { Description = "Folder for the state, log.jsonl and the drawn loss.", HelpName = "FOLDER" };

    public Option<long> SaveEvery { get; } = new("--save-every") { Description = "Steps between saved states.", DefaultValueFactory = _ => 100 };

    public Option<bool> Resume { get; } = new("--resume") { Description = "Go on from the state in the folder of --run." };

    public Option<bool> BFloat16 { get; } = new("--bf16") { Description = "Compute in bfloat16 instead of float32; the trained weights stay float32." };

    public Option<bool> Recompute { get; } = new("--gradient-checkpointing") { Description = "Keep only the states between layers and compute the rest again in the backward pass: less memory, a third more work." };

    public Option<string> Output { get; } = new("--out") { Description = $"The patch to write, *{Patch.Suffix}.", HelpName = "PATCH", Required = true };

    public Option<bool> Force { get; } = new("--force") { Description = "Replace an existing patch." };

    public IReadOnlyList<Option> All =>
    [
        Data, Method, Loss, Steps, BatchSize, Accumulate, LearningRate, Optimizer, Schedule, Warmup, Decay, Clip, Average, Beta, Smoothing, Gamma, NllWeight, Divergence, TailWeight, Good, Bad, Centring,
        Rewards, Group, MaxTokens, Temperature, Rank, Alpha, RankStabilised, Target, MaxLength, Packing, HeldOut, EvaluateEvery, Patience, Seed, Folder, SaveEvery, Resume, BFloat16, Recompute, Output, Force,
    ];

    /// <summary>Refuses what cannot be used whatever the data is.</summary>
    public void Check(Invocation call)
    {
        string path = Destination.Patch(call.Get(Output), call.Get(Force)), kind = call.Get(Method);
        if (kind is not ("lora" or "dora" or "ia3" or "full"))
        {
            throw new BadInputException($"The method '{kind}' is not known; known are lora, dora, ia3 and full.");
        }

        if (call.Get(BatchSize) < 1)
        {
            throw new BadInputException($"--batch-size is {call.Get(BatchSize)}; it must be at least 1.");
        }

        foreach (Option option in All)
        {
            double? number = option switch { Option<double> always => call.Get(always), Option<double?> perhaps => call.Get(perhaps), _ => null };
            if (number is { } value && !double.IsFinite(value))
            {
                throw new BadInputException($"{option.Name} is {value}; it must be a finite number.");
            }
        }

        foreach ((string name, double value) in (ReadOnlySpan<(string, double)>)[(Warmup.Name, call.Get(Warmup)), (Decay.Name, call.Get(Decay)), (Clip.Name, call.Get(Clip)), (Patience.Name, call.Get(Patience))])
        {
            if (value < 0)
            {
                throw new BadInputException($"{name} is {value}; it must not be below 0.");
            }
        }

        if (call.Get(Warmup) > 0 && call.Get(Warmup) >= call.Get(Steps))
        {
            throw new BadInputException($"--warmup is {call.Get(Warmup)}, but there are {call.Get(Steps)} steps; the rate would never reach its peak.");
        }

        if (call.Get(EvaluateEvery) < 1)
        {
            throw new BadInputException($"--eval-every is {call.Get(EvaluateEvery)}; it must be at least 1.");
        }

        if (kind is "full" or "ia3")
        {
            foreach (Option option in (Option[])[Rank, Alpha, RankStabilised])
            {
                call.Refuse(option, $"the method {kind}");
            }
        }

        if (call.Get(Folder) is null)
        {
            call.Refuse(SaveEvery, "no --run");
            call.Refuse(Resume, "no --run");
        }

        if (call.Get(HeldOut) is null)
        {
            call.Refuse(EvaluateEvery, "no --eval-data");
            call.Refuse(Patience, "no --eval-data");
        }

        if (call.Get(Average) is { } decay && decay is not (> 0 and < 1))
        {
            throw new BadInputException($"--ema is {decay}; the decay of an average lies between 0 and 1, for example 0.99.");
        }
    }

    /// <summary>The objective that is asked for, or the layout's own.</summary>
    public TuningObjective Objective(Invocation call, TuningLayout layout) => new()
    {
        Name = call.Get(Loss) ?? TuningObjective.DefaultFor(layout),
        Beta = call.Get(Beta),
        LabelSmoothing = call.Get(Smoothing),
        Gamma = call.Get(Gamma),
        NllWeight = call.Get(NllWeight),
        Divergence = call.Get(Divergence),
        TailWeight = call.Get(TailWeight),
        Weights = (call.Get(Good), call.Get(Bad)),
        Centring = call.Get(Centring),
        Policy = new PolicyTaskOptions { Group = call.Get(Group), MaxNewTokens = call.Get(MaxTokens), Temperature = call.Get(Temperature) },
    };

    /// <summary>Refuses options that have no effect on the objective.</summary>
    public void CheckEffect(Invocation call, TuningObjective objective)
    {
        TuningFamily family = objective.Family;
        string name = objective.Name;
        Option[] idle =
        [
            .. family is TuningFamily.Reference or TuningFamily.Judged or TuningFamily.Policy || family == TuningFamily.Pair && name != "slic" ? (Option[])[] : [Beta],
            .. family is TuningFamily.Text or TuningFamily.Reference || family == TuningFamily.Pair && name is not ("orpo" or "slic") ? (Option[])[] : [Smoothing],
            .. name is "simpo" or "cpo_simpo" or "alphapo" or "slic" ? (Option[])[] : [Gamma],
            .. family == TuningFamily.Pair && name != "orpo" ? (Option[])[] : [NllWeight],
            .. family == TuningFamily.Reference ? (Option[])[] : [Divergence, TailWeight],
            .. family == TuningFamily.Judged ? (Option[])[] : [Good, Bad],
            .. family == TuningFamily.Reward ? (Option[])[] : [Centring],
            .. family == TuningFamily.Policy ? (Option[])[] : [Rewards, Group, MaxTokens, Temperature],
            .. family == TuningFamily.Text ? (Option[])[] : [Packing],
        ];
        foreach (Option option in idle)
        {
            call.Refuse(option, $"the loss {name}");
        }
    }

    /// <summary>A new adapter; null for full tuning.</summary>
    public Adapter? NewAdapter(Invocation call, Decoder decoder)
    {
        string[] targets = call.Get(Target);
        return call.Get(Method) switch
        {
            "full" => null,
            "ia3" => targets.Length > 0 ? Adapter.CreateIa3(decoder, targets, []) : Adapter.CreateIa3(decoder),
            var kind => Adapter.CreateLora(decoder, new LoraOptions
            {
                Rank = call.Get(Rank),
                Alpha = call.Get(Alpha) ?? 2 * call.Get(Rank),
                RankStabilised = call.Get(RankStabilised),
                Magnitudes = kind == "dora",
                Targets = targets.Length > 0 ? targets : ["all-linear"],
            }, call.Get(Seed)),
        };
    }

    /// <summary>How it is trained.</summary>
    public TrainerOptions Training(Invocation call, string fingerprint)
    {
        long steps = call.Get(Steps), warmup = call.Get(Warmup);
        double decay = call.Get(Decay), clip = call.Get(Clip);
        return new TrainerOptions
        {
            Steps = steps,
            Accumulation = call.Get(Accumulate),
            LearningRate = Rate(call),
            Schedule = call.Get(Schedule) switch
            {
                "cosine" => new CosineSchedule(steps) { Warmup = warmup },
                "linear" => new LinearSchedule(steps) { Warmup = warmup },
                "constant" => new ConstantSchedule { Warmup = warmup },
                "wsd" => new WarmupStableDecaySchedule(steps, Math.Max(1, steps / 10)) { Warmup = warmup },
                var other => throw new BadInputException($"The schedule '{other}' is not known; known are cosine, linear, constant and wsd."),
            },
            Optimizer = call.Get(Optimizer) switch
            {
                "adamw" => groups => new AdamW(groups, new AdamWOptions { WeightDecay = decay }),
                "adam" => groups => new Adam(groups, new AdamOptions { WeightDecay = decay }),
                "sgd" => groups => new Sgd(groups, new SgdOptions { WeightDecay = decay }),
                "lion" => groups => new Lion(groups, new LionOptions { WeightDecay = decay }),
                "adafactor" => groups => new Adafactor(groups, new AdafactorOptions { RelativeStep = false, ScaleParameter = false, WeightDecay = decay }),
                var other => throw new BadInputException($"The optimizer '{other}' is not known; known are adamw, adam, sgd, lion and adafactor."),
            },
            MaxGradNorm = clip > 0 ? clip : null,
            Average = call.Get(Average) is { } average ? new ExponentialAverageOptions { Decay = average } : null,
            Folder = call.Get(Folder),
            SaveEvery = call.Get(SaveEvery),
            Resume = call.Get(Resume),
            Fingerprint = fingerprint,
            EvaluateEvery = call.Get(HeldOut) is null ? 0 : call.Get(EvaluateEvery),
            Patience = call.Get(Patience),
        };
    }

    /// <summary>What the patch and the run's folder record: the options that shape the result.</summary>
    public JsonObject Resolved(Invocation call, TuningObjective objective)
    {
        var resolved = new JsonObject
        {
            ["method"] = call.Get(Method), ["loss"] = objective.Name, ["steps"] = call.Get(Steps), ["batch_size"] = call.Get(BatchSize), ["accumulate"] = call.Get(Accumulate),
            ["learning_rate"] = Rate(call), ["optimizer"] = call.Get(Optimizer), ["schedule"] = call.Get(Schedule), ["warmup"] = call.Get(Warmup), ["weight_decay"] = call.Get(Decay),
            ["clip"] = call.Get(Clip), ["target"] = new JsonArray([.. call.Get(Target).Select(t => (JsonNode?)t)]), ["max_length"] = call.Get(MaxLength), ["packing"] = call.Get(Packing), ["bf16"] = call.Get(BFloat16),
        };
        if (call.Get(Method) is "lora" or "dora")
        {
            (resolved["rank"], resolved["alpha"], resolved["rslora"]) = (call.Get(Rank), call.Get(Alpha) ?? 2 * call.Get(Rank), call.Get(RankStabilised));
        }

        // Of the rest what was given: the others have no effect, or their own defaults.
        (Option Option, Func<JsonNode?> Value)[] rest =
        [
            (Average, () => call.Get(Average)), (Beta, () => call.Get(Beta)), (Smoothing, () => call.Get(Smoothing)), (Gamma, () => call.Get(Gamma)), (NllWeight, () => call.Get(NllWeight)),
            (Divergence, () => call.Get(Divergence)), (TailWeight, () => call.Get(TailWeight)), (Good, () => call.Get(Good)), (Bad, () => call.Get(Bad)), (Centring, () => call.Get(Centring)),
            (Rewards, () => new JsonArray([.. call.Get(Rewards).Select(t => (JsonNode?)t)])), (Group, () => call.Get(Group)), (MaxTokens, () => call.Get(MaxTokens)), (Temperature, () => call.Get(Temperature)),
            (EvaluateEvery, () => call.Get(EvaluateEvery)), (Patience, () => call.Get(Patience)),
        ];
        foreach ((Option option, Func<JsonNode?> value) in rest)
        {
            if (call.Has(option))
            {
                resolved[option.Name.TrimStart('-').Replace('-', '_')] = value();
            }
        }

        return resolved;
    }

    double Rate(Invocation call) => call.Get(LearningRate) ?? (call.Get(Method) == "full" ? 2e-5 : 2e-4);
}
