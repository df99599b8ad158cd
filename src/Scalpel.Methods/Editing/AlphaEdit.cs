using Scalpel.Networks;
using Scalpel.Patches;
using TorchSharp;
using static TorchSharp.torch;

namespace Scalpel.Methods.Editing;

/// <summary>Options of <see cref="AlphaEdit"/>. What is null follows the model: the official values for the models of the paper, values tried on known facts of SmolLM2-135M, proportional ones for others.</summary>
public sealed record AlphaEditOptions
{
    /// <summary>Layers over which the change is spread, ascending; SmolLM2-135M: 4–8, Llama: 4–8.</summary>
    public IReadOnlyList<int>? Layers { get; init; }

    /// <summary>Facts solved for together; by default all (batch). Fewer: the batches follow each other (sequential), each protecting those before it.</summary>
    public int? BatchSize { get; init; }

    /// <summary>Evaluations of the loss in the search for a target vector; the last is not followed by an update. Paper: 25.</summary>
    public int? Steps { get; init; }

    /// <summary>Adam's rate in that search. Paper: 0.1 (Llama), 0.5 (GPT).</summary>
    public double? LearningRate { get; init; }

    /// <summary>Weight of ‖δ‖/‖h‖² in the loss. Paper: 0.5.</summary>
    public double? WeightDecay { get; init; }

    /// <summary>Largest ‖δ‖ in multiples of ‖h‖. Paper: 0.75.</summary>
    public double? ClampFactor { get; init; }

    /// <summary>Weight of the divergence on "{subject} is a". Paper: 0.0625.</summary>
    public double DriftFactor { get; init; } = 0.0625;

    /// <summary>Directions in which C has a singular value below it may be changed. Paper: 0.02 (absolute); by default those that together carry 2 % of the trace.</summary>
    public double? NullspaceThreshold { get; init; }

    /// <summary>Weight of the change's size. Paper: 10 (Llama, GPT-2 XL); by default a hundredth of the mean squared norm of the keys in the null space.</summary>
    public double? L2 { get; init; }

    /// <summary>Plain text over which C is gathered; by default text that the model writes itself.</summary>
    public string? CovarianceText { get; init; }

    /// <summary>Tokens over which C is gathered. At least twice the MLP's width.</summary>
    public int CovarianceTokens { get; init; } = StatisticsText.DefaultTokens;
}

/// <summary>
/// Editing in the null space of what text needs: as MEMIT, but ΔWᵀ = (P(K Kᵀ + C_prev) + L2·I)⁻¹ P K Rᵀ, where P projects onto
/// the directions in which the keys of ordinary text hardly lie, and C_prev holds the keys of earlier batches.
/// </summary>
[Method("alphaedit", Family.Editing, paper: "2410.02355")]
public sealed class AlphaEdit : IEditor
{
    readonly AlphaEditOptions options;

    /// <summary>The method with its options.</summary>
    /// <exception cref="BadInputException">An option is out of range.</exception>
    public AlphaEdit(AlphaEditOptions? options = null)
    {
        this.options = options ?? new AlphaEditOptions();
        OptionChecks.Search("alphaedit", this.options.Steps, this.options.LearningRate, this.options.WeightDecay, this.options.ClampFactor, this.options.DriftFactor);
        OptionChecks.Statistics("alphaedit", this.options.CovarianceTokens, 0);
        OptionChecks.Layers("alphaedit", this.options.Layers, this.options.BatchSize);
        OptionChecks.Require(this.options.NullspaceThreshold is null or > 0, "alphaedit", "nullspace_threshold", this.options.NullspaceThreshold, "more than 0");
        OptionChecks.Require(this.options.L2 is null or > 0, "alphaedit", "l2", this.options.L2, "more than 0");
    }

    /// <inheritdoc/>
    public Patch Edit(Decoder model, IReadOnlyList<FactEdit> edits, RunContext run)
    {
        OptionChecks.Facts(edits);
        EditPreset preset = EditPreset.For(model);
        int[] layers = [.. options.Layers ?? preset.Layers];
        EditPreset.RequireAdditiveMlp(model, "AlphaEdit", layers);
        using var scope = NewDisposeScope();
        var search = new VectorSearch
        {
            Layer = layers[^1],
            Site = VectorSite.BlockOutput,
            Steps = options.Steps ?? preset.Steps,
            LearningRate = options.LearningRate ?? preset.LearningRate,
            WeightDecay = options.WeightDecay ?? preset.BatchDecay,
            ClampNormFactor = options.ClampFactor ?? preset.BatchClamp,
            DriftFactor = options.DriftFactor,
        };
        Tensor[] projections = [.. CovarianceStatistics.Of(model, layers, new StatisticsText(options.CovarianceText, options.CovarianceTokens), run).Select(statistics =>
        {
            using (statistics)
            {
                // Too little text would call directions free that text does use.
                statistics.RequireEnough();
                return ClosedForm.NullSpace(statistics.Matrix, options.NullspaceThreshold ?? preset.NullSpaceThreshold ?? statistics.TailThreshold(0.02));
            }
        })];
        bool sequential = options.BatchSize < edits.Count;
        Tensor[] previous = sequential ? [.. layers.Select(_ => zeros([model.Config.Inner, model.Config.Inner], dtype: ScalarType.Float64))] : [];
        bool first = true;
        return BatchEdit.Run(model, edits, layers, search, ModelText.MemitContexts(model, run), options.BatchSize, "alphaedit", options,
            (i, keys) => ClosedForm.Projected(projections[i], first ? null : previous[i], keys, options.L2 ?? Proportional(projections[i], keys)),
            batch =>
            {
                first = false;
                for (int i = 0; i < previous.Length; i++)
                {
                    using var inner = NewDisposeScope();
                    Tensor keys = Spread.Keys(model, batch, layers[i]).to_type(ScalarType.Float64);
                    previous[i].add_(keys.t().matmul(keys));
                }
            }, run);
    }

    static double Proportional(Tensor projection, Tensor keys)
    {
        using var scope = NewDisposeScope();
        return Math.Max(1e-12, 0.01 * projection.matmul(keys.to_type(ScalarType.Float64)).square().sum([0]).mean().ToDouble());
    }
}
