using Scalpel.Networks;
using Scalpel.Patches;
using TorchSharp;
using static TorchSharp.torch;

namespace Scalpel.Methods.Editing;

/// <summary>
/// What MEMIT and AlphaEdit share: facts in batches, the search for their target vectors, the spread over layers, and the
/// sum of all changes as one patch.
/// </summary>
static class BatchEdit
{
    /// <summary>Runs all batches one after another and gives the patch.</summary>
    /// <param name="batchSize">Facts solved for together; null for all.</param>
    /// <param name="adjust">The method's solution for a layer.</param>
    /// <param name="after">What the method keeps of a batch once it is written; may be null.</param>
    public static Patch Run(
        Decoder model, IReadOnlyList<FactEdit> edits, IReadOnlyList<int> layers, VectorSearch search, IReadOnlyList<IReadOnlyList<string>> contexts, int? batchSize,
        string method, object options, Spread.Adjust adjust, Action<IReadOnlyList<EditTokens>>? after, RunContext run)
    {
        using var scope = NewDisposeScope();
        EditTokens[] tokens = [.. edits.Select(edit => FactTokens.Of(model, edit, contexts))];
        int size = batchSize ?? edits.Count;
        EditMode mode = edits.Count == 1 ? EditMode.Single : size >= edits.Count ? EditMode.Batch : EditMode.Sequential;
        var evidence = new EditEvidence(mode, layers);
        var changes = new List<LayerChange>();
        using (var written = new Written())
        {
            for (int start = 0; start < edits.Count; start += size)
            {
                ArraySegment<EditTokens> batch = new(tokens, start, Math.Min(size, edits.Count - start));
                IReadOnlyList<FoundVector> found = TargetVectors.Find(model, batch, search, run, "target vectors");
                using Tensor targets = stack(found.Select(vector => vector.Value()));
                changes.AddRange(Spread.Write(model, batch, layers, targets, adjust, written, run));
                for (int i = 0; i < found.Count; i++)
                {
                    evidence.Add(edits[start + i], found[i]);
                    found[i].Dispose();
                }

                after?.Invoke(batch);
            }
        }

        var deltas = new Dictionary<string, Delta>();
        foreach (IGrouping<int, LayerChange> layer in changes.GroupBy(change => change.Layer))
        {
            RoleView view = layer.First().View;
            long rank = layer.Sum(change => change.Down.shape[0]), smaller = Math.Min(layer.First().Down.shape[1], layer.First().Up.shape[0]);
            // Factors as long as they are smaller than the matrix.
            deltas[view.TensorName] = 2 * rank <= smaller ? Factors(view, layer) : Dense(view, layer);
        }

        changes.ForEach(change => change.Dispose());
        return Patch.For(model, evidence.Info(method, options, run), deltas);
    }

    static LowRank Factors(RoleView view, IEnumerable<LayerChange> changes)
    {
        using var scope = NewDisposeScope();
        (Tensor down, Tensor up) = view.ToStored(cat([.. changes.Select(change => change.Down)]).to_type(ScalarType.Float32), cat([.. changes.Select(change => change.Up)], 1).to_type(ScalarType.Float32));
        return new LowRank(down, up);
    }

    static DenseAdd Dense(RoleView view, IEnumerable<LayerChange> changes)
    {
        using var scope = NewDisposeScope();
        Tensor sum = changes.Select(change => change.Change()).Aggregate((a, b) => a + b);
        return new DenseAdd(view.ToStored(sum));
    }
}
