using Scalpel.Networks;
using Scalpel.Patches;
using TorchSharp;
using static TorchSharp.torch;

namespace Scalpel.Methods.Editing;

/// <summary>Options of <see cref="AlphaEdit"/>.</summary>
public sealed record AlphaEditOptions : BatchEditOptions
{
    /// <summary>Directions in which C has a singular value below it may be changed. Paper: 0.02 (absolute); by default those that together carry 2 % of the trace.</summary>
    public double? NullspaceThreshold { get; init; }

    /// <summary>Weight of the change's size. Paper: 10 (Llama, GPT-2 XL); by default a hundredth of the mean squared norm of the keys in the null space.</summary>
    public double? L2 { get; init; }
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
        this.options.Check("alphaedit");
        OptionChecks.Statistics("alphaedit", this.options.CovarianceTokens, 0);
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
        Tensor[] projections = [.. CovarianceStatistics.Of(model, layers, options.Text, run).Select(statistics =>
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
        return BatchEdit.Run(model, edits, layers, "alphaedit", options, preset,
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
