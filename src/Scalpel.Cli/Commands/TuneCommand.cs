using System.CommandLine;
using System.Security.Cryptography;
using System.Text.Json;
using System.Text.Json.Nodes;
using Scalpel.Checkpoints;
using Scalpel.Checkpoints.Gguf;
using Scalpel.Cli.CommandLine;
using Scalpel.Lab.Reports;
using Scalpel.Networks;
using Scalpel.Patches;
using Scalpel.Training;

namespace Scalpel.Cli.Commands;

/// <summary>Trains a model on texts, preferences or rewards; the result is a patch.</summary>
sealed class TuneCommand : CliCommand
{
    readonly Argument<string> model = ModelArgument();
    readonly TuneOptions o = new();

    public TuneCommand() : base("tune", "Trains a model on texts, preferences or rewards and writes the change as a patch.",
        "scalpel tune assets/models/smollm2-135m-instruct --data train.jsonl --method lora --steps 50 --out tuned.patch.safetensors",
        "scalpel tune assets/models/smollm2-135m-instruct --data pairs.jsonl --loss dpo --run runs/dpo --out dpo.patch.safetensors",
        "scalpel tune assets/models/smollm2-135m-instruct --data prompts.jsonl --loss grpo --reward contains:. --steps 10 --out sentences.patch.safetensors")
    {
        Add(model);
        foreach (Option option in o.All)
        {
            Add(option);
        }
    }

    public override void Execute(Invocation call)
    {
        string path = call.Get(o.Output), kind = call.Get(o.Method), file = call.Get(o.Data);
        o.Check(call);
        using Decoder decoder = Decoder.Load(call.Model(model), DTypeOf(call, o.BFloat16));
        decoder.RecomputesLayers = call.Get(o.Recompute);
        RunContext run = call.Context(call.Get(o.Seed));
        int limit = decoder.Config.MaxPositions;
        using TuningData data = TuningData.Read(file, decoder.Tokenizer, limit, call.Get(o.MaxLength), run);
        TuningObjective objective = o.Objective(call, data.Layout);
        objective.Check(data, file);
        o.CheckEffect(call, objective);
        if (call.Has(o.BatchSize) && call.Get(o.BatchSize) > data.Count)
        {
            throw new BadInputException($"--batch-size is {call.Get(o.BatchSize)}, but {file} has {data.Count} rows that can be learned; a batch would hold some of them twice.");
        }

        IReadOnlyList<TokenRow>? packed = call.Get(o.Packing) ? data.Packed(call.Get(o.MaxLength) ?? Math.Min(limit, 1024)) : null;
        Show(call, data, file, packed);
        using TuningData? held = call.Get(o.HeldOut) is { } other ? TuningData.Read(other, decoder.Tokenizer, limit, call.Get(o.MaxLength), run) : null;
        if (held is not null)
        {
            objective.Check(held, call.Get(o.HeldOut)!);
        }

        JsonObject options = o.Resolved(call, objective);
        using Adapter? adapter = o.NewAdapter(call, decoder);
        using IDisposable? attached = adapter?.AttachTo(decoder);
        string[] trained = adapter is null ? Trained(decoder, call.Get(o.Target)) : [];
        using RewardModel? scorer = objective.Family == TuningFamily.Reward ? NewScorer(decoder, run.Seed) : null;
        using FrozenTensors? frozen = adapter is null && objective.ComparesWhileTraining ? new FrozenTensors(decoder, trained) : null;
        Func<IDisposable>? asBefore = adapter is not null ? adapter.Suspend : frozen is not null ? frozen.Swap : null;
        IReward[] rewards = [.. call.Get(o.Rewards).Select(Rewards.Parse)];
        TrainingResult result;
        CheckFailedException? failure = null;
        StepReport? last = null;
        bool compared = false;
        try
        {
            RowTask Task(TuningData rows, IReadOnlyList<TokenRow>? packedRows, RowTask? heldOut) => objective.Family switch
            {
                TuningFamily.Reward => new RewardTask(scorer!, rows.Pairs, call.Get(o.BatchSize), call.Get(o.Accumulate), run.Seed, objective.Centring) { HeldOut = heldOut },
                TuningFamily.Policy => new PolicyTask(decoder, rows, rewards, call.Get(o.BatchSize), call.Get(o.Accumulate), run.Seed, objective.PolicyOptions(), asBefore) { HeldOut = heldOut },
                _ => objective.CreateTask(decoder, rows, call.Get(o.BatchSize), call.Get(o.Accumulate), run, packedRows, heldOut, asBefore),
            };
            RowTask task = Task(data, packed, held is null ? null : Task(held, null, null));
            IReadOnlyList<TrainableTensor> tensors = [.. adapter?.Trainable(decoder) ?? TrainableTensor.Of(decoder, trained), .. scorer is null || trained.Contains("score.weight") ? [] : scorer.Trainable()];
            using var trainer = new Trainer(tensors, o.Training(call, Fingerprint(decoder, file, call.Get(o.HeldOut), options, run.Seed))) 
            {
                OnStep = report =>
                {
                    last = report;
                    compared |= report.Metrics.GetValueOrDefault("groups_alike") < 1;
                },
            };
            try
            {
                result = trainer.Run(task, run);
            }
            catch (CheckFailedException e) when (last is not null && tensors.All(IsFinite))
            {
                failure = e;
                result = new TrainingResult(last.Step + 1, last.Loss, null, false);
            }
        }
        finally
        {
            foreach (IReward reward in rewards)
            {
                reward.Dispose();
            }
        }

        if (last is not null && !compared)
        {
            throw new CheckFailedException("In every step all answers to a prompt had the same reward, so nothing was learned; take another reward, a larger --group or a higher --temperature.");
        }

        attached?.Dispose();
        var info = new PatchInfo
        {
            Method = kind == "full" ? "full-tuning" : kind, Options = options, Seed = run.Seed,
            Evidence = failure is null ? new JsonObject { ["loss"] = result.Loss, ["steps"] = result.Steps } : new JsonObject { ["stopped"] = failure.Message },
        };
        using Patch patch = ToPatch(decoder, adapter, trained, scorer, info);
        patch.Save(path, call.Get(o.Force));
        Finish(call, options, data);
        if (failure is not null)
        {
            throw new CheckFailedException($"{failure.Message} {path} holds the weights before that step.");
        }

        call.Output.Emit(new JsonObject
        {
            ["patch"] = path, ["method"] = info.Method, ["loss_name"] = objective.Name, ["rows"] = data.Count, ["layout"] = data.LayoutName, ["steps"] = result.Steps, ["loss"] = result.Loss,
            ["best"] = result.Best, ["stopped_early"] = result.StoppedEarly, ["tensors"] = patch.Deltas.Count,
            ["metrics"] = last is null ? null : new JsonObject(last.Metrics.Select(pair => KeyValuePair.Create<string, JsonNode?>(pair.Key, double.IsFinite(pair.Value) ? pair.Value : null))),
        });
        if (!call.Output.Json)
        {
            string evaluated = result.Best is { } best ? FormattableString.Invariant($", best evaluation {best:0.0000}{(result.StoppedEarly ? ", stopped early" : "")}") : "";
            string reward = objective.Family == TuningFamily.Policy && last is not null ? FormattableString.Invariant($", last reward {last.Metrics["reward"]:0.000}") : "";
            call.Output.Line(FormattableString.Invariant($"{path}: {info.Method}, {objective.Name}, {result.Steps} steps, last loss {result.Loss:0.0000}{reward}{evaluated}, {patch.Deltas.Count} tensors"));
        }
    }

    static void Show(Invocation call, TuningData data, string file, IReadOnlyList<TokenRow>? packed)
    {
        string Counted(int count, string what) => count > 0 ? $", {count:#,0} {what}" : "";
        call.Output.Note($"{file}: {data.Count:#,0} rows of the layout {data.LayoutName}, {data.Tokens:#,0} tokens, {data.Learned:#,0} of them learned, the longest row {data.Longest}"
            + Counted(data.Shortened, "cut") + Counted(data.Dropped, "left out with nothing to learn") + Counted(data.Moved, "whose answer begins within a token of the prompt")
            + (packed is null ? "" : $", packed into {packed.Count:#,0} rows"));
        string preview = data.Preview();
        call.Output.Note($"the first row, what is learned in «»: {(preview.Length > 600 ? preview[..600] + "…" : preview)}");
    }

    void Finish(Invocation call, JsonObject options, TuningData data)
    {
        // The state of the run is complete: what remains is for people.
        if (call.Get(o.Folder) is { } folder)
        {
            // What the run depends on beyond the options of its patch.
            var all = new JsonObject { ["model"] = call.Get(model), ["data"] = call.Get(o.Data), ["eval_data"] = call.Get(o.HeldOut), ["seed"] = call.Get(o.Seed) };
            foreach ((string name, JsonNode? value) in options)
            {
                all[name] = value?.DeepClone();
            }

            AtomicFile.WriteText(Path.Combine(folder, "options.json"), all.ToJsonString(new JsonSerializerOptions { WriteIndented = true }) + "\n");
            LossCurve.Draw(folder);
            call.Output.Note($"{Path.Combine(folder, "loss.svg")} shows the loss, log.jsonl beside it all figures; {data.Count:#,0} rows were learned.");
        }
    }

    static RewardModel NewScorer(Decoder decoder, ulong seed)
    {
        if (decoder.Source is GgufCheckpoint && decoder.Config.Head == HeadKind.LanguageModel)
        {
            throw new BadInputException($"{decoder.Source.Location} is a GGUF file, to which the new head of a reward model cannot be added; give the model's safetensors folder.");
        }

        return new RewardModel(decoder, seed);
    }

    static Patch ToPatch(Decoder decoder, Adapter? adapter, string[] trained, RewardModel? scorer, PatchInfo info)
    {
        if (scorer is null)
        {
            return adapter?.ToPatch(decoder, info) ?? Patch.Of(decoder.Source!, info, trained.Select(name => (name, decoder.Parameter(name).alias())));
        }

        using Patch body = adapter?.ToPatch(decoder, info) ?? Patch.Of(decoder.Source!, info, trained.Select(name => (name, decoder.Parameter(name).alias())));
        return scorer.ToPatch(info, body);
    }

    static bool IsFinite(TrainableTensor tensor)
    {
        using TorchSharp.torch.Tensor finite = tensor.Leaf.isfinite(), all = finite.all();
        return all.item<bool>();
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

    static string Fingerprint(Decoder decoder, string data, string? held, JsonObject options, ulong seed)
    {
        string Of(string file)
        {
            using FileStream stream = File.OpenRead(file);
            return Convert.ToHexStringLower(SHA256.HashData(stream));
        }

        string content = $"{decoder.ConfigHash} {decoder.Hash(decoder.Parameters.Keys.First())} {Of(data)} {(held is null ? "" : Of(held))} {options.ToJsonString()} {seed}";
        return Convert.ToHexStringLower(SHA256.HashData(System.Text.Encoding.UTF8.GetBytes(content)));
    }
}
