using Scalpel.Networks;
using TorchSharp;
using static TorchSharp.torch;

namespace Scalpel.Methods.Interpretability;

/// <summary>What a layer's state would predict, at one position of each row.</summary>
/// <param name="Layer">The layer whose output was read.</param>
/// <param name="Rank">Rank of the target token among all, 0 for the best, [B].</param>
/// <param name="Probability">Its probability, [B].</param>
/// <param name="Divergence">KL(output ‖ lens) in nats, [B].</param>
/// <param name="Best">The most probable token, [B].</param>
public sealed record LensReading(int Layer, IReadOnlyList<long> Rank, IReadOnlyList<double> Probability, IReadOnlyList<double> Divergence, IReadOnlyList<long> Best);

/// <summary>
/// Logit lens: final norm, with a scale of its own, and head applied to the residual stream after every layer.
/// Specification: taps-and-patching.
/// </summary>
public static class LogitLens
{
    /// <summary>Logits [B, T, V] of every layer's output; the last entry equals the model's logits.</summary>
    public static IReadOnlyList<Tensor> Logits(Decoder model, Tensor ids, Tensor? mask = null)
    {
        using var scope = NewDisposeScope();
        using var noGrad = no_grad();
        using Taps taps = Read(model, TapSelector.All);
        model.Forward(ids, mask, taps: taps, logits: LogitsAt.Last);
        return [.. Enumerable.Range(0, model.Config.Layers).Select(l => model.Unembed(taps[$"layers.{l}.output"]).MoveToOuterDisposeScope())];
    }

    /// <summary>Rank and probability of a target token, and the distance to the output, after every layer.</summary>
    /// <param name="model">The model.</param>
    /// <param name="ids">Token ids [B, T].</param>
    /// <param name="targets">One token a row.</param>
    /// <param name="position">The position that is read, by default each row's last.</param>
    /// <param name="mask">1 for tokens, 0 for padding.</param>
    /// <exception cref="BadInputException">There are not as many targets as rows, or a position does not exist.</exception>
    public static IReadOnlyList<LensReading> Run(Decoder model, Tensor ids, IReadOnlyList<int> targets, int position = -1, Tensor? mask = null)
    {
        if (targets.Count != ids.shape[0])
        {
            throw new BadInputException($"The lens needs one target token a row: there are {targets.Count} targets and {ids.shape[0]} rows.");
        }

        using var scope = NewDisposeScope();
        using var noGrad = no_grad();
        using Taps taps = Read(model, TapSelector.At(position));
        model.Forward(ids, mask, taps: taps, logits: LogitsAt.Last);
        Tensor target = tensor(targets.Select(token => (long)token).ToArray()).unsqueeze(1);
        Tensor[] states = [.. Enumerable.Range(0, model.Config.Layers).Select(l => model.Unembed(taps[$"layers.{l}.output"]).squeeze(1).to_type(ScalarType.Float32).log_softmax(-1))];
        Tensor output = states[^1];
        return [.. states.Select((log, l) =>
        {
            using var inner = NewDisposeScope();
            Tensor own = log.gather(1, target);
            return new LensReading(l,
                log.gt(own).sum(1).data<long>().ToArray(),
                [.. own.exp().squeeze(1).data<float>().ToArray().Select(p => (double)p)],
                [.. (output.exp() * (output - log)).sum(1).data<float>().ToArray().Select(kl => (double)kl)],
                log.argmax(1).data<long>().ToArray());
        })];
    }

    static Taps Read(Decoder model, TapSelector selector)
    {
        Taps taps = new();
        for (int l = 0; l < model.Config.Layers; l++)
        {
            taps.Read($"layers.{l}.output", selector);
        }

        return taps;
    }
}
