using TorchSharp;
using static TorchSharp.torch;

namespace Scalpel.Training;

/// <summary>How models of one architecture are merged; names as in mergekit.</summary>
public enum MergeMethod
{
    /// <summary>Weighted mean of the models.</summary>
    Linear,

    /// <summary>base + λ Σ w(model − base).</summary>
    TaskArithmetic,

    /// <summary>Changes trimmed to their largest entries, the sign of each entry elected.</summary>
    Ties,

    /// <summary>Changes thinned at random.</summary>
    DareLinear,

    /// <summary>Changes thinned at random, the sign of each entry elected.</summary>
    DareTies,

    /// <summary>Along the arc between two models.</summary>
    Slerp,
}

/// <summary>Options of <see cref="ModelMerge"/>.</summary>
public sealed record ModelMergeOptions
{
    /// <summary>How.</summary>
    public required MergeMethod Method { get; init; }

    /// <summary>Factor on the merged change. Default 1.</summary>
    public double Lambda { get; init; } = 1;

    /// <summary>Whether to divide by the sum of weights. Default: for the mean of models and for TIES.</summary>
    public bool? Normalise { get; init; }

    /// <summary>Whether each change's L1 norm is restored after thinning, as mergekit does for DARE; the paper divides by the density. Default: for DARE, not for TIES.</summary>
    public bool? Rescale { get; init; }
}

/// <summary>One model's part in the merge of one tensor.</summary>
/// <param name="Tensor">Its tensor.</param>
/// <param name="Weight">Its weight.</param>
/// <param name="Density">Share of its change's entries that stay. Default 1.</param>
/// <param name="Mask">What DARE keeps, drawn with the density; null to keep all.</param>
public sealed record MergePart(Tensor Tensor, double Weight, double Density = 1, Tensor? Mask = null);

/// <summary>Merges models tensor by tensor, in float32.</summary>
public static class ModelMerge
{
    /// <summary>One merged tensor.</summary>
    /// <param name="parts">The models' tensors, of equal shape.</param>
    /// <param name="baseTensor">That of the model which they were tuned from; not needed for the mean of models.</param>
    /// <param name="options">How.</param>
    /// <exception cref="BadInputException">The base is missing.</exception>
    public static Tensor Merge(IReadOnlyList<MergePart> parts, Tensor? baseTensor, ModelMergeOptions options)
    {
        using var noGrad = no_grad();
        using var scope = NewDisposeScope();
        if (options.Method == MergeMethod.Linear)
        {
            double sum = options.Normalise ?? true ? parts.Sum(part => part.Weight) : 1;
            return (TaskVectors.Linear([.. parts.Select(part => part.Tensor)], [.. parts.Select(part => part.Weight)]) / sum).MoveToOuterDisposeScope();
        }

        if (baseTensor is null)
        {
            throw new BadInputException($"The merge {options.Method} needs the base model that the others were tuned from.");
        }

        bool ties = options.Method is MergeMethod.Ties or MergeMethod.DareTies;
        Tensor[] changes = [.. parts.Select(part => Thinned(part.Tensor - baseTensor, part, options) * part.Weight)];
        Tensor stacked = stack(changes), keep = ones_like(stacked);
        if (ties)
        {
            Tensor majority = where(stacked.sum([0L]).ge(0), 1.0, -1.0).to_type(stacked.dtype);
            keep = stacked.sign().eq(majority.unsqueeze(0)).to_type(stacked.dtype);
        }

        Tensor merged = (stacked * keep).sum([0L]);
        if (options.Normalise ?? options.Method == MergeMethod.Ties)
        {
            Tensor weights = tensor(parts.Select(part => (float)part.Weight).ToArray()).view([parts.Count, .. Enumerable.Repeat(1L, (int)baseTensor.dim())]);
            Tensor divisor = (keep * weights).sum([0L]);
            merged = merged / where(divisor.abs().lt(1e-8), ones_like(divisor), divisor);
        }

        return (baseTensor + merged * options.Lambda).MoveToOuterDisposeScope();
    }

    /// <summary>A point of the arc between two tensors; a straight line where they are nearly parallel.</summary>
    /// <param name="from">t = 0.</param>
    /// <param name="to">t = 1.</param>
    /// <param name="t">Where on the arc.</param>
    public static Tensor Slerp(Tensor from, Tensor to, double t)
    {
        using var noGrad = no_grad();
        using var scope = NewDisposeScope();
        double cosine = (from / from.norm().clamp_min(1e-8) * (to / to.norm().clamp_min(1e-8))).sum().ToDouble();
        if (Math.Abs(cosine) > 0.9995)
        {
            return (from * (1 - t) + to * t).MoveToOuterDisposeScope();
        }

        double angle = Math.Acos(cosine), sine = Math.Sin(angle);
        return (from * (Math.Sin(angle - angle * t) / sine) + to * (Math.Sin(angle * t) / sine)).MoveToOuterDisposeScope();
    }

    static Tensor Thinned(Tensor change, MergePart part, ModelMergeOptions options)
    {
        bool trims = options.Method == MergeMethod.Ties;
        if (!trims && (options.Method is not (MergeMethod.DareLinear or MergeMethod.DareTies) || part.Mask is null))
        {
            return change;
        }

        Tensor kept = trims ? TaskVectors.Trim(change, part.Density, atLeast: 1) : change * part.Mask!.to_type(change.dtype);
        double left = kept.abs().sum().ToDouble();
        return (options.Rescale ?? !trims) && left > 0 ? kept * (change.abs().sum().ToDouble() / left) : kept;
    }
}

/// <summary>TIES as its authors wrote it: whole models as vectors, trimmed over all parameters together.</summary>
public static class OfficialTies
{
    /// <summary>The entries that stay, others 0: at least the given share by magnitude, ties at the threshold included.</summary>
    /// <param name="vectors">[models, parameters].</param>
    /// <param name="share">Share kept.</param>
    public static Tensor Trim(Tensor vectors, double share)
    {
        using var scope = NewDisposeScope();
        long width = vectors.shape[1], drop = width - (long)(width * share);
        if (drop <= 0)
        {
            return vectors.clone().MoveToOuterDisposeScope();
        }

        Tensor size = vectors.abs(), threshold = size.sort(1).Values.narrow(1, drop - 1, 1);
        return (vectors * size.ge(threshold).to_type(vectors.dtype)).MoveToOuterDisposeScope();
    }

    /// <summary>Merges trimmed vectors: per entry the sign of the sum, zeros the sign of most; then sum, mean or largest of those that agree.</summary>
    /// <param name="trimmed">[models, parameters].</param>
    /// <param name="function">dis-mean, dis-sum or dis-max.</param>
    /// <returns>[parameters].</returns>
    /// <exception cref="BadInputException">The function is unknown.</exception>
    public static Tensor Merge(Tensor trimmed, string function)
    {
        using var scope = NewDisposeScope();
        Tensor sign = trimmed.sum([0L]).sign(), most = sign.sum().sign();
        sign = where(sign.eq(0), most, sign);
        Tensor agrees = where(sign.unsqueeze(0).gt(0), trimmed.gt(0), trimmed.lt(0)).to_type(trimmed.dtype), selected = trimmed * agrees;
        return (function switch
        {
            "dis-mean" => selected.sum([0L]) / agrees.sum([0L]).clamp_min(1),
            "dis-sum" => selected.sum([0L]),
            "dis-max" => selected.abs().amax([0L]) * sign,
            _ => throw new BadInputException($"The merge function '{function}' is not known; known are dis-mean, dis-sum, dis-max."),
        }).MoveToOuterDisposeScope();
    }
}
