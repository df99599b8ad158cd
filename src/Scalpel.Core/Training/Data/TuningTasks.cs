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

/// <summary>The rows of a step, pass by pass: what a mean is taken over, however many passes share the work.</summary>
/// <param name="Step">Which step; −1 outside of training.</param>
/// <param name="Passes">Rows of each pass.</param>
sealed record StepRows(long Step, IReadOnlyList<int[]> Passes)
{
    /// <summary>The rows of all passes, in order.</summary>
    public int[] All => [.. Passes.SelectMany(rows => rows)];

    /// <summary>A sum over all rows, as the mean of the passes: what a pass divides by when its loss counts as one of several.</summary>
    public double Share(Func<int, double> weight) => Math.Max(1, All.Sum(weight)) / Passes.Count;
}

/// <summary>A task whose passes each take some rows of a data set. The passes of a step add up to the one large batch.</summary>
public abstract class RowTask : ITrainingTask
{
    readonly BatchOrder order;
    readonly int rows, batch;
    StepRows? current;

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
        Objective objective = Of(Rows(step, part), part);
        return Parts == 1 ? objective : objective with { Loss = objective.Loss / Parts };
    }

    /// <inheritdoc/>
    public double? Evaluate() => HeldOut?.Mean();

    /// <summary>The rows of a step; the same object for all its passes, so that what they share is computed once.</summary>
    private protected StepRows Rows(long step, int part) =>
        part > 0 && current is { } same && same.Step == step ? same : current = new StepRows(step, [.. Enumerable.Range(0, Parts).Select(i => order.Of(step, i))]);

    /// <summary>The loss of one pass, whose mean over the passes of the step is that of all its rows in one batch.</summary>
    private protected abstract Objective Of(StepRows rows, int part);

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
            sum += Of(new StepRows(-1, [chosen]), 0).Loss.ToDouble() * weight;
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
    public override Objective Loss(long step, int part) => Of(Rows(step, part), part);

    // The mean is over the tokens of the whole step, so the passes add up as they are.
    private protected override Objective Of(StepRows rows, int part)
    {
        using TokenBatch batch = TokenBatch.Padded([.. rows.Passes[part].Select(row => this.rows[row])], 0);
        return Supervised.Loss(model, batch.Ids, batch.Labels, batch.Sequences, batch.Positions, options, Math.Max(1, (long)rows.All.Sum(Weight)));
    }

    private protected override double Weight(int row) => rows[row].Labels.Skip(1).Count(label => label != TokenScores.Ignored);
}

/// <summary>Preference optimisation of a decoder on pairs, by any loss on the two answers.</summary>
public sealed class PreferenceTask : RowTask
{
    readonly Decoder model;
    readonly IReadOnlyList<PreferencePair> pairs;
    readonly PairLoss loss;
    readonly ReferenceScores? reference;
    (StepRows Rows, float[][] LogProbs)? known;

    PreferenceTask(Decoder model, IReadOnlyList<PreferencePair> pairs, int batch, int parts, ulong seed, ReferenceScores? reference, PairLoss loss) : base(pairs.Count, batch, parts, seed) =>
        (this.model, this.pairs, this.reference, this.loss) = (model, pairs, reference, loss);

    /// <summary>The loss of a pass.</summary>
    /// <param name="Of">By its pairs, their logits (null when only log-probabilities are known) and log-probabilities, those of the reference, and what a sum over tokens is divided by.</param>
    /// <param name="Tokens">What a pair counts there.</param>
    /// <param name="Whole">Whether the loss is no sum over pairs, so that it must see all pairs of a step at once.</param>
    sealed record PairLoss(Func<PreferenceBatch, Tensor?, Tensor, Tensor?, double, Objective> Of, Func<PreferencePair, double> Tokens, bool Whole = false);

    /// <summary>DPO and its kin.</summary>
    /// <param name="model">The decoder.</param>
    /// <param name="pairs">What to learn.</param>
    /// <param name="batch">Pairs of a pass.</param>
    /// <param name="parts">Passes of a step.</param>
    /// <param name="seed">Seed of the order.</param>
    /// <param name="reference">Log-probabilities of the answers under the model as it was: of pair i at 2i and 2i + 1.</param>
    /// <param name="options">Which losses.</param>
    /// <param name="weighted">Whether pairs are weighted by how probable the policy makes them (WPO). Default false.</param>
    /// <param name="heldOut">The task on data that is evaluated; null for none.</param>
    public static PreferenceTask Direct(Decoder model, IReadOnlyList<PreferencePair> pairs, int batch, int parts, ulong seed, ReferenceScores reference, DirectPreferenceOptions options, bool weighted = false, RowTask? heldOut = null) =>
        new(model, pairs, batch, parts, seed, reference, new((rows, logits, policy, frozen, tokens) =>
            DirectPreference.Loss(policy, frozen!, rows.Completion, options, weighted ? DirectPreference.PolicyWeights(logits!, policy, rows.Completion) : null, tokens), ChosenTokens,
            options.Losses.Any(part => part.Loss is DirectPreferenceLoss.Aot or DirectPreferenceLoss.AotUnpaired)))
        { HeldOut = heldOut };

    /// <summary>CPO, SimPO or AlphaPO.</summary>
    public static PreferenceTask Contrast(Decoder model, IReadOnlyList<PreferencePair> pairs, int batch, int parts, ulong seed, ContrastiveOptions options, RowTask? heldOut = null) =>
        new(model, pairs, batch, parts, seed, null, new((rows, logits, _, _, tokens) => ReferenceFree.Contrast(logits!, Labels(rows), options, tokens), ChosenTokens)) { HeldOut = heldOut };

    /// <summary>ORPO.</summary>
    public static PreferenceTask OddsRatio(Decoder model, IReadOnlyList<PreferencePair> pairs, int batch, int parts, ulong seed, double beta, RowTask? heldOut = null) =>
        new(model, pairs, batch, parts, seed, null, new((rows, logits, _, _, tokens) => ReferenceFree.OddsRatio(logits!, rows.Ids, rows.Mask, Labels(rows), beta, tokens),
            pair => pair.Prompt.Count + pair.Chosen.Count - 1))
        { HeldOut = heldOut };

    /// <summary>SLiC, with the chosen answer as the target of its cross-entropy.</summary>
    public static PreferenceTask Slic(Decoder model, IReadOnlyList<PreferencePair> pairs, int batch, int parts, ulong seed, double delta, double lambda, RowTask? heldOut = null) =>
        new(model, pairs, batch, parts, seed, null, new((rows, _, policy, _, _) =>
        {
            (Tensor chosen, _) = DirectPreference.Halves(policy);
            (Tensor mask, _) = DirectPreference.Halves(rows.Completion);
            return ReferenceFree.Slic(cat([policy, chosen]), cat([rows.Completion, mask]), delta, lambda);
        }, _ => 1))
        { HeldOut = heldOut };

    private protected override Objective Of(StepRows rows, int part)
    {
        double tokens = rows.Share(i => loss.Tokens(pairs[i]));
        int[] chosen = rows.Passes[part];
        using PreferenceBatch batch = Batch(chosen);
        if (loss.Whole && rows.Passes.Count > 1)
        {
            float[][] others = Known(rows);
            return Whole(rows, part, TokenScores.Shifted(model.Forward(batch.Ids, batch.Mask), batch.Ids), others);
        }

        Tensor logits = model.Forward(batch.Ids, batch.Mask);
        return loss.Of(batch, logits, TokenScores.Shifted(logits, batch.Ids), Frozen(chosen, batch), tokens);
    }

    // All pairs of the step: those of this pass with their graph, the others as constants.
    Objective Whole(StepRows rows, int part, Tensor own, float[][] others)
    {
        int[] all = rows.All;
        using PreferenceBatch batch = Batch(all);
        long width = batch.Ids.shape[1] - 1, before = rows.Passes.Take(part).Sum(pass => pass.Length), count = rows.Passes[part].Length;
        Tensor constants = tensor(others.SelectMany(row => row.Concat(Enumerable.Repeat(0f, (int)width - row.Length))).ToArray(), [others.Length, width]).to_type(own.dtype);
        own = nn.functional.pad(own, [0, width - own.shape[1]]);
        Tensor[] halves = [.. Enumerable.Range(0, 2).Select(half =>
        {
            Tensor constant = constants.narrow(0, half * all.Length, all.Length);
            return cat([constant.narrow(0, 0, before), own.narrow(0, half * count, count), constant.narrow(0, before + count, all.Length - before - count)]);
        })];
        Objective objective = loss.Of(batch, null, cat(halves), Frozen(all, batch), rows.All.Sum(i => loss.Tokens(pairs[i])));
        // Each pass sees the loss of the step, but only its own share of the gradient.
        int passes = rows.Passes.Count;
        return objective with { Loss = objective.Loss * passes - objective.Loss.detach() * (passes - 1) };
    }

    // Log-probabilities of all pairs of the step: the chosen answers, then the rejected ones.
    float[][] Known(StepRows rows)
    {
        if (known is { } same && ReferenceEquals(same.Rows, rows))
        {
            return same.LogProbs;
        }

        using var noGrad = no_grad();
        List<float[]> chosen = [], rejected = [];
        foreach (int[] pass in rows.Passes)
        {
            using var scope = NewDisposeScope();
            using PreferenceBatch batch = Batch(pass);
            float[] all = [.. TokenScores.Shifted(model.Forward(batch.Ids, batch.Mask), batch.Ids).to_type(ScalarType.Float32).contiguous().data<float>()];
            float[][] each = [.. all.Chunk((int)batch.Ids.shape[1] - 1)];
            chosen.AddRange(each[..pass.Length]);
            rejected.AddRange(each[pass.Length..]);
        }

        float[][] logProbs = [.. chosen, .. rejected];
        known = (rows, logProbs);
        return logProbs;
    }

    PreferenceBatch Batch(int[] chosen) => PreferenceBatch.Create([.. chosen.Select(i => pairs[i])], 0);

    Tensor? Frozen(int[] chosen, PreferenceBatch batch) => reference?.Of([.. chosen.Select(i => 2 * i), .. chosen.Select(i => 2 * i + 1)], batch);

    // Nothing stands before the first token of an answer without a prompt.
    static double ChosenTokens(PreferencePair pair) => pair.Chosen.Count - (pair.Prompt.Count == 0 ? 1 : 0);

    static Tensor Labels(PreferenceBatch rows) => where(rows.Completion.ne(0), rows.Ids, full_like(rows.Ids, TokenScores.Ignored));
}
