using Scalpel.Networks;
using TorchSharp;
using static TorchSharp.torch;

namespace Scalpel.Methods.Interpretability;

/// <summary>What each part of a decoder adds to a logit at each position, float32.</summary>
public sealed record LogitParts : IDisposable
{
    /// <summary>Embedding and learned positions, [B, T].</summary>
    public required Tensor Embedding { get; init; }

    /// <summary>Heads of each layer, [B, T, H]; empty for families that normalise after attention, whose heads do not add up.</summary>
    public required IReadOnlyList<Tensor> Heads { get; init; }

    /// <summary>Bias of each layer's attention output, [B, T]; empty where <see cref="Heads"/> is.</summary>
    public required IReadOnlyList<Tensor> AttentionBias { get; init; }

    /// <summary>Whole attention of each layer, bias included, [B, T].</summary>
    public required IReadOnlyList<Tensor> Attention { get; init; }

    /// <summary>MLP of each layer, [B, T].</summary>
    public required IReadOnlyList<Tensor> Mlp { get; init; }

    /// <summary>From the biases of the final norm and the head.</summary>
    public required double Constant { get; init; }

    /// <summary>Sum of all parts: the logit, or the difference of two, before a soft cap, [B, T].</summary>
    public required Tensor Total { get; init; }

    /// <summary>Frees the tensors.</summary>
    public void Dispose()
    {
        foreach (Tensor tensor in Heads.Concat(AttentionBias).Concat(Attention).Concat(Mlp).Append(Embedding).Append(Total))
        {
            tensor.Dispose();
        }
    }
}

/// <summary>
/// Direct logit attribution: the final norm's scale is taken from the unedited pass, so that a logit is a sum over what
/// embedding, heads and MLPs write to the residual stream: ⟨(c − mean(c)·[LayerNorm]) ⊙ γ · scale, u⟩.
/// Specification: taps-and-patching.
/// </summary>
public static class DirectLogitAttribution
{
    /// <summary>Attributes a logit, or the difference of two, to the parts of the model.</summary>
    /// <param name="model">The model.</param>
    /// <param name="ids">Token ids [B, T].</param>
    /// <param name="token">The token whose logit is attributed.</param>
    /// <param name="other">The token whose logit is subtracted, if any.</param>
    /// <param name="mask">1 for tokens, 0 for padding.</param>
    public static LogitParts Run(Decoder model, Tensor ids, int token, int? other = null, Tensor? mask = null)
    {
        using var scope = NewDisposeScope();
        using var noGrad = no_grad();
        using Taps taps = new();
        int layers = model.Config.Layers;
        bool byHead = model.Config.Block is not (BlockKind.NormAfter or BlockKind.Sandwich);
        for (int l = 0; l < layers; l++)
        {
            taps.Read($"layers.{l}.attention.output", $"layers.{l}.mlp.output");
            if (byHead)
            {
                taps.Read($"layers.{l}.attention.head_output");
            }
        }

        model.Forward(ids, mask, taps: taps.Read("layers.0.input", "final_norm.scale"), logits: LogitsAt.Last);
        (Tensor direction, double constant) = model.LogitDirection(token, other);
        Tensor scale = taps["final_norm.scale"].squeeze(-1);                                             // [B, T]
        Tensor Of(string tap) => taps[tap].to_type(ScalarType.Float32).matmul(direction) * scale;
        Tensor embedding = Of("layers.0.input");
        Tensor[] attention = [.. Enumerable.Range(0, layers).Select(l => Of($"layers.{l}.attention.output"))];
        Tensor[] mlp = [.. Enumerable.Range(0, layers).Select(l => Of($"layers.{l}.mlp.output"))];
        Tensor[] heads = !byHead ? [] :
        [
            .. Enumerable.Range(0, layers).Select(l => taps[$"layers.{l}.attention.head_output"].to_type(ScalarType.Float32).matmul(direction) * scale.unsqueeze(-1)),
        ];
        Tensor[] biases = [.. heads.Select((each, l) => attention[l] - each.sum(-1))];
        Tensor total = embedding + constant;
        for (int l = 0; l < layers; l++)
        {
            total = total + attention[l] + mlp[l];
        }

        return new LogitParts
        {
            Embedding = embedding.MoveToOuterDisposeScope(),
            Heads = Kept(heads),
            AttentionBias = Kept(biases),
            Attention = Kept(attention),
            Mlp = Kept(mlp),
            Constant = constant,
            Total = total.MoveToOuterDisposeScope(),
        };
    }

    static Tensor[] Kept(Tensor[] parts) => [.. parts.Select(part => part.MoveToOuterDisposeScope())];
}
