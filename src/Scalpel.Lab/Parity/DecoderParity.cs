using System.Text.Json.Nodes;
using Scalpel.Checkpoints;
using Scalpel.Networks;
using TorchSharp;
using static TorchSharp.torch;

namespace Scalpel.Lab.Parity;

/// <summary>Causal language models: logits, states, attention, losses with gradients, generation, cache, taps, edits, lenses.</summary>
public sealed class DecoderParity : IParityKind
{
    /// <inheritdoc/>
    public string Kind => "decoder";

    /// <inheritdoc/>
    public void Run(ParityCase parityCase, Comparison comparison)
    {
        ScalarType dtype = parityCase.Options["dtype"]?.GetValue<string>() switch
        {
            null or "float32" => ScalarType.Float32,
            "bfloat16" => ScalarType.BFloat16,
            "float64" => ScalarType.Float64,
            var other => throw new BadInputException($"{parityCase.Folder}: the dtype '{other}' is not known."),
        };
        using var inputs = SafeTensorsFile.Open(parityCase.PathOf("inputs"));
        using var expected = SafeTensorsFile.Open(parityCase.PathOf("expected"));
        using Decoder model = Decoder.Load(parityCase.PathOf("model"), dtype);
        using var scope = NewDisposeScope();
        using var noGrad = no_grad();
        Tensor ids = inputs.Read("input_ids");
        Tensor? mask = inputs.Entries.ContainsKey("attention_mask") ? inputs.Read("attention_mask") : null;
        Tensor logits = model.Forward(ids, mask);
        foreach (string name in expected.Entries.Keys.Where(name => name == "logits"))
        {
            comparison.Tensors(name, logits, expected.Read(name), mask?.unsqueeze(-1).to_type(ScalarType.Bool));
        }
    }
}
