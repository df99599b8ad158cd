using TorchSharp;
using static TorchSharp.torch;
using static TorchSharp.torch.nn.functional;

namespace Scalpel.Training;

/// <summary>Bradley–Terry: −log σ(r⁺ − r⁻ − margin) + c·mean((r⁺ + r⁻)²).</summary>
public static class RewardModelling
{
    /// <summary>The loss of one batch.</summary>
    /// <param name="rewards">[2B]: all chosen answers, then all rejected ones.</param>
    /// <param name="margin">[B], or null for none.</param>
    /// <param name="centring">c, which keeps rewards near 0. Default 0; 0.01 is usual.</param>
    public static Objective Loss(Tensor rewards, Tensor? margin = null, double centring = 0)
    {
        using var scope = NewDisposeScope();
        (Tensor chosen, Tensor rejected) = DirectPreference.Halves(rewards);
        Tensor difference = chosen - rejected, loss = -logsigmoid(margin is null ? difference : difference - margin).mean();
        if (centring != 0)
        {
            loss = loss + (chosen + rejected).square().mean() * centring;
        }

        return new Objective(loss.MoveToOuterDisposeScope(), new Dictionary<string, double>
        {
            ["accuracy"] = TokenScores.Mean(chosen.gt(rejected).to_type(ScalarType.Float32)),
            ["margin"] = TokenScores.Mean(difference),
            ["mean_reward"] = TokenScores.Mean(rewards),
            ["min_reward"] = rewards.detach().min().ToDouble(),
            ["max_reward"] = rewards.detach().max().ToDouble(),
        });
    }

    /// <summary>Column of the last token of each row that is not padding, [B] int64.</summary>
    /// <param name="attention">[B, T], not 0 = token.</param>
    public static Tensor LastTokens(Tensor attention)
    {
        using var scope = NewDisposeScope();
        Tensor columns = arange(attention.shape[1], dtype: ScalarType.Int64);
        return (columns * attention.ne(0)).argmax(1).MoveToOuterDisposeScope();
    }
}
