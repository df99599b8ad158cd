using System.Text.Json.Nodes;
using Scalpel.Methods.Editing;
using TorchSharp;
using static TorchSharp.torch;

namespace Scalpel.Lab.Parity.Methods;

/// <summary>MEMIT and AlphaEdit: all requests in one batch over several layers.</summary>
sealed class SpreadCase : IMethodCase
{
    public IReadOnlyList<string> Names => ["memit", "alphaedit"];

    public void Run(MethodCase c)
    {
        int[] types = [.. (c.Case.Options["context_templates"] as JsonArray ?? throw c.Missing("context_templates")).Select(type => (type as JsonArray)?.Count ?? 1)];
        bool projected = c.Case.Json["method"]!.ToString() == "alphaedit";
        IReadOnlyList<int> layers = c.Layers;
        EditTokens[] edits = [.. Enumerable.Range(0, c.Requests).Select(i => c.Tokens(i, types))];
        c.CompareLogits("logits_before");
        IReadOnlyList<FoundVector> found = TargetVectors.Find(c.Model, edits, c.Search(layers[^1], VectorSite.BlockOutput), new RunContext(), "target vectors");
        for (int i = 0; i < found.Count; i++)
        {
            string name = $"request.{i}.";
            c.Compare(name + "z", found[i].Value());
            c.Compare(name + "delta", found[i].Delta);
            CompareSearch(c, name, found[i]);
        }

        Tensor z = stack(found.Select(vector => vector.Value()));
        Tensor[] projections = projected ? [.. layers.Select(l => ClosedForm.NullSpace(c.Input($"covariance.{l}"), c.Number("nullspace_threshold")))] : [];
        Tensor? cache = projected && c.Has("cache") ? c.Input("cache").to_type(ScalarType.Float64) : null;
        using var written = new Written();
        IReadOnlyList<LayerChange> changes = Spread.Write(c.Model, edits, layers, z, (i, keys) =>
        {
            if (projected)
            {
                return ClosedForm.Projected(projections[i], cache?[i], keys, c.Number("L2"));
            }

            Tensor covariance = c.Input($"covariance.{layers[i]}");
            return ClosedForm.Adjusted(covariance, ClosedForm.Factor(covariance), keys, c.Number("mom2_update_weight"));
        }, written, new RunContext());
        for (int i = 0; i < layers.Count; i++)
        {
            string name = $"layer.{layers[i]}.";
            c.Compare(name + "keys", changes[i].Keys!);
            c.Compare(name + "z_current", changes[i].Current!);
            c.Compare(name + "delta_weight", changes[i].View.ToStored(changes[i].Change()));
        }

        if (projected)
        {
            c.Compare("projection", stack(projections));
            c.Compare("cache_after", stack(layers.Select((l, i) =>
            {
                Tensor keys = Spread.Keys(c.Model, edits, l).to_type(ScalarType.Float64), gram = keys.t().matmul(keys);
                return cache is null ? gram : cache[i] + gram;
            })));
        }

        c.CompareLogits("logits_after");
    }

    /// <summary>Losses and number of updates of a search.</summary>
    public static void CompareSearch(MethodCase c, string name, FoundVector found)
    {
        Tensor losses = tensor(found.Losses.SelectMany(row => row).ToArray()).view(-1, 4);
        c.Compare(name + "losses", losses);
        c.Compare(name + "adam_updates", found.Updates);
    }
}
