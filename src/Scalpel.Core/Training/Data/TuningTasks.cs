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

/// <summary>A task whose passes each take some rows of a data set.</summary>
public abstract class RowTask : ITrainingTask
{
    readonly BatchOrder order;
    readonly int rows, batch;

    /// <summary>A task.</summary>
    /// <param name="rows">Rows of the data.</param>
    /// <param name="batch">Rows of a pass.</param>
    /// <param name="parts">Passes of a step.</param>
    /// <param name="seed">Seed of the order.</param>
    private protected RowTask(int rows, int batch, int parts, ulong seed)
    {
        (this.rows, this.batch, Parts) = (rows, batch, parts);
        order = new BatchOrder(rows, batch, parts, seed);
    }

    /// <summary>The same task on data that is not learned; its loss is evaluated. Null for none.</summary>
    public RowTask? HeldOut { get; init; }

    /// <summary>Passes of a step.</summary>
    private protected int Parts { get; }

    /// <inheritdoc/>
    public virtual Objective Loss(long step, int part)
    {
        Objective objective = Of(order.Of(step, part));
        return Parts == 1 ? objective : objective with { Loss = objective.Loss / Parts };
    }

    /// <inheritdoc/>
    public double? Evaluate() => HeldOut?.Mean();

    /// <summary>The rows of a pass.</summary>
    private protected int[] Rows(long step, int part) => order.Of(step, part);

    /// <summary>The mean loss of some rows.</summary>
    private protected abstract Objective Of(int[] chosen);

    /// <summary>What a row counts in the mean over all of them: 1, or its labelled tokens.</summary>
    private protected virtual double Weight(int row) => 1;

    double Mean()
    {
        using var noGrad = no_grad();
        double sum = 0, total = 0;
        foreach (int[] chosen in Enumerable.Range(0, rows).Chunk(batch))
        {
            using var scope = NewDisposeScope();
            double weight = chosen.Sum(Weight);
            sum += Of(chosen).Loss.ToDouble() * weight;
            total += weight;
        }

        return sum / total;
    }
}

/// <summary>Supervised fine-tuning of a decoder on rows of tokens.</summary>
public sealed class SupervisedTask : RowTask
{
    readonly Decoder model;
    readonly IReadOnlyList<TokenRow> rows;
    readonly SupervisedOptions options;

    /// <summary>A task.</summary>
    /// <param name="model">The decoder.</param>
    /// <param name="rows">What to learn.</param>
    /// <param name="batch">Rows of a pass.</param>
    /// <param name="parts">Passes of a step.</param>
    /// <param name="seed">Seed of the order.</param>
    /// <param name="options">Smoothing and weighting.</param>
    public SupervisedTask(Decoder model, IReadOnlyList<TokenRow> rows, int batch, int parts, ulong seed, SupervisedOptions? options = null) : base(rows.Count, batch, parts, seed) =>
        (this.model, this.rows, this.options) = (model, rows, options ?? new());

    /// <inheritdoc/>
    public override Objective Loss(long step, int part)
    {
        // The mean is over the tokens of the whole step.
        double items = Enumerable.Range(0, Parts).Sum(i => Rows(step, i).Sum(Weight));
        return Of(Rows(step, part), (long)items);
    }

    private protected override Objective Of(int[] chosen) => Of(chosen, (long)chosen.Sum(Weight));

    private protected override double Weight(int row) => rows[row].Labels.Skip(1).Count(label => label != TokenScores.Ignored);

    Objective Of(int[] chosen, long items)
    {
        using TokenBatch batch = TokenBatch.Padded([.. chosen.Select(row => rows[row])], 0);
        return Supervised.Loss(model, batch.Ids, batch.Labels, batch.Sequences, batch.Positions, options, Math.Max(1, items));
    }
}

/// <summary>Preference optimisation of a decoder on pairs, by any loss on the two answers.</summary>
public sealed class PreferenceTask : RowTask
{
    readonly Decoder model;
    readonly IReadOnlyList<PreferencePair> pairs;
    readonly Func<PreferenceBatch, Tensor, Tensor?, Objective> loss;
    readonly ReferenceScores? reference;

    PreferenceTask(Decoder model, IReadOnlyList<PreferencePair> pairs, int batch, int parts, ulong seed, ReferenceScores? reference, Func<PreferenceBatch, Tensor, Tensor?, Objective> loss) : base(pairs.Count, batch, parts, seed) =>
        (this.model, this.pairs, this.reference, this.loss) = (model, pairs, reference, loss);

    /// <summary>DPO and its kin.</summary>
    /// <param name="model">The decoder.</param>
    /// <param name="pairs">What to learn.</param>
    /// <param name="batch">Pairs of a pass.</param>
    /// <param name="parts">Passes of a step.</param>
    /// <param name="seed">Seed of the order.</param>
    /// <param name="reference">Log-probabilities of the answers under the model as it was: of pair i at 2i and 2i + 1.</param>
    /// <param name="options">Which losses.</param>
    /// <param name="weighted">Whether pairs are weighted by how probable the policy makes them (WPO). Default false.</param>
    public static PreferenceTask Direct(Decoder model, IReadOnlyList<PreferencePair> pairs, int batch, int parts, ulong seed, ReferenceScores reference, DirectPreferenceOptions options, bool weighted = false, RowTask? heldOut = null) =>
        new(model, pairs, batch, parts, seed, reference, (rows, logits, frozen) =>
        {
            Tensor policy = TokenScores.Shifted(logits, rows.Ids);
            return DirectPreference.Loss(policy, frozen!, rows.Completion, options, weighted ? DirectPreference.PolicyWeights(logits, policy, rows.Completion) : null);
        })
        { HeldOut = heldOut };

    /// <summary>CPO, SimPO or AlphaPO.</summary>
    public static PreferenceTask Contrast(Decoder model, IReadOnlyList<PreferencePair> pairs, int batch, int parts, ulong seed, ContrastiveOptions options, RowTask? heldOut = null) =>
        new(model, pairs, batch, parts, seed, null, (rows, logits, _) => ReferenceFree.Contrast(logits, Labels(rows), options)) { HeldOut = heldOut };

    /// <summary>ORPO.</summary>
    public static PreferenceTask OddsRatio(Decoder model, IReadOnlyList<PreferencePair> pairs, int batch, int parts, ulong seed, double beta, RowTask? heldOut = null) =>
        new(model, pairs, batch, parts, seed, null, (rows, logits, _) => ReferenceFree.OddsRatio(logits, rows.Ids, rows.Mask, Labels(rows), beta)) { HeldOut = heldOut };

    /// <summary>SLiC, with the chosen answer as the target of its cross-entropy.</summary>
    public static PreferenceTask Slic(Decoder model, IReadOnlyList<PreferencePair> pairs, int batch, int parts, ulong seed, double delta, double lambda, RowTask? heldOut = null) =>
        new(model, pairs, batch, parts, seed, null, (rows, logits, _) =>
        {
            Tensor policy = TokenScores.Shifted(logits, rows.Ids);
            (Tensor chosen, _) = DirectPreference.Halves(policy);
            (Tensor mask, _) = DirectPreference.Halves(rows.Completion);
            return ReferenceFree.Slic(cat([policy, chosen]), cat([rows.Completion, mask]), delta, lambda);
        })
        { HeldOut = heldOut };

    private protected override Objective Of(int[] chosen)
    {
        using PreferenceBatch batch = PreferenceBatch.Create([.. chosen.Select(i => pairs[i])], 0);
        Tensor? frozen = reference?.Of([.. chosen.Select(i => 2 * i), .. chosen.Select(i => 2 * i + 1)], batch);
        return loss(batch, model.Forward(batch.Ids, batch.Mask), frozen);
    }

    static Tensor Labels(PreferenceBatch rows) => where(rows.Completion.ne(0), rows.Ids, full_like(rows.Ids, TokenScores.Ignored));
}
