using Scalpel.Networks;
using TorchSharp;
using static TorchSharp.torch;

namespace Scalpel.Methods.Interpretability;

/// <summary>
/// Attribution patching: the first-order estimate of activation patching at every tap and position, Σ (a_source − a_base) ·
/// ∂m/∂a at the base run, by one backward pass; or, with steps, the gradient averaged over points on the way from base to
/// source. Specification: taps-and-patching.
/// </summary>
/// <param name="model">The model.</param>
/// <param name="metric">Logits of the last position [B, V] → metric [B].</param>
public sealed class AttributionPatching(Decoder model, Func<Tensor, Tensor> metric)
{
    /// <summary>Estimates by how much the metric would change if a tap had the source's value at a position.</summary>
    /// <param name="baseline">Token ids [B, T].</param>
    /// <param name="source">Token ids [B, T].</param>
    /// <param name="taps">Taps whose values are [B, T, …].</param>
    /// <param name="run">Progress and cancellation.</param>
    /// <param name="steps">Points between base and source at which the gradient is averaged, one tap at a time; 0 takes the gradient at the base, for all taps at once. Default 0.</param>
    /// <param name="mask">1 for tokens, 0 for padding, of both texts.</param>
    /// <returns>Estimates per tap, float32 [B, T].</returns>
    public IReadOnlyDictionary<string, Tensor> Run(Tensor baseline, Tensor source, IReadOnlyList<string> taps, RunContext run, int steps = 0, Tensor? mask = null)
    {
        if (!baseline.shape.SequenceEqual(source.shape))
        {
            throw new BadInputException($"Patching needs texts of equal length; the base has the shape [{string.Join(", ", baseline.shape)}], the source [{string.Join(", ", source.shape)}].");
        }

        using var scope = NewDisposeScope();
        using Taps fromBase = new Taps().Read([.. taps]), fromSource = new Taps().Read([.. taps]);
        using (no_grad())
        {
            model.Forward(baseline, mask, taps: fromBase, logits: LogitsAt.Last);
            model.Forward(source, mask, taps: fromSource, logits: LogitsAt.Last);
        }

        var results = new Dictionary<string, Tensor>(StringComparer.Ordinal);
        if (steps == 0)
        {
            Tensor[] gradients = Gradients(baseline, mask, taps, null);
            for (int i = 0; i < taps.Count; i++)
            {
                results[taps[i]] = Summed(fromSource[taps[i]] - fromBase[taps[i]], gradients[i]).MoveToOuterDisposeScope();
            }

            return results;
        }

        for (int i = 0; i < taps.Count; i++)
        {
            using var inner = NewDisposeScope();
            Tensor way = fromSource[taps[i]] - fromBase[taps[i]], sum = zeros_like(way);
            for (int k = 0; k < steps; k++)
            {
                run.Report("attribution patching", (i * steps) + k, taps.Count * steps);
                using var step = NewDisposeScope();
                sum.add_(Gradients(baseline, mask, [taps[i]], fromBase[taps[i]] + (way * ((k + 0.5) / steps)))[0]);
            }

            results[taps[i]] = Summed(way, sum / steps).MoveToOuterDisposeScope().MoveToOuterDisposeScope();
        }

        return results;
    }

    // Gradients of the metric by a summand of zero at each tap, so that no tap cuts the graph of another.
    Tensor[] Gradients(Tensor ids, Tensor? mask, IReadOnlyList<string> names, Tensor? at)
    {
        using var scope = NewDisposeScope();
        using var enabled = enable_grad();
        var summands = new Tensor[names.Count];
        using Taps taps = new();
        for (int i = 0; i < names.Count; i++)
        {
            int index = i;
            taps.Edit(names[i], value =>
            {
                summands[index] = zeros_like(value).requires_grad_(true).DetachFromDisposeScope();
                return (at ?? value) + summands[index];
            });
        }

        metric(model.Forward(ids, mask, taps: taps, logits: LogitsAt.Last).squeeze(1)).sum().backward();
        var gradients = new Tensor[names.Count];
        for (int i = 0; i < names.Count; i++)
        {
            gradients[i] = summands[i].grad!.clone().MoveToOuterDisposeScope();
            summands[i].Dispose();
        }

        return gradients;
    }

    // Over all axes but batch and position.
    static Tensor Summed(Tensor way, Tensor gradient)
    {
        using var scope = NewDisposeScope();
        return (way * gradient).to_type(ScalarType.Float32).flatten(2).sum(2).MoveToOuterDisposeScope();
    }
}
