using Scalpel.Checkpoints;
using Scalpel.Networks;
using Scalpel.Training;
using TorchSharp;
using static TorchSharp.torch;

namespace Scalpel.Lab.Parity;

/// <summary>Whole runs of some steps: losses, rates, norms of gradients, metrics and final weights.</summary>
public sealed class TrainingParity : IParityKind
{
    /// <inheritdoc/>
    public string Kind => "training";

    /// <inheritdoc/>
    public void Run(ParityCase parityCase, Comparison comparison)
    {
        using var scope = NewDisposeScope();
        using SafeTensorsFile inputs = SafeTensorsFile.Open(parityCase.PathOf("inputs")), expected = SafeTensorsFile.Open(parityCase.PathOf("expected"));
        var options = new CaseOptions(parityCase.Options, parityCase.Folder);
        options.Ignore("trainer", "final", "adapter");
        CaseOptions a = options.Part("arguments");
        string algorithm = options.Text("algorithm");
        long steps = (long)a.Number("max_steps", 20);
        int accumulation = (int)a.Number("gradient_accumulation_steps", 1), rows = (int)a.Number("per_device_train_batch_size", 2);
        double rate = a.Number("learning_rate", 2e-5);
        Schedule schedule = ScheduleParity.Read(a.Text("lr_scheduler_type", "linear"), a.Part("lr_scheduler_kwargs"), (long)a.Number("warmup_steps", 0), steps, rate);
        string kind = a.Text("optim", "adamw_torch");
        if (kind is not ("adamw_torch" or "adamw_torch_fused"))
        {
            throw new BadInputException($"{parityCase.Folder}: the optimizer '{kind}' is not known here.");
        }

        double decay = a.Number("weight_decay", 0), beta1 = a.Number("adam_beta1", 0.9), beta2 = a.Number("adam_beta2", 0.999), epsilon = a.Number("adam_epsilon", 1e-8);
        using Decoder model = Decoder.Load(parityCase.PathOf("model"));
        using Adapter? adapter = parityCase.Options["adapter"] is null ? null : PeftFolder.Read(Path.Combine(parityCase.Folder, parityCase.Option("adapter")), model);
        using IDisposable? attached = adapter?.AttachTo(model);
        using var batches = new GivenBatches(inputs, algorithm == "train-sft" ? rows : 0);
        ITrainingTask task = algorithm switch
        {
            "train-sft" => new SftRun(model, batches, accumulation, Supervision(a)),
            "train-dpo" => new DpoRun(model, batches, LossParity.Direct(a)),
            "train-kto" => new KtoRun(model, batches, LossParity.Unpaired(a)),
            "train-reward" => new RewardRun(model, batches, a.Number("center_rewards_coefficient", 0)),
            _ => throw new BadInputException($"{parityCase.Folder}: the run '{algorithm}' is not known here."),
        };
        // Of supervised runs the passes' losses are shares of the step's, as in the reference; of the others each is a mean.
        bool means = algorithm != "train-sft" && accumulation > 1;
        task = means ? new Accumulated(task, accumulation) : task;
        double norm = a.Number("max_grad_norm", 1);
        a.Finish();
        options.Finish();
        List<StepReport> reports = [];
        using var trainer = new Trainer(adapter?.Trainable(model) ?? TrainableTensor.Of(model, model.Parameters.Keys), new TrainerOptions
        {
            Steps = steps,
            Accumulation = accumulation,
            LearningRate = rate,
            Schedule = schedule,
            Optimizer = groups => new AdamW(groups, new AdamWOptions { WeightDecay = decay, Beta1 = beta1, Beta2 = beta2, Epsilon = epsilon }),
            MaxGradNorm = norm > 0 ? norm : null,
        })
        {
            OnStep = reports.Add,
        };
        trainer.Run(task, RunContext.WithSeed(0));
        foreach (string name in expected.Entries.Keys)
        {
            Tensor wanted = expected.Read(name);
            Tensor? ours = name switch
            {
                "loss" => tensor(reports.SelectMany(report => report.Losses).Select(loss => means ? loss * accumulation : loss).ToArray()),
                "lr" => tensor(reports.Select(report => report.Rate).ToArray()),
                "grad_norm" => tensor(reports.Select(report => report.GradNorm).ToArray()),
                _ when name.StartsWith("metric.", StringComparison.Ordinal) => Metric(reports, name[7..]),
                _ when name.StartsWith("final.", StringComparison.Ordinal) => adapter is null ? model.Parameter(name[6..]) : adapter.Tensors[name[6..]],
                _ => null,
            };
            if (ours is null)
            {
                comparison.Mismatch(name, $"{name} is not computed here");
            }
            else
            {
                comparison.Tensors(name, ours.to_type(wanted.dtype), wanted);
            }
        }
    }

    static Tensor? Metric(List<StepReport> reports, string name) =>
        reports.All(report => report.Metrics.ContainsKey(name)) ? tensor(reports.Select(report => report.Metrics[name]).ToArray()) : null;

    /// <summary>The case's batches in their order; <paramref name="rows"/> cuts them into smaller ones, 0 leaves them.</summary>
    sealed class GivenBatches(SafeTensorsFile inputs, int rows) : IDisposable
    {
        readonly Dictionary<string, Tensor> tensors = inputs.Entries.Keys.ToDictionary(name => name, name => inputs.Read(name).DetachFromDisposeScope());

        public Tensor this[string name, long index]
        {
            get
            {
                Tensor all = tensors[name];
                return rows == 0 ? all[index] : all.flatten(0, 1).narrow(0, index * rows, rows);
            }
        }

        public long Count => tensors["input_ids"].shape[0];

        public void Dispose()
        {
            foreach (Tensor tensor in tensors.Values)
            {
                tensor.Dispose();
            }
        }
    }

    static SupervisedOptions Supervision(CaseOptions a)
    {
        string kind = a.Text("loss_type", "nll");
        return new SupervisedOptions
        {
            Dynamic = kind switch { "nll" or "chunked_nll" => false, "dft" => true, _ => throw new BadInputException($"The loss '{kind}' is not known here.") },
            LabelSmoothing = a.Number("label_smoothing_factor", 0),
        };
    }

    /// <summary>A task whose passes are each a step of their own, as several passes of one step.</summary>
    sealed class Accumulated(ITrainingTask task, int passes) : ITrainingTask
    {
        public Objective Loss(long step, int part)
        {
            Objective objective = task.Loss(step * passes + part, 0);
            return objective with { Loss = objective.Loss / passes };
        }
    }

    sealed class SftRun(Decoder model, GivenBatches batches, int accumulation, SupervisedOptions options) : ITrainingTask
    {
        public Objective Loss(long step, int part)
        {
            long items = 0;
            for (int i = 0; i < accumulation; i++)
            {
                items += batches["labels", step * accumulation + i][.., 1..].ne(TokenScores.Ignored).sum().item<long>();
            }

            long index = step * accumulation + part;
            Tensor labels = batches["labels", index], target = labels[.., 1..], mask = target.ne(TokenScores.Ignored);
            Tensor logits = model.Forward(batches["input_ids", index], batches["attention_mask", index]), shifted = logits.detach()[.., ..^1];
            return Supervised.Loss(logits, labels, options, items) with
            {
                Metrics = new Dictionary<string, double>
                {
                    ["entropy"] = TokenScores.Entropy(shifted, mask),
                    ["mean_token_accuracy"] = TokenScores.Accuracy(shifted, target, mask),
                },
            };
        }
    }

    sealed class DpoRun : ITrainingTask
    {
        readonly Decoder model;
        readonly GivenBatches batches;
        readonly DirectPreferenceOptions options;
        readonly Tensor[] reference;

        public DpoRun(Decoder model, GivenBatches batches, DirectPreferenceOptions options)
        {
            (this.model, this.batches, this.options) = (model, batches, options);
            // With gradients on, as in training: the same path gives the same bits, so that the first margins are exactly 0.
            reference = [.. Enumerable.Range(0, (int)batches.Count).Select(i => LogProbs(i).detach())];
        }

        public Objective Loss(long step, int part) => DirectPreference.Loss(LogProbs(step), reference[step], batches["completion_mask", step], options);

        Tensor LogProbs(long step)
        {
            Tensor ids = batches["input_ids", step];
            return TokenScores.Shifted(model.Forward(ids, batches["attention_mask", step]), ids);
        }
    }

    sealed class KtoRun : ITrainingTask
    {
        readonly Decoder model;
        readonly GivenBatches batches;
        readonly KtoOptions options;
        readonly (Tensor Own, Tensor Mismatched)[] reference;

        public KtoRun(Decoder model, GivenBatches batches, KtoOptions options)
        {
            (this.model, this.batches, this.options) = (model, batches, options);
            using var noGrad = no_grad();
            reference = [.. Enumerable.Range(0, (int)batches.Count).Select(i =>
            {
                (Tensor ids, Tensor mask, Tensor _) = Mismatched(i);
                return (LogProbs(batches["input_ids", i], batches["attention_mask", i]), LogProbs(ids, mask));
            })];
        }

        public Objective Loss(long step, int part)
        {
            (Tensor ids, Tensor mask, Tensor completion) = Mismatched(step);
            Tensor mismatched;
            using (no_grad())
            {
                mismatched = LogProbs(ids, mask);
            }

            return Kto.Loss(LogProbs(batches["input_ids", step], batches["attention_mask", step]), reference[step].Own, batches["completion_mask", step], batches["label", step], options,
                (mismatched, reference[step].Mismatched, completion));
        }

        Tensor LogProbs(Tensor ids, Tensor mask) => TokenScores.Shifted(model.Forward(ids, mask), ids);

        // Prompt i with the completion of row i − 1.
        (Tensor Ids, Tensor Mask, Tensor Completion) Mismatched(long step)
        {
            Tensor ids = batches["input_ids", step], mask = batches["attention_mask", step], completion = batches["completion_mask", step];
            long[][] All(Tensor t) => [.. Enumerable.Range(0, (int)t.shape[0]).Select(i => t[i].contiguous().data<long>().ToArray())];
            (long[][] id, long[][] valid, long[][] answer) = (All(ids), All(mask), All(completion));
            PreferencePair[] pairs = [.. id.Select((_, i) =>
            {
                int other = (i + id.Length - 1) % id.Length;
                long[] prompt = [.. id[i].Where((_, t) => valid[i][t] != 0 && answer[i][t] == 0)], completed = [.. id[other].Where((_, t) => answer[other][t] != 0)];
                return new PreferencePair(prompt, completed, completed);
            })];
            PreferenceBatch batch = PreferenceBatch.Create(pairs, 0);
            long n = pairs.Length;
            return (batch.Ids.narrow(0, 0, n), batch.Mask.narrow(0, 0, n), batch.Completion.narrow(0, 0, n));
        }
    }

    sealed class RewardRun(Decoder model, GivenBatches batches, double centring) : ITrainingTask
    {
        public Objective Loss(long step, int part)
        {
            Tensor mask = batches["attention_mask", step];
            Tensor scores = model.Forward(batches["input_ids", step], mask)[arange(mask.shape[0]), RewardModelling.LastTokens(mask)];
            return RewardModelling.Loss(scores.squeeze(-1), centring: centring);
        }
    }
}
