using TorchSharp;
using static TorchSharp.torch;

namespace Scalpel.Training;

/// <summary>A running average of weights beside the weights themselves.</summary>
public abstract class WeightAverage : IDisposable
{
    /// <summary>Starts at a copy of <paramref name="values"/>.</summary>
    private protected WeightAverage(Tensor values) => Values = values.detach().clone().DetachFromDisposeScope();

    /// <summary>The average, in the shape of the weights.</summary>
    public Tensor Values { get; }

    /// <summary>Updates so far.</summary>
    public long Updates { get; internal set; }

    /// <summary>Share of the old average that update number <paramref name="update"/> (from 1) keeps.</summary>
    public abstract double Decay(long update);

    /// <summary>Takes in the weights as they are now.</summary>
    public void Update(Tensor values)
    {
        using var noGrad = no_grad();
        using var scope = NewDisposeScope();
        double decay = Decay(++Updates);
        Values.mul_(decay).add_(values, 1 - decay);
    }

    /// <summary>Frees the average.</summary>
    public void Dispose()
    {
        Values.Dispose();
        GC.SuppressFinalize(this);
    }
}

/// <summary>Options of <see cref="ExponentialAverage"/>.</summary>
public sealed record ExponentialAverageOptions
{
    /// <summary>The decay in the long run. Default 0.9999.</summary>
    public double Decay { get; init; } = 0.9999;

    /// <summary>Smallest decay once the average has started. Default 0.</summary>
    public double MinDecay { get; init; }

    /// <summary>Updates in which the average only follows. Default 0.</summary>
    public long UpdateAfter { get; init; }

    /// <summary>Whether the decay rises as 1 − (1 + n/γ)^−p instead of (1 + n)/(10 + n). Default false.</summary>
    public bool Warmup { get; init; }

    /// <summary>γ of the warm-up. Default 1.</summary>
    public double InverseGamma { get; init; } = 1;

    /// <summary>p of the warm-up. Default ⅔.</summary>
    public double Power { get; init; } = 2.0 / 3;
}

/// <summary>Exponential moving average whose decay rises with the number of updates, as in diffusers.</summary>
public sealed class ExponentialAverage(Tensor values, ExponentialAverageOptions? options = null) : WeightAverage(values)
{
    readonly ExponentialAverageOptions options = options ?? new();

    /// <inheritdoc/>
    public override double Decay(long update)
    {
        double n = Math.Max(0, update - options.UpdateAfter - 1);
        if (n <= 0)
        {
            return 0;
        }

        double decay = options.Warmup ? 1 - Math.Pow(1 + n / options.InverseGamma, -options.Power) : (1 + n) / (10 + n);
        return Math.Max(Math.Min(decay, options.Decay), options.MinDecay);
    }
}

/// <summary>Exponential moving average with a constant decay; the first update copies, as in PyTorch.</summary>
public sealed class ConstantExponentialAverage(Tensor values, double decay) : WeightAverage(values)
{
    /// <inheritdoc/>
    public override double Decay(long update) => update == 1 ? 0 : decay;
}

/// <summary>The plain mean of all weights taken in (SWA).</summary>
public sealed class StochasticAverage(Tensor values) : WeightAverage(values)
{
    /// <inheritdoc/>
    public override double Decay(long update) => (update - 1.0) / update;
}
