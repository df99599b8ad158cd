using Scalpel.Checkpoints;
using Scalpel.Tests.Checkpoints;
using Scalpel.Training;
using TorchSharp;
using static TorchSharp.torch;

namespace Scalpel.Tests.Training;

public sealed class TrainerTests : IDisposable
{
    readonly string root = Directory.CreateTempSubdirectory("scalpel train ").FullName;

    public void Dispose() => Directory.Delete(root, recursive: true);

    // Least squares on data that depends on nothing but the step.
    sealed class Regression(Tensor weight, Tensor bias, int parts = 1) : ITrainingTask
    {
        public Action<long> AtStep { get; init; } = _ => { };

        public Func<double?> Held { get; init; } = () => null;

        public Objective Loss(long step, int part)
        {
            AtStep(step);
            using var generator = new Generator((ulong)step + 1, CPU);
            Tensor x = randn([8, 3], generator: generator), y = x.sum(1, keepdim: true) * 2 + 1;
            long rows = 8 / parts;
            Tensor error = x.narrow(0, part * rows, rows).matmul(weight.t()) + bias - y.narrow(0, part * rows, rows);
            return new Objective(error.square().sum() / 8, new Dictionary<string, double> { ["rows"] = rows });
        }

        public double? Evaluate() => Held();
    }

    static (Tensor Weight, Tensor Bias, TrainableTensor[] Tensors) Model(ScalarType type = ScalarType.Float32)
    {
        Tensor weight = zeros([1, 3], dtype: type), bias = zeros([1], dtype: type);
        return (weight, bias, [new("w", weight, true), new("b", bias, false)]);
    }

    static TrainerOptions Options(long steps) => new() { Steps = steps, LearningRate = 0.05, Schedule = new CosineSchedule(steps) { Warmup = 2 }, MaxGradNorm = 5 };

    static float[] Read(Tensor t) => t.detach().to_type(ScalarType.Float32).contiguous().data<float>().ToArray();

    [Fact]
    public void ItLearns()
    {
        using var scope = NewDisposeScope();
        (Tensor weight, Tensor bias, TrainableTensor[] tensors) = Model();
        using (var trainer = new Trainer(tensors, Options(300)))
        {
            trainer.Run(new Regression(weight, bias), new RunContext()).Loss.ShouldBeLessThan(1e-2);
        }

        Read(weight).ShouldAllBe(w => Math.Abs(w - 2) < 0.1);
    }

    [Fact]
    public void AccumulatedPassesEqualOneLargeBatch()
    {
        using var scope = NewDisposeScope();
        (Tensor weight, Tensor bias, TrainableTensor[] tensors) = Model();
        (Tensor weight4, Tensor bias4, TrainableTensor[] tensors4) = Model();
        using var one = new Trainer(tensors, Options(20));
        using var four = new Trainer(tensors4, Options(20) with { Accumulation = 4 });
        one.Run(new Regression(weight, bias), new RunContext());
        four.Run(new Regression(weight4, bias4, parts: 4), new RunContext());
        (weight - weight4).abs().max().ToDouble().ShouldBeLessThan(1e-5);
    }

    [Fact]
    public void InterruptedAnywhereAndResumedItEndsWithTheSameBytes()
    {
        using var scope = NewDisposeScope();
        string whole = Path.Combine(root, "whole");
        float[] expected = Interrupted(whole, [], out byte[] state, out string log);
        for (int seed = 0; seed < 6; seed++)
        {
            var random = new Random(seed);
            float[] got = Interrupted(Path.Combine(root, $"run {seed}"), [random.Next(1, 20), random.Next(1, 20)], out byte[] otherState, out string otherLog);
            got.ShouldBe(expected);
            otherState.ShouldBe(state);
            otherLog.ShouldBe(log);
        }
    }

    static TrainerOptions Saved(string folder) => Options(20) with
    {
        Folder = folder, SaveEvery = 3, Resume = true, Average = new ExponentialAverageOptions { Decay = 0.5 },
        Optimizer = groups => new AdamW(groups, new AdamWOptions { WeightDecay = 0.1 }),
    };

    float[] Interrupted(string folder, int[] stops, out byte[] state, out string log)
    {
        TrainerOptions options = Saved(folder);
        foreach (int stop in stops)
        {
            (Tensor weight, Tensor bias, TrainableTensor[] tensors) = Model();
            using var trainer = new Trainer(tensors, options);
            try
            {
                trainer.Run(new Regression(weight, bias) { AtStep = step => { if (step == stop) { throw new OperationCanceledException(); } } }, new RunContext());
            }
            catch (OperationCanceledException)
            {
                // As a kill would leave it: the log is ahead of the state, and ends in half a line.
                File.AppendAllText(Path.Combine(folder, "log.jsonl"), "{\"step\":");
            }
        }

        (Tensor last, Tensor lastBias, TrainableTensor[] final) = Model();
        using (var trainer = new Trainer(final, options))
        {
            trainer.Run(new Regression(last, lastBias), new RunContext());
        }

        state = File.ReadAllBytes(Path.Combine(folder, "state.safetensors"));
        log = File.ReadAllText(Path.Combine(folder, "log.jsonl"));
        log.Split('\n').Length.ShouldBe(21);
        return [.. Read(last), .. Read(lastBias)];
    }

    [Fact]
    public void ADiskThatIsFullAtAnyWriteLosesNothingThatWasSaved()
    {
        using var scope = NewDisposeScope();
        float[] expected = Interrupted(Path.Combine(root, "whole"), [], out byte[] state, out string log);
        int failures = 0;
        for (int at = 1; ; at++)
        {
            string folder = Path.Combine(root, $"full {at}");
            (Tensor weight, Tensor bias, TrainableTensor[] tensors) = Model();
            using (var trainer = new Trainer(tensors, Saved(folder) with { Store = new FaultyFileStore(at) }))
            {
                try
                {
                    trainer.Run(new Regression(weight, bias), new RunContext());
                    break;
                }
                catch (BadInputException e)
                {
                    failures++;
                    e.Message.ShouldContain("cannot be written");
                }
            }

            string file = Path.Combine(folder, "state.safetensors");
            if (File.Exists(file))
            {
                using SafeTensorsFile kept = SafeTensorsFile.Open(file);
                (long.Parse(kept.Metadata["step"]) % 3).ShouldBe(0);
                Directory.GetFiles(folder, "*.tmp").ShouldBeEmpty();
            }

            Interrupted(folder, [], out byte[] resumed, out string resumedLog).ShouldBe(expected);
            resumed.ShouldBe(state);
            resumedLog.ShouldBe(log);
        }

        failures.ShouldBeGreaterThan(20);
    }

    [Fact]
    public void AStateOfAnotherRunIsRefusedAndSoIsAFullFolder()
    {
        using var scope = NewDisposeScope();
        TrainerOptions options = Options(3) with { Folder = root, Fingerprint = "a" };
        void Run(TrainerOptions o)
        {
            (Tensor weight, Tensor bias, TrainableTensor[] tensors) = Model();
            using var trainer = new Trainer(tensors, o);
            trainer.Run(new Regression(weight, bias), new RunContext());
        }

        Run(options);
        Should.Throw<BadInputException>(() => Run(options)).Message.ShouldContain("resume");
        Should.Throw<BadInputException>(() => Run(options with { Resume = true, Fingerprint = "b" })).Message.ShouldContain("another model, data or options");
        Run(options with { Resume = true });
    }

    [Fact]
    public void ALossThatIsNotFiniteStopsTheRunWithTheWeightsBeforeIt()
    {
        using var scope = NewDisposeScope();
        (Tensor weight, Tensor bias, TrainableTensor[] tensors) = Model();
        using var trainer = new Trainer(tensors, Options(20));
        float[] before = [];
        var task = new Regression(weight, bias)
        {
            AtStep = step =>
            {
                if (step == 7)
                {
                    before = Read(weight);
                    throw new CheckFailedException("x");
                }
            },
        };
        Should.Throw<CheckFailedException>(() => trainer.Run(task, new RunContext()));
        (Tensor weight2, Tensor bias2, TrainableTensor[] tensors2) = Model();
        using var diverging = new Trainer(tensors2, Options(200) with { LearningRate = 1e30, MaxGradNorm = null, Optimizer = groups => new Sgd(groups) });
        Should.Throw<CheckFailedException>(() => diverging.Run(new Regression(weight2, bias2), new RunContext())).Message.ShouldContain("learning rate");
        Read(weight2).ShouldAllBe(value => float.IsFinite(value));
        Read(weight).ShouldBe(before);
    }

    [Fact]
    public void ItStopsEarlyAndTakesTheBestWeights()
    {
        using var scope = NewDisposeScope();
        (Tensor weight, Tensor bias, TrainableTensor[] tensors) = Model();
        int evaluations = 0;
        float[] best = [];
        double? Held()
        {
            evaluations++;
            if (evaluations == 2)
            {
                best = Read(weight);
            }

            return evaluations <= 2 ? 10 - evaluations : 20;
        }

        using var trainer = new Trainer(tensors, Options(100) with { EvaluateEvery = 5, Patience = 3 });
        TrainingResult result = trainer.Run(new Regression(weight, bias) { Held = Held }, new RunContext());
        result.StoppedEarly.ShouldBeTrue();
        result.Steps.ShouldBe(25);
        result.Best.ShouldBe(8);
        Read(weight).ShouldBe(best);
    }

    [Fact]
    public void WeightsInHalfPrecisionTrainByMasterValues()
    {
        using var scope = NewDisposeScope();
        (Tensor weight, Tensor bias, TrainableTensor[] tensors) = Model(ScalarType.BFloat16);
        using var trainer = new Trainer(tensors, Options(300));
        trainer.Run(new InHalf(weight, bias), new RunContext());
        Read(weight).ShouldAllBe(w => Math.Abs(w - 2) < 0.15);
        weight.dtype.ShouldBe(ScalarType.BFloat16);
    }

    sealed class InHalf(Tensor weight, Tensor bias) : ITrainingTask
    {
        public Objective Loss(long step, int part)
        {
            using var generator = new Generator((ulong)step + 1, CPU);
            Tensor x = randn([8, 3], generator: generator), y = x.sum(1, keepdim: true) * 2 + 1;
            Tensor error = x.to_type(ScalarType.BFloat16).matmul(weight.t()) + bias - y.to_type(ScalarType.BFloat16);
            return new Objective(error.to_type(ScalarType.Float32).square().mean(), new Dictionary<string, double>());
        }
    }

    [Fact]
    public void NothingIsLeftBehindAfterARun()
    {
        (Tensor weight, Tensor bias, TrainableTensor[] tensors) = Model();
        long before = Tensor.TotalCount;
        using (var trainer = new Trainer(tensors, Options(3)))
        {
            trainer.Run(new Regression(weight, bias), new RunContext());
        }

        Tensor.TotalCount.ShouldBe(before);
        weight.Dispose();
        bias.Dispose();
    }
}
