using System.CommandLine;
using System.Security.Cryptography;
using System.Text.Json.Nodes;
using Scalpel.Cli.CommandLine;
using Scalpel.Networks;
using Scalpel.Patches;
using Scalpel.Training;
using TorchSharp;
using static TorchSharp.torch;

namespace Scalpel.Cli.Commands;

/// <summary>Trains a model on texts or preferences; the result is a patch.</summary>
sealed class TuneCommand : CliCommand
{
    readonly Argument<string> model = ModelArgument();
    readonly Option<string> data = new("--data") { Description = "JSON lines: text; prompt and completion; messages; or prompt, chosen and rejected.", HelpName = "FILE", Required = true };
    readonly Option<string> method = new("--method") { Description = "lora, dora, ia3 or full.", DefaultValueFactory = _ => "lora" };
    readonly Option<string?> loss = new("--loss") { Description = "For texts nll or dft; for pairs dpo, ipo, hinge, robust, and the other names of TRL, or cpo, simpo, orpo." };
    readonly Option<long> steps = new("--steps") { Description = "Optimizer steps.", DefaultValueFactory = _ => 100 };
    readonly Option<int> batchSize = new("--batch-size") { Description = "Rows, or pairs, of one pass.", DefaultValueFactory = _ => 4 };
    readonly Option<int> accumulate = new("--accumulate") { Description = "Passes summed in one step.", DefaultValueFactory = _ => 1 };
    readonly Option<double?> learningRate = new("--learning-rate") { Description = "Peak learning rate; 2e-4 for adapters, 2e-5 for full tuning by default." };
    readonly Option<long> warmup = new("--warmup") { Description = "Steps in which the rate rises; then it falls as a cosine.", DefaultValueFactory = _ => 0 };
    readonly Option<double> decay = new("--weight-decay") { Description = "Weight decay of matrices.", DefaultValueFactory = _ => 0 };
    readonly Option<double> beta = new("--beta") { Description = "Inverse temperature of a preference loss.", DefaultValueFactory = _ => 0.1 };
    readonly Option<double> smoothing = new("--label-smoothing") { Description = "Label smoothing.", DefaultValueFactory = _ => 0 };
    readonly Option<int> rank = new("--rank") { Description = "Rank of a low-rank adapter.", DefaultValueFactory = _ => 8 };
    readonly Option<double?> alpha = new("--alpha") { Description = "Scale of a low-rank adapter, alpha/rank; twice the rank by default." };
    readonly Option<string[]> target = new("--target") { Description = "What to train: ends of module paths or a regular expression; all linear layers (full: all tensors) by default.", DefaultValueFactory = _ => [] };
    readonly Option<int?> maxLength = new("--max-length") { Description = "Cut longer rows to this many tokens." };
    readonly Option<ulong> seed = new("--seed") { Description = "Seed of the run.", DefaultValueFactory = _ => 0UL };
    readonly Option<string?> folder = new("--run") { Description = "Folder for the state and log.jsonl.", HelpName = "FOLDER" };
    readonly Option<long> saveEvery = new("--save-every") { Description = "Steps between saved states.", DefaultValueFactory = _ => 100 };
    readonly Option<bool> resume = new("--resume") { Description = "Go on from the state in the folder of --run." };
    readonly Option<bool> bf16 = BFloat16Option();
    readonly Option<string> output = new("--out") { Description = $"The patch to write, *{Patch.Suffix}.", HelpName = "PATCH", Required = true };
    readonly Option<bool> force = new("--force") { Description = "Replace an existing patch." };

    public TuneCommand() : base("tune", "Trains a model on texts or preferences and writes the change as a patch.",
        "scalpel tune assets/models/smollm2-135m-instruct --data train.jsonl --method lora --steps 50 --out tuned.patch.safetensors",
        "scalpel tune assets/models/smollm2-135m-instruct --data pairs.jsonl --loss dpo --run runs/dpo --out dpo.patch.safetensors")
    {
        Add(model);
        foreach (Option option in (Option[])[data, method, loss, steps, batchSize, accumulate, learningRate, warmup, decay, beta, smoothing, rank, alpha, target, maxLength, seed, folder, saveEvery, resume, bf16, output, force])
        {
            Add(option);
        }
    }

    public override void Execute(Invocation call)
    {
        string path = call.Get(output), kind = call.Get(method);
        if (File.Exists(path) && !call.Get(force))
        {
            throw new BadInputException($"{path} exists already; choose another file or add --force to replace it.");
        }

        if (kind is not ("lora" or "dora" or "ia3" or "full"))
        {
            throw new BadInputException($"The method '{kind}' is not known; known are lora, dora, ia3 and full.");
        }

        if (call.Get(batchSize) < 1)
        {
            throw new BadInputException($"--batch-size is {call.Get(batchSize)}; it must be at least 1.");
        }

        using Decoder decoder = Decoder.Load(call.Model(model), DTypeOf(call, bf16));
        RunContext run = call.Context(call.Get(seed));
        TuningData tuning = TuningData.Read(call.Get(data), decoder.Tokenizer, decoder.Config.MaxPositions, call.Get(maxLength));
        int count = tuning.Rows.Count + tuning.Pairs.Count;
        call.Output.Note($"{call.Get(data)}: {count} rows of the layout {tuning.Layout}"
            + (tuning.Shortened > 0 ? $", {tuning.Shortened} cut" : "") + (tuning.Moved > 0 ? $", {tuning.Moved} whose answer begins within a token of the prompt" : ""));
        var options = new JsonObject
        {
            ["method"] = kind, ["loss"] = call.Get(loss), ["steps"] = call.Get(steps), ["batch_size"] = call.Get(batchSize), ["accumulate"] = call.Get(accumulate),
            ["learning_rate"] = call.Get(learningRate) ?? (kind == "full" ? 2e-5 : 2e-4), ["warmup"] = call.Get(warmup), ["weight_decay"] = call.Get(decay), ["beta"] = call.Get(beta),
            ["label_smoothing"] = call.Get(smoothing), ["rank"] = call.Get(rank), ["alpha"] = call.Get(alpha) ?? 2 * call.Get(rank),
            ["target"] = new JsonArray([.. call.Get(target).Select(t => (JsonNode?)t)]), ["max_length"] = call.Get(maxLength), ["bf16"] = call.Get(bf16),
        };
        using Adapter? adapter = NewAdapter(call, kind, decoder);
        using IDisposable? attached = adapter?.AttachTo(decoder);
        ITrainingTask task = Task(call, decoder, tuning, run);
        string[] trained = adapter is null ? Trained(decoder, call.Get(target)) : [];
        TrainingResult result;
        using (var trainer = new Trainer(adapter?.Trainable(decoder) ?? TrainableTensor.Of(decoder, trained), new TrainerOptions
        {
            Steps = call.Get(steps),
            Accumulation = call.Get(accumulate),
            LearningRate = options["learning_rate"]!.GetValue<double>(),
            Schedule = new CosineSchedule(call.Get(steps)) { Warmup = call.Get(warmup) },
            Optimizer = groups => new AdamW(groups, new AdamWOptions { WeightDecay = call.Get(decay) }),
            Folder = call.Get(folder),
            SaveEvery = call.Get(saveEvery),
            Resume = call.Get(resume),
            Fingerprint = Fingerprint(decoder, call.Get(data), options, call.Get(seed)),
        }))
        {
            result = trainer.Run(task, run);
        }

        attached?.Dispose();
        var info = new PatchInfo { Method = kind == "full" ? "full-tuning" : kind, Options = options, Seed = call.Get(seed), Evidence = new JsonObject { ["loss"] = result.Loss, ["steps"] = result.Steps } };
        using Patch patch = adapter?.ToPatch(decoder, info) ?? Patch.Of(decoder.Source!, info, trained.Select(name => (name, decoder.Parameter(name).alias())));
        patch.Save(path, call.Get(force));
        call.Output.Emit(new JsonObject { ["patch"] = path, ["method"] = info.Method, ["rows"] = count, ["layout"] = tuning.Layout, ["steps"] = result.Steps, ["loss"] = result.Loss, ["tensors"] = patch.Deltas.Count });
        if (!call.Output.Json)
        {
            call.Output.Line(FormattableString.Invariant($"{path}: {info.Method}, {result.Steps} steps, last loss {result.Loss:0.0000}, {patch.Deltas.Count} tensors"));
        }
    }

    Adapter? NewAdapter(Invocation call, string kind, Decoder decoder)
    {
        string[] targets = call.Get(target);
        return kind switch
        {
            "full" => null,
            "ia3" => Adapter.CreateIa3(decoder, targets.Length > 0 ? targets : ["k_proj", "v_proj"], targets.Length > 0 ? [] : ["down_proj"]),
            _ => Adapter.CreateLora(decoder, new LoraOptions
            {
                Rank = call.Get(rank),
                Alpha = call.Get(alpha) ?? 2 * call.Get(rank),
                Magnitudes = kind == "dora",
                Targets = targets.Length > 0 ? targets : ["all-linear"],
            }, call.Get(seed)),
        };
    }

    ITrainingTask Task(Invocation call, Decoder decoder, TuningData tuning, RunContext run)
    {
        bool pairs = tuning.Pairs.Count > 0;
        string name = call.Get(loss) ?? (pairs ? "dpo" : "nll");
        (int batch, int parts, ulong of) = (call.Get(batchSize), call.Get(accumulate), call.Get(seed));
        if (name is "nll" or "dft")
        {
            return !pairs ? new SupervisedTask(decoder, tuning.Rows, batch, parts, of, new SupervisedOptions { Dynamic = name == "dft", LabelSmoothing = call.Get(smoothing) })
                : throw new BadInputException($"The loss {name} learns texts, but {call.Get(data)} holds pairs; take dpo or another loss on pairs.");
        }

        if (!pairs)
        {
            throw new BadInputException($"The loss {name} learns from pairs, but {call.Get(data)} holds {tuning.Layout}; give lines with prompt, chosen and rejected.");
        }

        return name switch
        {
            "orpo" => PreferenceTask.OddsRatio(decoder, tuning.Pairs, batch, parts, of, run, call.Get(beta)),
            "cpo" or "simpo" => PreferenceTask.Contrast(decoder, tuning.Pairs, batch, parts, of, run, new ContrastiveOptions
            {
                Loss = name == "cpo" ? ContrastiveLoss.Sigmoid : ContrastiveLoss.Simpo, NllWeight = name == "cpo" ? 1 : 0, Beta = call.Get(beta), LabelSmoothing = call.Get(smoothing),
            }),
            _ => PreferenceTask.Direct(decoder, tuning.Pairs, batch, parts, of, run, new DirectPreferenceOptions
            {
                Losses = [(TrlNames.DirectPreference(name == "dpo" ? "sigmoid" : name), 1)], Beta = call.Get(beta), LabelSmoothing = call.Get(smoothing),
            }),
        };
    }

    static string[] Trained(Decoder decoder, string[] targets)
    {
        if (targets.Length == 0)
        {
            return [.. decoder.Parameters.Keys];
        }

        string[] chosen = [.. decoder.Parameters.Keys.Where(name => targets.Any(t => name == t || name == $"{t}.weight" || name.EndsWith($".{t}.weight", StringComparison.Ordinal) || name.EndsWith($".{t}", StringComparison.Ordinal)))];
        return chosen.Length > 0 ? chosen : throw new BadInputException($"The target {targets[0]} matches no tensor; the nearest is {Nearest.To(targets[0], decoder.Parameters.Keys)[0]}.");
    }

    static string Fingerprint(Decoder decoder, string data, JsonObject options, ulong seed)
    {
        using FileStream file = File.OpenRead(data);
        string content = $"{decoder.ConfigHash} {decoder.Hash(decoder.Parameters.Keys.First())} {Convert.ToHexStringLower(SHA256.HashData(file))} {options.ToJsonString()} {seed}";
        return Convert.ToHexStringLower(SHA256.HashData(System.Text.Encoding.UTF8.GetBytes(content)));
    }
}
