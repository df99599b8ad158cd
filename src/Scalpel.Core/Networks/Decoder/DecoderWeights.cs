using Scalpel.Checkpoints;
using Scalpel.Networks.Layers;
using TorchSharp;
using static TorchSharp.torch;

namespace Scalpel.Networks;

/// <summary>One expert of a mixture, or a dense MLP: down(act(gate x) ⊙ up x), or down(act(up x)).</summary>
/// <param name="Up">[gate; up] when gated, else up.</param>
/// <param name="Down">Back to the residual stream.</param>
sealed record Mlp(Linear Up, Linear Down);

/// <summary>The weights of one block.</summary>
sealed record DecoderLayer
{
    public Norm? AttentionNorm { get; init; }
    public Norm? MlpNorm { get; init; }
    public Norm? AfterAttentionNorm { get; init; }
    public Norm? AfterMlpNorm { get; init; }
    public Norm? QueryNorm { get; init; }
    public Norm? KeyNorm { get; init; }
    public required Linear QueryKeyValue { get; init; }
    public required Linear Output { get; init; }

    /// <summary>One dense MLP, or the experts.</summary>
    public required IReadOnlyList<Mlp> Mlps { get; init; }

    /// <summary>Router of a mixture, [E, d].</summary>
    public Linear? Router { get; init; }
}

/// <summary>Where tensors come from: a checkpoint, or a seeded initialisation.</summary>
interface ITensorSource
{
    /// <summary>Fills <paramref name="target"/> with the tensor of that name; false when there is none.</summary>
    bool Fill(string name, Tensor target, TensorUse use);
}

/// <summary>What a tensor is for, as far as its initialisation cares.</summary>
enum TensorUse { Matrix, ResidualMatrix, Gain, Bias }

/// <summary>Takes tensors from a checkpoint; keeps account of those that nobody asked for.</summary>
sealed class CheckpointSource(Checkpoint checkpoint) : ITensorSource
{
    readonly HashSet<string> taken = new(StringComparer.Ordinal);

    public bool Fill(string name, Tensor target, TensorUse use)
    {
        if (!checkpoint.Tensors.TryGetValue(name, out TensorEntry? entry))
        {
            return false;
        }

        taken.Add(name);
        using Tensor read = checkpoint.Read(name, target.dtype);
        if (!read.shape.SequenceEqual(target.shape))
        {
            throw new CheckpointException(entry.File, CheckpointProblem.Shape,
                $"has the shape [{string.Join(", ", read.shape)}]; by the configuration [{string.Join(", ", target.shape)}] is expected.", name);
        }

        target.copy_(read);
        return true;
    }

    public IEnumerable<string> Left => checkpoint.Tensors.Keys.Where(name => !taken.Contains(name) && !DecoderNames.IsBuffer(name));
}

/// <summary>Draws N(0, 0.02²), less for matrices that write to the residual stream; gains 1 (0 where the family adds 1), biases 0.</summary>
sealed class SeededSource(ulong seed, int layers, bool gainsAddOne) : ITensorSource, IDisposable
{
    readonly Generator generator = new(seed, CPU);

    public bool Fill(string name, Tensor target, TensorUse use)
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
                    target.copy_(drawn.mul_(use == TensorUse.ResidualMatrix ? 0.02 / Math.Sqrt(2.0 * layers) : 0.02));
                }

                break;
        }

        return true;
    }

    public void Dispose() => generator.Dispose();
}
