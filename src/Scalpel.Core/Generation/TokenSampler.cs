using System.Numerics.Tensors;

namespace Scalpel.Generation;

/// <summary>Chooses one row's tokens: processors, filters, then the most probable token or a draw from the row's own random stream.</summary>
sealed class TokenSampler(GenerationOptions options, int row, IReadOnlyList<int> prompt)
{
    readonly List<int> ids = [.. prompt];
    readonly bool plain = options.Greedy && options.RepetitionPenalty == 1 && options.Processors.Count == 0;
    float[] changed = [];
    // SplitMix64, started far apart for each row.
    ulong state = Mix(options.Seed + Mix((ulong)row + 1));

    /// <summary>Chooses the next token and counts it as said.</summary>
    /// <param name="logits">[V], as the model gave them.</param>
    public int Next(ReadOnlySpan<float> logits)
    {
        int id = plain ? TensorPrimitives.IndexOfMax(logits) : Chosen(logits);
        if (!float.IsFinite(logits[id]))
        {
            throw new BadInputException($"The model's logits hold {logits[id]} where generated token {ids.Count - prompt.Count + 1} is chosen; its weights or an edit are not finite.");
        }

        ids.Add(id);
        return id;
    }

    int Chosen(ReadOnlySpan<float> logits)
    {
        if (changed.Length != logits.Length)
        {
            changed = new float[logits.Length];
        }

        logits.CopyTo(changed);
        var context = new LogitsContext(row, ids.Count - prompt.Count, prompt.Count, ids);
        foreach (ILogitsProcessor processor in options.Processors)
        {
            processor.Process(context, changed);
        }

        SamplingFilters.Apply(changed, ids, options);
        int best = TensorPrimitives.IndexOfMax<float>(changed);
        if (options.Greedy || !float.IsFinite(changed[best]))
        {
            return changed[best] == float.NegativeInfinity ? throw new BadInputException("A logits processor forbids every token; at least one must be left.") : best;
        }

        SamplingFilters.Probabilities(changed);
        double left = Uniform();
        for (int i = 0; i < changed.Length; i++)
        {
            left -= changed[i];
            if (left < 0)
            {
                return i;
            }
        }

        // The sum of the probabilities was a few last bits below the draw.
        return best;
    }

    double Uniform()
    {
        state += 0x9e3779b97f4a7c15;
        return (Mix(state) >> 11) * (1.0 / (1UL << 53));
    }

    static ulong Mix(ulong z)
    {
        z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
        z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
        return z ^ (z >> 31);
    }
}
