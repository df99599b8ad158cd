using System.Text.Json.Nodes;
using Scalpel.Networks;
using TorchSharp;

namespace Scalpel.Tests.Patches;

/// <summary>A network of loose tensors.</summary>
sealed class TensorBag : Network
{
    public TensorBag(params (string Name, torch.Tensor Tensor)[] tensors) : base(null, torch.ScalarType.Float32)
    {
        foreach ((string name, torch.Tensor tensor) in tensors)
        {
            Own(tensor, (name, tensor.dim() == 0 ? 0 : tensor.shape[0]));
        }
    }

    public override JsonObject ConfigJson { get; } = new() { ["model_type"] = "bag", ["tie_word_embeddings"] = true };
}
