using Scalpel.Networks;
using Scalpel.Patches;
using TorchSharp;
using static TorchSharp.torch;

namespace Scalpel.Methods.Editing;

/// <summary>What <see cref="Memit"/> and <see cref="AlphaEdit"/> have in common. What is null follows the model: the official values for the models of the papers, values tried on known facts of SmolLM2-135M, proportional ones for others.</summary>
public abstract record BatchEditOptions
{
    private protected BatchEditOptions()
    {
    }

    /// <summary>Layers over which the change is spread, ascending; SmolLM2-135M: 4–8, gpt2-xl: 13–17, Llama-2-7B: 4–8.</summary>
    public IReadOnlyList<int>? Layers { get; init; }

    /// <summary>Facts solved for together; by default all (batch). Fewer: the batches follow each other (sequential); AlphaEdit protects the earlier ones.</summary>
    public int? BatchSize { get; init; }

    /// <summary>Evaluations of the loss in the search for a target vector; the last is not followed by an update. Papers: 20 (gpt2-xl), 25.</summary>
    public int? Steps { get; init; }

    /// <summary>Adam's rate in that search. Papers: 0.5, AlphaEdit on Llama 0.1.</summary>
    public double? LearningRate { get; init; }

    /// <summary>Weight of ‖δ‖/‖h‖² in the loss. Papers: 0.5, Llama 0.001.</summary>
    public double? WeightDecay { get; init; }

    /// <summary>Largest ‖δ‖ in multiples of ‖h‖. Papers: 0.75, Llama 4.</summary>
    public double? ClampFactor { get; init; }

    /// <summary>Weight of the divergence on "{subject} is a". Papers: 0.0625.</summary>
    public double DriftFactor { get; init; } = 0.0625;

    /// <summary>Plain text over which C is gathered; by default text that the model writes itself.</summary>
    public string? CovarianceText { get; init; }

    /// <summary>Tokens over which C is gathered. At least twice the MLP's width.</summary>
    public int CovarianceTokens { get; init; } = StatisticsText.DefaultTokens;

    internal void Check(string method)
    {
        OptionChecks.Search(method, Steps, LearningRate, WeightDecay, ClampFactor, DriftFactor);
        OptionChecks.Layers(method, Layers, BatchSize);
    }

    internal StatisticsText Text => new(CovarianceText, CovarianceTokens);

    internal VectorSearch Search(EditPreset preset, int layer) => new()
    {
        Layer = layer,
        Site = VectorSite.BlockOutput,
        Steps = Steps ?? preset.Steps,
        LearningRate = LearningRate ?? preset.LearningRate,
        WeightDecay = WeightDecay ?? preset.BatchDecay,
        ClampNormFactor = ClampFactor ?? preset.BatchClamp,
        DriftFactor = DriftFactor,
    };
}

/// <summary>
/// What MEMIT and AlphaEdit share: facts in batches, the search for their target vectors, the spread over layers, and the
/// sum of all changes as one patch.
/// </summary>
static class BatchEdit
{
    /// <summary>Runs all batches one after another and gives the patch.</summary>
    /// <param name="adjust">The method's solution for a layer.</param>
    /// <param name="after">What the method keeps of a batch once it is written; may be null.</param>
    public static Patch Run(
        Decoder model, IReadOnlyList<FactEdit> edits, IReadOnlyList<int> layers, string method, BatchEditOptions options, EditPreset preset,
        Spread.Adjust adjust, Action<IReadOnlyList<EditTokens>>? after, RunContext run)
    {
        using var scope = NewDisposeScope();
        VectorSearch search = options.Search(preset, layers[^1]);
        IReadOnlyList<IReadOnlyList<string>> contexts = ModelText.MemitContexts(model, run);
        EditTokens[] tokens = [.. edits.Select(edit => FactTokens.Of(model, edit, contexts))];
        int size = options.BatchSize ?? edits.Count;
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
