using TorchSharp;
using static TorchSharp.torch;

namespace Scalpel.Training;

/// <summary>Which of the two common forms of Adafactor.</summary>
public enum AdafactorForm
{
    /// <summary>That of transformers: optional relative steps and momentum, decay scaled by the final rate.</summary>
    Transformers,

    /// <summary>That of PyTorch: the rate is an upper bound of 1/√t, always scaled by the tensor's size.</summary>
    Torch,
}

/// <summary>Options of <see cref="Adafactor"/>; defaults as in transformers.</summary>
public sealed record AdafactorOptions
{
    /// <summary>Which form. Default that of transformers.</summary>
    public AdafactorForm Form { get; init; }

    /// <summary>Smallest squared gradient; null for the form's own (1e-30, or the type's ε in PyTorch's form).</summary>
    public double? Epsilon1 { get; init; }

    /// <summary>Smallest size of a tensor that scales its rate. Default 1e-3.</summary>
    public double Epsilon2 { get; init; } = 1e-3;

    /// <summary>Largest root mean square of an update. Default 1.</summary>
    public double ClipThreshold { get; init; } = 1;

    /// <summary>β₂ = 1 − t^decay. Default −0.8.</summary>
    public double DecayRate { get; init; } = -0.8;

    /// <summary>Decay of the mean of updates; null for none. Transformers' form only.</summary>
    public double? Beta1 { get; init; }

    /// <summary>Weight decay. Default 0.</summary>
    public double WeightDecay { get; init; }

    /// <summary>Whether the rate is scaled by the tensor's root mean square. Default true; always so in PyTorch's form.</summary>
    public bool ScaleParameter { get; init; } = true;

    /// <summary>Whether the rate is min(1e-2, 1/√t) instead of the one given. Default false. Transformers' form only.</summary>
    public bool RelativeStep { get; init; }

    /// <summary>Whether relative steps start at 1e-6·t. Default false. Transformers' form only.</summary>
    public bool WarmupInit { get; init; }
}

/// <summary>
/// Second moments of matrices as the product of a row and a column, so that the state is small. Each tensor has sizes of
/// its own, so this one goes tensor by tensor.
/// </summary>
public sealed class Adafactor : Optimizer
{
    readonly AdafactorOptions options;

    /// <summary>A new optimizer with moments 0.</summary>
    public Adafactor(IReadOnlyList<ParameterGroup> groups, AdafactorOptions? options = null) : base(groups, (options ??= new()).WeightDecay)
    {
        if (options.Form == AdafactorForm.Torch && (options.Beta1 is not null || options.RelativeStep || options.WarmupInit || !options.ScaleParameter))
        {
            throw new BadInputException("PyTorch's form of Adafactor has no momentum, relative steps or unscaled rates; take the transformers form for them.");
        }

        this.options = options;
    }

    private protected override IReadOnlyList<string> FlatState => [];

    private protected override void Update(Tensor values, Tensor gradients, Tensor[] moments, double rate, double decay) { }

    private protected override void StepGroup(int index, double rate, double decay)
    {
        ParameterGroup group = Groups[index];
        foreach (string name in group.Names)
        {
            using var scope = NewDisposeScope();
            Tensor values = group.Value(name), gradient = group.GradientsAt(group.Slot(name).Start, group.Value(name).numel()).view(group.Slot(name).Shape);
            Tensor? before = group.Mask is null ? null : values.clone();
            if (options.Form == AdafactorForm.Torch)
            {
                StepTorch(index, name, values, gradient, rate, decay);
            }
            else
            {
                StepTransformers(index, name, values, gradient, rate, decay);
            }

            if (before is not null)
            {
                values.copy_(where(group.View(group.Mask!, name), values, before));
            }
        }
    }

    void StepTransformers(int group, string name, Tensor values, Tensor gradient, double rate, double decay)
    {
        double relative = options.RelativeStep
            ? Math.Min(options.WarmupInit ? 1e-6 * Steps : 1e-2, 1 / Math.Sqrt(Steps))
            : rate;
        double size = RootMeanSquare(values);
        StateOf(group, $"RMS.{name}", () => zeros([], dtype: values.dtype)).fill_(size);
        double step = options.ScaleParameter ? relative * Math.Max(options.Epsilon2, size) : relative;
        double beta2 = 1 - Math.Pow(Steps, options.DecayRate);
        Tensor square = gradient.square().add_(options.Epsilon1 ?? 1e-30);
        Tensor update;
        if (gradient.dim() >= 2)
        {
            Tensor row = StateOf(group, $"exp_avg_sq_row.{name}", () => zeros(gradient.shape[..^1], dtype: values.dtype));
            Tensor column = StateOf(group, $"exp_avg_sq_col.{name}", () => zeros([.. gradient.shape[..^2], gradient.shape[^1]], dtype: values.dtype));
            row.mul_(beta2).add_(square.mean([-1]), 1 - beta2);
            column.mul_(beta2).add_(square.mean([-2]), 1 - beta2);
            update = (row / row.mean([-1], keepdim: true)).rsqrt_().unsqueeze(-1) * column.unsqueeze(-2).rsqrt() * gradient;
        }
        else
        {
            Tensor mean = StateOf(group, $"exp_avg_sq.{name}", () => zeros(gradient.shape, dtype: values.dtype));
            update = mean.mul_(beta2).add_(square, 1 - beta2).rsqrt() * gradient;
        }

        update.mul_(step / Math.Max(1, RootMeanSquare(update) / options.ClipThreshold));
        if (options.Beta1 is { } beta1)
        {
            Tensor mean = StateOf(group, $"exp_avg.{name}", () => zeros(gradient.shape, dtype: values.dtype));
            update = mean.mul_(beta1).add_(update, 1 - beta1);
        }

        if (decay != 0)
        {
            values.mul_(1 - decay * step);
        }

        values.sub_(update);
    }

    void StepTorch(int group, string name, Tensor values, Tensor gradient, double rate, double decay)
    {
        double floor = options.Epsilon1 ?? (values.dtype == ScalarType.Float64 ? Math.Pow(2, -52) : Math.Pow(2, -23));
        double fresh = Math.Pow(Steps, options.DecayRate);
        double step = Math.Max(options.Epsilon2, RootMeanSquare(values)) * Math.Min(rate, 1 / Math.Sqrt(Steps));
        if (decay != 0)
        {
            values.mul_(1 - rate * decay);
        }

        Tensor variance;
        if (gradient.dim() >= 2)
        {
            Tensor row = StateOf(group, $"row_var.{name}", () => zeros([.. gradient.shape[..^1], 1], dtype: values.dtype));
            Tensor column = StateOf(group, $"col_var.{name}", () => zeros([.. gradient.shape[..^2], 1, gradient.shape[^1]], dtype: values.dtype));
            Tensor square = gradient.square();
            row.mul_(1 - fresh).add_(square.mean([-1], keepdim: true), fresh);
            column.mul_(1 - fresh).add_(square.mean([-2], keepdim: true), fresh);
            variance = matmul(row, column).div_(row.mean([-2], keepdim: true).clamp_min_(floor));
        }
        else
        {
            Tensor mean = StateOf(group, $"variance.{name}", () => zeros(gradient.shape, dtype: values.dtype));
            variance = mean.mul_(1 - fresh).addcmul_(gradient, gradient, fresh).clone();
        }

        Tensor update = variance.clamp_min_(floor * floor).rsqrt_().mul_(gradient);
        values.add_(update, -step / Math.Max(1, RootMeanSquare(update) / options.ClipThreshold));
    }

    static double RootMeanSquare(Tensor x) => x.square().mean().sqrt().ToDouble();
}
