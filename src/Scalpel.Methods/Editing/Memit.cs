using Scalpel.Networks;
using Scalpel.Patches;
using TorchSharp;
using static TorchSharp.torch;

namespace Scalpel.Methods.Editing;

/// <summary>Options of <see cref="Memit"/>. What is null follows the model: the official values for the models of the papers, values tried on known facts of SmolLM2-135M, proportional ones for others.</summary>
public sealed record MemitOptions
{
    /// <summary>Layers over which the change is spread, ascending; SmolLM2-135M: 4–8, gpt2-xl: 13–17, Llama-2-7B: 4–8.</summary>
    public IReadOnlyList<int>? Layers { get; init; }

    /// <summary>Facts solved for together; by default all (batch). Fewer: the batches follow each other (sequential).</summary>
    public int? BatchSize { get; init; }

    /// <summary>Evaluations of the loss in the search for a target vector; the last is not followed by an update. Paper: 20.</summary>
    public int? Steps { get; init; }

    /// <summary>Adam's rate in that search. Paper: 0.5.</summary>
    public double? LearningRate { get; init; }

    /// <summary>Weight of ‖δ‖/‖h‖² in the loss. Paper: 0.5 (gpt2-xl), 0.001 (Llama).</summary>
    public double? WeightDecay { get; init; }

    /// <summary>Largest ‖δ‖ in multiples of ‖h‖. Paper: 0.75 (gpt2-xl), 4 (Llama).</summary>
    public double? ClampFactor { get; init; }

    /// <summary>Weight of the divergence on "{subject} is a". Paper: 0.0625.</summary>
    public double DriftFactor { get; init; } = 0.0625;

    /// <summary>λ, weight of the covariance against the facts' keys. Paper: 20,000 (gpt2-xl), 15,000 (GPT-J, Llama); by default a tenth of the mean kᵀC⁻¹k.</summary>
    public double? Lambda { get; init; }

    /// <summary>Plain text over which C is gathered; by default text that the model writes itself.</summary>
    public string? CovarianceText { get; init; }

    /// <summary>Tokens over which C is gathered. At least twice the MLP's width.</summary>
    public int CovarianceTokens { get; init; } = StatisticsText.DefaultTokens;

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
        OptionChecks.Search("memit", this.options.Steps, this.options.LearningRate, this.options.WeightDecay, this.options.ClampFactor, this.options.DriftFactor);
        OptionChecks.Statistics("memit", this.options.CovarianceTokens, this.options.Ridge);
        OptionChecks.Layers("memit", this.options.Layers, this.options.BatchSize);
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
        IReadOnlyList<CovarianceStatistics> statistics = CovarianceStatistics.Of(model, layers, new StatisticsText(options.CovarianceText, options.CovarianceTokens), run);
        Tensor[] factors = [.. statistics.Select(s => s.Factor(options.Ridge))];
        double? lambda = options.Lambda ?? preset.Lambda;
        try
        {
            return BatchEdit.Run(model, edits, layers, search, ModelText.MemitContexts(model, run), options.BatchSize, "memit", options,
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
