using TorchSharp;
using static TorchSharp.torch;

namespace Scalpel.Training;

/// <summary>
/// Trainable tensors that share their options, one behind the other in one flat buffer; their gradients lie in a second
/// one. A named tensor is a view, so that a step over the buffer is a step of all of them.
/// </summary>
public sealed class ParameterGroup : IDisposable
{
    /// <summary>Elements of a piece: small enough to stay in the processor's cache through all operations on it.</summary>
    internal const long Piece = 1 << 18;

    readonly Dictionary<string, (long Start, long[] Shape)> slots = new(StringComparer.Ordinal);
    double gradientScale = 1;

    /// <summary>Lays out tensors; their values are copied, gradients are 0.</summary>
    /// <param name="tensors">Names and values, any shapes; all of one floating type.</param>
    /// <param name="dtype">Type of the buffers; float32 by default, whatever the tensors have.</param>
    /// <param name="gradients">Type of the gradients' buffer; null for <paramref name="dtype"/>. Of another type, they are converted piece by piece as they are read.</param>
    public ParameterGroup(IEnumerable<KeyValuePair<string, Tensor>> tensors, ScalarType dtype = ScalarType.Float32, ScalarType? gradients = null)
    {
        KeyValuePair<string, Tensor>[] all = [.. tensors];
        if (all.Length == 0)
        {
            throw new BadInputException("A group of parameters to train has no tensor; name at least one.");
        }

        foreach ((string name, Tensor value) in all)
        {
            slots.Add(name, (Length, value.shape));
            Length += value.numel();
        }

        using var noGrad = no_grad();
        Values = empty(Length, dtype: dtype).DetachFromDisposeScope();
        Gradients = zeros(Length, dtype: gradients ?? dtype).DetachFromDisposeScope();
        foreach ((string name, Tensor value) in all)
        {
            using Tensor view = Value(name);
            view.copy_(value);
        }
    }

    /// <summary>Names in the order of the buffer.</summary>
    public IEnumerable<string> Names => slots.Keys;

    /// <summary>Elements of the buffer.</summary>
    public long Length { get; }

    /// <summary>All values, [<see cref="Length"/>].</summary>
    public Tensor Values { get; }

    /// <summary>All gradients, [<see cref="Length"/>], without the factors of <see cref="ScaleGradients"/> where their type is not that of the values.</summary>
    public Tensor Gradients { get; }

    /// <summary>
    /// Which elements may change, bool [<see cref="Length"/>]; null for all. It holds for the update: decay and momentum
    /// would move an element whose gradient alone is masked. Set through <see cref="SetMask"/>.
    /// </summary>
    public Tensor? Mask { get; private set; }

    /// <summary>Weight decay of this group; null for the optimizer's own.</summary>
    public double? WeightDecay { get; init; }

    /// <summary>Factor on the learning rate. Default 1.</summary>
    public double RateFactor { get; init; } = 1;

    /// <summary>First element and shape of a tensor in the buffer.</summary>
    public (long Start, long[] Shape) Slot(string name) => slots.TryGetValue(name, out var slot)
        ? slot
        : throw new BadInputException($"No trained tensor has the name {name}; the nearest are {string.Join(", ", Nearest.To(name, slots.Keys, 3))}.");

    /// <summary>A tensor's values as a view, in its shape.</summary>
    public Tensor Value(string name) => View(Values, name);

    /// <summary>A tensor's gradient as a view, in its shape.</summary>
    public Tensor Gradient(string name) => View(Gradients, name);

    /// <summary>Sets all gradients to 0.</summary>
    // TorchSharp's in-place operations return the very object that they change: disposing the result frees the buffer.
    public void ClearGradients()
    {
        Gradients.zero_();
        gradientScale = 1;
    }

    /// <summary>Multiplies all gradients by a number, exactly in the type of the values.</summary>
    public void ScaleGradients(double factor)
    {
        if (Gradients.dtype == Values.dtype)
        {
            Gradients.mul_(factor);
        }
        else
        {
            // Their own type would round them.
            gradientScale *= factor;
        }
    }

    /// <summary>Gradients [at, at + length) in the type of the values: a view where that is theirs.</summary>
    internal Tensor GradientsAt(long at, long length)
    {
        Tensor part = Gradients.narrow(0, at, length);
        if (part.dtype == Values.dtype)
        {
            return part;
        }

        using (part)
        {
            Tensor converted = part.to_type(Values.dtype);
            return gradientScale == 1 ? converted : converted.mul_(gradientScale);
        }
    }

    /// <summary>Restricts the update of one tensor; the others stay free unless masked themselves.</summary>
    /// <param name="name">The tensor.</param>
    /// <param name="mask">Bool, broadcastable to the tensor's shape; true = may change.</param>
    public void SetMask(string name, Tensor mask)
    {
        using var scope = NewDisposeScope();
        Mask ??= ones(Length, dtype: ScalarType.Bool).DetachFromDisposeScope();
        View(Mask, name).copy_(mask);
    }

    /// <summary>A tensor's part of a buffer that is laid out as this group.</summary>
    public Tensor View(Tensor buffer, string name)
    {
        (long start, long[] shape) = Slot(name);
        long count = 1;
        foreach (long size in shape)
        {
            count *= size;
        }

        using Tensor part = buffer.narrow(0, start, count);
        return part.view(shape);
    }

    /// <summary>Frees the buffers.</summary>
    public void Dispose()
    {
        Values.Dispose();
        Gradients.Dispose();
        Mask?.Dispose();
    }
}
