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
}

/// <summary>Changes the embedding of tokens.</summary>
interface IEmbeddingAdapter
{
    /// <summary>The embedding with the adapter, [..., d].</summary>
    /// <param name="ids">Tokens.</param>
    /// <param name="embedded">Their embedding without it.</param>
    Tensor Apply(Tensor ids, Tensor embedded);
}
