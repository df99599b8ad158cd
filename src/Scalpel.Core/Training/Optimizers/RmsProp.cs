using TorchSharp;
using static TorchSharp.torch;

namespace Scalpel.Training;

/// <summary>Options of <see cref="RmsProp"/>; defaults as in PyTorch.</summary>
public sealed record RmsPropOptions
{
    /// <summary>Decay of the mean of squared gradients. Default 0.99.</summary>
    public double Alpha { get; init; } = 0.99;

    /// <summary>Added to the root. Default 1e-8.</summary>
    public double Epsilon { get; init; } = 1e-8;

    /// <summary>L2 penalty. Default 0.</summary>
    public double WeightDecay { get; init; }

    /// <summary>Share of the previous direction that is kept. Default 0.</summary>
    public double Momentum { get; init; }

    /// <summary>Whether to divide by the standard deviation instead of the root mean square. Default false.</summary>
    public bool Centred { get; init; }
}

/// <summary>w ← w − η g / (√E[g²] + ε).</summary>
public sealed class RmsProp : Optimizer
{
    readonly RmsPropOptions options;

    /// <summary>A new optimizer with moments 0.</summary>
    public RmsProp(IReadOnlyList<ParameterGroup> groups, RmsPropOptions? options = null) : base(groups, (options ??= new()).WeightDecay)
    {
        this.options = options;
        List<string> names = ["square_avg"];
        if (options.Momentum > 0)
        {
            names.Add("momentum_buffer");
        }

        if (options.Centred)
        {
            names.Add("grad_avg");
        }

        FlatState = names;
    }

    private protected override IReadOnlyList<string> FlatState { get; }

    private protected override void Update(Tensor values, Tensor gradients, Tensor[] moments, double rate, double decay)
    {
        Tensor gradient = Adam.Decay(values, gradients, rate, decay, decoupled: false);
        Tensor square = moments[0].mul_(options.Alpha).addcmul_(gradient, gradient, 1 - options.Alpha);
        if (options.Centred)
        {
            Tensor mean = moments[^1].mul_(options.Alpha).add_(gradient, 1 - options.Alpha);
            square = square.addcmul(mean, mean, -1);
        }

        Tensor root = square.sqrt().add_(options.Epsilon);
        if (options.Momentum > 0)
        {
            values.add_(moments[1].mul_(options.Momentum).addcdiv_(gradient, root, 1), -rate);
        }
        else
        {
            values.addcdiv_(gradient, root, -rate);
        }
    }
}

/// <summary>Options of <see cref="Adagrad"/>; defaults as in PyTorch.</summary>
public sealed record AdagradOptions
{
    /// <summary>η/(1 + (t − 1)·decay). Default 0.</summary>
    public double RateDecay { get; init; }

    /// <summary>L2 penalty. Default 0.</summary>
    public double WeightDecay { get; init; }

    /// <summary>The sum of squares at the start. Default 0.</summary>
    public double InitialSum { get; init; }

    /// <summary>Added to the root. Default 1e-10.</summary>
    public double Epsilon { get; init; } = 1e-10;
}

/// <summary>w ← w − η g / (√Σg² + ε).</summary>
public sealed class Adagrad(IReadOnlyList<ParameterGroup> groups, AdagradOptions? options = null) : Optimizer(groups, options?.WeightDecay ?? 0)
{
    readonly AdagradOptions options = options ?? new();

    private protected override IReadOnlyList<string> FlatState { get; } = ["sum"];

    private protected override double Initial(string name) => options.InitialSum;

    private protected override void Update(Tensor values, Tensor gradients, Tensor[] moments, double rate, double decay)
    {
        Tensor gradient = Adam.Decay(values, gradients, rate, decay, decoupled: false);
        Tensor sum = moments[0].addcmul_(gradient, gradient, 1);
        values.addcdiv_(gradient, sum.sqrt().add_(options.Epsilon), -rate / (1 + (Steps - 1) * options.RateDecay));
    }
}
