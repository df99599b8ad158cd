using static TorchSharp.torch;

namespace Scalpel.Networks.Layers;

/// <summary>Changes one product: a trained adapter beside frozen weights.</summary>
interface ILinearAdapter
{
    /// <summary>What the product gives with the adapter.</summary>
    /// <param name="x">Input, [..., in].</param>
    /// <param name="y">What it gives without this adapter, [..., out].</param>
    /// <param name="linear">The product.</param>
    Tensor Apply(Tensor x, Tensor y, Linear linear);

    /// <summary>What it adds as one product of low rank, for passes whose backward pass is written out; null when it is none.</summary>
    /// <param name="type">Of the arithmetic.</param>
    /// <param name="outputs">Of the product that it joins.</param>
    LowRankTerm? LowRank(ScalarType type, long outputs) => null;
}

/// <summary>x Downᵀ Upᵀ beside a product.</summary>
/// <param name="Down">[r, in].</param>
/// <param name="Up">[out, r], scales included.</param>
/// <param name="AddGradients">Takes the gradients by both.</param>
sealed record LowRankTerm(Tensor Down, Tensor Up, Action<Tensor, Tensor> AddGradients);

/// <summary>Changes the embedding of tokens.</summary>
interface IEmbeddingAdapter
{
    /// <summary>The embedding with the adapter, [..., d].</summary>
    /// <param name="ids">Tokens.</param>
    /// <param name="embedded">Their embedding without it.</param>
    Tensor Apply(Tensor ids, Tensor embedded);
}
