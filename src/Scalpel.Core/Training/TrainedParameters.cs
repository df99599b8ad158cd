using Scalpel.Networks;
using Scalpel.Numerics;
using TorchSharp;
using static TorchSharp.torch;

namespace Scalpel.Training;

/// <summary>A tensor that gradients are computed for.</summary>
/// <param name="Name">Its name; that of its first part when several named tensors lie in it.</param>
/// <param name="Leaf">The tensor itself; its memory may be moved into a flat buffer.</param>
/// <param name="Decays">Whether weight decay acts on it: biases and norm gains are spared.</param>
public sealed record TrainableTensor(string Name, Tensor Leaf, bool Decays)
{
    /// <summary>The named tensors within it, rows [start, start + length) each; a part that does not train is left as it is.</summary>
    public IReadOnlyList<(string Name, long Start, long Length, bool Trains)> Parts { get; init; } = [(Name, 0, Leaf.dim() == 0 ? 1 : Leaf.shape[0], true)];

    /// <summary>The network in whose passes it takes part.</summary>
    internal Network? Network { get; init; }

    /// <summary>Lets the leaf and all views of it use another memory of the same content, shape and type.</summary>
    public Action<Tensor>? Move { get; init; }

    /// <summary>The tensors of a network that hold the given names.</summary>
    /// <exception cref="BadInputException">A name is unknown, or there is none.</exception>
    public static IReadOnlyList<TrainableTensor> Of(Network network, IEnumerable<string> names)
    {
        HashSet<string> wanted = [.. names];
        return [.. network.Storages(wanted).Select(storage => new TrainableTensor(storage.Parts[0].Name, storage.Tensor, storage.Tensor.dim() >= 2)
        {
            Parts = [.. storage.Parts.Select(part => (part.Name, part.Start, part.Length, wanted.Contains(part.Name)))],
            Move = memory => network.Rebind(storage.Tensor, memory),
            Network = network,
        })];
    }
}

/// <summary>
/// Trainable tensors in flat buffers: the tensors' own memory, and that of their gradients, become views into one buffer
/// each, so that clearing, clipping and stepping go over a handful of buffers however many tensors there are. Tensors of
/// another type than float32 get float32 master values.
/// </summary>
public sealed class TrainedParameters : IDisposable
{
    readonly List<(ParameterGroup Group, TrainableTensor[] Tensors, Tensor? Values, Tensor? Gradients)> bound = [];
    readonly List<Tensor> frozen = [];
    readonly List<Network> networks;

    /// <summary>Moves the tensors into buffers and lets gradients be computed for them.</summary>
    /// <param name="tensors">The tensors.</param>
    /// <param name="passes">Backward passes of a step. Default 1; the gradients of more are summed in float32, whatever type the tensors have.</param>
    public TrainedParameters(IReadOnlyList<TrainableTensor> tensors, int passes = 1)
    {
        if (tensors.Count == 0)
        {
            throw new BadInputException("Nothing is to be trained; name at least one tensor.");
        }

        using var noGrad = no_grad();
        using var scope = NewDisposeScope();
        foreach (IGrouping<(bool Decays, ScalarType Type), TrainableTensor> part in tensors.GroupBy(tensor => (tensor.Decays, tensor.Leaf.dtype)).OrderByDescending(part => part.Key.Decays))
        {
            Bind([.. part], part.Key.Decays, part.Key.Type, passes);
        }

        // The tensors' former memory.
        NativeHeap.GiveBack();
        networks = [.. tensors.Select(tensor => tensor.Network).OfType<Network>().Distinct()];
        networks.ForEach(network => network.BeginTraining());
    }

    /// <summary>The groups: what decays first, then what does not.</summary>
    public IReadOnlyList<ParameterGroup> Groups => [.. bound.Select(item => item.Group)];

    /// <summary>Sets all gradients to 0.</summary>
    public void ClearGradients()
    {
        using var scope = NewDisposeScope();
        foreach ((ParameterGroup group, _, _, Tensor? gradients) in bound)
        {
            group.ClearGradients();
            gradients?.zero_();
        }
    }

    /// <summary>Brings the gradients of a backward pass into the groups; needed after each pass.</summary>
    public void CollectGradients()
    {
        using var noGrad = no_grad();
        using var scope = NewDisposeScope();
        foreach ((ParameterGroup group, _, _, Tensor? gradients) in bound)
        {
            if (gradients is not null)
            {
                group.Gradients.add_(gradients);
                gradients.zero_();
            }
        }

        foreach (Tensor rows in frozen)
        {
            rows.zero_();
        }
    }

    /// <summary>Rounds the master values into the tensors; needed after each change of the groups.</summary>
    public void Publish()
    {
        using var noGrad = no_grad();
        using var scope = NewDisposeScope();
        foreach ((ParameterGroup group, _, Tensor? values, _) in bound)
        {
            values?.copy_(group.Values);
        }
    }

    /// <summary>Restricts the update of a named tensor to where <paramref name="mask"/> (bool, its shape) is true.</summary>
    /// <exception cref="BadInputException">No trained tensor has the name.</exception>
    public void Mask(string name, Tensor mask)
    {
        foreach ((ParameterGroup group, TrainableTensor[] tensors, _, _) in bound)
        {
            foreach (TrainableTensor tensor in tensors)
            {
                foreach ((string part, long start, long length, _) in tensor.Parts)
                {
                    if (part == name)
                    {
                        using var scope = NewDisposeScope();
                        Tensor whole = ones(tensor.Leaf.shape, dtype: ScalarType.Bool);
                        if (group.Mask is not null)
                        {
                            whole.copy_(group.View(group.Mask, tensor.Name));
                        }

                        (whole.dim() == 0 ? whole : whole.narrow(0, start, length)).copy_(mask);
                        group.SetMask(tensor.Name, whole);
                        return;
                    }
                }
            }
        }

        throw new BadInputException($"A mask names {name}, which is not trained; the nearest trained tensor is {Nearest.To(name, bound.SelectMany(item => item.Tensors).SelectMany(tensor => tensor.Parts).Select(part => part.Name))[0]}.");
    }

    /// <summary>Stops gradients and frees the buffers of gradients; the tensors keep their values.</summary>
    public void Dispose()
    {
        networks.ForEach(network => network.EndTraining());
        networks.Clear();
        using var scope = NewDisposeScope();
        foreach ((ParameterGroup group, TrainableTensor[] tensors, Tensor? values, Tensor? gradients) in bound)
        {
            foreach (TrainableTensor tensor in tensors)
            {
                tensor.Leaf.grad = null;
                tensor.Leaf.requires_grad_(false);
            }

            group.Dispose();
            values?.Dispose();
            gradients?.Dispose();
        }

        frozen.ForEach(rows => rows.Dispose());
    }

    void Bind(TrainableTensor[] tensors, bool decays, ScalarType type, int passes)
    {
        bool master = type != ScalarType.Float32, sums = master && passes > 1;
        var group = new ParameterGroup(tensors.Select(tensor => KeyValuePair.Create(tensor.Name, tensor.Leaf)), gradients: sums ? ScalarType.Float32 : type) { WeightDecay = decays ? null : 0 };
        Tensor? values = master ? group.Values.to_type(type).DetachFromDisposeScope() : null;
        Tensor? gradients = sums ? zeros(group.Length, dtype: type).DetachFromDisposeScope() : null;
        bound.Add((group, tensors, values, gradients));
        foreach (TrainableTensor tensor in tensors)
        {
            Tensor memory = group.View(values ?? group.Values, tensor.Name);
            if (tensor.Move is null)
            {
                tensor.Leaf.set_(memory);
            }
            else
            {
                tensor.Move(memory);
            }

            tensor.Leaf.requires_grad_(true);
            // Backward adds into a gradient that is there, in place, when no graph of the gradients is asked for.
            tensor.Leaf.grad = group.View(gradients ?? group.Gradients, tensor.Name);
            foreach ((string _, long start, long length, bool trains) in tensor.Parts)
            {
                if (!trains)
                {
                    frozen.Add(group.Gradient(tensor.Name).narrow(0, start, length).DetachFromDisposeScope());
                }
            }

            if (tensor.Parts.Any(part => !part.Trains))
            {
                Tensor mask = ones(tensor.Leaf.shape, dtype: ScalarType.Bool);
                foreach ((_, long start, long length, _) in tensor.Parts.Where(part => !part.Trains))
                {
                    mask.narrow(0, start, length).fill_(false);
                }

                group.SetMask(tensor.Name, mask);
            }
        }
    }
}
