using static TorchSharp.torch;

namespace Scalpel.Networks.Layers;

/// <summary>Parts of the last axis; TorchSharp's narrow and unflatten take no negative axis.</summary>
static class LastAxis
{
    public static Tensor Split(this Tensor x, params long[] sizes) => x.unflatten(x.dim() - 1, sizes);

    public static Tensor Part(this Tensor x, long start, long length) => x.narrow(x.dim() - 1, start, length);
}
