using Scalpel.Checkpoints;
using Scalpel.Networks;
using Scalpel.Training;
using TorchSharp;
using static TorchSharp.torch;

namespace Scalpel.Lab.Parity;

/// <summary>PEFT adapters: logits, loss, gradients, merged weights; several combined into one.</summary>
public sealed class LoraParity : IParityKind
{
    /// <inheritdoc/>
    public string Kind => "lora";

    /// <inheritdoc/>
    public void Run(ParityCase parityCase, Comparison comparison)
    {
        using var scope = NewDisposeScope();
        using SafeTensorsFile inputs = SafeTensorsFile.Open(parityCase.PathOf("inputs")), expected = SafeTensorsFile.Open(parityCase.PathOf("expected"));
        var options = new CaseOptions(parityCase.Options, parityCase.Folder);
        string algorithm = options.Text("algorithm");
        using Decoder model = Decoder.Load(parityCase.PathOf("model"));
        Tensor ids = inputs.Read("input_ids"), mask = inputs.Entries.ContainsKey("attention_mask") ? inputs.Read("attention_mask") : ones_like(ids);
        Tensor columns = arange(ids.shape[1], dtype: ScalarType.Int64).unsqueeze(0);
        Tensor Forward() => model.Forward(ids, mask, columns);
        using Adapter adapter = algorithm == "adapter"
            ? PeftFolder.Read(Path.Combine(parityCase.Folder, options.Text("adapter")), model)
            : Combined(parityCase, options, model);
        options.Ignore("type", "arguments");
        options.Finish();
        var ours = new Dictionary<string, Tensor>(StringComparer.Ordinal) { ["logits.base"] = Forward() };
        using (adapter.AttachTo(model))
        {
            foreach (TrainableTensor trainable in adapter.Trainable(model))
            {
                trainable.Leaf.requires_grad_(true);
            }

            Tensor logits = Forward();
            ours["logits.adapter"] = logits;
            if (expected.Entries.ContainsKey("loss"))
            {
                Tensor labels = where(mask.ne(0), ids, full_like(ids, TokenScores.Ignored));
                ours["loss"] = Supervised.Loss(logits, labels).Loss;
                ours["loss"].backward();
                foreach ((string name, Tensor tensor) in adapter.Tensors)
                {
                    string own = name["base_model.model.".Length..].Replace(".base_layer.", ".", StringComparison.Ordinal);
                    if ((model.Parameters.ContainsKey(own) ? model.Grad(own) : tensor.grad) is { } gradient)
                    {
                        ours[$"grad.{name}"] = gradient;
                    }
                }
            }

            model.StopGrad();
        }

        foreach ((string name, Tensor merged) in adapter.Merge(model))
        {
            ours[$"merged.{name}"] = merged;
        }

        if (expected.Entries.ContainsKey("logits.merged"))
        {
            using var noGrad = no_grad();
            foreach ((string name, Tensor merged) in adapter.Merge(model))
            {
                model.Parameter(name).copy_(merged);
            }

            ours["logits.merged"] = Forward();
        }

        foreach (string name in expected.Entries.Keys)
        {
            if (ours.TryGetValue(name, out Tensor? value))
            {
                comparison.Tensors(name, value, expected.Read(name), name.StartsWith("logits", StringComparison.Ordinal) ? mask.unsqueeze(-1).to_type(ScalarType.Bool) : null);
            }
            else
            {
                comparison.Mismatch(name, $"{name} is not computed here");
            }
        }

        foreach (string name in ours.Keys.Where(name => name.StartsWith("merged.", StringComparison.Ordinal) && !expected.Entries.ContainsKey(name)))
        {
            comparison.Mismatch(name, $"{name} is changed by merging, but not by the reference");
        }
    }

    static Adapter Combined(ParityCase parityCase, CaseOptions options, Decoder model)
    {
        string[] folders = [.. Directory.GetDirectories(parityCase.Folder, "adapter-*").Order(StringComparer.Ordinal)];
        Adapter[] adapters = [.. folders.Select(folder => PeftFolder.Read(folder, model))];
        CaseOptions a = options.Part("arguments");
        string kind = a.Text("combination_type");
        AdapterCombination combination = kind switch
        {
            "cat" => AdapterCombination.Cat,
            "svd" => AdapterCombination.Svd,
            "linear" => AdapterCombination.Linear,
            "ties" => AdapterCombination.Ties,
            "magnitude_prune" => AdapterCombination.MagnitudePrune,
            "ties_svd" => AdapterCombination.TiesSvd,
            "magnitude_prune_svd" => AdapterCombination.MagnitudePruneSvd,
            _ => throw new BadInputException($"{parityCase.Folder}: the combination '{kind}' is not known here."),
        };
        Adapter combined = AdapterMerge.Combine(adapters, options.Numbers("weights")!, combination, new AdapterCombinationOptions
        {
            Rank = (int?)a.NumberOrNull("svd_rank"),
            Density = a.Number("density", 1),
            Election = MergeParity.Election(a),
            Clamp = a.NumberOrNull("svd_clamp"),
        });
        // How the decomposition is computed changes no leading factor.
        a.Ignore("svd_full_matrices", "svd_driver");
        a.Finish();
        foreach (Adapter adapter in adapters)
        {
            adapter.Dispose();
        }

        return combined;
    }
}
