using TorchSharp;
using static TorchSharp.torch;

namespace Scalpel.Networks.Layers;

/// <summary>One product y = x Wᵀ + b. The weight may hold several named matrices, one below the other.</summary>
/// <param name="weight">[out, in]; [in, out] when <paramref name="transposed"/>.</param>
/// <param name="bias">[out], or null.</param>
/// <param name="transposed">Whether the checkpoint stores the matrix as [in, out] (GPT-2's Conv1D).</param>
sealed class Linear(Tensor weight, Tensor? bias, bool transposed = false)
{
    public Tensor Weight => weight;

    public Tensor? Bias => bias;

    public bool Transposed => transposed;

    public long Inputs => transposed ? weight.shape[0] : weight.shape[1];

    public long Outputs => transposed ? weight.shape[1] : weight.shape[0];

    /// <summary>Adapters at work, in the order in which they act.</summary>
    public List<ILinearAdapter> Adapters { get; } = [];

    /// <summary>[..., in] → [..., out], adapters included.</summary>
    public Tensor Apply(Tensor x)
    {
        Tensor y = Product(x);
        foreach (ILinearAdapter adapter in Adapters)
        {
            y = adapter.Apply(x, y, this);
        }

        return y;
    }

    /// <summary>[..., in] → [..., out], without adapters.</summary>
    public Tensor Product(Tensor x)
    {
        if (!transposed)
        {
            return nn.functional.linear(x, weight, bias);
        }

        using Tensor matrix = weight.t();
        return nn.functional.linear(x, matrix, bias);
    }
}
