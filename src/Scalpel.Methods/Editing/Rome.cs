using System.Text.Json.Nodes;
using Scalpel.Networks;
using Scalpel.Patches;
using TorchSharp;
using static TorchSharp.torch;

namespace Scalpel.Methods.Editing;

/// <summary>Options of <see cref="Rome"/>. What is null follows the model: the official values for the models of the papers, values tried on known facts of SmolLM2-135M, proportional ones for others.</summary>
public sealed record RomeOptions
{
    /// <summary>Layer whose down projection is edited; SmolLM2-135M: 5, gpt2-xl: 17, Llama-2-7B: 5.</summary>
    public int? Layer { get; init; }

    /// <summary>Evaluations of the loss in the search for the value; the last is not followed by an update. Paper: 20.</summary>
    public int? Steps { get; init; }

    /// <summary>Adam's rate in that search. Paper: 0.5.</summary>
    public double? LearningRate { get; init; }

    /// <summary>Weight of ‖δ‖/‖v0‖² in the loss. Paper: 0.5 (gpt2-xl), 0.001 (Llama).</summary>
    public double? WeightDecay { get; init; }

    /// <summary>Largest ‖δ‖ in multiples of ‖v0‖. Paper: 4.</summary>
    public double? ClampFactor { get; init; }

    /// <summary>Weight of the divergence on "{subject} is a". Paper: 0.0625.</summary>
    public double DriftFactor { get; init; } = 0.0625;

    /// <summary>Whether the update's direction is C⁻¹k*, which disturbs other keys least, or k* itself. Paper: yes.</summary>
    public bool Covariance { get; init; } = true;

    /// <summary>Which key the update is anchored to: averaged holds exactly, official follows the first code.</summary>
    public KeyConsistency KeyConsistency { get; init; }

    /// <summary>Plain text over which C is gathered; by default text that the model writes itself.</summary>
    public string? CovarianceText { get; init; }

    /// <summary>Tokens over which C is gathered. At least twice the MLP's width.</summary>
    public int CovarianceTokens { get; init; } = StatisticsText.DefaultTokens;

    /// <summary>Added to C's diagonal in multiples of its mean. Default 0: too little text is refused instead.</summary>
    public double Ridge { get; init; }

    /// <summary>Context templates with one {} each; by default the bare prompt and twenty that the model writes itself.</summary>
    public IReadOnlyList<string>? Contexts { get; init; }
}

/// <summary>
/// Rank-one model editing: finds the value v* that makes the model state the target when it stands at the subject's last
/// token, and writes it under the subject's key k* into one down projection with the least disturbance of other keys:
/// ΔW = (v* − W k*)(C⁻¹k*)ᵀ / (k*ᵀC⁻¹k*). Several facts are edited one after another.
/// </summary>
[Method("rome", Family.Editing, paper: "2202.05262")]
public sealed class Rome : IEditor
{
    readonly RomeOptions options;

    /// <summary>The method with its options.</summary>
    /// <exception cref="BadInputException">An option is out of range.</exception>
    public Rome(RomeOptions? options = null)
    {
        this.options = options ?? new RomeOptions();
        OptionChecks.Search("rome", this.options.Steps, this.options.LearningRate, this.options.WeightDecay, this.options.ClampFactor, this.options.DriftFactor);
        OptionChecks.Statistics("rome", this.options.CovarianceTokens, this.options.Ridge);
        OptionChecks.Contexts("rome", this.options.Contexts);
    }

    /// <inheritdoc/>
    public Patch Edit(Decoder model, IReadOnlyList<FactEdit> edits, RunContext run)
    {
        OptionChecks.Facts(edits);
        EditPreset preset = EditPreset.For(model);
        int layer = options.Layer ?? preset.RomeLayer;
        EditPreset.RequireOneMlp(model, "ROME", layer);
        using var scope = NewDisposeScope();
        IReadOnlyList<string> contexts = options.Contexts ?? ModelText.RomeContexts(model, run);
        EditTokens[] tokens = [.. edits.Select(edit => FactTokens.Of(model, edit, [contexts]))];
        Tensor? factor = null;
        if (options.Covariance)
        {
            using CovarianceStatistics statistics = CovarianceStatistics.Of(model, [layer], new StatisticsText(options.CovarianceText, options.CovarianceTokens), run)[0];
            factor = statistics.Factor(options.Ridge);
        }

        var search = new VectorSearch
        {
            Layer = layer,
            Site = VectorSite.MlpOutput,
            Steps = options.Steps ?? preset.Steps,
            LearningRate = options.LearningRate ?? preset.LearningRate,
            WeightDecay = options.WeightDecay ?? preset.RomeDecay,
            ClampNormFactor = options.ClampFactor ?? preset.RomeClamp,
            DriftFactor = options.DriftFactor,
        };
        var evidence = new EditEvidence(edits.Count == 1 ? EditMode.Single : EditMode.Sequential, [layer]);
        var downs = new List<Tensor>();
        var ups = new List<Tensor>();
        using (var written = new Written())
        {
            foreach ((FactEdit edit, EditTokens fact) in edits.Zip(tokens))
            {
                using RankOne one = RankOne.Compute(model, fact, search, factor, options.KeyConsistency, run);
                downs.Add(one.Change.Down.alias());
                ups.Add(one.Change.Up.alias());
                evidence.Add(edit, one.Found);
                if (edits.Count > 1)
                {
                    using Tensor change = one.Change.Change();
                    written.Add(one.Change.View, change);
                }
            }
        }

        RoleView view = model.Role(Role.Down, layer);
        (Tensor down, Tensor up) = view.ToStored(cat(downs), cat(ups, 1));
        return Patch.For(model, evidence.Info("rome", options, run), new Dictionary<string, Delta> { [view.TensorName] = new LowRank(down, up) });
    }
}
