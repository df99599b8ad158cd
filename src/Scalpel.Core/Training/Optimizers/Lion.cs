using TorchSharp;
using static TorchSharp.torch;

namespace Scalpel.Training;

/// <summary>Options of <see cref="Lion"/>; defaults as in lion-pytorch.</summary>
public sealed record LionOptions
{
    /// <summary>Weight of the momentum within the sign. Default 0.9.</summary>
    public double Beta1 { get; init; } = 0.9;

    /// <summary>Decay of the momentum. Default 0.99.</summary>
    public double Beta2 { get; init; } = 0.99;

    /// <summary>Decoupled weight decay. Default 0.</summary>
    public double WeightDecay { get; init; }
}

/// <summary>w ← (1 − ηλ)w − η sign(β₁m + (1 − β₁)g), then m ← β₂m + (1 − β₂)g.</summary>
public sealed class Lion(IReadOnlyList<ParameterGroup> groups, LionOptions? options = null) : Optimizer(groups, options?.WeightDecay ?? 0)
{
    readonly LionOptions options = options ?? new();

    private protected override IReadOnlyList<string> FlatState { get; } = ["exp_avg"];

    private protected override void Update(Tensor values, Tensor gradients, Tensor[] moments, double rate, double decay)
    {
        Adam.Decay(values, gradients, rate, decay, decoupled: true);
        Tensor mean = moments[0];
        values.add_(mean.mul(options.Beta1).add_(gradients, 1 - options.Beta1).sign_(), -rate);
        mean.mul_(options.Beta2).add_(gradients, 1 - options.Beta2);
    }
}
