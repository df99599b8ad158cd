using TorchSharp;
using static TorchSharp.torch;

namespace Scalpel.Training;

/// <summary>Options of <see cref="Adamax"/>; defaults as in PyTorch.</summary>
public sealed record AdamaxOptions
{
    /// <summary>Decay of the mean of gradients. Default 0.9.</summary>
    public double Beta1 { get; init; } = 0.9;

    /// <summary>Decay of the largest gradient. Default 0.999.</summary>
    public double Beta2 { get; init; } = 0.999;

    /// <summary>Added to the gradient's size. Default 1e-8.</summary>
    public double Epsilon { get; init; } = 1e-8;

    /// <summary>L2 penalty. Default 0.</summary>
    public double WeightDecay { get; init; }
}

/// <summary>Adam by the infinity norm: u ← max(β₂u, |g| + ε), w ← w − η m̂ / u.</summary>
public sealed class Adamax(IReadOnlyList<ParameterGroup> groups, AdamaxOptions? options = null) : Optimizer(groups, options?.WeightDecay ?? 0)
{
    readonly AdamaxOptions options = options ?? new();

    private protected override IReadOnlyList<string> FlatState { get; } = ["exp_avg", "exp_inf"];

    private protected override void Update(Tensor values, Tensor gradients, Tensor[] moments, double rate, double decay)
    {
        Tensor gradient = Adam.Decay(values, gradients, rate, decay, decoupled: false);
        Tensor mean = moments[0], largest = moments[1];
        mean.mul_(options.Beta1).add_(gradient, 1 - options.Beta1);
        largest.copy_(maximum(largest * options.Beta2, gradient.abs().add_(options.Epsilon)));
        values.addcdiv_(mean, largest, -rate / (1 - Math.Pow(options.Beta1, Steps)));
    }
}

/// <summary>Options of <see cref="NAdam"/>; defaults as in PyTorch.</summary>
public sealed record NAdamOptions
{
    /// <summary>Decay of the mean of gradients. Default 0.9.</summary>
    public double Beta1 { get; init; } = 0.9;

    /// <summary>Decay of the mean of squared gradients. Default 0.999.</summary>
    public double Beta2 { get; init; } = 0.999;

    /// <summary>Added to the root of the second moment. Default 1e-8.</summary>
    public double Epsilon { get; init; } = 1e-8;

    /// <summary>Weight decay. Default 0.</summary>
    public double WeightDecay { get; init; }

    /// <summary>How fast the momentum rises to <see cref="Beta1"/>. Default 0.004.</summary>
    public double MomentumDecay { get; init; } = 4e-3;

    /// <summary>Whether weight decay acts on the values instead of the gradient. Default false.</summary>
    public bool DecoupledWeightDecay { get; init; }
}

/// <summary>Adam with Nesterov momentum μₜ = β₁(1 − ½·0.96^(tψ)).</summary>
public sealed class NAdam(IReadOnlyList<ParameterGroup> groups, NAdamOptions? options = null) : Optimizer(groups, options?.WeightDecay ?? 0)
{
    readonly NAdamOptions options = options ?? new();
    double mu, next;

    /// <summary>Product of the momenta of all steps so far.</summary>
    public double MomentumProduct { get; private set; } = 1;

    private protected override IReadOnlyList<string> FlatState { get; } = ["exp_avg", "exp_avg_sq"];

    private protected override void BeforeStep()
    {
        (mu, next) = (Momentum(Steps), Momentum(Steps + 1));
        MomentumProduct *= mu;
    }

    private protected override void AfterLoad()
    {
        MomentumProduct = 1;
        for (long step = 1; step <= Steps; step++)
        {
            MomentumProduct *= Momentum(step);
        }
    }

    private protected override void Update(Tensor values, Tensor gradients, Tensor[] moments, double rate, double decay)
    {
        Tensor gradient = Adam.Decay(values, gradients, rate, decay, options.DecoupledWeightDecay);
        Tensor mean = moments[0], square = moments[1];
        mean.mul_(options.Beta1).add_(gradient, 1 - options.Beta1);
        square.mul_(options.Beta2).addcmul_(gradient, gradient, 1 - options.Beta2);
        Tensor root = square.div(1 - Math.Pow(options.Beta2, Steps)).sqrt_().add_(options.Epsilon);
        values.addcdiv_(gradient, root, -rate * (1 - mu) / (1 - MomentumProduct));
        values.addcdiv_(mean, root, -rate * next / (1 - MomentumProduct * next));
    }

    double Momentum(long step) => options.Beta1 * (1 - 0.5 * Math.Pow(0.96, step * options.MomentumDecay));
}

/// <summary>Options of <see cref="RAdam"/>; defaults as in PyTorch.</summary>
public sealed record RAdamOptions
{
    /// <summary>Decay of the mean of gradients. Default 0.9.</summary>
    public double Beta1 { get; init; } = 0.9;

    /// <summary>Decay of the mean of squared gradients. Default 0.999.</summary>
    public double Beta2 { get; init; } = 0.999;

    /// <summary>Added to the root of the second moment. Default 1e-8.</summary>
    public double Epsilon { get; init; } = 1e-8;

    /// <summary>Weight decay. Default 0.</summary>
    public double WeightDecay { get; init; }

    /// <summary>Whether weight decay acts on the values instead of the gradient. Default false.</summary>
    public bool DecoupledWeightDecay { get; init; }
}

/// <summary>Adam that divides by the second moment only once its variance is small (ρₜ &gt; 5), and rectified then.</summary>
public sealed class RAdam(IReadOnlyList<ParameterGroup> groups, RAdamOptions? options = null) : Optimizer(groups, options?.WeightDecay ?? 0)
{
    readonly RAdamOptions options = options ?? new();

    private protected override IReadOnlyList<string> FlatState { get; } = ["exp_avg", "exp_avg_sq"];

    private protected override void Update(Tensor values, Tensor gradients, Tensor[] moments, double rate, double decay)
    {
        Tensor gradient = Adam.Decay(values, gradients, rate, decay, options.DecoupledWeightDecay);
        Tensor mean = moments[0], square = moments[1];
        mean.mul_(options.Beta1).add_(gradient, 1 - options.Beta1);
        square.mul_(options.Beta2).addcmul_(gradient, gradient, 1 - options.Beta2);
        double power = Math.Pow(options.Beta2, Steps), correction2 = 1 - power;
        double step = -rate / (1 - Math.Pow(options.Beta1, Steps));
        double limit = 2 / (1 - options.Beta2) - 1, length = limit - 2 * Steps * power / correction2;
        if (length > 5)
        {
            double rectified = Math.Sqrt((length - 4) * (length - 2) * limit / ((limit - 4) * (limit - 2) * length));
            values.addcdiv_(mean, square.sqrt().add_(options.Epsilon), step * rectified * Math.Sqrt(correction2));
        }
        else
        {
            values.add_(mean, step);
        }
    }
}
