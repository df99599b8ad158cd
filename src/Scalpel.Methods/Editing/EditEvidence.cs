using System.Text.Json.Nodes;
using Scalpel.Patches;

namespace Scalpel.Methods.Editing;

/// <summary>What an edit records of how it came about: the mode, the layers, and for each fact how its search ended.</summary>
sealed class EditEvidence(EditMode mode, IReadOnlyList<int> layers)
{
    // The facts of a large batch stand in its requests file; the patch stays small.
    const int MostFacts = 100;

    readonly JsonArray facts = [];
    readonly List<double> losses = [];

    public void Add(FactEdit edit, FoundVector found) => Add(edit, found.Losses[0][0], found.Losses[^1][0], found.Updates);

    public void Add(FactEdit edit, double first, double last, int updates)
    {
        losses.Add(last);
        if (facts.Count < MostFacts)
        {
            facts.Add(new JsonObject
            {
                ["prompt"] = edit.Prompt,
                ["subject"] = edit.Subject,
                ["target"] = edit.Target,
                ["loss_before"] = Math.Round(first, 6),
                ["loss_after"] = Math.Round(last, 6),
                ["updates"] = updates,
            });
        }
    }

    public PatchInfo Info(string method, object options, RunContext run) => new()
    {
        Method = method,
        Options = OptionBinder.ToJson(options),
        Seed = run.Seed,
        Evidence = new JsonObject
        {
            ["mode"] = mode.ToString().ToLowerInvariant(),
            ["facts"] = losses.Count,
            ["layers"] = new JsonArray([.. layers.Select(l => (JsonNode)l)]),
            ["mean_loss_after"] = Math.Round(losses.Average(), 6),
            ["edits"] = facts,
        },
    };
}

/// <summary>Checks of options that editors share.</summary>
static class OptionChecks
{
    public static void Search(string method, int? steps, double? rate, double? decay, double? clamp, double drift)
    {
        Require(steps is null or > 0, method, "steps", steps, "at least 1");
        Require(rate is null or > 0, method, "learning_rate", rate, "more than 0");
        Require(decay is null or >= 0, method, "weight_decay", decay, "0 or more");
        Require(clamp is null or > 0, method, "clamp_factor", clamp, "more than 0");
        Require(drift >= 0, method, "drift_factor", drift, "0 or more");
    }

    public static void Statistics(string method, int tokens, double ridge)
    {
        Require(tokens > 0, method, "covariance_tokens", tokens, "at least 1");
        Require(ridge >= 0, method, "ridge", ridge, "0 or more");
    }

    public static void Contexts(string method, IReadOnlyList<string>? contexts)
    {
        foreach (string context in contexts ?? [])
        {
            Require(context.Split("{}").Length == 2, method, "contexts", context, "a text with one {}");
        }

        Require(contexts is null or { Count: > 0 }, method, "contexts", "empty", "at least one template");
    }

    public static void Layers(string method, IReadOnlyList<int>? layers, int? batchSize)
    {
        string shown = layers is null ? "" : string.Join(", ", layers);
        Require(layers is null || layers.Count > 0 && layers.Zip(layers.Skip(1)).All(pair => pair.First < pair.Second), method, "layers", shown, "layers in ascending order");
        Require(batchSize is null or > 0, method, "batch_size", batchSize, "at least 1");
    }

    public static void Facts(IReadOnlyList<FactEdit> edits)
    {
        if (edits.Count == 0)
        {
            throw new BadInputException("There is no fact to edit; give at least one with subject, prompt and target.");
        }

        foreach (FactEdit edit in edits)
        {
            edit.Validated();
        }
    }

    public static void Require(bool holds, string method, string option, object? found, string expected)
    {
        if (!holds)
        {
            throw new BadInputException(FormattableString.Invariant($"Method {method}: option {option} is {found}, expected {expected}."));
        }
    }
}
