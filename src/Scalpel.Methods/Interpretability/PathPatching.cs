using Scalpel.Networks;
using TorchSharp;
using static TorchSharp.torch;

namespace Scalpel.Methods.Interpretability;

/// <summary>Which input of a receiver is patched.</summary>
public enum ReceiverInput
{
    /// <summary>The residual stream after a layer; after the last one, the way into the logits.</summary>
    Residual,

    /// <summary>A head's query.</summary>
    Query,

    /// <summary>The key that a head reads, for that head alone even where heads share keys.</summary>
    Key,

    /// <summary>The value that a head reads, for that head alone even where heads share values.</summary>
    Value,
}

/// <summary>Where a path ends.</summary>
/// <param name="Input">Which input.</param>
/// <param name="Layer">Its layer.</param>
/// <param name="Head">Its query head; ignored for the residual stream.</param>
public readonly record struct Receiver(ReceiverInput Input, int Layer, int Head = 0)
{
    internal string Tap => Input switch
    {
        ReceiverInput.Query => $"layers.{Layer}.attention.query",
        ReceiverInput.Key => $"layers.{Layer}.attention.key_ungrouped",
        ReceiverInput.Value => $"layers.{Layer}.attention.value_ungrouped",
        _ => $"layers.{Layer}.output",
    };

    internal bool IsDownstreamOf(int sender) => Input == ReceiverInput.Residual ? sender <= Layer : sender < Layer;
}

/// <summary>What the direct paths from each head to the receivers carry.</summary>
/// <param name="Patched">Metric with the paths of one head patched, float32 [layers, heads, B].</param>
/// <param name="Clean">Metric of the clean run, [B].</param>
/// <param name="Corrupted">Metric of the corrupted run, [B].</param>
public sealed record PathEffects(Tensor Patched, Tensor Clean, Tensor Corrupted) : IDisposable
{
    /// <summary>(m_patched − m_clean)/(m_corrupted − m_clean), [layers, heads, B]; NaN where clean and corrupted hardly differ.</summary>
    public Tensor Effects()
    {
        using var scope = NewDisposeScope();
        Tensor difference = Corrupted - Clean, effect = (Patched - Clean) / difference;
        return where(difference.abs().lt(ActivationPatching.SmallestDifference), full_like(effect, double.NaN), effect).MoveToOuterDisposeScope();
    }

    /// <summary>Frees the tensors.</summary>
    public void Dispose()
    {
        Patched.Dispose();
        Clean.Dispose();
        Corrupted.Dispose();
    }
}

/// <summary>
/// Path patching: a head's corrupted value reaches the receivers along the direct paths only, every other head being
/// frozen to its clean value, and the receivers' inputs of that run are put into a clean run. Heads that no receiver lies
/// downstream of leave the metric as it is. Specification: taps-and-patching; Wang et al. 2022, arXiv 2211.00593.
/// </summary>
/// <param name="model">The model.</param>
/// <param name="metric">Logits of the last position [B, V] → metric [B].</param>
public sealed class PathPatching(Decoder model, Func<Tensor, Tensor> metric)
{
    /// <summary>Measures every head of the model as a sender.</summary>
    /// <param name="clean">Token ids [B, T].</param>
    /// <param name="corrupted">Token ids [B, T].</param>
    /// <param name="receivers">Where the paths end.</param>
    /// <param name="run">Progress and cancellation.</param>
    /// <param name="freezeMlps">Whether MLPs between sender and receiver keep their clean outputs too, rather than respond. Default false.</param>
    /// <param name="positions">Positions at which values are patched and frozen; null for all.</param>
    /// <param name="mask">1 for tokens, 0 for padding, of both texts.</param>
    /// <exception cref="BadInputException">The texts differ in length, there is no receiver, or one does not exist.</exception>
    public PathEffects Run(Tensor clean, Tensor corrupted, IReadOnlyList<Receiver> receivers, RunContext run, bool freezeMlps = false, IReadOnlyList<int>? positions = null, Tensor? mask = null)
    {
        (int layers, int heads) = (model.Config.Layers, model.Config.Heads);
        if (!clean.shape.SequenceEqual(corrupted.shape))
        {
            throw new BadInputException($"Patching needs texts of equal length; the clean ones have the shape [{string.Join(", ", clean.shape)}], the corrupted [{string.Join(", ", corrupted.shape)}].");
        }

        if (receivers.Count == 0 || receivers.Any(r => r.Layer < 0 || r.Layer >= layers || r.Head < 0 || r.Head >= heads))
        {
            throw new BadInputException($"Path patching needs receivers within the model's {layers} layers and {heads} heads.");
        }

        using var scope = NewDisposeScope();
        using var noGrad = no_grad();
        var everywhere = new TapSelector { Positions = positions };
        using Taps fromClean = new(), fromCorrupted = new();
        for (int l = 0; l < layers; l++)
        {
            fromClean.Read($"layers.{l}.input").Read(HeadValue(l), everywhere).Read($"layers.{l}.mlp.output", everywhere);
            fromCorrupted.Read(HeadValue(l), everywhere);
        }

        Tensor cleanMetric = metric(model.Forward(clean, mask, taps: fromClean, logits: LogitsAt.Last).squeeze(1));
        Tensor corruptedMetric = metric(model.Forward(corrupted, mask, taps: fromCorrupted, logits: LogitsAt.Last).squeeze(1));
        int last = receivers.Max(r => r.Layer);
        var results = new List<Tensor>();
        for (int l = 0; l < layers; l++)
        {
            Receiver[] reached = [.. receivers.Where(r => r.IsDownstreamOf(l))];
            for (int h = 0; h < heads; h++)
            {
                run.Report("path patching", (l * heads) + h, layers * heads);
                if (reached.Length == 0)
                {
                    results.Add(cleanMetric.clone());
                    continue;
                }

                using var inner = NewDisposeScope();
                using Taps sending = Send(l, h, reached, last, freezeMlps, everywhere, fromClean, fromCorrupted);
                using (Pass pass = model.Prepare(clean, mask, taps: sending))
                {
                    model.RunLayers(fromClean[$"layers.{l}.input"], l, last + 1, pass);
                    pass.End();
                }

                using Taps receiving = new();
                foreach (Receiver receiver in reached)
                {
                    receiving.Replace(receiver.Tap, sending[receiver.Tap] is var value && receiver.Input == ReceiverInput.Residual ? value : value.narrow(2, receiver.Head, 1), Of(receiver, everywhere));
                }

                int start = reached.Min(r => r.Layer);
                using Pass second = model.Prepare(clean, mask, taps: receiving);
                Tensor hidden = model.RunLayers(fromClean[$"layers.{start}.input"], start, layers, second);
                results.Add(metric(model.Logits(hidden, second, LogitsAt.Last).squeeze(1)).MoveToOuterDisposeScope());
                second.End();
            }
        }

        Tensor patched = stack(results, 0).unflatten(0, [layers, heads]);
        return new PathEffects(patched.MoveToOuterDisposeScope(), cleanMetric.MoveToOuterDisposeScope(), corruptedMetric.MoveToOuterDisposeScope());
    }

    // The second run: one head corrupted, all others clean from there on; layers before it are clean anyway.
    Taps Send(int layer, int head, Receiver[] receivers, int last, bool freezeMlps, TapSelector everywhere, Taps fromClean, Taps fromCorrupted)
    {
        Taps taps = new();
        for (int l = layer; l <= last; l++)
        {
            taps.Replace(HeadValue(l), fromClean[HeadValue(l)], everywhere);
            if (l == layer)
            {
                taps.Replace(HeadValue(l), fromCorrupted[HeadValue(l)].narrow(2, head, 1), everywhere with { Heads = [head] });
            }

            if (freezeMlps)
            {
                taps.Replace($"layers.{l}.mlp.output", fromClean[$"layers.{l}.mlp.output"], everywhere);
            }
        }

        foreach (string tap in receivers.Select(r => r.Tap).Distinct())
        {
            taps.Read(tap, everywhere);
        }

        return taps;
    }

    static TapSelector Of(Receiver receiver, TapSelector everywhere) =>
        receiver.Input == ReceiverInput.Residual ? everywhere : everywhere with { Heads = [receiver.Head] };

    static string HeadValue(int layer) => $"layers.{layer}.attention.head_value";
}
