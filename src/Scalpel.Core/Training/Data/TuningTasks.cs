using Scalpel.Networks;
using TorchSharp;
using static TorchSharp.torch;

namespace Scalpel.Training;

/// <summary>Which rows a pass sees: every epoch all of them, in an order that depends on the seed and the epoch alone.</summary>
sealed class BatchOrder(int rows, int batch, int parts, ulong seed)
{
    (long Epoch, int[] Order) current = (-1, []);

    public int[] Of(long step, int part)
    {
        long first = (step * parts + part) * batch;
        return [.. Enumerable.Range(0, batch).Select(i => At(first + i))];
    }

    int At(long index)
    {
        long epoch = index / rows;
        if (current.Epoch != epoch)
        {
            int[] order = [.. Enumerable.Range(0, rows)];
            new Random(unchecked((int)(seed * 0x9E3779B97F4A7C15 >> 33) + (int)epoch)).Shuffle(order);
            current = (epoch, order);
        }

        return current.Order[index % rows];
    }
}

/// <summary>Supervised fine-tuning of a decoder on rows of tokens.</summary>
public sealed class SupervisedTask : ITrainingTask
{
    readonly Decoder model;
    readonly IReadOnlyList<TokenRow> rows;
    readonly BatchOrder order;
    readonly int parts;
    readonly SupervisedOptions options;

    /// <summary>A task.</summary>
    /// <param name="model">The decoder.</param>
    /// <param name="rows">What to learn.</param>
    /// <param name="batch">Rows of a pass.</param>
    /// <param name="parts">Passes of a step.</param>
    /// <param name="seed">Seed of the order.</param>
    /// <param name="options">Smoothing and weighting.</param>
    public SupervisedTask(Decoder model, IReadOnlyList<TokenRow> rows, int batch, int parts, ulong seed, SupervisedOptions? options = null)
    {
        (this.model, this.rows, this.parts, this.options) = (model, rows, parts, options ?? new());
        order = new BatchOrder(rows.Count, batch, parts, seed);
    }

    /// <inheritdoc/>
    public Objective Loss(long step, int part)
    {
        // The mean is over the tokens of the whole step.
        long items = Enumerable.Range(0, parts).Sum(i => order.Of(step, i).Sum(row => (long)rows[row].Labels.Skip(1).Count(label => label != TokenScores.Ignored)));
        using TokenBatch batch = TokenBatch.Padded([.. order.Of(step, part).Select(row => rows[row])], 0);
        return Supervised.Loss(model.Forward(batch.Ids, batch.Sequences, batch.Positions), batch.Labels, options, Math.Max(1, items));
    }
}

/// <summary>Preference optimisation of a decoder on pairs; the reference's log-probabilities are taken before the first step.</summary>
public sealed class PreferenceTask : ITrainingTask
{
    readonly Decoder model;
    readonly IReadOnlyList<PreferencePair> pairs;
    readonly BatchOrder order;
    readonly int parts;
    readonly Func<PreferenceBatch, Tensor, Tensor?, Objective> loss;
    readonly float[][][]? reference;

    PreferenceTask(Decoder model, IReadOnlyList<PreferencePair> pairs, int batch, int parts, ulong seed, RunContext run, bool needsReference, Func<PreferenceBatch, Tensor, Tensor?, Objective> loss)
    {
        (this.model, this.pairs, this.parts, this.loss) = (model, pairs, parts, loss);
        order = new BatchOrder(pairs.Count, batch, parts, seed);
        if (needsReference)
        {
            reference = new float[pairs.Count][][];
            for (int i = 0; i < pairs.Count; i++)
            {
                run.Report("reference", i, pairs.Count);
                using var scope = NewDisposeScope();
                using var noGrad = no_grad();
                PreferenceBatch one = PreferenceBatch.Create([pairs[i]], 0);
                Tensor logProbs = TokenScores.Shifted(model.Forward(one.Ids, one.Mask), one.Ids).to_type(ScalarType.Float32);
                reference[i] = [logProbs[0].contiguous().data<float>().ToArray(), logProbs[1].contiguous().data<float>().ToArray()];
            }
        }
    }

    /// <summary>DPO and its kin, by TRL's name: sigmoid, ipo, hinge, robust, …</summary>
    public static PreferenceTask Direct(Decoder model, IReadOnlyList<PreferencePair> pairs, int batch, int parts, ulong seed, RunContext run, DirectPreferenceOptions options) =>
        new(model, pairs, batch, parts, seed, run, true, (rows, logits, reference) => DirectPreference.Loss(TokenScores.Shifted(logits, rows.Ids), reference!, rows.Completion, options));

    /// <summary>CPO, SimPO or AlphaPO.</summary>
    public static PreferenceTask Contrast(Decoder model, IReadOnlyList<PreferencePair> pairs, int batch, int parts, ulong seed, RunContext run, ContrastiveOptions options) =>
        new(model, pairs, batch, parts, seed, run, false, (rows, logits, _) => ReferenceFree.Contrast(logits, Labels(rows), options));

    /// <summary>ORPO.</summary>
    public static PreferenceTask OddsRatio(Decoder model, IReadOnlyList<PreferencePair> pairs, int batch, int parts, ulong seed, RunContext run, double beta) =>
        new(model, pairs, batch, parts, seed, run, false, (rows, logits, _) => ReferenceFree.OddsRatio(logits, rows.Ids, rows.Mask, Labels(rows), beta));

    /// <inheritdoc/>
    public Objective Loss(long step, int part)
    {
        int[] chosen = order.Of(step, part);
        using PreferenceBatch batch = PreferenceBatch.Create([.. chosen.Select(i => pairs[i])], 0);
        Objective objective = loss(batch, model.Forward(batch.Ids, batch.Mask), reference is null ? null : Reference(chosen, batch.Ids.shape[1] - 1));
        return objective with { Loss = objective.Loss / parts };
    }

    Tensor Reference(int[] chosen, long width)
    {
        float[] values = new float[2 * chosen.Length * width];
        for (int side = 0; side < 2; side++)
        {
            for (int i = 0; i < chosen.Length; i++)
            {
                float[] row = reference![chosen[i]][side];
                row.AsSpan(0, (int)Math.Min(row.Length, width)).CopyTo(values.AsSpan((int)((side * chosen.Length + i) * width)));
            }
        }

        return tensor(values, [2 * chosen.Length, width]);
    }

    static Tensor Labels(PreferenceBatch rows) => where(rows.Completion.ne(0), rows.Ids, full_like(rows.Ids, TokenScores.Ignored));
}
