using Scalpel.Checkpoints;

namespace Scalpel.Training;

/// <summary>How a run trains, whatever it trains.</summary>
public sealed record TrainerOptions
{
    /// <summary>Optimizer steps in all.</summary>
    public required long Steps { get; init; }

    /// <summary>Passes whose gradients are summed in one step. Default 1.</summary>
    public int Accumulation { get; init; } = 1;

    /// <summary>Peak learning rate. Default 2e-5.</summary>
    public double LearningRate { get; init; } = 2e-5;

    /// <summary>How the rate goes over the steps. Default constant.</summary>
    public Schedule Schedule { get; init; } = new ConstantSchedule();

    /// <summary>Makes the optimizer. Default AdamW with PyTorch's moments and no weight decay.</summary>
    public Func<IReadOnlyList<ParameterGroup>, Optimizer> Optimizer { get; init; } = groups => new AdamW(groups, new AdamWOptions { WeightDecay = 0 });

    /// <summary>Largest norm of all gradients together; null for no limit. Default 1.</summary>
    public double? MaxGradNorm { get; init; } = 1;

    /// <summary>Averages the weights over the steps; the tensors hold the average at the end. Null for none.</summary>
    public ExponentialAverageOptions? Average { get; init; }

    /// <summary>Folder of the state and of log.jsonl; null for none.</summary>
    public string? Folder { get; init; }

    /// <summary>How states are written.</summary>
    internal FileStore Store { get; init; } = FileStore.Disk;

    /// <summary>Steps between saved states. Default 100.</summary>
    public long SaveEvery { get; init; } = 100;

    /// <summary>Whether a state in the folder is gone on from. Default false: it is an error that there is one.</summary>
    public bool Resume { get; init; }

    /// <summary>What makes two runs the same one: model, data, options. A state with another fingerprint is refused. Default empty.</summary>
    public string Fingerprint { get; init; } = "";

    /// <summary>Steps between evaluations; 0 for none. Default 0.</summary>
    public long EvaluateEvery { get; init; }

    /// <summary>Evaluations without a better value after which the run stops and the best weights are taken; 0 for never. Default 0.</summary>
    public int Patience { get; init; }
}

/// <summary>What is trained: the loss of a batch, and how well the tensors do elsewhere.</summary>
public interface ITrainingTask
{
    /// <summary>
    /// The loss of one pass. Must depend on nothing but its arguments and the weights, so that a resumed run sees the same
    /// batches. The losses of the parts of a step add up to the loss of the step.
    /// </summary>
    /// <param name="step">Step, from 0.</param>
    /// <param name="part">Pass within the step.</param>
    Objective Loss(long step, int part);

    /// <summary>A value on held-out data that is to become small; null when there is none.</summary>
    double? Evaluate() => null;

    /// <summary>
    /// Whether what was to be learned is learned, so that the run ends; asked whenever it evaluates, and again when a run
    /// goes on from a saved state. Default false.
    /// </summary>
    /// <param name="steps">Steps taken.</param>
    bool IsLearned(long steps) => false;
}

/// <summary>How a run ended.</summary>
/// <param name="Steps">Steps taken, those before a resumption included.</param>
/// <param name="Loss">Loss of the last step.</param>
/// <param name="Best">Best value of an evaluation, if there was one.</param>
/// <param name="StoppedEarly">Whether evaluations did not improve any more.</param>
public sealed record TrainingResult(long Steps, double Loss, double? Best, bool StoppedEarly);
