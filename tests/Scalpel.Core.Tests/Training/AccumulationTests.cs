using Scalpel.Training;
using static TorchSharp.torch;
using Decoder = Scalpel.Networks.Decoder;

namespace Scalpel.Tests.Training;

/// <summary>Passes of a step against the one large batch, for every objective on rows of unequal length.</summary>
public sealed class AccumulationTests : IDisposable
{
    readonly string root = Directory.CreateTempSubdirectory("scalpel accumulation ").FullName;

    public void Dispose() => Directory.Delete(root, recursive: true);

    public static TheoryData<string> Names => [.. TuningObjective.Known, "sigmoid:0.8+sft:0.4", "aot+sft:0.3"];

    static readonly string[] Answers = [" walked home.", " sat.", " was very happy with the new red ball and ran to the garden.", " had a dog and a cat.", " saw the sea, and then the old king came back.", " ate bread."];

    string Data(TuningFamily family)
    {
        IEnumerable<string> lines = Enumerable.Range(0, 12).Select(i =>
        {
            string Answer(int by) => Answers[(i * 5 + by) % Answers.Length];
            string prompt = $"\"prompt\": \"{(i % 3 == 0 ? "Anna" : "The little boy from the town")}\"";
            return family switch
            {
                TuningFamily.Text => $$"""{{{prompt}}, "completion": "{{Answer(0)}}"}""",
                TuningFamily.Judged => $$"""{{{prompt}}, "completion": "{{Answer(0)}}", "label": {{(i % 3 == 1 ? "true" : "false")}}}""",
                TuningFamily.Ranking => $$"""{{{prompt}}, "completions": ["{{Answer(0)}}", "{{Answer(1)}}", "{{Answer(3)}}"], "scores": [1, {{i}}, 2]}""",
                TuningFamily.Policy => $$"""{{{prompt}}}""",
                _ => $$"""{{{prompt}}, "chosen": "{{Answer(0)}}", "rejected": "{{Answer(2)}}"}""",
            };
        });
        string path = Path.Combine(root, "data.jsonl");
        File.WriteAllLines(path, lines);
        return path;
    }

    [Theory]
    [MemberData(nameof(Names))]
    public void ThePassesOfAStepAddUpToTheLargeBatch(string name)
    {
        using var scope = NewDisposeScope();
        using Decoder model = Decoder.Load(Path.Combine(Repository.Root, "assets", "models", "text-t"));
        TuningObjective objective = new() { Name = name, LabelSmoothing = name is "cpo" or "robust" or "nll" ? 0.1 : 0, Policy = new PolicyTaskOptions { Group = 3, MaxNewTokens = 6 } };
        using TuningData data = TuningData.Read(Data(objective.Family), model.Tokenizer, model.Config.MaxPositions);
        (double Loss, float[] Weights, IReadOnlyDictionary<string, double> Metrics) large = Train(model, objective, data, 8, 1);
        foreach ((int batch, int parts) in new[] { (2, 4), (4, 2) })
        {
            (double loss, float[] weights, IReadOnlyDictionary<string, double> metrics) = Train(model, objective, data, batch, parts);
            loss.ShouldBe(large.Loss, 1e-4 * Math.Max(1, Math.Abs(large.Loss)));
            weights.Zip(large.Weights, (a, b) => Math.Abs(a - b)).Max().ShouldBeLessThan(2e-5f);
            metrics.Keys.ShouldBe(large.Metrics.Keys, ignoreOrder: true);
        }
    }

    (double Loss, float[] Weights, IReadOnlyDictionary<string, double> Metrics) Train(Decoder model, TuningObjective objective, TuningData data, int batch, int parts)
    {
        using var scope = NewDisposeScope();
        using Adapter adapter = Adapter.CreateLora(model, new LoraOptions { Rank = 2, Targets = ["q_proj", "down_proj"] }, 1);
        var context = new RunContext { Seed = 5, CacheFolder = Path.Combine(root, "cache") };
        using IDisposable attached = adapter.AttachTo(model);
        using RewardModel? scorer = objective.Family == TuningFamily.Reward ? new RewardModel(model, 3) : null;
        using IReward reward = Rewards.Parse("length:3");
        ITrainingTask task = objective.Family switch
        {
            TuningFamily.Reward => new RewardTask(scorer!, data.Pairs, batch, parts, 5, 0.1),
            TuningFamily.Policy => new PolicyTask(model, data, [reward], batch, parts, 5, objective.PolicyOptions(), adapter.Suspend),
            _ => objective.CreateTask(model, data, batch, parts, context, asBefore: adapter.Suspend),
        };
        using (no_grad())
        {
            // Away from the start, so that ratios to the reference are not 1.
            using var generator = new Generator(9, CPU);
            foreach ((_, Tensor up) in adapter.Tensors.Where(pair => pair.Key.Contains("lora_B", StringComparison.Ordinal)))
            {
                up.copy_(randn(up.shape, generator: generator) * 0.05);
            }
        }

        IReadOnlyList<TrainableTensor> tensors = [.. adapter.Trainable(model), .. scorer?.Trainable() ?? []];
        IReadOnlyDictionary<string, double> metrics = new Dictionary<string, double>();
        using var trainer = new Trainer(tensors, new TrainerOptions
        {
            // A token that is sampled otherwise after a step would change everything.
            Steps = objective.Family == TuningFamily.Policy ? 1 : 2,
            Accumulation = parts,
            LearningRate = 0.01,
            // Losses differ by orders of magnitude.
            MaxGradNorm = 1,
            Optimizer = groups => new Sgd(groups, new SgdOptions()),
        })
        { OnStep = report => metrics = report.Metrics };
        double loss = trainer.Run(task, context).Loss;
        return (loss, [.. tensors.SelectMany(tensor => tensor.Leaf.detach().contiguous().data<float>().ToArray())], metrics);
    }
}
