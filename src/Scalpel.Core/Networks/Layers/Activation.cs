using TorchSharp;
using static TorchSharp.torch;

namespace Scalpel.Networks.Layers;

/// <summary>The activation functions of the families.</summary>
public enum Activation
{
    /// <summary>x·σ(x).</summary>
    Silu,

    /// <summary>½x(1 + erf(x/√2)).</summary>
    Gelu,

    /// <summary>½x(1 + tanh(√(2/π)(x + 0.044715x³))).</summary>
    GeluTanh,

    /// <summary>max(0, x).</summary>
    Relu,

    /// <summary>x·σ(1.702x).</summary>
    QuickGelu,
}

/// <summary>Activations by the names that configurations use.</summary>
static class Activations
{
    public static Activation Parse(string name, string where) => name switch
    {
        "silu" or "swish" => Activation.Silu,
        "gelu" => Activation.Gelu,
        "gelu_new" or "gelu_pytorch_tanh" or "gelu_fast" => Activation.GeluTanh,
        "relu" => Activation.Relu,
        "quick_gelu" => Activation.QuickGelu,
        _ => throw new BadInputException($"{where}: the activation '{name}' is not known; known are silu, gelu, gelu_new, gelu_pytorch_tanh, relu, quick_gelu."),
    };

    public static Tensor Apply(this Activation activation, Tensor x) => activation switch
    {
        Activation.Silu => nn.functional.silu(x, inplace: false),
        Activation.Gelu => nn.functional.gelu(x),
        Activation.GeluTanh => nn.functional.gelu(x, TorchSharp.Modules.GELU.Approximate.tanh, inplace: false),
        Activation.Relu => nn.functional.relu(x, inplace: false),
        _ => x * (x * 1.702).sigmoid(),
    };
}
