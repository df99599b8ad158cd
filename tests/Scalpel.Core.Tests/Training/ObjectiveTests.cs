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
    public void GammaWeightsAreOneAtTheSamplingPolicyAndFallAwayFromIt()
    {
        using var scope = NewDisposeScope();
        Tensor mask = ones(2, 3), advantages = tensor([1f, -2f]);
        float[] Gradient(Tensor old, GroupPolicyOptions options)
        {
            Tensor policy = full([2, 3], -1.0).requires_grad_(true);
            PolicyGradient.GroupRelative(policy, mask, advantages, options, old).Loss.backward();
            return [.. policy.grad!.data<float>()];
        }

        var vespo = new GroupPolicyOptions { Loss = GroupPolicyLoss.Vespo };
        Gradient(full([2, 3], -1.0), vespo).ShouldBe([-1 / 6f, -1 / 6f, -1 / 6f, 2 / 6f, 2 / 6f, 2 / 6f], 1e-6f);
        // w = e^0.3: w² e^(3 − 3w) and w³ e^(2 − 2w).
        double w = Math.Exp(0.3), better = w * w * Math.Exp(3 - 3 * w), worse = w * w * w * Math.Exp(2 - 2 * w);
        float[] away = Gradient(full([2, 3], -1.1), vespo);
        away[0].ShouldBe((float)(-better / 6), 1e-5f);
        away[3].ShouldBe((float)(2 * worse / 6), 1e-5f);
        // Log-ratios of 0.2 a token from the sampling policy down to this one: only the better answer stays.
        Gradient(full([2, 3], -0.8), new GroupPolicyOptions { OffPolicyThreshold = 0.1 })[3..].ShouldAllBe(g => g == 0);
        Gradient(full([2, 3], -0.8), new GroupPolicyOptions { OffPolicyThreshold = 0.1 })[0].ShouldNotBe(0);
        Gradient(full([2, 3], -0.8), new GroupPolicyOptions { OffPolicyThreshold = 0.3, EpsilonLow = 0.5 })[3].ShouldNotBe(0);
    }

    [Fact]
    public void AnAnswerThatIsAloneInItsGroupHasNeitherAdvantageNorSpread()
    {
        using var scope = NewDisposeScope();
        (Tensor advantages, Tensor spread) = PolicyGradient.GroupAdvantages(tensor([1f, 5f], [2, 1]), 1, [1.0]);
        advantages.data<float>().ToArray().ShouldBe([0, 0]);
        spread.data<float>().ToArray().ShouldBe([0, 0]);
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
