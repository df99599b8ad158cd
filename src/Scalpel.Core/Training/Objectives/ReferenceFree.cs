using TorchSharp;
using static TorchSharp.torch;
using static TorchSharp.torch.nn.functional;

namespace Scalpel.Training;

/// <summary>The losses on pairs without a reference model.</summary>
public enum ContrastiveLoss
{
    /// <summary>CPO: −log σ(βΔ) of summed log-probabilities.</summary>
    Sigmoid,

    /// <summary>max(0, 1 − βΔ).</summary>
    Hinge,

    /// <summary>(Δ − 1/(2β))² of mean log-probabilities.</summary>
    Ipo,

    /// <summary>SimPO: −log σ(βΔ − γ) of mean log-probabilities.</summary>
    Simpo,
}

/// <summary>Options of <see cref="ReferenceFree.Contrast"/>.</summary>
public sealed record ContrastiveOptions
{
    /// <summary>Which loss. Default CPO's sigmoid.</summary>
    public ContrastiveLoss Loss { get; init; }

    /// <summary>Inverse temperature. Default 0.1; SimPO's paper uses 2 to 2.5.</summary>
    public double Beta { get; init; } = 0.1;

    /// <summary>Target margin of SimPO. Default 0.5.</summary>
    public double Gamma { get; init; } = 0.5;

    /// <summary>Share of pairs that are taken as mislabelled. Default 0.</summary>
    public double LabelSmoothing { get; init; }

    /// <summary>Weight of the chosen answers' cross-entropy. Default 1; 0 for SimPO.</summary>
    public double NllWeight { get; init; } = 1;

    /// <summary>AlphaPO's shape of the reward, (1 − p^−α)/α; 0 for log p. Default 0.</summary>
    public double Alpha { get; init; }
}

/// <summary>Preference losses that need no reference model: CPO, SimPO, AlphaPO, ORPO, SLiC, RRHF.</summary>
public static class ReferenceFree
{
    /// <summary>CPO, SimPO or AlphaPO; rows are all chosen answers, then all rejected ones.</summary>
    /// <param name="logits">[2B, T, vocabulary].</param>
    /// <param name="labels">[2B, T], −100 on prompt and padding.</param>
    /// <param name="options">Which loss.</param>
    /// <param name="items">What the sum over the chosen answers' tokens is divided by; by default their number in this batch. In an accumulation window the mean of its batches.</param>
    public static Objective Contrast(Tensor logits, Tensor labels, ContrastiveOptions? options = null, double? items = null)
    {
        options ??= new();
        using var scope = NewDisposeScope();
        Tensor logProbs = Supervised.LogProbs(logits, labels), mask = labels[.., 1..].ne(TokenScores.Ignored);
        Tensor sums = logProbs.sum(1), scores = options.Loss is ContrastiveLoss.Ipo or ContrastiveLoss.Simpo ? sums / mask.sum(1) : sums;
        (Tensor chosen, Tensor rejected) = DirectPreference.Halves(scores);
        (Tensor chosenReward, Tensor rejectedReward) = (Reward(chosen, options.Alpha), Reward(rejected, options.Alpha));
        Tensor delta = chosenReward - rejectedReward;
        double beta = options.Beta;
        Tensor each = options.Loss switch
        {
            ContrastiveLoss.Sigmoid => DirectPreference.Smoothed(delta * beta, options.LabelSmoothing),
            ContrastiveLoss.Simpo => DirectPreference.Smoothed((delta - options.Gamma / beta) * beta, options.LabelSmoothing),
            ContrastiveLoss.Hinge => relu(1 - delta * beta),
            _ => (delta - 1 / (2 * beta)).square(),
        };
        Tensor loss = each.mean();
        double nll = 0;
        if (options.NllWeight != 0)
        {
            Tensor term = DirectPreference.CrossEntropy(logProbs, mask, items);
            nll = TokenScores.Mean(term);
            loss = loss + term * options.NllWeight;
        }

        return new Objective(loss.MoveToOuterDisposeScope(), Metrics(logits, chosen, rejected, chosenReward * beta, rejectedReward * beta, nll));
    }

    /// <summary>ORPO: cross-entropy of prompt and chosen answer, minus β log σ of the log odds ratio of mean log-probabilities.</summary>
    /// <param name="logits">[2B, T, vocabulary].</param>
    /// <param name="ids">[2B, T].</param>
    /// <param name="attention">[2B, T], 0 on padding.</param>
    /// <param name="labels">[2B, T], −100 on prompt and padding.</param>
    /// <param name="beta">Weight of the odds ratio. Default 0.1.</param>
    /// <param name="items">What the sum over the tokens of prompts and chosen answers is divided by; by default their number in this batch. In an accumulation window the mean of its batches.</param>
    public static Objective OddsRatio(Tensor logits, Tensor ids, Tensor attention, Tensor labels, double beta = 0.1, double? items = null)
    {
        using var scope = NewDisposeScope();
        Tensor mask = labels[.., 1..].ne(TokenScores.Ignored), all = attention[.., 1..].ne(0);
        Tensor logProbs = TokenScores.Shifted(logits, ids);
        (Tensor chosen, Tensor rejected) = DirectPreference.Halves(TokenScores.Masked(logProbs, mask).sum(1) / mask.sum(1));
        Tensor odds = chosen - rejected - (TokenScores.LogOneMinusExp(chosen) - TokenScores.LogOneMinusExp(rejected));
        Tensor ratio = logsigmoid(odds), nll = DirectPreference.CrossEntropy(logProbs, all, items);
        Dictionary<string, double> metrics = Metrics(logits[.., ..^1], chosen, rejected, chosen * beta, rejected * beta, TokenScores.Mean(nll));
        metrics["log_odds_ratio"] = TokenScores.Mean(ratio);
        metrics["log_odds_chosen"] = TokenScores.Mean(odds);
        return new Objective((nll - ratio.mean() * beta).MoveToOuterDisposeScope(), metrics);
    }

    /// <summary>SLiC (2305.10425): max(0, δ − s(chosen) + s(rejected)) − λ s(target); rows are thirds chosen, rejected, target.</summary>
    /// <param name="logProbs">[3B, T − 1].</param>
    /// <param name="mask">[3B, T].</param>
    /// <param name="delta">Margin. Default 1.</param>
    /// <param name="lambda">Weight of the target. Default 0.1.</param>
    public static Objective Slic(Tensor logProbs, Tensor mask, double delta = 1, double lambda = 0.1)
    {
        using var scope = NewDisposeScope();
        Tensor[] thirds = TokenScores.Masked(logProbs, mask[.., 1..]).sum(1).chunk(3);
        Tensor loss = (relu(delta - thirds[0] + thirds[1]) - thirds[2] * lambda).mean();
        return new Objective(loss.MoveToOuterDisposeScope(), new Dictionary<string, double>
        {
            ["logps/chosen"] = TokenScores.Mean(thirds[0]),
            ["logps/rejected"] = TokenScores.Mean(thirds[1]),
        });
    }

    /// <summary>RRHF (2304.05302): Σ over r_i &lt; r_j of max(0, a_i − a_j) − s(best), the mean over prompts.</summary>
    /// <param name="logProbs">[prompts · answers, T − 1]; the answers of a prompt are consecutive.</param>
    /// <param name="mask">[prompts · answers, T].</param>
    /// <param name="rewards">[prompts · answers].</param>
    /// <param name="answers">Answers per prompt.</param>
    public static Objective RankResponses(Tensor logProbs, Tensor mask, Tensor rewards, int answers)
    {
        using var scope = NewDisposeScope();
        Tensor inner = mask[.., 1..], sums = TokenScores.Masked(logProbs, inner).sum(1);
        Tensor means = (sums / inner.sum(1)).view(-1, answers), scores = rewards.view(-1, answers);
        Tensor worse = scores.unsqueeze(2).lt(scores.unsqueeze(1)).to_type(means.dtype);
        Tensor ranking = (relu(means.unsqueeze(2) - means.unsqueeze(1)) * worse).sum([1, 2]);
        Tensor best = sums.view(-1, answers).gather(1, scores.argmax(1, keepdim: true)).squeeze(1);
        return new Objective((ranking - best).mean().MoveToOuterDisposeScope(), new Dictionary<string, double>
        {
            ["ranking"] = TokenScores.Mean(ranking),
            ["logps/best"] = TokenScores.Mean(best),
        });
    }

    static Tensor Reward(Tensor score, double alpha) => alpha == 0 ? score : (1 - (score * -alpha).exp()) / alpha;

    static Dictionary<string, double> Metrics(Tensor logits, Tensor chosen, Tensor rejected, Tensor chosenReward, Tensor rejectedReward, double nll)
    {
        (Tensor chosenLogits, Tensor rejectedLogits) = DirectPreference.Halves(logits.detach());
        return new Dictionary<string, double>
        {
            ["rewards/chosen"] = TokenScores.Mean(chosenReward),
            ["rewards/rejected"] = TokenScores.Mean(rejectedReward),
            ["rewards/accuracies"] = TokenScores.Mean(chosenReward.gt(rejectedReward).to_type(ScalarType.Float32)),
            ["rewards/margins"] = TokenScores.Mean(chosenReward - rejectedReward),
            ["logps/chosen"] = TokenScores.Mean(chosen),
            ["logps/rejected"] = TokenScores.Mean(rejected),
            ["logits/chosen"] = TokenScores.Mean(chosenLogits),
            ["logits/rejected"] = TokenScores.Mean(rejectedLogits),
            ["nll_loss"] = nll,
        };
    }
}
