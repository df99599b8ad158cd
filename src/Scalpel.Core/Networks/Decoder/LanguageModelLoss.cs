using TorchSharp;
using static TorchSharp.torch;

namespace Scalpel.Networks;

/// <summary>
/// Negative log-likelihoods of next tokens: logits at position t against the label at t + 1, in float32, labels of
/// <see cref="Ignored"/> left out. Part of the autograd graph when gradients are on.
/// </summary>
public sealed class LanguageModelLoss : IDisposable
{
    /// <summary>The label of a position that is no part of the loss.</summary>
    public const long Ignored = -100;

    // Positions times vocabulary whose float32 logits exist at a time.
    const long ChunkElements = 1 << 24;

    LanguageModelLoss(Tensor tokens, Tensor counted, Tensor? routerBalance)
    {
        Tokens = tokens;
        Counted = counted;
        RouterBalance = routerBalance;
        Count = counted.sum().item<long>();
    }

    /// <summary>Of each next token, in nats, float32 [B, T−1]; 0 where the label is ignored.</summary>
    public Tensor Tokens { get; }

    /// <summary>Which of them count, bool [B, T−1].</summary>
    public Tensor Counted { get; }

    /// <summary>How many count.</summary>
    public long Count { get; }

    /// <summary>
    /// Balance loss of a mixture's routers, a scalar: E·Σ (share of tokens that pick an expert) · (its mean probability), both
    /// over the valid tokens of all layers together. Not part of the other sums; null for a dense model.
    /// </summary>
    public Tensor? RouterBalance { get; }

    /// <summary>Sum over all tokens, a scalar.</summary>
    public Tensor Sum() => Tokens.sum();

    /// <summary>Mean over the tokens that count, a scalar.</summary>
    /// <exception cref="BadInputException">None counts.</exception>
    public Tensor Mean()
    {
        if (Count == 0)
        {
            throw new BadInputException("The loss has no token to count: every label is ignored, or each text has one token only; give texts of at least two tokens.");
        }

        using Tensor sum = Sum();
        return sum / Count;
    }

    /// <summary>Sum over each row's tokens, [B].</summary>
    public Tensor PerSequence() => Tokens.sum(1);

    /// <summary>Tokens that count in each row, int64 [B].</summary>
    public Tensor CountPerSequence() => Counted.sum(1);

    /// <summary>The loss of logits that exist already.</summary>
    /// <param name="logits">[B, T, V].</param>
    /// <param name="labels">int64 [B, T], not shifted.</param>
    public static LanguageModelLoss OfLogits(Tensor logits, Tensor labels) =>
        Of(logits, labels, rows => rows, null);

    /// <summary>The loss of hidden states [B, T, d]: the head runs only where a label counts, a chunk of positions at a time.</summary>
    internal static LanguageModelLoss Of(Tensor hidden, Tensor labels, Func<Tensor, Tensor> head, Tensor? routerBalance, long vocabulary = 1)
    {
        (long batch, long length) = (hidden.shape[0], hidden.shape[1]);
        if (labels.dim() != 2 || labels.shape[0] != batch || labels.shape[1] != length)
        {
            throw new BadInputException($"The labels have the shape [{string.Join(", ", labels.shape)}]; the texts [{batch}, {length}], which is expected.");
        }

        using var scope = NewDisposeScope();
        Tensor next = labels.narrow(1, 1, length - 1), counted = next.ne(Ignored), flat = next.flatten();
        Tensor rows = counted.flatten().nonzero().squeeze(-1);                                   // of the [B·(T−1)] predictions
        Tensor states = hidden.narrow(1, 0, length - 1).flatten(0, 1);
        bool all = rows.numel() == flat.numel();
        (Tensor chosen, Tensor targets) = all ? (states, flat) : (states.index_select(0, rows), flat.index_select(0, rows));
        long step = Math.Max(1, ChunkElements / Math.Max(1, vocabulary));
        var parts = new List<Tensor>();
        for (long at = 0; at < chosen.shape[0]; at += step)
        {
            using var chunk = NewDisposeScope();
            long count = Math.Min(step, chosen.shape[0] - at);
            Tensor logits = head(chosen.narrow(0, at, count));
            Tensor wide = logits.dtype == ScalarType.Float64 ? logits : logits.to_type(ScalarType.Float32);
            parts.Add(nn.functional.cross_entropy(wide, targets.narrow(0, at, count), reduction: nn.Reduction.None).MoveToOuterDisposeScope());
        }

        Tensor values = parts.Count switch { 0 => zeros([0]), 1 => parts[0], _ => cat(parts, 0) };
        Tensor tokens = all ? values : zeros([flat.numel()], dtype: values.dtype).index_add(0, rows, values, 1);
        return new LanguageModelLoss(tokens.view(batch, length - 1).MoveToOuterDisposeScope(), counted.MoveToOuterDisposeScope(), routerBalance?.MoveToOuterDisposeScope());
    }

    /// <summary>The balance loss of all layers' router logits.</summary>
    /// <param name="routerLogits">[B, T, E] per layer.</param>
    /// <param name="perToken">Experts that a token goes to.</param>
    /// <param name="mask">Which are tokens, bool [B, T]; null when all are tokens.</param>
    internal static Tensor Balance(IReadOnlyList<Tensor> routerLogits, int perToken, Tensor? mask)
    {
        using var scope = NewDisposeScope();
        Tensor probability = cat([.. routerLogits.Select(logits => logits.flatten(0, 1).to_type(ScalarType.Float32).softmax(-1))], 0);     // [L·B·T, E]
        (_, Tensor which) = probability.topk(perToken, -1);
        Tensor picked = zeros_like(probability).scatter(1, which, ones(which.shape));
        Tensor share, mean;
        if (mask is null)
        {
            (share, mean) = (picked.mean([0]), probability.mean([0]));
        }
        else
        {
            Tensor valid = mask.flatten().to_type(ScalarType.Float32).repeat(routerLogits.Count).unsqueeze(1);
            Tensor total = valid.sum();
            (share, mean) = ((picked * valid).sum(0L) / total, (probability * valid).sum(0L) / total);
        }

        return ((share * mean).sum() * probability.shape[1]).MoveToOuterDisposeScope();
    }

    internal LanguageModelLoss MoveToOuterScope()
    {
        Tokens.MoveToOuterDisposeScope();
        Counted.MoveToOuterDisposeScope();
        RouterBalance?.MoveToOuterDisposeScope();
        return this;
    }

    /// <summary>Frees the tensors.</summary>
    public void Dispose()
    {
        Tokens.Dispose();
        Counted.Dispose();
        RouterBalance?.Dispose();
    }
}
