using Scalpel.Networks;
using Scalpel.Patches;
using TorchSharp;
using static TorchSharp.torch;

namespace Scalpel.Methods.Editing;

/// <summary>Options of <see cref="Memit"/>.</summary>
public sealed record MemitOptions : BatchEditOptions
{
    /// <summary>λ, weight of the covariance against the facts' keys. Paper: 20,000 (gpt2-xl), 15,000 (GPT-J, Llama); by default a tenth of the mean kᵀC⁻¹k.</summary>
    public double? Lambda { get; init; }

    /// <summary>Added to C's diagonal in multiples of its mean. Default 0: too little text is refused instead.</summary>
    public double Ridge { get; init; }
}

/// <summary>
/// Mass editing: for each fact a target vector z at the last edited layer, then for each layer, ascending,
/// ΔW = R Kᵀ(λC + K Kᵀ)⁻¹ with the keys K of all facts and each layer's share R of what is still missing. One system of the
/// size of the batch is solved, whatever the width of the model.
/// </summary>
[Method("memit", Family.Editing, paper: "2210.07229")]
public sealed class Memit : IEditor
{
    readonly MemitOptions options;

    /// <summary>The method with its options.</summary>
    /// <exception cref="BadInputException">An option is out of range.</exception>
    public Memit(MemitOptions? options = null)
    {
        this.options = options ?? new MemitOptions();
        this.options.Check("memit");
        OptionChecks.Statistics("memit", this.options.CovarianceTokens, this.options.Ridge);
        OptionChecks.Require(this.options.Lambda is null or > 0, "memit", "lambda", this.options.Lambda, "more than 0");
    }

    /// <inheritdoc/>
    public Patch Edit(Decoder model, IReadOnlyList<FactEdit> edits, RunContext run)
    {
        OptionChecks.Facts(edits);
        EditPreset preset = EditPreset.For(model);
        int[] layers = [.. options.Layers ?? preset.Layers];
        EditPreset.RequireAdditiveMlp(model, "MEMIT", layers);
        using var scope = NewDisposeScope();
        IReadOnlyList<CovarianceStatistics> statistics = CovarianceStatistics.Of(model, layers, options.Text, run);
        Tensor[] factors = [.. statistics.Select(s => s.Factor(options.Ridge))];
        double? lambda = options.Lambda ?? preset.Lambda;
        try
        {
            return BatchEdit.Run(model, edits, layers, "memit", options, preset,
                (i, keys) => ClosedForm.Adjusted(statistics[i].Matrix, factors[i], keys, lambda ?? Proportional(factors[i], keys)), null, run);
        }
        finally
        {
            foreach (CovarianceStatistics s in statistics)
            {
                s.Dispose();
            }
        }
    }

    // λ = 0.1 · mean kᵀC⁻¹k: the keys of the facts then weigh about ten times what text does.
    static double Proportional(Tensor factor, Tensor keys)
    {
        using var scope = NewDisposeScope();
        Tensor k = keys.to_type(ScalarType.Float64);
        return 0.1 * (k * ClosedForm.Solve(factor, k)).sum([0]).mean().ToDouble();
    }
}
