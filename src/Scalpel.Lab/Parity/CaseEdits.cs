using System.Text.Json.Nodes;
using Scalpel.Networks;
using static TorchSharp.torch;

namespace Scalpel.Lab.Parity;

/// <summary>The <c>options.edits</c> of a golden case: what to change at which taps during the pass.</summary>
static class CaseEdits
{
    /// <summary>Registers the edits in their order.</summary>
    /// <param name="taps">Where to.</param>
    /// <param name="edits">The edits; null for none.</param>
    /// <param name="input">Gives a tensor of the case's inputs by name.</param>
    /// <exception cref="BadInputException">An operation or a key is not known.</exception>
    public static void AddTo(Taps taps, JsonNode? edits, Func<string, Tensor> input)
    {
        int number = 0;
        foreach (JsonObject edit in edits?.AsArray().Select(node => node!.AsObject()) ?? [])
        {
            foreach (string key in edit.Select(pair => pair.Key))
            {
                if (key is not ("tap" or "op" or "constant" or "value" or "heads" or "features" or "positions" or "batch"))
                {
                    throw new BadInputException($"The edit of {edit["tap"]} has the key '{key}', which is not known.");
                }
            }

            string tap = edit["tap"]!.GetValue<string>();
            var selector = new TapSelector { Batch = Indices(edit["batch"]), Positions = Indices(edit["positions"]), Heads = Indices(edit["heads"]), Features = Indices(edit["features"]) };
            string value = edit["value"]?.GetValue<string>() ?? $"edit.{number}";
            _ = edit["op"]!.GetValue<string>() switch
            {
                "zero" => taps.Set(tap, 0, selector),
                "constant" => taps.Set(tap, edit["constant"]!.GetValue<double>(), selector),
                "scale" => taps.Scale(tap, edit["constant"]!.GetValue<double>(), selector),
                "replace" => Given((part, given) => given, input(value)),
                "add" => Given((part, given) => part + given, input(value)),
                "uniform" => taps.Uniform(tap, selector),
                var other => throw new BadInputException($"The edit operation '{other}' is not known; known are zero, constant, scale, replace, add, uniform."),
            };
            number++;

            Taps Given(Func<Tensor, Tensor, Tensor> change, Tensor given) => taps.Edit(tap, part => change(part, Fit(given, part)), selector);
        }
    }

    // Values are [rows, positions, heads, …]; an attention pattern that is edited as a whole is [rows, heads, positions, keys].
    static Tensor Fit(Tensor value, Tensor part)
    {
        Tensor typed = value.to_type(part.dtype);
        return typed.dim() == 4 && !typed.shape.SequenceEqual(part.shape) && typed.transpose(1, 2).shape.SequenceEqual(part.shape) ? typed.transpose(1, 2) : typed;
    }

    static int[]? Indices(JsonNode? node) => node is JsonArray array ? [.. array.Select(item => item!.GetValue<int>())] : null;
}
