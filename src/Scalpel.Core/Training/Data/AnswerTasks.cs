using Scalpel.Networks;
using TorchSharp;
using static TorchSharp.torch;

namespace Scalpel.Training;

/// <summary>
/// KTO: answers that are good or bad, each by itself. The reference point comes from each prompt of a step with the answer
/// of the row before it in the same step, the first with that of the last, as in TRL.
/// </summary>
public sealed class JudgedTask : RowTask
{
    readonly Decoder model;
    readonly IReadOnlyList<AnswerSet> answers;
    readonly ReferenceScores reference;
    readonly KtoOptions options;
    readonly Func<IDisposable>? asBefore;
    (StepRows Rows, double Value)? point;

    /// <summary>A task.</summary>
    /// <param name="model">The decoder.</param>
    /// <param name="answers">Single answers with their judgement.</param>
    /// <param name="batch">Answers of a pass.</param>
    /// <param name="parts">Passes of a step.</param>
    /// <param name="seed">Seed of the order.</param>
    /// <param name="reference">Log-probabilities of the rows of <see cref="Rows(IReadOnlyList{AnswerSet})"/> under the model as it was.</param>
    /// <param name="options">Weights.</param>
    /// <param name="asBefore">Brings the model into the state before training until the result is disposed; not needed against 0.</param>
    /// <exception cref="BadInputException">A step has a single answer, which has no other to be compared with.</exception>
    public JudgedTask(Decoder model, IReadOnlyList<AnswerSet> answers, int batch, int parts, ulong seed, ReferenceScores reference, KtoOptions options, Func<IDisposable>? asBefore = null) : base(answers.Count, batch, parts, seed)
    {
        if (!options.AgainstZero && batch * parts < 2)
        {
            throw new BadInputException("KTO compares each prompt of a step with the answer to another, and the step has one; take batches of at least 2, accumulate, or use the loss apo_zero_unpaired.");
        }

        (this.model, this.answers, this.reference, this.options, this.asBefore) = (model, answers, reference, options, asBefore);
    }

    /// <summary>What the reference scores: the answers.</summary>
    public static IReadOnlyList<(IReadOnlyList<long> Prompt, IReadOnlyList<long> Answer)> Rows(IReadOnlyList<AnswerSet> answers) =>
        new AnswerRows(answers.Count, i => (answers[i].Prompt, answers[i].Answers[0]));

    /// <summary>Pairs as single answers: the chosen ones good, the rejected ones bad.</summary>
    public static IReadOnlyList<AnswerSet> Unpaired(IReadOnlyList<PreferencePair> pairs) =>
        [.. pairs.SelectMany(pair => (AnswerSet[])[new(pair.Prompt, [pair.Chosen], [1]), new(pair.Prompt, [pair.Rejected], [0])])];

    private protected override Objective Of(StepRows rows, int part)
    {
        double z = options.AgainstZero ? 0 : ReferencePoint(rows);
        int[] chosen = rows.Passes[part];
        using PreferenceBatch own = PreferenceBatch.Of([.. chosen.Select(i => (answers[i].Prompt, answers[i].Answers[0]))], 0);
        Tensor good = tensor(chosen.Select(i => (float)answers[i].Scores![0]).ToArray());
        return Kto.Loss(TokenScores.Shifted(model.Forward(own.Ids, own.Mask), own.Ids), reference.Of(chosen, own), own.Completion, good, options, z);
    }

    // The mean over all rows of the step.
    double ReferencePoint(StepRows rows)
    {
        if (point is { } same && ReferenceEquals(same.Rows, rows))
        {
            return same.Value;
        }

        int[] all = rows.All;
        // The last rows of an evaluation may be one alone; its neighbour in the data takes part then.
        int Other(int at) => all.Length > 1 ? all[(at + all.Length - 1) % all.Length] : (all[0] + answers.Count - 1) % answers.Count;
        List<double> ratios = [];
        int first = 0;
        foreach (int[] pass in rows.Passes)
        {
            using var scope = NewDisposeScope();
            using var noGrad = no_grad();
            using PreferenceBatch other = PreferenceBatch.Of([.. pass.Select((row, i) => (answers[row].Prompt, answers[Other(first + i)].Answers[0]))], 0);
            Tensor policy = TokenScores.Shifted(model.Forward(other.Ids, other.Mask), other.Ids), frozen;
            using (asBefore!())
            {
                frozen = TokenScores.Shifted(model.Forward(other.Ids, other.Mask), other.Ids);
            }

            ratios.AddRange(Kto.Ratios(policy, frozen, other.Completion));
            first += pass.Length;
        }

        double z = Math.Max(0, ratios.Average());
        point = (rows, z);
        return z;
    }
}

/// <summary>RRHF: better answers of a prompt are to be more probable per token than worse ones, and the best is learned.</summary>
public sealed class RankingTask : RowTask
{
    readonly Decoder model;
    readonly IReadOnlyList<AnswerSet> answers;

    /// <summary>A task.</summary>
    /// <param name="model">The decoder.</param>
    /// <param name="answers">Answers with scores.</param>
    /// <param name="batch">Prompts of a pass.</param>
    /// <param name="parts">Passes of a step.</param>
    /// <param name="seed">Seed of the order.</param>
    public RankingTask(Decoder model, IReadOnlyList<AnswerSet> answers, int batch, int parts, ulong seed) : base(answers.Count, batch, parts, seed) => (this.model, this.answers) = (model, answers);

    private protected override Objective Of(StepRows rows, int part)
    {
        AnswerSet[] sets = [.. rows.Passes[part].Select(i => answers[i])];
        using PreferenceBatch batch = PreferenceBatch.Of([.. sets.SelectMany(set => set.Answers.Select(answer => (set.Prompt, answer)))], 0);
        Tensor logProbs = TokenScores.Shifted(model.Forward(batch.Ids, batch.Mask), batch.Ids), loss = zeros([], dtype: logProbs.dtype);
        var metrics = new Dictionary<string, double>();
        int at = 0;
        foreach (AnswerSet set in sets)
        {
            int count = set.Answers.Count;
            Objective one = ReferenceFree.RankResponses(logProbs.narrow(0, at, count), batch.Completion.narrow(0, at, count), tensor(set.Scores!.Select(score => (float)score).ToArray()), count);
            loss = loss + one.Loss / sets.Length;
            foreach ((string name, double value) in one.Metrics)
            {
                metrics[name] = metrics.GetValueOrDefault(name) + value / sets.Length;
            }

            at += count;
        }

        return new Objective(loss, metrics);
    }
}

/// <summary>Reward modelling: the chosen answer is to score higher than the rejected one.</summary>
public sealed class RewardTask : RowTask
{
    readonly RewardModel model;
    readonly IReadOnlyList<PreferencePair> pairs;
    readonly double centring;

    /// <summary>A task.</summary>
    /// <param name="model">What scores.</param>
    /// <param name="pairs">What to learn.</param>
    /// <param name="batch">Pairs of a pass.</param>
    /// <param name="parts">Passes of a step.</param>
    /// <param name="seed">Seed of the order.</param>
    /// <param name="centring">Weight of the squared sum of both scores, which keeps them near 0. Default 0.</param>
    public RewardTask(RewardModel model, IReadOnlyList<PreferencePair> pairs, int batch, int parts, ulong seed, double centring = 0) : base(pairs.Count, batch, parts, seed) =>
        (this.model, this.pairs, this.centring) = (model, pairs, centring);

    private protected override Objective Of(StepRows rows, int part)
    {
        using PreferenceBatch batch = PreferenceBatch.Create([.. rows.Passes[part].Select(i => pairs[i])], model.Padding);
        return RewardModelling.Loss(model.Scores(batch.Ids, batch.Mask), centring: centring);
    }
}

/// <summary>Prompts with answers that are put together when they are asked for.</summary>
sealed class AnswerRows(int count, Func<int, (IReadOnlyList<long> Prompt, IReadOnlyList<long> Answer)> at) : IReadOnlyList<(IReadOnlyList<long> Prompt, IReadOnlyList<long> Answer)>
{
    public int Count => count;

    public (IReadOnlyList<long> Prompt, IReadOnlyList<long> Answer) this[int index] => at(index);

    public IEnumerator<(IReadOnlyList<long> Prompt, IReadOnlyList<long> Answer)> GetEnumerator() => Enumerable.Range(0, count).Select(at).GetEnumerator();

    System.Collections.IEnumerator System.Collections.IEnumerable.GetEnumerator() => GetEnumerator();
}
