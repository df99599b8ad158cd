using TorchSharp;
using static TorchSharp.torch;

namespace Scalpel.Training;

/// <summary>The value of an objective on one batch.</summary>
/// <param name="Loss">A scalar with its graph.</param>
/// <param name="Metrics">Figures worth logging, without a graph.</param>
public sealed record Objective(Tensor Loss, IReadOnlyDictionary<string, double> Metrics);

/// <summary>Probabilities of tokens, and figures of logits that training logs.</summary>
public static class TokenScores
{
    /// <summary>The label that counts in no loss.</summary>
    public const long Ignored = -100;

    /// <summary>log p of the given tokens.</summary>
    /// <param name="logits">[..., vocabulary].</param>
    /// <param name="ids">[...], int64; the token that each position is to predict.</param>
    /// <returns>[...].</returns>
    public static Tensor LogProbs(Tensor logits, Tensor ids)
    {
        using var scope = NewDisposeScope();
        Tensor picked = logits.gather(-1, ids.unsqueeze(-1)).squeeze(-1);
        return (picked - logits.logsumexp(-1)).MoveToOuterDisposeScope();
    }

    /// <summary>log p of tokens 1…T−1 given those before.</summary>
    /// <param name="logits">[batch, T, vocabulary].</param>
    /// <param name="ids">[batch, T].</param>
    /// <returns>[batch, T − 1].</returns>
    public static Tensor Shifted(Tensor logits, Tensor ids)
    {
        using var scope = NewDisposeScope();
        return LogProbs(logits[.., ..^1], ids[.., 1..]).MoveToOuterDisposeScope();
    }

    /// <summary>Mean entropy in nats of the positions of <paramref name="mask"/>.</summary>
    public static double Entropy(Tensor logits, Tensor mask)
    {
        using var noGrad = no_grad();
        using var scope = NewDisposeScope();
        Tensor log = logits.log_softmax(-1);
        return MaskedMean((log.exp() * log).sum(-1).neg(), mask);
    }

    /// <summary>Share of the masked positions whose largest logit is the given token.</summary>
    public static double Accuracy(Tensor logits, Tensor ids, Tensor mask)
    {
        using var noGrad = no_grad();
        using var scope = NewDisposeScope();
        return MaskedMean(logits.argmax(-1).eq(ids).to_type(ScalarType.Float64), mask);
    }

    /// <summary>Mean of all logits at the masked positions.</summary>
    public static double MeanLogit(Tensor logits, Tensor mask)
    {
        using var noGrad = no_grad();
        using var scope = NewDisposeScope();
        return MaskedMean(logits.mean([-1]), mask);
    }

    /// <summary>Σ x m / Σ m, 0 when nothing is masked in.</summary>
    internal static double MaskedMean(Tensor x, Tensor mask)
    {
        double count = mask.sum().ToDouble();
        return count == 0 ? 0 : (x * mask).sum().ToDouble() / count;
    }

    /// <summary>Values where the mask is not 0, else 0; a hidden infinity does not reach the gradient.</summary>
    internal static Tensor Masked(Tensor x, Tensor mask) => where(mask.ne(0), x, zeros_like(x));

    internal static double Mean(Tensor x) => x.detach().mean().ToDouble();

    /// <summary>log(1 − eˣ) for x &lt; 0 without cancellation.</summary>
    internal static Tensor LogOneMinusExp(Tensor x)
    {
        // Both branches of a where are differentiated; an infinity in the one not taken would become NaN.
        Tensor near = x.gt(-Math.Log(2));
        return where(near, where(near, x, full_like(x, -0.5)).expm1().neg().log(), where(near, full_like(x, -1), x).exp().neg().log1p());
    }
}
