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

    /// <summary>TIES on the changes, cut to a rank.</summary>
    TiesSvd,

    /// <summary>The weighted sum of the changes, each trimmed to its largest entries, cut to a rank.</summary>
    MagnitudePruneSvd,
}

/// <summary>Options of <see cref="AdapterMerge.Combine"/>; names and defaults as in PEFT.</summary>
public sealed record AdapterCombinationOptions
{
    /// <summary>Rank of the result, where it is cut to one; null for the largest of the adapters.</summary>
    public int? Rank { get; init; }

    /// <summary>Share of entries kept, for TIES and pruning by magnitude. Default 1.</summary>
    public double Density { get; init; } = 1;

    /// <summary>How TIES elects signs. Default by the sum.</summary>
    public SignElection Election { get; init; }

    /// <summary>Quantile of the factors' entries to which they are bounded after a cut to a rank; null for none.</summary>
    public double? Clamp { get; init; }
}

/// <summary>Combines LoRA adapters of one network.</summary>
public static class AdapterMerge
{
    /// <summary>One adapter of several.</summary>
    /// <param name="adapters">Adapters that change the same layers by plain LoRA.</param>
    /// <param name="weights">One each.</param>
    /// <param name="combination">How. Default the exact sum.</param>
    /// <param name="options">Rank, density and what else the combination asks for.</param>
    /// <exception cref="BadInputException">The adapters differ in their ranks, or are not plain LoRA, or there are not as many weights.</exception>
    public static Adapter Combine(IReadOnlyList<Adapter> adapters, IReadOnlyList<double> weights, AdapterCombination combination = AdapterCombination.Cat, AdapterCombinationOptions? options = null)
    {
        options ??= new();
        if (adapters.Count != weights.Count)
        {
            throw new BadInputException($"There are {adapters.Count} adapters and {weights.Count} weights; give one weight for each.");
        }

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
                AdapterCombination.Svd or AdapterCombination.TiesSvd or AdapterCombination.MagnitudePruneSvd => Truncated(parts, combination, options),
                _ => Separately(path, parts, combination, options),
            };
            return (AdapterModule)new LoraModule(path, down, up, 1);
        }));
    }

    static (Tensor Down, Tensor Up) Truncated((LoraModule Module, double Weight)[] parts, AdapterCombination combination, AdapterCombinationOptions options)
    {
        Tensor[] changes = [.. parts.Select(part => part.Module.Up.matmul(part.Module.Down))];
        double[] weights = [.. parts.Select(part => part.Weight)];
        Tensor sum = combination switch
        {
            AdapterCombination.Svd => TaskVectors.Linear(changes, weights),
            AdapterCombination.TiesSvd => TaskVectors.Ties(changes, weights, options.Density, options.Election),
            _ => TaskVectors.MagnitudePrune(changes, weights, options.Density),
        };
        int rank = options.Rank ?? (int)parts.Max(part => part.Module.Down.shape[0]);
        (Tensor u, Tensor s, Tensor vh) = linalg.svd(sum, fullMatrices: false);
        if (rank < 1 || rank > s.shape[0])
        {
            throw new BadInputException($"The rank of the combined adapter is {rank}; the matrix {parts[0].Module.Path} allows 1 to {s.shape[0]}.");
        }

        (Tensor down, Tensor up) = (vh.narrow(0, 0, rank), u.narrow(1, 0, rank) * s.narrow(0, 0, rank));
        if (options.Clamp is { } quantile)
        {
            double bound = cat([up.flatten(), down.flatten()]).quantile(tensor((float)quantile)).ToDouble();
            (down, up) = (down.clamp(-bound, bound), up.clamp(-bound, bound));
        }

        return (down, up);
    }

    static (Tensor Down, Tensor Up) Separately(string path, (LoraModule Module, double Weight)[] parts, AdapterCombination combination, AdapterCombinationOptions options)
    {
        if (parts.Any(part => part.Module.Down.shape[0] != parts[0].Module.Down.shape[0]))
        {
            throw new BadInputException($"The adapters have different ranks at {path}; A and B can only be combined apart when ranks are equal. Take the combination cat or svd.");
        }

        // The sign goes with A alone, or it would cancel.
        Tensor One(Func<LoraModule, Tensor> select, bool signed)
        {
            double[] weights = [.. parts.Select(part => Math.Sqrt(Math.Abs(part.Weight)) * (signed && part.Weight < 0 ? -1 : 1))];
            Tensor[] tensors = [.. parts.Select(part => select(part.Module))];
            return combination switch
            {
                AdapterCombination.Linear => TaskVectors.Linear(tensors, weights),
                AdapterCombination.Ties => TaskVectors.Ties(tensors, weights, options.Density, options.Election),
                _ => TaskVectors.MagnitudePrune(tensors, weights, options.Density),
            };
        }

        return (One(module => module.Down, signed: true), One(module => module.Up, signed: false));
    }
}
