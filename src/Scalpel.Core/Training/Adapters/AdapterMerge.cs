using TorchSharp;
using static TorchSharp.torch;

namespace Scalpel.Training;

/// <summary>How several LoRA adapters become one; names as in PEFT.</summary>
public enum AdapterCombination
{
    /// <summary>The exact weighted sum of the changes, ranks added.</summary>
    Cat,

    /// <summary>The weighted sum of the changes, cut to a rank.</summary>
    Svd,

    /// <summary>PEFT's: A's and B's are each summed with √(weight·scale). Not the sum of the changes.</summary>
    Linear,

    /// <summary>As Linear, with TIES on the A's and on the B's.</summary>
    Ties,

    /// <summary>As Linear, with each A and B trimmed to its largest entries.</summary>
    MagnitudePrune,
}

/// <summary>Combines LoRA adapters of one network.</summary>
public static class AdapterMerge
{
    /// <summary>One adapter of several.</summary>
    /// <param name="adapters">Adapters that change the same layers by plain LoRA.</param>
    /// <param name="weights">One each.</param>
    /// <param name="combination">How. Default the exact sum.</param>
    /// <param name="rank">Rank of the result, for Svd.</param>
    /// <param name="density">Share of entries kept, for Ties and MagnitudePrune.</param>
    /// <exception cref="BadInputException">The adapters differ in their layers or ranks, or are not plain LoRA.</exception>
    public static Adapter Combine(IReadOnlyList<Adapter> adapters, IReadOnlyList<double> weights, AdapterCombination combination = AdapterCombination.Cat, int? rank = null, double density = 1)
    {
        using var scope = NewDisposeScope();
        using var noGrad = no_grad();
        Dictionary<string, LoraModule>[] byPath = [.. adapters.Select(adapter => adapter.Modules.ToDictionary(module => module.Path, module =>
            module as LoraModule is { Magnitude: null, Bias: null } plain ? plain : throw new BadInputException($"The adapter changes {module.Path} by other means than plain LoRA; only LoRA adapters can be combined.")))];
        string[] paths = [.. byPath.SelectMany(modules => modules.Keys).Distinct()];
        return new Adapter(paths.Select(path =>
        {
            (LoraModule Module, double Weight)[] parts = [.. byPath.Select((modules, i) => (Module: modules.GetValueOrDefault(path), Weight: weights[i]))
                .Where(part => part.Module is not null).Select(part => (part.Module!, part.Weight * part.Module!.Scale))];
            (Tensor down, Tensor up) = combination switch
            {
                AdapterCombination.Cat => (cat([.. parts.Select(part => part.Module.Down * part.Weight)], 0), cat([.. parts.Select(part => part.Module.Up)], 1)),
                AdapterCombination.Svd => Truncated(parts, rank ?? (int)parts.Max(part => part.Module.Down.shape[0])),
                _ => Separately(path, parts, combination, density),
            };
            return (AdapterModule)new LoraModule(path, down, up, 1);
        }));
    }

    static (Tensor Down, Tensor Up) Truncated((LoraModule Module, double Weight)[] parts, int rank)
    {
        Tensor sum = zeros(1);
        foreach ((LoraModule module, double weight) in parts)
        {
            sum = sum + module.Up.matmul(module.Down) * weight;
        }

        (Tensor u, Tensor s, Tensor vh) = linalg.svd(sum, fullMatrices: false);
        return (vh.narrow(0, 0, rank), u.narrow(1, 0, rank) * s.narrow(0, 0, rank));
    }

    static (Tensor Down, Tensor Up) Separately(string path, (LoraModule Module, double Weight)[] parts, AdapterCombination combination, double density)
    {
        if (parts.Any(part => part.Weight < 0))
        {
            throw new BadInputException($"Combining A and B of {path} apart takes the root of weights, and one is below 0; take the combination cat or svd.");
        }

        if (parts.Any(part => part.Module.Down.shape[0] != parts[0].Module.Down.shape[0]))
        {
            throw new BadInputException($"The adapters have different ranks at {path}; A and B can only be combined apart when ranks are equal. Take the combination cat or svd.");
        }

        double[] weights = [.. parts.Select(part => Math.Sqrt(part.Weight))];
        Tensor One(Func<LoraModule, Tensor> select)
        {
            Tensor[] tensors = [.. parts.Select(part => select(part.Module))];
            return combination switch
            {
                AdapterCombination.Linear => TaskVectors.Linear(tensors, weights),
                AdapterCombination.Ties => TaskVectors.Ties(tensors, weights, density),
                _ => TaskVectors.MagnitudePrune(tensors, weights, density),
            };
        }

        return (One(module => module.Down), One(module => module.Up));
    }
}
