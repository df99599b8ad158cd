using Scalpel.Networks;

namespace Scalpel.Methods.Editing;

/// <summary>Layers and strengths that work for a model, known by its shape; other models get values in proportion.</summary>
/// <param name="RomeLayer">Layer of a single edit.</param>
/// <param name="Layers">Layers of a batch.</param>
/// <param name="Steps">Evaluations of the search's loss.</param>
/// <param name="LearningRate">Adam's rate in the search.</param>
/// <param name="RomeDecay">Weight of ‖δ‖/‖v0‖² in ROME.</param>
/// <param name="RomeClamp">Largest ‖δ‖/‖v0‖ in ROME.</param>
/// <param name="BatchDecay">The same weight in MEMIT and AlphaEdit.</param>
/// <param name="BatchClamp">The same bound in MEMIT and AlphaEdit.</param>
/// <param name="Lambda">Weight of the covariance in MEMIT; null for a tenth of the mean kᵀC⁻¹k.</param>
/// <param name="NullSpaceThreshold">Singular values below it are free in AlphaEdit; null for those that together carry 2 % of the trace.</param>
/// <param name="FineTuneLayer">Layer of FT and FT-L.</param>
/// <param name="NormConstraint">Bound of FT-L.</param>
sealed record EditPreset(
    int RomeLayer, int[] Layers, int Steps, double LearningRate, double RomeDecay, double RomeClamp,
    double BatchDecay, double BatchClamp, double? Lambda, double? NullSpaceThreshold, int FineTuneLayer, double NormConstraint)
{
    /// <summary>The preset for a model.</summary>
    public static EditPreset For(Decoder model)
    {
        DecoderConfig c = model.Config;
        return (c.ModelType, c.Layers, c.Width) switch
        {
            // From the official codes.
            ("gpt2", 48, 1600) => new(17, [13, 14, 15, 16, 17], 20, 0.5, 0.5, 4, 0.5, 0.75, 20000, null, 0, 5e-4),
            ("gpt2", 24, 1024) => new(8, [5, 6, 7, 8], 20, 0.5, 0.5, 3, 0.5, 0.75, 20000, null, 0, 5e-4),
            ("gptj", 28, 4096) => new(5, [3, 4, 5, 6, 7, 8], 25, 0.5, 0.5, 4, 0.5, 0.75, 15000, null, 0, 5e-5),
            ("llama", 32, 4096) => new(5, [4, 5, 6, 7, 8], 25, 0.1, 1e-3, 4, 1e-3, 4, 15000, 2e-2, 21, 5e-5),
            // SmolLM2-135M. Its weights are large: within 5e-4 of where they are, no fact changes.
            ("llama", 30, 576) => new(5, [4, 5, 6, 7, 8], 25, 0.5, 1e-3, 4, 1e-3, 4, null, null, 5, 1e-2),
            _ => new(
                Math.Max(0, (c.Layers / 5) - 1), [.. Enumerable.Range(Math.Max(0, (c.Layers / 5) - 3), Math.Min(c.Layers, Math.Max(1, c.Layers / 6)))],
                25, 0.5, 1e-3, 4, 1e-3, 4, null, null, c.Layers / 5, 5e-4),
        };
    }

    /// <summary>Refuses models whose layers do not have one down projection, or whose head does not read what the layers write.</summary>
    public static void RequireOneMlp(Decoder model, string method, params int[] layers)
    {
        model.RequirePlainHead(method);
        if (model.Config.Experts > 0)
        {
            throw new BadInputException($"{method} edits the one down projection of a layer, {model.Config.ModelType} has {model.Config.Experts} experts in each; edit it with fine-tuning of a named tensor.");
        }

        foreach (int layer in layers)
        {
            model.Role(Role.Down, layer);
        }
    }

    /// <summary>Refuses models in which a change of a down projection does not add to the residual stream, which spreading one over layers needs.</summary>
    public static void RequireAdditiveMlp(Decoder model, string method, int[] layers)
    {
        RequireOneMlp(model, method, layers);
        if (model.DownTap != "mlp.output")
        {
            throw new BadInputException($"{method} needs the down projection's output to be added as it is; {model.Config.ModelType} normalises it first. Use rome or ft instead.");
        }
    }
}
