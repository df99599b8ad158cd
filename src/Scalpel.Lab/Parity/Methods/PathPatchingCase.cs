using System.Text.Json.Nodes;
using Scalpel.Methods.Interpretability;
using TorchSharp;
using static TorchSharp.torch;

namespace Scalpel.Lab.Parity.Methods;

/// <summary>Path patching over all heads, by the means of each batch.</summary>
sealed class PathPatchingCase : IMethodCase
{
    public IReadOnlyList<string> Names => ["path-patching"];

    public void Run(MethodCase methodCase)
    {
        int batches = methodCase.Case.Options["batches"]!.GetValue<int>();
        JsonArray stages = methodCase.Case.Options["stages"]!.AsArray();
        foreach (JsonObject stage in stages.Select(node => node!.AsObject()))
        {
            string name = stage["name"]!.GetValue<string>();
            Receiver[] receivers = [.. stage["receivers"]!.AsArray().Select(node => ReceiverOf(node!.AsArray(), stage["component"]!.GetValue<string>()))];
            int[]? positions = stage["position"]!.ToString() == "all" ? null : [stage["position"]!.GetValue<int>()];
            var effects = new List<Tensor>();
            for (int b = 0; b < batches; b++)
            {
                Tensor answers = methodCase.Input($"batch.{b}.answer_ids");
                Tensor Metric(Tensor logits) => logits.gather(1, answers.narrow(1, 0, 1)).squeeze(1) - logits.gather(1, answers.narrow(1, 1, 1)).squeeze(1);
                using PathEffects paths = new PathPatching(methodCase.Model, Metric).Run(
                    methodCase.Input($"batch.{b}.clean_ids"), methodCase.Input($"batch.{b}.corrupted_ids"), receivers, new RunContext(), stage["freeze_mlps"]!.GetValue<bool>(), positions);
                methodCase.Compare($"batch.{b}.clean.logit_difference", paths.Clean);
                methodCase.Compare($"batch.{b}.corrupted.logit_difference", paths.Corrupted);
                Tensor clean = paths.Clean.mean(), effect = (paths.Patched.mean([2]) - clean) / (paths.Corrupted.mean() - clean);
                effects.Add(effect * Senders(receivers, effect));
            }

            Tensor all = stack(effects, 0);
            methodCase.Compare($"stage.{name}.effect", all);
            methodCase.Compare($"stage.{name}.stored", all.mean([0]) * -100);
        }
    }

    static Receiver ReceiverOf(JsonArray pair, string component)
    {
        if (pair[0]!.GetValueKind() == System.Text.Json.JsonValueKind.String)
        {
            return new Receiver(ReceiverInput.Residual, int.Parse(pair[0]!.GetValue<string>().Split('.')[1], System.Globalization.CultureInfo.InvariantCulture));
        }

        ReceiverInput input = component switch
        {
            "q" => ReceiverInput.Query,
            "k" => ReceiverInput.Key,
            "v" => ReceiverInput.Value,
            _ => throw new BadInputException($"The receiver component '{component}' is not known; known are q, k, v."),
        };
        return new Receiver(input, pair[0]!.GetValue<int>(), pair[1]!.GetValue<int>());
    }

    // The official code leaves out heads that are receivers, and all above the earliest receiver's layer.
    static Tensor Senders(Receiver[] receivers, Tensor effect)
    {
        Tensor kept = ones_like(effect);
        int earliest = receivers.Min(receiver => receiver.Layer);
        for (int l = earliest + 1; l < effect.shape[0]; l++)
        {
            kept[l].zero_();
        }

        foreach (Receiver receiver in receivers.Where(receiver => receiver.Input != ReceiverInput.Residual))
        {
            kept[receiver.Layer, receiver.Head] = 0;
        }

        return kept;
    }
}
