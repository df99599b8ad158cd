using Scalpel.Numerics;
using TorchSharp;
using static TorchSharp.torch;

namespace Scalpel.Networks.Layers;

/// <summary>The normalisations of the families.</summary>
public enum NormKind
{
    /// <summary>x̂ · gain with x̂ = x·rsqrt(mean(x²) + ε) in float32, cast back before the product.</summary>
    Rms,

    /// <summary>Gemma's: x̂ · (1 + gain), all in float32, cast at the end.</summary>
    RmsPlusOne,

    /// <summary>LayerNorm with gain and bias.</summary>
    Layer,

    /// <summary>LayerNorm without parameters (OLMo).</summary>
    LayerPlain,
}

/// <summary>One normalisation over the last axis.</summary>
sealed class Norm(NormKind kind, Tensor? gain, Tensor? bias, double epsilon)
{
    public NormKind Kind => kind;

    public Tensor? Gain => gain;

    public Tensor? Bias => bias;

    public double Epsilon => epsilon;

    /// <summary>
    /// Whether rows are normalised in one pass over memory where no graph is needed, as the written-out training pass does:
    /// the same bits with and without gradients.
    /// </summary>
    public bool InOnePass { get; set; }

    public bool Centred => kind is NormKind.Layer or NormKind.LayerPlain;

    /// <summary>The normalised x, same shape and type.</summary>
    public Tensor Apply(Tensor x)
    {
        if (Centred)
        {
            return nn.functional.layer_norm(x, [x.shape[^1]], gain, bias, epsilon);
        }

        if (InOnePass && x.is_contiguous() && !(is_grad_enabled() && (x.requires_grad || gain!.requires_grad)))
        {
            return RowPasses.RmsNorm(x, gain!, epsilon);
        }

        using var scope = NewDisposeScope();
        return Finish(Wide(x), Scale(x), x.dtype).MoveToOuterDisposeScope();
    }

    /// <summary>1/rms or 1/σ of each position, float32 [..., 1].</summary>
    public Tensor Scale(Tensor x)
    {
        using var scope = NewDisposeScope();
        Tensor wide = Wide(x);
        Tensor centred = Centred ? wide - wide.mean([-1], keepdim: true) : wide;
        return centred.square().mean([-1], keepdim: true).add(epsilon).rsqrt().MoveToOuterDisposeScope();
    }

    /// <summary>The normalised x with a scale that was given (edited, or frozen from another pass).</summary>
    public Tensor Apply(Tensor x, Tensor scale)
    {
        using var scope = NewDisposeScope();
        Tensor wide = Wide(x);
        return Finish(Centred ? wide - wide.mean([-1], keepdim: true) : wide, scale, x.dtype).MoveToOuterDisposeScope();
    }

    static Tensor Wide(Tensor x) => x.dtype == ScalarType.Float64 ? x : x.to_type(ScalarType.Float32);

    Tensor Finish(Tensor centred, Tensor scale, ScalarType type)
    {
        Tensor normal = centred * scale;
        return kind switch
        {
            NormKind.Rms => normal.requires_grad || gain!.requires_grad ? normal.to_type(type) * gain! : normal.to_type(type).mul_(gain!),
            NormKind.RmsPlusOne => (normal * (gain!.to_type(normal.dtype) + 1)).to_type(type),
            _ => (gain is null ? normal : normal * gain.to_type(normal.dtype) + bias!.to_type(normal.dtype)).to_type(type),
        };
    }
}
