using Scalpel.Networks;
using TorchSharp;
using static TorchSharp.torch;

namespace Scalpel.Training;

/// <summary>Copies of a network's tensors as they are now, which can take their place again for a while.</summary>
/// <param name="network">The network.</param>
/// <param name="names">Which tensors.</param>
public sealed class FrozenTensors(Network network, IEnumerable<string> names) : IDisposable
{
    readonly (string Name, Tensor Value)[] frozen = [.. names.Select(name => (name, network.Parameter(name).detach().clone().DetachFromDisposeScope()))];

    /// <summary>Puts the copies into the network until the result is disposed. Not between a forward and its backward pass.</summary>
    public IDisposable Swap()
    {
        using var noGrad = no_grad();
        (string, Tensor)[] current = [.. frozen.Select(item => (item.Name, network.Parameter(item.Name).detach().clone().DetachFromDisposeScope()))];
        Copy(network, frozen);
        return new Return(network, current);
    }

    /// <summary>Frees the copies.</summary>
    public void Dispose()
    {
        foreach ((_, Tensor value) in frozen)
        {
            value.Dispose();
        }
    }

    static void Copy(Network network, (string Name, Tensor Value)[] values)
    {
        foreach ((string name, Tensor value) in values)
        {
            network.Parameter(name).copy_(value);
        }
    }

    sealed class Return(Network network, (string Name, Tensor Value)[] values) : IDisposable
    {
        public void Dispose()
        {
            using var noGrad = no_grad();
            Copy(network, values);
            foreach ((_, Tensor value) in values)
            {
                value.Dispose();
            }
        }
    }
}
