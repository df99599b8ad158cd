using Scalpel.Numerics;
using TorchSharp;
using static TorchSharp.torch;

namespace Scalpel.Training;

/// <summary>Options of <see cref="Adam"/> and <see cref="AdamW"/>; defaults as in PyTorch.</summary>
public record AdamOptions
{
    /// <summary>Decay of the mean of gradients. Default 0.9.</summary>
    public double Beta1 { get; init; } = 0.9;

    /// <summary>Decay of the mean of squared gradients. Default 0.999.</summary>
    public double Beta2 { get; init; } = 0.999;

    /// <summary>Added to the root of the second moment. Default 1e-8.</summary>
    public double Epsilon { get; init; } = 1e-8;

    /// <summary>Weight decay. Default 0; 0.01 for AdamW.</summary>
    public double WeightDecay { get; init; }

    /// <summary>Whether to divide by the largest second moment so far. Default false.</summary>
    public bool AmsGrad { get; init; }
}

/// <summary>Options of <see cref="AdamW"/>.</summary>
public sealed record AdamWOptions : AdamOptions
{
    /// <summary>Defaults as in PyTorch.</summary>
    public AdamWOptions() => WeightDecay = 0.01;
}

/// <summary>w ← w − η m̂ / (√v̂ + ε) with the means m of g and v of g²; weight decay is an L2 penalty within g.</summary>
public class Adam : Optimizer
{
    readonly AdamOptions options;
    readonly bool decoupled;
    double correction1, correction2;

    /// <summary>A new optimizer with moments 0.</summary>
    public Adam(IReadOnlyList<ParameterGroup> groups, AdamOptions? options = null) : this(groups, options ?? new AdamOptions(), decoupled: false) { }

    private protected Adam(IReadOnlyList<ParameterGroup> groups, AdamOptions options, bool decoupled) : base(groups, options.WeightDecay)
    {
        this.options = options;
        this.decoupled = decoupled;
        FlatState = options.AmsGrad ? ["exp_avg", "exp_avg_sq", "max_exp_avg_sq"] : ["exp_avg", "exp_avg_sq"];
    }

    private protected override IReadOnlyList<string> FlatState { get; }

    private protected override void BeforeStep()
    {
        correction1 = 1 - Math.Pow(options.Beta1, Steps);
        correction2 = 1 - Math.Pow(options.Beta2, Steps);
    }

    private protected override void StepGroup(int index, double rate, double decay)
    {
        ParameterGroup group = Groups[index];
        if (options.AmsGrad || group.Mask is not null || group.Values.dtype != ScalarType.Float32)
        {
            base.StepGroup(index, rate, decay);
            return;
        }

        Tensor[] moments = [.. FlatState.Select(name => StateOf(index, name, () => zeros(group.Length)))];
        var pass = new AdamPass((float)options.Beta1, (float)options.Beta2, decoupled ? 0 : (float)decay, decoupled ? (float)(1 - rate * decay) : 1,
            (float)(rate / correction1), (float)Math.Sqrt(correction2), (float)options.Epsilon);
        if (group.Gradients.dtype == ScalarType.Float32)
        {
            pass.Run(group.Values, group.Gradients, moments[0], moments[1]);
            return;
        }

        for (long at = 0; at < group.Length; at += ParameterGroup.Piece)
        {
            using var scope = NewDisposeScope();
            long length = Math.Min(ParameterGroup.Piece, group.Length - at);
            pass.Run(group.Values.narrow(0, at, length), group.GradientsAt(at, length), moments[0].narrow(0, at, length), moments[1].narrow(0, at, length));
        }
    }

    private protected override void Update(Tensor values, Tensor gradients, Tensor[] moments, double rate, double decay)
    {
        Tensor gradient = Decay(values, gradients, rate, decay, decoupled);
        Tensor mean = moments[0], square = moments[1];
        mean.mul_(options.Beta1).add_(gradient, 1 - options.Beta1);
        square.mul_(options.Beta2).addcmul_(gradient, gradient, 1 - options.Beta2);
        Tensor second = square;
        if (options.AmsGrad)
        {
            second = moments[2];
            second.copy_(maximum(second, square));
        }

        values.addcdiv_(mean, second.sqrt().div_(Math.Sqrt(correction2)).add_(options.Epsilon), -rate / correction1);
    }

    /// <summary>Applies weight decay: to the values (decoupled) or to the gradient, which is returned.</summary>
    internal static Tensor Decay(Tensor values, Tensor gradients, double rate, double decay, bool decoupled)
    {
        if (decay == 0)
        {
            return gradients;
        }

        if (!decoupled)
        {
            return gradients.add(values, decay);
        }

        values.mul_(1 - rate * decay);
        return gradients;
    }
}

/// <summary>Adam with decoupled weight decay: w ← (1 − ηλ)w before the step.</summary>
public sealed class AdamW(IReadOnlyList<ParameterGroup> groups, AdamWOptions? options = null) : Adam(groups, options ?? new AdamWOptions(), decoupled: true);
