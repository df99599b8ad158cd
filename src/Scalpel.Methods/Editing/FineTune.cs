using Scalpel.Networks;
using Scalpel.Patches;
using TorchSharp;
using static TorchSharp.torch;

namespace Scalpel.Methods.Editing;

/// <summary>What fine-tuning of a fact minimises.</summary>
public enum FineTuneObjective
{
    /// <summary>The mean negative log-likelihood of the target's tokens, each after those before it.</summary>
    TargetTokens,

    /// <summary>All target tokens scored at the prompt's last position, as the first ROME code did: equal for targets of one token, odd for longer ones.</summary>
    PromptLast,
}

/// <summary>Options of <see cref="FineTune"/>. What is null follows the model.</summary>
public sealed record FineTuneOptions
{
    /// <summary>Layer whose down projection is trained; gpt2-xl: 0, Llama-2-7B: 21, SmolLM2-135M: 5.</summary>
    public int? Layer { get; init; }

    /// <summary>Rounds over all facts. Paper: 25.</summary>
    public int Steps { get; init; } = 25;

    /// <summary>Adam's rate. Paper: 5e-4.</summary>
    public double LearningRate { get; init; } = 5e-4;

    /// <summary>Adam's weight decay. Paper: 0.</summary>
    public double WeightDecay { get; init; }

    /// <summary>Whether each weight stays within a distance of its start (FT-L) or goes free (FT).</summary>
    public bool Constrained { get; init; } = true;

    /// <summary>That distance. Paper: 5e-4 (gpt2-xl), 5e-5 (GPT-J, Llama); SmolLM2-135M: 1e-2.</summary>
    public double? NormConstraint { get; init; }

    /// <summary>What is minimised; the default is teacher-forced.</summary>
    public FineTuneObjective Objective { get; init; }

    /// <summary>Facts in a step. Paper: 64.</summary>
    public int BatchSize { get; init; } = 64;
}

/// <summary>
/// Fine-tuning of one down projection on the facts by Adam; with the constraint (FT-L) no weight moves further than ε from
/// where it was. The baseline that editors are compared with.
/// </summary>
[Method("ft", Family.Editing, paper: "2202.05262")]
public sealed class FineTune : IEditor
{
    readonly FineTuneOptions options;

    /// <summary>The method with its options.</summary>
    /// <exception cref="BadInputException">An option is out of range.</exception>
    public FineTune(FineTuneOptions? options = null)
    {
        this.options = options ?? new FineTuneOptions();
        OptionChecks.Search("ft", this.options.Steps, this.options.LearningRate, this.options.WeightDecay, null, 0);
        OptionChecks.Require(this.options.BatchSize > 0, "ft", "batch_size", this.options.BatchSize, "at least 1");
        OptionChecks.Require(this.options.NormConstraint is null or > 0, "ft", "norm_constraint", this.options.NormConstraint, "more than 0");
        OptionChecks.Require(this.options.Constrained || this.options.NormConstraint is null, "ft", "norm_constraint", this.options.NormConstraint, "nothing, as constrained is off");
    }

    /// <inheritdoc/>
    public Patch Edit(Decoder model, IReadOnlyList<FactEdit> edits, RunContext run)
    {
        OptionChecks.Facts(edits);
        EditPreset preset = EditPreset.For(model);
        int layer = options.Layer ?? preset.FineTuneLayer;
        if (model.Config.Experts > 0)
        {
            throw new BadInputException($"FT trains the one down projection of a layer, {model.Config.ModelType} has {model.Config.Experts} experts in each; train it with scalpel tune.");
        }

        using var scope = NewDisposeScope();
        EditTokens[] tokens = [.. edits.Select(edit => FactTokens.Of(model, edit, [["{}"]]))];
        string[] names = ConstrainedTraining.Module(model, layer);
        using var before = new Snapshot(model, names);
        double[] first = [.. tokens.Select(fact => Before(model, fact))];
        IReadOnlyList<double> losses = ConstrainedTraining.Run(
            model, names, [.. tokens.Chunk(options.BatchSize).Select(batch => ((Func<Tensor>)(() => Loss(model, batch)), batch.Length))],
            options.Steps, options.LearningRate, options.WeightDecay, options.Constrained ? options.NormConstraint ?? preset.NormConstraint : null, run);
        var evidence = new EditEvidence(edits.Count == 1 ? EditMode.Single : EditMode.Batch, [layer]);
        for (int i = 0; i < edits.Count; i++)
        {
            evidence.Add(edits[i], first[i], Before(model, tokens[i]), losses.Count);
        }

        return Patch.For(model, evidence.Info("ft", options, run), names.ToDictionary(name => name, name => (Delta)new DenseAdd(before.Change(name))));
    }

    double Before(Decoder model, EditTokens fact)
    {
        using var noGrad = no_grad();
        using var scope = NewDisposeScope();
        return Loss(model, [fact]).ToDouble();
    }

    // Mean over facts of the mean over the target's tokens.
    Tensor Loss(Decoder model, EditTokens[] batch)
    {
        EditRow[] rows = [.. batch.Select(fact => options.Objective == FineTuneObjective.PromptLast ? fact.Bare : fact.Values[0])];
        int width = rows.Max(row => row.Ids.Count);
        var ids = new long[rows.Length, width];
        var mask = new long[rows.Length, width];
        var cells = new List<long>();
        var targets = new List<long>();
        var weights = new List<float>();
        for (int r = 0; r < rows.Length; r++)
        {
            for (int c = 0; c < rows[r].Ids.Count; c++)
            {
                (ids[r, c], mask[r, c]) = (rows[r].Ids[c], 1);
            }

            IReadOnlyList<EditTarget> wanted = batch[r].Values[0].Targets;
            foreach (EditTarget target in wanted)
            {
                cells.Add(((long)r * width) + (options.Objective == FineTuneObjective.PromptLast ? rows[r].Ids.Count - 1 : target.Position));
                targets.Add(target.Token);
                weights.Add(1f / (wanted.Count * rows.Length));
            }
        }

        Tensor idTensor = tensor(ids);
        using Pass pass = model.Prepare(idTensor, tensor(mask));
        Tensor hidden = model.RunLayers(model.Embed(idTensor, pass), 0, model.Config.Layers, pass);
        Tensor log = model.LogitsOfCells(hidden, tensor(cells.ToArray()), pass).to_type(ScalarType.Float32).log_softmax(-1);
        return -(log.gather(1, tensor(targets.ToArray()).unsqueeze(1)).squeeze(1) * tensor(weights.ToArray())).sum();
    }
}
