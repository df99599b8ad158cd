using Scalpel.Networks;
using TorchSharp;
using static TorchSharp.torch;

namespace Scalpel.Training;

/// <summary>Options of <see cref="Supervised"/>.</summary>
public sealed record SupervisedOptions
{
    /// <summary>Share of the loss spread evenly over the vocabulary. Default 0.</summary>
    public double LabelSmoothing { get; init; }

    /// <summary>Dynamic fine-tuning: each token's loss times its own probability, without gradient through that. Default false.</summary>
    public bool Dynamic { get; init; }
}

/// <summary>Next-token cross-entropy, the mean over labelled tokens: −Σ log p / n.</summary>
public static class Supervised
{
    /// <summary>The loss of one batch.</summary>
    /// <param name="logits">[batch, T, vocabulary].</param>
    /// <param name="labels">[batch, T], −100 where nothing is to be learned; label t is predicted at position t − 1.</param>
    /// <param name="options">Smoothing and weighting.</param>
    /// <param name="items">Labelled tokens of the whole accumulation window; by default those of this batch.</param>
    public static Objective Loss(Tensor logits, Tensor labels, SupervisedOptions? options = null, long? items = null)
    {
        options ??= new();
        using var scope = NewDisposeScope();
        Tensor shifted = logits[.., ..^1], target = labels[.., 1..], mask = target.ne(TokenScores.Ignored);
        Tensor ids = where(mask, target, zeros_like(target));
        Tensor logProbs = TokenScores.Masked(TokenScores.LogProbs(shifted, ids), mask);
        double count = items ?? mask.sum().ToDouble();
        Tensor sum = options.Dynamic ? (logProbs.detach().exp() * logProbs).sum() : logProbs.sum();
        Tensor loss = -sum / count;
        if (options.LabelSmoothing > 0)
        {
            Tensor even = TokenScores.Masked(shifted.mean([-1]) - shifted.logsumexp(-1), mask).sum().neg() / count;
            loss = loss * (1 - options.LabelSmoothing) + even * options.LabelSmoothing;
        }

        // Accuracy or entropy would cost another pass over the largest tensor of the step: see TokenScores.
        return new Objective(loss.MoveToOuterDisposeScope(), new Dictionary<string, double>());
    }

    /// <summary>The loss of a decoder on one batch; while the decoder trains, without the logits of all positions at once.</summary>
    /// <param name="model">The decoder.</param>
    /// <param name="ids">Token ids, int64 [batch, T].</param>
    /// <param name="labels">As for logits.</param>
    /// <param name="mask">As for <see cref="Decoder.Forward"/>.</param>
    /// <param name="positions">As for <see cref="Decoder.Forward"/>.</param>
    /// <param name="options">Smoothing and weighting.</param>
    /// <param name="items">Labelled tokens of the whole accumulation window; by default those of this batch.</param>
    public static Objective Loss(Decoder model, Tensor ids, Tensor labels, Tensor? mask = null, Tensor? positions = null, SupervisedOptions? options = null, long? items = null)
    {
        options ??= new();
        if (options.LabelSmoothing == 0)
        {
            using var scope = NewDisposeScope();
            double count = items ?? labels[.., 1..].ne(TokenScores.Ignored).sum().ToDouble();
            Func<float, float> weight = options.Dynamic ? p => (float)(Math.Exp(p) / count) : _ => (float)(1 / count);
            if (model.ChunkedLoss(ids, labels, mask, positions, weight) is { } loss)
            {
                return new Objective(loss.MoveToOuterDisposeScope(), new Dictionary<string, double>());
            }
        }

        using var whole = NewDisposeScope();
        Objective objective = Loss(model.Forward(ids, mask, positions), labels, options, items);
        objective.Loss.MoveToOuterDisposeScope();
        return objective;
    }

    /// <summary>log p of each labelled token, [batch, T − 1]; 0 where ignored.</summary>
    public static Tensor LogProbs(Tensor logits, Tensor labels)
    {
        using var scope = NewDisposeScope();
        Tensor target = labels[.., 1..], mask = target.ne(TokenScores.Ignored);
        return TokenScores.Masked(TokenScores.LogProbs(logits[.., ..^1], where(mask, target, zeros_like(target))), mask).MoveToOuterDisposeScope();
    }
}
