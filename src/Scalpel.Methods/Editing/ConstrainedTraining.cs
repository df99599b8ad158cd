using Scalpel.Networks;
using Scalpel.Training;
using TorchSharp;
using static TorchSharp.torch;

namespace Scalpel.Methods.Editing;

/// <summary>The training of FT and FT-L: Adam on a few tensors, each weight kept within a distance of its start.</summary>
static class ConstrainedTraining
{
    // As the official code: a batch with a smaller loss takes no step, a round with a smaller mean loss is the last.
    const double Enough = 1e-2;

    /// <summary>Trains the named tensors in the network's memory; what they were, the caller keeps.</summary>
    /// <param name="batches">Each a function that gives its mean loss and the number of texts in it.</param>
    /// <param name="normConstraint">Largest distance of a weight from its start; null for none.</param>
    /// <returns>The loss of every batch in the order computed.</returns>
    public static IReadOnlyList<double> Run(
        Decoder model, IReadOnlyList<string> names, IReadOnlyList<(Func<Tensor> Loss, int Texts)> batches,
        int steps, double learningRate, double weightDecay, double? normConstraint, RunContext run)
    {
        using var group = new ParameterGroup(names.Select(name => KeyValuePair.Create(name, model.Parameter(name))));
        using var adam = new Adam([group], new AdamOptions { WeightDecay = weightDecay });
        using Tensor start = group.Values.clone().DetachFromDisposeScope();
        var losses = new List<double>();
        model.RequireGrad(names);
        try
        {
            for (int step = 0; step < steps; step++)
            {
                double sum = 0;
                foreach ((Func<Tensor> loss, int texts) in batches)
                {
                    using var scope = NewDisposeScope();
                    model.ZeroGrad();
                    Tensor value = loss();
                    losses.Add(value.ToDouble());
                    if (!double.IsFinite(losses[^1]))
                    {
                        throw new BadInputException($"The loss is {losses[^1]} in step {step + 1}; lower the learning rate (now {learningRate}).");
                    }

                    sum += losses[^1] * texts;
                    if (losses[^1] >= Enough)
                    {
                        value.backward();
                        using var noGrad = no_grad();
                        foreach (string name in names)
                        {
                            group.Gradient(name).copy_(model.Grad(name)!);
                        }

                        adam.Step(learningRate);
                    }

                    if (normConstraint is { } bound)
                    {
                        using var noGrad = no_grad();
                        group.Values.copy_(group.Values.maximum(start - bound).minimum(start + bound));
                    }

                    foreach (string name in names)
                    {
                        using var noGrad = no_grad();
                        model.Parameter(name).copy_(group.Value(name));
                    }
                }

                double mean = sum / batches.Sum(batch => batch.Texts);
                run.Report("fine-tuning", step + 1, steps, $"loss {mean:0.000}");
                if (mean < Enough)
                {
                    break;
                }
            }
        }
        finally
        {
            model.StopGrad();
        }

        return losses;
    }

    /// <summary>The names of all tensors of the down projection's module: on GPT-2 its bias too.</summary>
    public static string[] Module(Decoder model, int layer)
    {
        string module = model.Role(Role.Down, layer).TensorName[..^"weight".Length];
        return [.. model.Parameters.Keys.Where(name => name.StartsWith(module, StringComparison.Ordinal)).Order(StringComparer.Ordinal)];
    }
}

/// <summary>Tensors as they were: disposing gives the network back the same bits.</summary>
sealed class Snapshot : IDisposable
{
    readonly Decoder model;
    readonly Dictionary<string, Tensor> before;

    public Snapshot(Decoder model, IEnumerable<string> names)
    {
        this.model = model;
        before = names.ToDictionary(name => name, name => model.Parameter(name).clone().DetachFromDisposeScope(), StringComparer.Ordinal);
    }

    public IReadOnlyDictionary<string, Tensor> Before => before;

    /// <summary>Now − before, in float32.</summary>
    public Tensor Change(string name)
    {
        using var scope = NewDisposeScope();
        return (model.Parameter(name).to_type(ScalarType.Float32) - before[name].to_type(ScalarType.Float32)).MoveToOuterDisposeScope();
    }

    public void Dispose()
    {
        using var noGrad = no_grad();
        foreach ((string name, Tensor tensor) in before)
        {
            model.Parameter(name).copy_(tensor);
            tensor.Dispose();
        }

        before.Clear();
    }
}
