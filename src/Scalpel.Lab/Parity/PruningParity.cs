using Scalpel.Checkpoints;
using Scalpel.Networks;
using Scalpel.Training;
using TorchSharp;
using static TorchSharp.torch;

namespace Scalpel.Lab.Parity;

/// <summary>Pruning by magnitude and by Wanda: masks, statistics of inputs, logits of the pruned model.</summary>
public sealed class PruningParity : IParityKind
{
    /// <inheritdoc/>
    public string Kind => "pruning";

    /// <inheritdoc/>
    public void Run(ParityCase parityCase, Comparison comparison)
    {
        using var scope = NewDisposeScope();
        using var noGrad = no_grad();
        using SafeTensorsFile inputs = SafeTensorsFile.Open(parityCase.PathOf("inputs")), expected = SafeTensorsFile.Open(parityCase.PathOf("expected"));
        var options = new CaseOptions(parityCase.Options, parityCase.Folder);
        string algorithm = options.Text("algorithm");
        var settings = new PruningOptions
        {
            Sparsity = options.Number("sparsity_ratio", 0.5),
            Drop = (int)options.Number("prune_n", 0),
            Among = (int)options.Number("prune_m", 4),
            Variant = options.Flag("use_variant"),
        };
        options.Finish();
        using Decoder model = Decoder.Load(parityCase.PathOf("model"));
        Tensor ids = inputs.Read("input_ids");
        var ours = new Dictionary<string, Tensor>(StringComparer.Ordinal);
        if (algorithm == "wanda")
        {
            foreach ((string name, (Tensor pruned, Tensor squares)) in Pruner.Wanda(model, ids, settings))
            {
                ours[$"pruned.{name}"] = pruned;
                ours[$"scaler_row.{name}"] = squares;
            }
        }
        else if (algorithm == "magnitude-prune")
        {
            foreach ((string name, Tensor pruned) in Pruner.ByMagnitude(model, settings))
            {
                ours[$"pruned.{name}"] = pruned;
                model.Parameter(name).masked_fill_(pruned, 0);
            }
        }
        else
        {
            throw new BadInputException($"{parityCase.Folder}: the algorithm '{algorithm}' is not known here.");
        }

        ours["logits"] = model.Forward(ids.narrow(0, 0, Math.Min(2, ids.shape[0])));
        foreach (string name in expected.Entries.Keys)
        {
            if (ours.TryGetValue(name, out Tensor? value))
            {
                Tensor wanted = expected.Read(name);
                comparison.Tensors(name, value.to_type(wanted.dtype), wanted);
            }
            else
            {
                comparison.Mismatch(name, $"{name} is not computed here");
            }
        }
    }
}
