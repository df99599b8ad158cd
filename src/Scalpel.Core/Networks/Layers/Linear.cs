using Scalpel.Numerics;
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
        using Tensor matrix = transposed ? weight.alias() : weight.t();                                   // [in, out]
        using Tensor rows = x.dim() == 2 ? x.alias() : x.reshape(-1, x.shape[^1]);
        bool grad = is_grad_enabled(), flows = grad && x.requires_grad, trains = grad && (weight.requires_grad || bias is { requires_grad: true });
        if (trains || !MatrixProduct.Covers(rows, matrix))
        {
            using Tensor stored = matrix.t();
            return nn.functional.linear(x, stored, bias);
        }

        long[] shape = [.. x.shape[..^1], Outputs];
        return flows ? ExplicitGradient.Of(x, Value, gradient => Back(gradient, shape)) : Value();

        Tensor Value()
        {
            using Tensor flat = MatrixProduct.Of(rows, matrix);
            return (bias is null ? flat : flat.add_(bias)).view(shape);
        }
    }

    // The gradient by the input of a product whose weight does not train.
    Tensor Back(Tensor gradient, long[] shape)
    {
        using Tensor stored = transposed ? weight.t() : weight.alias(), rows = gradient.reshape(-1, Outputs);
        using Tensor flat = MatrixProduct.Of(rows, stored);
        return flat.view([.. shape[..^1], Inputs]);
    }
}
