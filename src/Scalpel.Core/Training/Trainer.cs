using TorchSharp;
using static TorchSharp.torch;

namespace Scalpel.Training;

/// <summary>
/// Trains named tensors by the loss that a task gives; knows nothing of what they belong to. Killed at any moment and
/// resumed, it ends with the same bytes as an undisturbed run.
/// </summary>
public sealed class Trainer : IDisposable
{
    readonly TrainerOptions options;
    readonly TrainedParameters parameters;
    readonly Optimizer optimizer;
    readonly WeightAverage[] averages;
    Tensor[] bestValues = [];
    double? best;
    int sinceBest;
    // Whether the weights are beyond the steps that are counted.
    bool ahead;

    /// <summary>Prepares a run over the given tensors; their memory moves into flat buffers.</summary>
    /// <exception cref="BadInputException">There is no tensor, or an option cannot be used.</exception>
    public Trainer(IReadOnlyList<TrainableTensor> tensors, TrainerOptions options)
    {
        Check(options);
        this.options = options;
        parameters = new TrainedParameters(tensors, options.Accumulation);
        optimizer = options.Optimizer(parameters.Groups);
        averages = options.Average is null ? [] : [.. parameters.Groups.Select(group => new ExponentialAverage(group.Values, options.Average))];
    }

    /// <summary>The parameters in their buffers.</summary>
    public TrainedParameters Parameters => parameters;

    /// <summary>Called after each step with its number, loss, rate, norm of the gradients and metrics.</summary>
    public Action<StepReport>? OnStep { get; init; }

    /// <summary>Trains to the end, until evaluations improve no more, or until the task says that it is learned.</summary>
    /// <exception cref="CheckFailedException">A loss or gradient is not finite; the weights are those before that step.</exception>
    /// <exception cref="BadInputException">The saved state belongs to another run.</exception>
    public TrainingResult Run(ITrainingTask task, RunContext run)
    {
        using TrainingFolder? folder = options.Folder is null ? null : new TrainingFolder(options.Folder, options.Fingerprint, options.Store);
        (long first, double loss) = folder is null ? (0, double.NaN) : Restore(folder);
        bool stopped = options.Patience > 0 && sinceBest >= options.Patience || first > 0 && Evaluates(first) && task.IsLearned(first);
        long done = first;
        try
        {
            while (done < options.Steps && !stopped)
            {
                run.Cancellation.ThrowIfCancellationRequested();
                StepReport report = Step(task, done);
                loss = report.Loss;
                if (Evaluates(done + 1))
                {
                    if (task.Evaluate() is { } value)
                    {
                        report = report with { Evaluation = value };
                        Judge(value);
                        stopped = options.Patience > 0 && sinceBest >= options.Patience;
                    }

                    stopped |= task.IsLearned(done + 1);
                }

                folder?.Log(report);
                done++;
                ahead = false;
                OnStep?.Invoke(report);
                if (folder is not null && (done % options.SaveEvery == 0 || done == options.Steps || stopped))
                {
                    folder.Save(State(done, loss));
                }

                run.Report("training", done, options.Steps, Note(report));
            }
        }
        catch (Exception e) when (folder is not null && !ahead && e is OperationCanceledException or CheckFailedException)
        {
            // Stopped between two steps: nothing that was computed is lost.
            folder?.SaveIfFinite(State(done, loss));
            throw;
        }

        Finish(stopped);
        return new TrainingResult(done, loss, best, stopped);
    }

    /// <summary>Frees the buffers; the tensors keep their values.</summary>
    public void Dispose()
    {
        optimizer.Dispose();
        foreach (WeightAverage average in averages)
        {
            average.Dispose();
        }

        Free(bestValues);
        parameters.Dispose();
    }

    bool Evaluates(long steps) => options.EvaluateEvery > 0 && (steps % options.EvaluateEvery == 0 || steps == options.Steps);

    StepReport Step(ITrainingTask task, long step)
    {
        parameters.ClearGradients();
        double loss = 0;
        var metrics = new Dictionary<string, double>();
        var losses = new double[options.Accumulation];
        var measured = new Dictionary<string, int>();
        for (int part = 0; part < options.Accumulation; part++)
        {
            using var scope = NewDisposeScope();
            Objective objective = task.Loss(step, part);
            losses[part] = objective.Loss.ToDouble();
            if (!double.IsFinite(losses[part]))
            {
                throw new CheckFailedException($"The loss of step {step + 1} is {losses[part]}; the weights are those before it. Lower the learning rate ({options.LearningRate}) or look at the data of that step.");
            }

            objective.Loss.backward();
            parameters.CollectGradients();
            loss += losses[part];
            foreach ((string name, double value) in objective.Metrics)
            {
                metrics[name] = metrics.GetValueOrDefault(name) + value;
                measured[name] = measured.GetValueOrDefault(name) + 1;
            }
        }

        // Some are known in some passes only, such as the reward of good answers.
        foreach ((string name, int count) in measured)
        {
            metrics[name] /= count;
        }

        double norm = options.MaxGradNorm is { } largest ? GradientClipping.ByNorm(parameters.Groups, largest) : GradientClipping.Norm(parameters.Groups);
        if (!double.IsFinite(norm))
        {
            throw new CheckFailedException($"The gradient of {NotFinite()} in step {step + 1} is not finite; the weights are those before it. Lower the learning rate ({options.LearningRate}) or look at the data of that step.");
        }

        double rate = options.LearningRate * options.Schedule.Factor(step);
        ahead = true;
        optimizer.Step(rate);
        for (int i = 0; i < averages.Length; i++)
        {
            averages[i].Update(parameters.Groups[i].Values);
        }

        parameters.Publish();
        return new StepReport(step, loss, losses, rate, norm, metrics);
    }

    string NotFinite()
    {
        using var scope = NewDisposeScope();
        return parameters.Groups.SelectMany(group => group.Names.Where(name => !group.Gradient(name).isfinite().all().item<bool>())).FirstOrDefault() ?? "all tensors together";
    }

    void Judge(double value)
    {
        if (double.IsFinite(value) && (best is null || value < best))
        {
            best = value;
            sinceBest = 0;
            if (options.Patience > 0)
            {
                Free(bestValues);
                bestValues = [.. parameters.Groups.Select(group => group.Values.clone().DetachFromDisposeScope())];
            }
        }
        else
        {
            sinceBest++;
        }
    }

    // The weights that the run gives: the best evaluated, else the averaged, else the last.
    void Finish(bool stopped)
    {
        IReadOnlyList<ParameterGroup> groups = parameters.Groups;
        for (int i = 0; i < groups.Count; i++)
        {
            Tensor? final = stopped && bestValues.Length > 0 ? bestValues[i] : averages.Length > 0 ? averages[i].Values : null;
            if (final is not null)
            {
                using var noGrad = no_grad();
                groups[i].Values.copy_(final);
            }
        }

        parameters.Publish();
    }

    TrainingState State(long step, double loss)
    {
        var tensors = new Dictionary<string, Tensor>(StringComparer.Ordinal);
        for (int i = 0; i < parameters.Groups.Count; i++)
        {
            tensors[$"values.{i}"] = parameters.Groups[i].Values;
            if (averages.Length > 0)
            {
                tensors[$"average.{i}"] = averages[i].Values;
            }

            if (bestValues.Length > 0)
            {
                tensors[$"best.{i}"] = bestValues[i];
            }
        }

        foreach ((string name, Tensor value) in optimizer.SaveState())
        {
            tensors[$"optimizer.{name}"] = value;
        }

        return new TrainingState(step, loss, best, sinceBest, tensors);
    }

    (long Step, double Loss) Restore(TrainingFolder folder)
    {
        using TrainingState? state = folder.Load(options.Resume);
        if (state is null)
        {
            return (0, double.NaN);
        }

        using var noGrad = no_grad();
        IReadOnlyList<ParameterGroup> groups = parameters.Groups;
        for (int i = 0; i < groups.Count; i++)
        {
            Tensor values = state.Required($"values.{i}", groups[i].Length);
            groups[i].Values.copy_(values);
            if (averages.Length > 0)
            {
                averages[i].Values.copy_(state.Required($"average.{i}", groups[i].Length));
                averages[i].Updates = state.Step;
            }
        }

        const string Prefix = "optimizer.";
        optimizer.LoadState(state.Step, state.Tensors.Where(pair => pair.Key.StartsWith(Prefix, StringComparison.Ordinal)).ToDictionary(pair => pair.Key[Prefix.Length..], pair => pair.Value));
        best = state.Best;
        sinceBest = state.SinceBest;
        bestValues = state.Tensors.ContainsKey("best.0")
            ? [.. groups.Select((group, i) => state.Required($"best.{i}", group.Length).clone().DetachFromDisposeScope())]
            : [];
        parameters.Publish();
        return (state.Step, state.Loss);
    }

    static string Note(StepReport report) => FormattableString.Invariant($"loss {report.Loss:0.0000}, learning rate {report.Rate:0.##e+0}");

    static void Free(Tensor[] tensors)
    {
        foreach (Tensor tensor in tensors)
        {
            tensor.Dispose();
        }
    }

    static void Check(TrainerOptions options)
    {
        if (options.Steps < 1 || options.Accumulation < 1 || options.SaveEvery < 1)
        {
            throw new BadInputException($"Steps ({options.Steps}), accumulation ({options.Accumulation}) and steps between states ({options.SaveEvery}) must be at least 1.");
        }

        if (!(options.LearningRate > 0) || double.IsInfinity(options.LearningRate))
        {
            throw new BadInputException($"The learning rate is {options.LearningRate}; it must be a number above 0, for example 1e-4.");
        }

        if (options.Patience > 0 && options.EvaluateEvery <= 0)
        {
            throw new BadInputException("Stopping early needs evaluations; say after how many steps to evaluate.");
        }
    }
}

/// <summary>What a step did.</summary>
/// <param name="Step">Its number, from 0.</param>
/// <param name="Loss">Its loss.</param>
/// <param name="Losses">The losses of its passes.</param>
/// <param name="Rate">The learning rate used.</param>
/// <param name="GradNorm">Norm of the gradients before clipping.</param>
/// <param name="Metrics">What the task measured, the mean over passes.</param>
public sealed record StepReport(long Step, double Loss, IReadOnlyList<double> Losses, double Rate, double GradNorm, IReadOnlyDictionary<string, double> Metrics)
{
    /// <summary>Value on held-out data after the step, if it was measured.</summary>
    public double? Evaluation { get; init; }
}
