using Scalpel.Networks;
using Scalpel.Networks.Layers;
using TorchSharp;
using static TorchSharp.torch;

namespace Scalpel.Training;

/// <summary>How much of each matrix goes, and how it is chosen.</summary>
public sealed record PruningOptions
{
    /// <summary>Share of the weights that become 0. Default ½.</summary>
    public double Sparsity { get; init; } = 0.5;

    /// <summary>Of every <see cref="Among"/> consecutive inputs this many go (2 of 4); 0 for the share instead. Default 0.</summary>
    public int Drop { get; init; }

    /// <summary>Length of the groups for <see cref="Drop"/>. Default 4.</summary>
    public int Among { get; init; } = 4;

    /// <summary>Wanda: whether a threshold per matrix is searched so that its rows may lose different shares. Default false.</summary>
    public bool Variant { get; init; }
}

/// <summary>Removes weights of a decoder's blocks by their size, or by their size times that of their input (Wanda, 2306.11695).</summary>
public static class Pruner
{
    /// <summary>Masks by magnitude alone: what is true becomes 0. Nothing is changed.</summary>
    public static IReadOnlyDictionary<string, Tensor> ByMagnitude(Decoder model, PruningOptions options)
    {
        Check(options);
        using var noGrad = no_grad();
        return Matrices(model).SelectMany(layer => layer).ToDictionary(name => name, name =>
        {
            using var scope = NewDisposeScope();
            Tensor size = Oriented(model, name, out bool transposed).abs(), mask;
            if (options.Drop > 0)
            {
                mask = InGroups(size, options);
            }
            else
            {
                // The official code's threshold: the entry at the share's index goes too.
                Tensor sorted = size.flatten().sort(0).Values;
                long index = Math.Min(sorted.shape[0] - 1, (long)(size.numel() * options.Sparsity));
                mask = size.le(sorted[index]);
            }

            return (transposed ? mask.t() : mask).contiguous().DetachFromDisposeScope();
        }, StringComparer.Ordinal);
    }

    /// <summary>
    /// Wanda: |W|·‖x‖ per output row, block after block, each judged by inputs that come from the pruned blocks before it.
    /// The model's matrices are changed in place.
    /// </summary>
    /// <param name="model">The decoder.</param>
    /// <param name="calibration">Tokens, [rows, T]; one row is run at a time.</param>
    /// <param name="options">How much.</param>
    /// <returns>Per matrix what was set to 0, and the mean over rows of each input's sum of squares.</returns>
    public static IReadOnlyDictionary<string, (Tensor Pruned, Tensor Inputs)> Wanda(Decoder model, Tensor calibration, PruningOptions options)
    {
        Check(options);
        using var noGrad = no_grad();
        using var scope = NewDisposeScope();
        long rows = calibration.shape[0];
        var results = new Dictionary<string, (Tensor, Tensor)>(StringComparer.Ordinal);
        using Pass pass = model.Prepare(calibration);
        Tensor hidden = model.Embed(calibration, pass);
        IReadOnlyList<IReadOnlyList<string>> layers = Matrices(model);
        for (int l = 0; l < layers.Count; l++)
        {
            var watches = new Dictionary<Linear, InputSquares>(ReferenceEqualityComparer.Instance as IEqualityComparer<Linear>);
            foreach (string name in layers[l])
            {
                Linear linear = model.LinearOf(name)!.Value.Linear;
                if (!watches.ContainsKey(linear))
                {
                    watches.Add(linear, new InputSquares());
                    linear.Adapters.Add(watches[linear]);
                }
            }

            using (Tensor unused = model.RunLayers(hidden, l, l + 1, pass))
            {
            }

            foreach ((Linear linear, InputSquares watch) in watches)
            {
                linear.Adapters.Remove(watch);
            }

            foreach (string name in layers[l])
            {
                Tensor inputs = watches[model.LinearOf(name)!.Value.Linear].Sum! / rows, weight = Oriented(model, name, out bool transposed);
                Tensor metric = weight.abs() * inputs.sqrt().unsqueeze(0).to_type(weight.dtype);
                Tensor mask = options.Drop > 0 ? InGroups(metric, options) : options.Variant ? Searched(metric, options.Sparsity) : Smallest(metric, (long)(metric.shape[1] * options.Sparsity));
                weight.masked_fill_(mask, 0);
                results.Add(name, ((transposed ? mask.t() : mask).contiguous().DetachFromDisposeScope(), inputs.DetachFromDisposeScope()));
            }

            hidden = model.RunLayers(hidden, l, l + 1, pass);
        }

        return results;
    }

    /// <summary>The linear matrices of each block, without embedding and head.</summary>
    static IReadOnlyList<IReadOnlyList<string>> Matrices(Decoder model)
    {
        IReadOnlyList<string> all = [.. Adapter.Targets(model, ["all-linear"]).Select(path => $"{path}.weight")];
        return [.. Enumerable.Range(0, model.Config.Layers).Select(l =>
        {
            string block = model.Role(Role.Output, l).TensorName;
            string prefix = block[..(block.IndexOf($".{l}.", StringComparison.Ordinal) + $".{l}.".Length)];
            return (IReadOnlyList<string>)[.. all.Where(name => name.StartsWith(prefix, StringComparison.Ordinal))];
        })];
    }

    static Tensor Oriented(Decoder model, string name, out bool transposed)
    {
        transposed = model.LinearOf(name) is { Linear.Transposed: true };
        return transposed ? model.Parameter(name).t() : model.Parameter(name);
    }

    // Of each group of consecutive inputs the smallest go; what is left over at the end is a group of its own, as in the official code.
    static Tensor InGroups(Tensor metric, PruningOptions options)
    {
        long rest = metric.shape[1] % options.Among, whole = metric.shape[1] - rest;
        if (rest > 0 && rest < options.Drop)
        {
            throw new BadInputException($"A matrix has {metric.shape[1]} inputs; of the last {rest}, {options.Drop} cannot go. Prune by share instead.");
        }

        Tensor groups = Smallest(metric.narrow(1, 0, whole).reshape(-1, options.Among), options.Drop).view(metric.shape[0], whole);
        return rest == 0 ? groups : cat([groups, Smallest(metric.narrow(1, whole, rest), options.Drop)], 1);
    }

    // Per row the k smallest; of equal ones the first.
    static Tensor Smallest(Tensor metric, long k)
    {
        Tensor order = metric.sort(-1, descending: false, stable: true).Indices.narrow(1, 0, k);
        return zeros(metric.shape, dtype: ScalarType.Bool).scatter(1, order, ones(order.shape, dtype: ScalarType.Bool));
    }

    // A row loses what lies below α of its sum; α is halved towards the share that is wanted.
    static Tensor Searched(Tensor metric, double sparsity)
    {
        Tensor sorted = metric.sort(-1, descending: false, stable: true).Values, cumulative = sorted.cumsum(1), total = metric.sum(1);
        (double alpha, double low, double high) = (0.4, 0, 0.8);
        (Tensor mask, double share) = At(alpha);
        while (Math.Abs(share - sparsity) > 0.001 && high - low >= 0.001)
        {
            double next;
            if (share > sparsity)
            {
                next = (alpha + low) / 2;
                high = alpha;
            }
            else
            {
                next = (alpha + high) / 2;
                low = alpha;
            }

            alpha = next;
            (mask, share) = At(alpha);
        }

        return mask;

        (Tensor Mask, double Share) At(double a)
        {
            Tensor below = cumulative.le((total * a).unsqueeze(1)), last = below.sum(1, keepdim: true).sub(1).clamp_min(0);
            Tensor chosen = metric.le(sorted.gather(1, last));
            return (chosen, chosen.to_type(ScalarType.Float64).mean().ToDouble());
        }
    }

    static void Check(PruningOptions options)
    {
        if (options.Drop == 0 && !(options.Sparsity >= 0 && options.Sparsity < 1))
        {
            throw new BadInputException($"The sparsity is {options.Sparsity}; it must be at least 0 and below 1, for example 0.5.");
        }

        if (options.Drop < 0 || options.Drop >= options.Among)
        {
            throw new BadInputException($"{options.Drop} of {options.Among} cannot go; 2 of 4 is usual.");
        }
    }

    // Watches a product's input without changing what it gives.
    sealed class InputSquares : ILinearAdapter
    {
        public Tensor? Sum { get; private set; }

        public Tensor Apply(Tensor x, Tensor y, Linear linear)
        {
            Tensor sum = x.detach().to_type(ScalarType.Float32).flatten(0, -2).square().sum([0L]).DetachFromDisposeScope();
            Sum?.add_(sum);
            Sum ??= sum;
            return y;
        }
    }
}
