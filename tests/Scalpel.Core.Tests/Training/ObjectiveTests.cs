using CsCheck;
using Scalpel.Training;
using TorchSharp;
using static TorchSharp.torch;

namespace Scalpel.Tests.Training;

public sealed class ObjectiveTests
{
    // Answers of one token each: the log-probability of the second of two tokens.
    static (Tensor LogProbs, Tensor Reference, Tensor Mask) OnePair(double chosen, double rejected)
    {
        Tensor logProbs = tensor(new[] { chosen, rejected }, [2, 1]).requires_grad_(true);
        return (logProbs, zeros([2, 1], dtype: ScalarType.Float64), tensor(new[] { 0L, 1, 0, 1 }, [2, 2]));
    }

    static (double Loss, double Chosen, double Rejected) Run(DirectPreferenceLoss loss, double chosen, double rejected, double beta = 0.1, double smoothing = 0)
    {
        using var scope = NewDisposeScope();
        (Tensor logProbs, Tensor reference, Tensor mask) = OnePair(chosen, rejected);
        Objective objective = DirectPreference.Loss(logProbs, reference, mask, new DirectPreferenceOptions { Losses = [(loss, 1)], Beta = beta, LabelSmoothing = smoothing });
        objective.Loss.backward();
        return (objective.Loss.ToDouble(), logProbs.grad![0, 0].ToDouble(), logProbs.grad![1, 0].ToDouble());
    }

    [Theory]
    [InlineData(DirectPreferenceLoss.Sigmoid, 0.69314718056)]
    [InlineData(DirectPreferenceLoss.Hinge, 1)]
    [InlineData(DirectPreferenceLoss.Ipo, 25)]
    [InlineData(DirectPreferenceLoss.SppoHard, 50)]
    public void AtTheReferenceTheLossIsWhatTheFormulaSays(DirectPreferenceLoss loss, double expected) => Run(loss, 0, 0).Loss.ShouldBe(expected, 1e-9);

    [Theory]
    [InlineData(DirectPreferenceLoss.Sigmoid, 0.437488, -0.035434)]
    [InlineData(DirectPreferenceLoss.Hinge, 0.4, -0.1)]
    [InlineData(DirectPreferenceLoss.Ipo, 1, 2)]
    public void AtAMarginOfSixLossAndGradientAreTheKnownOnes(DirectPreferenceLoss loss, double value, double gradient)
    {
        (double got, double chosen, double rejected) = Run(loss, 4, -2);
        got.ShouldBe(value, 1e-6);
        chosen.ShouldBe(gradient, 1e-6);
        (chosen + rejected).ShouldBe(0, 1e-12);
    }

    [Fact]
    public void ConservativeDpoWithHalfTheLabelsWrongHasNoGradientAtZero() => Run(DirectPreferenceLoss.Conservative, 0, 0, smoothing: 0.5).Chosen.ShouldBe(0, 1e-12);

    [Fact]
    public void SwappingAnswersTurnsTheMarginAround() => Gen.Select(Gen.Double[-5, 5], Gen.Double[-5, 5]).Sample((a, b) =>
    {
        double there = Run(DirectPreferenceLoss.Sigmoid, a, b).Loss, back = Run(DirectPreferenceLoss.Sigmoid, b, a).Loss;
        (there - back).ShouldBe(-0.1 * (a - b), 1e-9);
    }, iter: 50);

    [Fact]
    public void TheOddsRatioTermIsThatOfItsPaper()
    {
        using var scope = NewDisposeScope();
        // Vocabulary of two; the answer's token has probability 0.6 and 0.3.
        Tensor logits = tensor(new[] { 0.6, 0.4, 0.5, 0.5, 0.3, 0.7, 0.5, 0.5 }, [2, 2, 2]).log(), ids = zeros([2, 2], dtype: ScalarType.Int64);
        Objective objective = ReferenceFree.OddsRatio(logits, ids, ones_like(ids), tensor(new[] { -100L, 0, -100, 0 }, [2, 2]));
        objective.Metrics["log_odds_ratio"].ShouldBe(-0.251314, 1e-6);
        objective.Metrics["log_odds_chosen"].ShouldBe(Math.Log(3.5), 1e-9);
    }

    [Fact]
    public void KtoAtTheReferenceIsHalfOfEachWeight()
    {
        using var scope = NewDisposeScope();
        (Tensor logProbs, Tensor reference, Tensor mask) = OnePair(0, 0);
        Kto.Loss(logProbs, reference, mask, tensor(new[] { 1L, 0 }), new KtoOptions { DesirableWeight = 2, UndesirableWeight = 1 }, (logProbs, reference, mask))
            .Loss.ToDouble().ShouldBe(0.75, 1e-12);
    }

    [Fact]
    public void AdvantagesOfAGroupAreCentredAndLeaveOneOutIsScaled()
    {
        using var scope = NewDisposeScope();
        Tensor rewards = tensor(new[] { 1.0, 4, 2, 0 }, [4, 1]);
        PolicyGradient.GroupAdvantages(rewards, 4, [1.0]).Advantages.sum().ToDouble().ShouldBe(0, 1e-9);
        Tensor leaveOneOut = PolicyGradient.LeaveOneOutAdvantages(rewards, 4, [1.0]).Advantages;
        (leaveOneOut - (rewards.view(-1) - rewards.mean()) * (4.0 / 3)).abs().max().ToDouble().ShouldBe(0, 1e-12);
    }

    [Fact]
    public void RewardsMayShiftTogetherUnlessTheyAreCentred()
    {
        using var scope = NewDisposeScope();
        Tensor rewards = tensor(new[] { 1.0, 2, 0.5, -1 });
        RewardModelling.Loss(rewards + 3).Loss.ToDouble().ShouldBe(RewardModelling.Loss(rewards).Loss.ToDouble(), 1e-12);
        RewardModelling.Loss(rewards + 3, centring: 0.01).Loss.ToDouble().ShouldBeGreaterThan(RewardModelling.Loss(rewards, centring: 0.01).Loss.ToDouble() + 0.1);
    }

    [Fact]
    public void LossesThatNeedSmoothingSaySo() =>
        Should.Throw<BadInputException>(() => Run(DirectPreferenceLoss.ExoPair, 0, 0)).Message.ShouldContain("label smoothing");

    [Fact]
    public void PackingKeepsEveryTokenOnceAndNoRowGrowsTooLong() => Gen.Int[1, 9].Array[1, 20].Sample(lengths =>
    {
        TokenRow[] rows = [.. lengths.Select((n, i) => new TokenRow([.. Enumerable.Repeat((long)i, n)], [.. Enumerable.Repeat((long)i, n)]))];
        IReadOnlyList<TokenRow> packed = Packing.BestFit(rows, 6, split: true);
        packed.ShouldAllBe(row => row.Ids.Count <= 6 && row.Lengths.Sum() == row.Ids.Count);
        packed.SelectMany(row => row.Ids).Order().ShouldBe(rows.SelectMany(row => row.Ids).Order());
    }, iter: 100);
}
