using Scalpel.Networks;
using TorchSharp;
using static TorchSharp.torch;

namespace Scalpel.Training;

/// <summary>
/// KTO: answers that are good or bad, each by itself. The reference point comes from each prompt with the answer of the record
/// before it in the file, so that it does not depend on batches.
/// </summary>
public sealed class JudgedTask : RowTask
{
    readonly Decoder model;
    readonly IReadOnlyList<AnswerSet> answers;
    readonly ReferenceScores reference;
    readonly KtoOptions options;

    /// <summary>A task.</summary>
    /// <param name="model">The decoder.</param>
    /// <param name="answers">Single answers with their judgement.</param>
    /// <param name="batch">Answers of a pass.</param>
    /// <param name="parts">Passes of a step.</param>
    /// <param name="seed">Seed of the order.</param>
    /// <param name="reference">Log-probabilities of the rows of <see cref="Rows(IReadOnlyList{AnswerSet})"/> under the model as it was.</param>
    /// <param name="options">Weights.</param>
    public JudgedTask(Decoder model, IReadOnlyList<AnswerSet> answers, int batch, int parts, ulong seed, ReferenceScores reference, KtoOptions options) : base(answers.Count, batch, parts, seed) =>
        (this.model, this.answers, this.reference, this.options) = (model, answers, reference, options);

    /// <summary>What the reference scores: the answers, then each prompt with the answer of the record before it.</summary>
    public static IReadOnlyList<(IReadOnlyList<long> Prompt, IReadOnlyList<long> Answer)> Rows(IReadOnlyList<AnswerSet> answers) =>
        new AnswerRows(2 * answers.Count, i => i < answers.Count ? (answers[i].Prompt, answers[i].Answers[0]) : Mismatched(answers, i - answers.Count));

    /// <summary>Pairs as single answers: the chosen ones good, the rejected ones bad.</summary>
    public static IReadOnlyList<AnswerSet> Unpaired(IReadOnlyList<PreferencePair> pairs) =>
        [.. pairs.SelectMany(pair => (AnswerSet[])[new(pair.Prompt, [pair.Chosen], [1]), new(pair.Prompt, [pair.Rejected], [0])])];

    private protected override Objective Of(int[] chosen)
    {
        using PreferenceBatch own = PreferenceBatch.Of([.. chosen.Select(i => (answers[i].Prompt, answers[i].Answers[0]))], 0);
        using PreferenceBatch other = PreferenceBatch.Of([.. chosen.Select(i => Mismatched(answers, i))], 0);
        Tensor good = tensor(chosen.Select(i => (float)answers[i].Scores![0]).ToArray());
        Tensor logProbs = TokenScores.Shifted(model.Forward(own.Ids, own.Mask), own.Ids);
        if (options.AgainstZero)
        {
            return Kto.Loss(logProbs, reference.Of(chosen, own), own.Completion, good, options);
        }

        Tensor mismatched;
        using (no_grad())
        {
            mismatched = TokenScores.Shifted(model.Forward(other.Ids, other.Mask), other.Ids);
        }

        return Kto.Loss(logProbs, reference.Of(chosen, own), own.Completion, good, options, (mismatched, reference.Of([.. chosen.Select(i => i + answers.Count)], other), other.Completion));
    }

    static (IReadOnlyList<long> Prompt, IReadOnlyList<long> Answer) Mismatched(IReadOnlyList<AnswerSet> answers, int i) => (answers[i].Prompt, answers[(i + answers.Count - 1) % answers.Count].Answers[0]);
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

    private protected override Objective Of(int[] chosen)
    {
        AnswerSet[] sets = [.. chosen.Select(i => answers[i])];
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

    private protected override Objective Of(int[] chosen)
    {
        using PreferenceBatch batch = PreferenceBatch.Create([.. chosen.Select(i => pairs[i])], model.Padding);
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
