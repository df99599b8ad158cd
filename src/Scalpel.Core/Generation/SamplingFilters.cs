using System.Numerics.Tensors;

namespace Scalpel.Generation;

/// <summary>
/// The filters of sampling, as functions of one row of logits: what they exclude becomes −∞. They act in the order
/// repetition penalty, temperature, top-k, top-p, min-p.
/// </summary>
public static class SamplingFilters
{
    /// <summary>All that the options ask for, in order; temperature 0 leaves the logits' scale as it is.</summary>
    /// <param name="logits">[V], changed in place.</param>
    /// <param name="ids">Tokens that occurred, for the repetition penalty.</param>
    /// <param name="options">The filters.</param>
    public static void Apply(Span<float> logits, IReadOnlyList<int> ids, GenerationOptions options)
    {
        if (options.RepetitionPenalty != 1)
        {
            RepetitionPenalty(logits, ids, options.RepetitionPenalty);
        }

        if (options.Temperature is not (0 or 1))
        {
            Temperature(logits, options.Temperature);
        }

        if (options.TopK is { } k)
        {
            TopK(logits, k);
        }

        if (options.TopP is { } p)
        {
            TopP(logits, p);
        }

        if (options.MinP is { } least)
        {
            MinP(logits, least);
        }
    }

    /// <summary>Divides the positive and multiplies the negative logits of tokens that occurred, once however often they did.</summary>
    public static void RepetitionPenalty(Span<float> logits, IReadOnlyList<int> ids, double penalty)
    {
        foreach (int id in ids.Distinct())
        {
            if (id < logits.Length)
            {
                logits[id] = logits[id] < 0 ? logits[id] * (float)penalty : logits[id] / (float)penalty;
            }
        }
    }

    /// <summary>Divides the logits.</summary>
    public static void Temperature(Span<float> logits, double temperature) => TensorPrimitives.Divide(logits, (float)temperature, logits);

    /// <summary>Keeps the k largest; those equal to the k-th stay as well.</summary>
    public static void TopK(Span<float> logits, int k)
    {
        if (k >= logits.Length)
        {
            return;
        }

        // The k largest so far, the least of them on top.
        var largest = new PriorityQueue<int, float>(k + 1);
        foreach (float logit in logits)
        {
            if (largest.Count < k)
            {
                largest.Enqueue(0, logit);
            }
            else if (largest.TryPeek(out _, out float least) && logit > least)
            {
                largest.EnqueueDequeue(0, logit);
            }
        }

        largest.TryPeek(out _, out float kth);
        Exclude(logits, kth);
    }

    /// <summary>Keeps the smallest set of most probable tokens whose mass reaches p, at least one.</summary>
    public static void TopP(Span<float> logits, double p)
    {
        if (p >= 1)
        {
            return;
        }

        float[] probability = logits.ToArray();
        Probabilities(probability);
        // From the least probable on, tokens go while their mass is at most 1 − p. Those of at most (1 − p)/V each are
        // among them without sorting, as there are no more than V.
        float surely = (float)((1 - p) / logits.Length);
        double mass = 0;
        var rest = new List<(float Probability, int Token)>();
        for (int i = 0; i < probability.Length; i++)
        {
            if (probability[i] < surely)
            {
                mass += probability[i];
                logits[i] = float.NegativeInfinity;
            }
            else
            {
                rest.Add((probability[i], i));
            }
        }

        rest.Sort();
        for (int i = 0; i < rest.Count - 1; i++)
        {
            mass += rest[i].Probability;
            if (mass > 1 - p)
            {
                break;
            }

            logits[rest[i].Token] = float.NegativeInfinity;
        }
    }

    /// <summary>Keeps tokens at least <paramref name="least"/> times as probable as the most probable one.</summary>
    public static void MinP(Span<float> logits, double least)
    {
        float[] probability = logits.ToArray();
        Probabilities(probability);
        float bound = (float)least * TensorPrimitives.Max<float>(probability);
        for (int i = 0; i < logits.Length; i++)
        {
            if (probability[i] < bound)
            {
                logits[i] = float.NegativeInfinity;
            }
        }
    }

    /// <summary>Turns logits into probabilities, in place: their softmax.</summary>
    public static void Probabilities(Span<float> logits)
    {
        float largest = TensorPrimitives.Max<float>(logits);
        TensorPrimitives.Subtract(logits, largest, logits);
        TensorPrimitives.Exp<float>(logits, logits);
        double sum = 0;
        foreach (float value in logits)
        {
            sum += value;
        }

        TensorPrimitives.Divide(logits, (float)sum, logits);
    }

    static void Exclude(Span<float> logits, float below)
    {
        for (int i = 0; i < logits.Length; i++)
        {
            if (logits[i] < below)
            {
                logits[i] = float.NegativeInfinity;
            }
        }
    }
}
