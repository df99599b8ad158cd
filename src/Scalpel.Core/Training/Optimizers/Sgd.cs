using TorchSharp;
using static TorchSharp.torch;

namespace Scalpel.Training;

/// <summary>Options of <see cref="Sgd"/>; defaults as in PyTorch.</summary>
public sealed record SgdOptions
{
    /// <summary>Share of the previous direction that is kept. Default 0.</summary>
    public double Momentum { get; init; }

    /// <summary>Share by which a new gradient is weakened in the momentum. Default 0.</summary>
    public double Dampening { get; init; }

    /// <summary>Whether to look ahead along the momentum. Default false.</summary>
    public bool Nesterov { get; init; }

    /// <summary>L2 penalty, added to the gradient. Default 0.</summary>
    public double WeightDecay { get; init; }
}

/// <summary>Gradient descent: b ← μb + (1 − d)g, w ← w − ηb.</summary>
public sealed class Sgd : Optimizer
{
    readonly SgdOptions options;

    /// <summary>A new optimizer without momentum so far.</summary>
    public Sgd(IReadOnlyList<ParameterGroup> groups, SgdOptions? options = null) : base(groups, (options ??= new()).WeightDecay)
    {
        if (options.Nesterov && (options.Momentum <= 0 || options.Dampening != 0))
        {
            throw new BadInputException("Nesterov momentum needs a momentum above 0 and no dampening.");
        }

        this.options = options;
        FlatState = options.Momentum == 0 ? [] : ["momentum_buffer"];
    }

    private protected override IReadOnlyList<string> FlatState { get; }

    private protected override void Update(Tensor values, Tensor gradients, Tensor[] moments, double rate, double decay)
    {
        Tensor direction = decay == 0 ? gradients : gradients.add(values, decay);
        if (moments is [Tensor buffer])
        {
            // The first step takes the gradient as it is, whatever the dampening.
            buffer.mul_(options.Momentum).add_(direction, Steps == 1 ? 1 : 1 - options.Dampening);
            direction = options.Nesterov ? direction.add(buffer, options.Momentum) : buffer;
        }

        values.add_(direction, -rate);
    }
}
