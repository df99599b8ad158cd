using Scalpel.Networks.Layers;
using Scalpel.Numerics;
using TorchSharp;
using static TorchSharp.torch;

namespace Scalpel.Networks;

public sealed partial class Decoder
{
    // Logits that exist at a time while the loss is computed: 32 MB in float32.
    const long LossChunk = 1 << 23;

    /// <summary>
    /// Gradient checkpointing: while the network trains, only the residual stream before each layer is kept for the backward
    /// pass, and the layer is run again there. The gradients are the same; a step takes about a third longer. Default false.
    /// </summary>
    public bool RecomputesLayers { get; set; }

    // Edits and caches need the graph of tensor operations, and so does whoever asks for a router's balance.
    bool HasTape(Pass pass) => TrainsInPlace && is_grad_enabled() && pass.Taps is null && pass.Cache is null && pass.RouterLogits is null
        && (RecomputesLayers || LayerTape.IsExplicit(this));

    Tensor RunTape(Tensor hidden, int from, int to, Pass pass)
    {
        using var scope = NewDisposeScope();
        Pass shared = pass.Share();
        var tapes = new LayerTape[to - from];
        var inputs = new Tensor[to - from];
        bool flows = hidden.requires_grad;
        return ExplicitGradient.Of(flows ? hidden : zeros(1).requires_grad_(true), Run, Back).MoveToOuterDisposeScope();

        Tensor Run()
        {
            Tensor x = hidden.detach().contiguous().flatten(0, 1);
            for (int i = 0; i < tapes.Length; i++)
            {
                tapes[i] = new LayerTape(this, from + i, shared);
                Tensor next = tapes[i].Forward(x);
                if (RecomputesLayers)
                {
                    inputs[i] = x.DetachFromDisposeScope();
                    tapes[i].Dispose();
                }

                x = next;
            }

            return x.unflatten(0, [pass.Batch, pass.Count]);
        }

        Tensor? Back(Tensor above)
        {
            Tensor gradient = above.contiguous().flatten(0, 1).clone();
            for (int i = tapes.Length - 1; i >= 0; i--)
            {
                if (RecomputesLayers)
                {
                    using var layer = NewDisposeScope();
                    tapes[i] = new LayerTape(this, from + i, shared);
                    tapes[i].Forward(inputs[i]);
                    inputs[i].Dispose();
                }

                tapes[i].Backward(gradient);
                tapes[i].Dispose();
            }

            shared.Dispose();
            return flows ? gradient.view(shared.Batch, shared.Count, -1) : null;
        }
    }

    // The rows of the embedding, whose gradient touches no other rows.
    Tensor Rows(Tensor ids)
    {
        if (!TrainsInPlace || !is_grad_enabled() || !embedding.requires_grad || embedding.grad is null)
        {
            return embedding.index_select(0, ids.flatten()).unflatten(0, ids.shape);
        }

        Tensor kept = ids.flatten().clone().DetachFromDisposeScope();
        return ExplicitGradient.Of(zeros(1).requires_grad_(true), () => embedding.index_select(0, kept).unflatten(0, ids.shape), gradient =>
        {
            using Tensor? into = embedding.grad;
            into!.index_add_(0, kept, gradient.flatten(0, 1), 1);
            kept.Dispose();
            return null;
        });
    }

    /// <summary>
    /// −Σ w · log p of next tokens, without ever holding the logits of all positions: a chunk of them is computed, gives its
    /// part of the loss and of the gradients, and is overwritten by the next.
    /// </summary>
    /// <param name="ids">[B, T].</param>
    /// <param name="labels">[B, T], not shifted.</param>
    /// <param name="mask">As for <see cref="Forward"/>.</param>
    /// <param name="positions">As for <see cref="Forward"/>.</param>
    /// <param name="weight">w of a token by its log-probability; taken as a constant.</param>
    /// <returns>A scalar, for <c>backward()</c>; null when this model's head is not covered, or it does not train.</returns>
    internal Tensor? ChunkedLoss(Tensor ids, Tensor labels, Tensor? mask, Tensor? positions, Func<float, float> weight)
    {
        if (!TrainsInPlace || !is_grad_enabled() || !RowPasses.Covers(DType) || Config.Head != HeadKind.LanguageModel || senses is not null
            || Config.LogitCap is not null || head.Transposed || head.Bias is not null || head.Adapters.Count > 0)
        {
            return null;
        }

        using var scope = NewDisposeScope();
        using Pass pass = Prepare(ids, mask, positions);
        Tensor hidden = RunLayers(Embed(ids, pass), 0, Config.Layers, pass);
        Tensor next = labels.narrow(1, 1, labels.shape[1] - 1).flatten();
        Tensor rows = next.ne(LanguageModelLoss.Ignored).nonzero().squeeze(-1);
        Tensor states = hidden.narrow(1, 0, labels.shape[1] - 1).flatten(0, 1).index_select(0, rows);
        Tensor normed = finalNorm.Apply(states);
        long[] targets = next.index_select(0, rows).data<long>().ToArray();
        return ExplicitLoss(normed, targets, weight).MoveToOuterDisposeScope();
    }

    Tensor ExplicitLoss(Tensor states, long[] targets, Func<float, float> weight)
    {
        bool trains = head.Weight.requires_grad, flows = states.requires_grad;
        Tensor? stateGradient = null, weightGradient = null;
        return ExplicitGradient.Of(flows ? states : zeros(1).requires_grad_(true), Run, Back);

        Tensor Run()
        {
            Tensor x = states.detach().contiguous(), transposed = head.Weight.detach().t();
            (long count, long vocabulary) = (x.shape[0], head.Outputs);
            stateGradient = empty_like(x).DetachFromDisposeScope();
            if (trains)
            {
                weightGradient = TrainingMemory ?? empty(head.Weight.shape, dtype: DType).DetachFromDisposeScope();
                TrainingMemory = null;
            }

            long step = Math.Clamp(LossChunk / vocabulary, 1, Math.Max(1, count));
            Tensor buffer = empty([step, vocabulary], dtype: DType);
            var logProbabilities = new float[count];
            for (long at = 0; at < count; at += step)
            {
                using var chunk = NewDisposeScope();
                long length = Math.Min(step, count - at);
                Tensor part = x.narrow(0, at, length), logits = buffer.narrow(0, 0, length);
                MatrixProduct.Into(logits, part, transposed, add: false);
                RowPasses.CrossEntropy(logits, targets.AsSpan((int)at, (int)length), weight, logProbabilities.AsSpan((int)at, (int)length));
                MatrixProduct.Into(stateGradient.narrow(0, at, length), logits, head.Weight.detach(), add: false);
                if (weightGradient is not null)
                {
                    MatrixProduct.Into(weightGradient, logits.t(), part, add: at > 0);
                }
            }

            double loss = 0;
            foreach (float value in logProbabilities)
            {
                loss -= weight(value) * (double)value;
            }

            return tensor((float)loss);
        }

        Tensor? Back(Tensor above)
        {
            float factor = above.ToSingle();
            if (weightGradient is not null)
            {
                ExplicitGradient.Add(head.Weight, factor == 1 ? weightGradient : weightGradient.mul_(factor));
                TrainingMemory?.Dispose();
                TrainingMemory = weightGradient;
            }

            Tensor result = stateGradient! * factor;
            stateGradient!.Dispose();
            return flows ? result : null;
        }
    }
}
