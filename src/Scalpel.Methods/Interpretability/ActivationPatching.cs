using Scalpel.Networks;
using TorchSharp;
using static TorchSharp.torch;

namespace Scalpel.Methods.Interpretability;

/// <summary>Effects of putting activations of one run into another.</summary>
/// <param name="Effects">(m_patched − m_base)/(m_source − m_base), float32 [taps, positions, B]; NaN where base and source hardly differ.</param>
/// <param name="Base">Metric of the base run, [B].</param>
/// <param name="Source">Metric of the source run, [B].</param>
/// <param name="Undefined">Rows of the batch whose effects are NaN.</param>
public sealed record PatchingEffects(Tensor Effects, Tensor Base, Tensor Source, int Undefined) : IDisposable
{
    /// <summary>Frees the tensors.</summary>
    public void Dispose()
    {
        Effects.Dispose();
        Base.Dispose();
        Source.Dispose();
    }
}

/// <summary>
/// Activation patching: runs a base text with the value that one tap has at one position of a source text, and measures
/// which share of the way from base to source that goes. States below the patched layer are computed once.
/// Specification: taps-and-patching; Wang et al. 2022, arXiv 2211.00593.
/// </summary>
/// <param name="model">The model.</param>
/// <param name="metric">Logits of the last position [B, V] → metric [B].</param>
public sealed class ActivationPatching(Decoder model, Func<Tensor, Tensor> metric)
{
    /// <summary>Below this difference of base and source the effect has no meaning.</summary>
    public const double SmallestDifference = 1e-3;

    /// <summary>The usual metric: the logit of one token minus that of another.</summary>
    public static Func<Tensor, Tensor> LogitDifference(int token, int other) => logits =>
        (logits.select(1, token) - logits.select(1, other)).to_type(ScalarType.Float32);

    /// <summary>Both directions: clean activations into the corrupted run, and corrupted ones into the clean run. They answer different questions.</summary>
    /// <param name="clean">Token ids [B, T].</param>
    /// <param name="corrupted">Token ids [B, T].</param>
    /// <param name="taps">Taps to patch, one at a time.</param>
    /// <param name="positions">Positions to patch, one at a time.</param>
    /// <param name="mask">1 for tokens, 0 for padding, of both texts.</param>
    /// <param name="run">Progress and cancellation.</param>
    public (PatchingEffects Denoise, PatchingEffects Noise) Both(Tensor clean, Tensor corrupted, IReadOnlyList<string> taps, IReadOnlyList<int> positions, RunContext run, Tensor? mask = null) =>
        (Run(corrupted, clean, taps, positions, run, mask), Run(clean, corrupted, taps, positions, run, mask));

    /// <summary>One direction: activations of <paramref name="source"/> into the run over <paramref name="baseline"/>.</summary>
    /// <param name="baseline">Token ids [B, T] of the run that is patched.</param>
    /// <param name="source">Token ids [B, T] of the run that gives the values.</param>
    /// <param name="taps">Taps to patch, one at a time.</param>
    /// <param name="positions">Positions to patch, one at a time; negative ones count from the end.</param>
    /// <param name="run">Progress and cancellation.</param>
    /// <param name="mask">1 for tokens, 0 for padding, of both texts.</param>
    /// <exception cref="BadInputException">The texts differ in length, or a tap or position does not exist.</exception>
    public PatchingEffects Run(Tensor baseline, Tensor source, IReadOnlyList<string> taps, IReadOnlyList<int> positions, RunContext run, Tensor? mask = null)
    {
        if (!baseline.shape.SequenceEqual(source.shape))
        {
            throw new BadInputException($"Patching needs texts of equal length; the base has the shape [{string.Join(", ", baseline.shape)}], the source [{string.Join(", ", source.shape)}].");
        }

        using var scope = NewDisposeScope();
        using var noGrad = no_grad();
        using Taps given = new(), inputs = new();
        foreach (string tap in taps.Distinct())
        {
            given.Read(tap, new TapSelector { Positions = [.. positions] });
        }

        string[] states = [.. taps.Select(Start).Where(layer => layer > 0).Distinct().Select(layer => $"layers.{layer}.input")];
        Tensor fromSource = metric(model.Forward(source, mask, taps: given, logits: LogitsAt.Last).squeeze(1));
        Tensor fromBase = metric(model.Forward(baseline, mask, taps: inputs.Read(states), logits: LogitsAt.Last).squeeze(1));
        Tensor difference = fromSource - fromBase;
        Tensor defined = difference.abs().ge(SmallestDifference);
        var effects = new List<Tensor>();
        for (int i = 0; i < taps.Count; i++)
        {
            int start = Start(taps[i]);
            for (int p = 0; p < positions.Count; p++)
            {
                run.Report("activation patching", (i * positions.Count) + p, taps.Count * positions.Count);
                using var inner = NewDisposeScope();
                using Taps edit = new();
                edit.Replace(taps[i], given[taps[i]].narrow(1, p, 1), TapSelector.At(positions[p]));
                using Pass pass = model.Prepare(baseline, mask, taps: edit);
                Tensor hidden = start > 0 ? inputs[$"layers.{start}.input"] : model.Embed(baseline, pass);
                Tensor patched = metric(model.Logits(model.RunLayers(hidden, start, model.Config.Layers, pass), pass, LogitsAt.Last).squeeze(1));
                pass.End();
                Tensor effect = (patched - fromBase) / difference;
                effects.Add(torch.where(defined, effect, full_like(effect, double.NaN)).MoveToOuterDisposeScope());
            }
        }

        Tensor all = effects.Count == 0 ? zeros([taps.Count, positions.Count, baseline.shape[0]]) : stack(effects, 0).unflatten(0, [taps.Count, positions.Count]);
        return new PatchingEffects(all.MoveToOuterDisposeScope(), fromBase.MoveToOuterDisposeScope(), fromSource.MoveToOuterDisposeScope(), (int)defined.logical_not().sum().item<long>());
    }

    // The layer from which a pass with an edit at this tap differs from the pass without.
    int Start(string tap) => tap.Split('.') is ["layers", var layer, ..] && int.TryParse(layer, out int l) ? l
        : tap == "embedding.output" ? 0
        : model.Config.Layers - 1;
}
