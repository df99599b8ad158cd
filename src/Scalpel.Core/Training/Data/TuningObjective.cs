using Scalpel.Networks;

namespace Scalpel.Training;

/// <summary>What an objective learns from.</summary>
public enum TuningFamily
{
    /// <summary>Texts: nll, dft.</summary>
    Text,

    /// <summary>Pairs and a reference model: dpo and its kin.</summary>
    Reference,

    /// <summary>Pairs alone: cpo, simpo, alphapo, orpo, slic.</summary>
    Pair,

    /// <summary>Answers that are good or bad, and a reference model: kto.</summary>
    Judged,

    /// <summary>Several answers with scores: rrhf.</summary>
    Ranking,

    /// <summary>Pairs, for a model that scores: reward.</summary>
    Reward,

    /// <summary>Prompts and a reward: grpo and its kin, rloo.</summary>
    Policy,
}

/// <summary>An objective by the name that the field uses, with its settings; null is the objective's own default.</summary>
public sealed record TuningObjective
{
    static readonly string[] Pairwise = ["cpo", "cpo_hinge", "cpo_ipo", "simpo", "cpo_simpo", "alphapo", "orpo", "slic"], Policies = ["grpo", "dapo", "bnpo", "dr_grpo", "cispo", "sapo", "luspo", "vespo", "rloo"];
    static readonly string[] Direct =
    [
        "dpo", "cdpo", "rpo", "mpo", "wpo", "sigmoid", "sigmoid_norm", "ipo", "hinge", "robust", "exo_pair", "nca_pair", "bco_pair", "sppo_hard", "aot", "aot_unpaired", "apo_zero", "apo_down", "discopop", "sft",
    ];

    /// <summary>
    /// nll, dft; dpo, ipo, hinge, robust, cdpo, rpo, wpo and TRL's other names, or several with weights (<c>sigmoid:0.8+bco_pair:0.2+sft</c>);
    /// kto, apo_zero_unpaired; cpo, cpo_hinge, cpo_ipo, simpo, cpo_simpo, alphapo, orpo, slic; rrhf; reward; grpo, dapo, bnpo, dr_grpo, cispo,
    /// sapo, luspo, vespo, rloo.
    /// </summary>
    public required string Name { get; init; }

    /// <summary>Inverse temperature, or weight of the divergence. Default 0.1; simpo 2, sigmoid_norm 5, alphapo 2.5, rloo 0.05, grpo and its kin 0.</summary>
    public double? Beta { get; init; }

    /// <summary>Share of labels that are taken as wrong. Default 0; of exo_pair 0.001.</summary>
    public double LabelSmoothing { get; init; }

    /// <summary>Target margin of simpo and alphapo, times β as in TRL. Default half of β; of slic 1.</summary>
    public double? Gamma { get; init; }

    /// <summary>Weight of the chosen answers' cross-entropy in cpo (default 1) and slic (default 0.1).</summary>
    public double? NllWeight { get; init; }

    /// <summary>Divergence of dpo and its kin: reverse_kl, forward_kl, js_divergence, alpha_divergence. Default reverse_kl.</summary>
    public string Divergence { get; init; } = "reverse_kl";

    /// <summary>Weight of tokens beyond a pair's shorter answer (LD-DPO); null for 1.</summary>
    public double? TailWeight { get; init; }

    /// <summary>Weights of good and of bad answers in kto. Default 1 and 1.</summary>
    public (double Good, double Bad) Weights { get; init; } = (1, 1);

    /// <summary>Weight of the squared sum of both scores in reward. Default 0.</summary>
    public double Centring { get; init; }

    /// <summary>Sampling of grpo and its kin. Loss and β are set from here.</summary>
    public PolicyTaskOptions Policy { get; init; } = new();

    /// <summary>What it learns from.</summary>
    /// <exception cref="BadInputException">The name is unknown.</exception>
    public TuningFamily Family => Name switch
    {
        "nll" or "dft" => TuningFamily.Text,
        "kto" or "apo_zero_unpaired" => TuningFamily.Judged,
        "rrhf" => TuningFamily.Ranking,
        "reward" => TuningFamily.Reward,
        _ when Pairwise.Contains(Name) => TuningFamily.Pair,
        _ when Policies.Contains(Name) => TuningFamily.Policy,
        _ when Name.Split('+').All(part => Direct.Contains(part.Split(':')[0])) => TuningFamily.Reference,
        _ => throw new BadInputException($"The loss '{Name}' is not known; the nearest is '{Nearest.To(Name, Known)[0]}', all are {string.Join(", ", Known)}."),
    };

    /// <summary>The objective of a layout when none is named.</summary>
    public static string DefaultFor(TuningLayout layout) => layout switch
    {
        TuningLayout.Pairs => "dpo",
        TuningLayout.Ranking => "rrhf",
        TuningLayout.Judged => "kto",
        TuningLayout.Prompts => "grpo",
        _ => "nll",
    };

    /// <summary>All names.</summary>
    internal static IReadOnlyList<string> Known => ["nll", "dft", .. Direct, "kto", "apo_zero_unpaired", .. Pairwise, "rrhf", "reward", .. Policies];

    double B => Beta ?? Name switch { "simpo" or "cpo_simpo" => 2, "alphapo" => 2.5, "sigmoid_norm" => 5, "rloo" => 0.05, _ => Family == TuningFamily.Policy ? 0 : 0.1 };

    /// <summary>Refuses settings that the objective cannot use or would not heed, and data of a layout that it cannot learn from.</summary>
    /// <exception cref="BadInputException">It cannot.</exception>
    public void Check(TuningData data, string file)
    {
        CheckSettings();
        bool fits = Family switch
        {
            TuningFamily.Text => data.Layout is TuningLayout.Text or TuningLayout.PromptCompletion or TuningLayout.Messages,
            TuningFamily.Judged => data.Layout is TuningLayout.Judged or TuningLayout.Pairs or TuningLayout.Ranking,
            TuningFamily.Ranking => data.Layout == TuningLayout.Ranking,
            TuningFamily.Policy => data.Layout != TuningLayout.Text,
            _ => data.Layout is TuningLayout.Pairs or TuningLayout.Ranking,
        };
        if (fits)
        {
            return;
        }

        string wanted = Family switch
        {
            TuningFamily.Text => "texts (text; prompt and completion; messages)",
            TuningFamily.Judged => "judged answers (prompt, completion and label) or pairs",
            TuningFamily.Ranking => "rankings (prompt, completions and scores or ranks)",
            TuningFamily.Policy => "prompts",
            _ => "pairs (prompt, chosen and rejected) or rankings",
        };
        throw new BadInputException($"The loss {Name} learns from {wanted}, but {file} holds the layout {data.LayoutName}; its loss is {DefaultFor(data.Layout)}.");
    }

    void CheckSettings()
    {
        double least = Family == TuningFamily.Policy || Name == "orpo" ? 0 : double.Epsilon;
        (string What, double Value, double Low, double High, string Wanted)[] numbers =
        [
            ("β", B, least, double.MaxValue, least > 0 ? "it must be above 0" : "it must not be below 0"),
            ("label smoothing", LabelSmoothing, 0, 1 - 1e-9, "it must be at least 0 and below 1"),
            ("tail weight", TailWeight ?? 1, 0, 1, "it must lie between 0 and 1"),
            ("weight of good answers", Weights.Good, 0, double.MaxValue, "it must not be below 0"),
            ("weight of bad answers", Weights.Bad, 0, double.MaxValue, "it must not be below 0"),
            ("weight of centring", Centring, 0, double.MaxValue, "it must not be below 0"),
            ("weight of the cross-entropy", NllWeight ?? 0, 0, double.MaxValue, "it must not be below 0"),
            ("margin", Gamma ?? 0, double.MinValue, double.MaxValue, "it must be a finite number"),
        ];
        foreach ((string what, double value, double low, double high, string wanted) in numbers)
        {
            if (!(value >= low && value <= high))
            {
                throw new BadInputException($"The {what} of the loss {Name} is {value}; {wanted}.");
            }
        }

        if (Weights == (0, 0))
        {
            throw new BadInputException("The weights of good and of bad answers are both 0, so nothing is learned; give one of them a weight.");
        }

        DirectPreferenceLoss[] direct = Family == TuningFamily.Reference ? [.. DirectOptions().Losses.Where(part => part.Weight != 0).Select(part => part.Loss)] : [];
        if (Family == TuningFamily.Reference && direct.Length == 0)
        {
            throw new BadInputException($"All weights of the loss {Name} are 0, so nothing is learned.");
        }

        bool smooths = Name is "nll" or "dft" or "cpo" or "simpo" or "cpo_simpo" or "alphapo"
            || direct.Any(loss => loss is DirectPreferenceLoss.Conservative or DirectPreferenceLoss.Robust or DirectPreferenceLoss.ExoPair or DirectPreferenceLoss.Aot or DirectPreferenceLoss.AotUnpaired);
        if (LabelSmoothing != 0 && !smooths)
        {
            throw new BadInputException($"A label smoothing has no effect with the loss {Name}; losses that heed it are cdpo, robust, exo_pair, aot, aot_unpaired, cpo, simpo, alphapo, nll and dft.");
        }

        if (TrlNames.DivergenceOf(Divergence) != Training.Divergence.ReverseKl
            && !direct.Any(loss => loss is not (DirectPreferenceLoss.Aot or DirectPreferenceLoss.AotUnpaired or DirectPreferenceLoss.ApoZero or DirectPreferenceLoss.Sft)))
        {
            throw new BadInputException($"The divergence {Divergence} has no effect with the loss {Name}, which compares log-ratios as they are; take another loss, or leave the divergence out.");
        }
    }

    /// <summary>Whether the model as it was is needed in every step: for the divergence of a policy, and for kto's mismatched answers.</summary>
    public bool ComparesWhileTraining => Name == "kto" || Family == TuningFamily.Policy && B != 0;

    /// <summary>The task, for all families but reward and policy gradients, which need more than the model and the data.</summary>
    /// <param name="model">The decoder, with what is to be trained still as it was.</param>
    /// <param name="data">What to learn.</param>
    /// <param name="batch">Rows of a pass.</param>
    /// <param name="parts">Passes of a step.</param>
    /// <param name="run">Seed of the order, progress of the reference scores and their cache.</param>
    /// <param name="packed">Rows of texts to take instead of the data's own; null for those.</param>
    /// <param name="heldOut">The task on data that is evaluated; null for none.</param>
    /// <param name="asBefore">Brings the model into the state before training until the result is disposed; see <see cref="ComparesWhileTraining"/>.</param>
    public RowTask CreateTask(Decoder model, TuningData data, int batch, int parts, RunContext run, IReadOnlyList<TokenRow>? packed = null, RowTask? heldOut = null, Func<IDisposable>? asBefore = null)
    {
        ulong seed = run.Seed;
        switch (Family)
        {
            case TuningFamily.Text:
                return new SupervisedTask(model, packed ?? data.Rows, batch, parts, seed, new SupervisedOptions { Dynamic = Name == "dft", LabelSmoothing = LabelSmoothing }) { HeldOut = heldOut };
            case TuningFamily.Reference:
                IReadOnlyList<PreferencePair> pairs = data.Pairs;
                ReferenceScores scores = ReferenceScores.Of(model, new AnswerRows(2 * pairs.Count, i => pairs[i / 2] is var pair && i % 2 == 0 ? (pair.Prompt, pair.Chosen) : (pair.Prompt, pair.Rejected)), run);
                return PreferenceTask.Direct(model, pairs, batch, parts, seed, scores, DirectOptions(), weighted: Name == "wpo", heldOut);
            case TuningFamily.Judged:
                IReadOnlyList<AnswerSet> answers = data.Layout == TuningLayout.Judged ? data.Answers : JudgedTask.Unpaired(data.Pairs);
                if (answers.Count < 2 && Name == "kto")
                {
                    throw new BadInputException("kto compares each prompt with the answer to another; the data has one answer, give at least two.");
                }

                return new JudgedTask(model, answers, batch, parts, seed, ReferenceScores.Of(model, JudgedTask.Rows(answers), run),
                    new KtoOptions { Beta = B, DesirableWeight = Weights.Good, UndesirableWeight = Weights.Bad, AgainstZero = Name != "kto" }, asBefore) { HeldOut = heldOut };
            case TuningFamily.Ranking:
                return new RankingTask(model, data.Answers, batch, parts, seed) { HeldOut = heldOut };
            case TuningFamily.Pair when Name == "orpo":
                return PreferenceTask.OddsRatio(model, data.Pairs, batch, parts, seed, B, heldOut);
            case TuningFamily.Pair when Name == "slic":
                return PreferenceTask.Slic(model, data.Pairs, batch, parts, seed, Gamma ?? 1, NllWeight ?? 0.1, heldOut);
            case TuningFamily.Pair:
                return PreferenceTask.Contrast(model, data.Pairs, batch, parts, seed, new ContrastiveOptions
                {
                    Loss = Name switch { "cpo" => ContrastiveLoss.Sigmoid, "cpo_hinge" => ContrastiveLoss.Hinge, "cpo_ipo" => ContrastiveLoss.Ipo, _ => ContrastiveLoss.Simpo },
                    Beta = B,
                    Gamma = Gamma ?? B / 2,
                    LabelSmoothing = LabelSmoothing,
                    NllWeight = NllWeight ?? (Name is "simpo" or "alphapo" ? 0 : 1),
                    Alpha = Name == "alphapo" ? 0.25 : 0,
                }, heldOut);
            default:
                throw new InvalidOperationException($"The task of {Name} is made by its own class.");
        }
    }

    /// <summary>The settings of the policy's task.</summary>
    public PolicyTaskOptions PolicyOptions() => Policy with { Loss = Name == "rloo" ? null : TrlNames.GroupPolicy(Name), Beta = B };

    DirectPreferenceOptions DirectOptions()
    {
        string[] parts = Name switch { "rpo" => ["sigmoid", "sft"], "mpo" => ["sigmoid:0.8", "bco_pair:0.2", "sft:1"], _ => Name.Split('+') };
        (DirectPreferenceLoss, double)[] losses = [.. parts.Select(part =>
        {
            string[] halves = part.Split(':');
            double weight = halves.Length == 1 ? 1
                : double.TryParse(halves[1], System.Globalization.CultureInfo.InvariantCulture, out double given) && double.IsFinite(given) ? given
                : throw new BadInputException($"The loss '{Name}' has the weight '{halves[1]}', which is no number.");
            return (TrlNames.DirectPreference(halves[0] is "dpo" or "wpo" ? "sigmoid" : halves[0]), weight);
        })];
        return new DirectPreferenceOptions
        {
            Losses = losses, Beta = B, LabelSmoothing = LabelSmoothing == 0 && Name == "exo_pair" ? 1e-3 : LabelSmoothing, Divergence = TrlNames.DivergenceOf(Divergence), TailWeight = TailWeight,
        };
    }
}
