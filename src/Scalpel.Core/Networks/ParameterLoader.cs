using Scalpel.Checkpoints;
using Scalpel.Networks.Layers;
using TorchSharp;
using static TorchSharp.torch;

namespace Scalpel.Networks;

/// <summary>Fills a network's tensors from a source, keeps account of what is missing, and lets matrices share storage.</summary>
/// <param name="network">Owns the tensors.</param>
/// <param name="source">Where they come from.</param>
/// <param name="transposed">Whether matrices are stored as [in, out].</param>
sealed class ParameterLoader(Network network, ITensorSource source, bool transposed = false)
{
    readonly List<string> missing = [];

    /// <summary>A tensor of its own.</summary>
    public Tensor Whole(string name, TensorUse use, params long[] shape)
    {
        if (!source.Has(name, shape))
        {
            missing.Add(name);
            return zeros(0);
        }

        Tensor target = empty(shape, dtype: network.DType);
        source.Fill(name, target, use);
        return network.Own(target, (name, shape[0]));
    }

    /// <summary>One product. Matrices that see the same input lie in one storage, so that one product serves them all.</summary>
    public Linear Joined(bool bias, TensorUse use, int inputs, params (string Name, int Rows)[] parts)
    {
        if (transposed)
        {
            (string name, int outputs) = parts.Single();
            return new Linear(Whole($"{name}.weight", use, inputs, outputs), bias ? Whole($"{name}.bias", TensorUse.Bias, outputs) : null, transposed: true);
        }

        return new Linear(Stacked(".weight", use, inputs, parts), bias ? Stacked(".bias", TensorUse.Bias, null, parts) : null);
    }

    /// <summary>A normalisation with gain and, for LayerNorm, bias.</summary>
    public Norm Norm(NormKind kind, string name, int size, double epsilon, string gain = "weight", string bias = "bias") =>
        new(kind, Whole($"{name}.{gain}", TensorUse.Gain, size), kind == NormKind.Layer ? Whole($"{name}.{bias}", TensorUse.Bias, size) : null, epsilon);

    /// <summary>Refuses a source that lacked anything.</summary>
    public void RequireAll(string family)
    {
        if (missing.Count > 0)
        {
            throw new CheckpointException(network.Source?.Location ?? "model", CheckpointProblem.Missing,
                $"lacks {missing.Count} tensors that {family} needs: {string.Join(", ", missing.Take(20))}{(missing.Count > 20 ? ", …" : "")}.");
        }
    }

    Tensor Stacked(string suffix, TensorUse use, long? columns, (string Name, int Rows)[] parts)
    {
        // All are looked for before memory is taken: a configuration may promise more than the checkpoint holds.
        string[] absent = [.. parts.Where(part => !source.Has(part.Name + suffix, Shape(part.Rows))).Select(part => part.Name + suffix)];
        if (absent.Length > 0)
        {
            missing.AddRange(absent);
            return zeros(0);
        }

        Tensor storage = empty(Shape(parts.Sum(part => (long)part.Rows)), dtype: network.DType);
        long start = 0;
        foreach ((string name, int count) in parts)
        {
            using Tensor target = storage.narrow(0, start, count);
            source.Fill(name + suffix, target, use);
            start += count;
        }

        return network.Own(storage, [.. parts.Select(part => (part.Name + suffix, (long)part.Rows))]);

        long[] Shape(long count) => columns is { } c ? [count, c] : [count];
    }
}

/// <summary>Where tensors come from: a checkpoint, or a seeded initialisation.</summary>
interface ITensorSource
{
    /// <summary>Whether there is a tensor of that name.</summary>
    /// <exception cref="CheckpointException">It has another shape.</exception>
    bool Has(string name, params long[] shape);

    /// <summary>Fills <paramref name="target"/> with the tensor of that name, which must be there.</summary>
    void Fill(string name, Tensor target, TensorUse use);
}

/// <summary>What a tensor is for, as far as its initialisation cares.</summary>
enum TensorUse { Matrix, ResidualMatrix, Gain, Bias }

/// <summary>Takes tensors from a checkpoint; keeps account of those that nobody asked for.</summary>
sealed class CheckpointSource(Checkpoint checkpoint, Func<string, bool> isBuffer) : ITensorSource
{
    readonly HashSet<string> taken = new(StringComparer.Ordinal);

    public bool Has(string name, params long[] shape)
    {
        if (!checkpoint.Tensors.TryGetValue(name, out TensorEntry? entry))
        {
            return false;
        }

        return entry.Shape.SequenceEqual(shape) ? true : throw new CheckpointException(entry.File, CheckpointProblem.Shape,
            $"has the shape [{string.Join(", ", entry.Shape)}]; by the configuration [{string.Join(", ", shape)}] is expected.", name);
    }

    public void Fill(string name, Tensor target, TensorUse use)
    {
        taken.Add(name);
        checkpoint.ReadInto(name, target);
    }

    public IEnumerable<string> Left => checkpoint.Tensors.Keys.Where(name => !taken.Contains(name) && !isBuffer(name));
}

/// <summary>Draws N(0, deviation²), less for matrices that write to the residual stream; gains 1 (0 where the family adds 1), biases 0.</summary>
sealed class SeededSource(ulong seed, int layers, bool gainsAddOne, double deviation) : ITensorSource, IDisposable
{
    readonly Generator generator = new(seed, CPU);

    public bool Has(string name, params long[] shape) => true;

    public void Fill(string name, Tensor target, TensorUse use)
    {
        switch (use)
        {
            case TensorUse.Gain:
                target.fill_(gainsAddOne ? 0 : 1);
                break;
            case TensorUse.Bias:
                target.zero_();
                break;
            default:
                using (Tensor drawn = randn(target.shape, generator: generator))
                {
                    target.copy_(drawn.mul_(use == TensorUse.ResidualMatrix ? deviation / Math.Sqrt(2.0 * layers) : deviation));
                }

                break;
        }
    }

    public void Dispose() => generator.Dispose();
}
