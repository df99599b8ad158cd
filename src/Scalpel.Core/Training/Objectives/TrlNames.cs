namespace Scalpel.Training;

/// <summary>Objectives by the names that users know from TRL.</summary>
public static class TrlNames
{
    static readonly Dictionary<string, DirectPreferenceLoss> Direct = new(StringComparer.Ordinal)
    {
        ["sigmoid"] = DirectPreferenceLoss.Sigmoid,
        ["sigmoid_norm"] = DirectPreferenceLoss.SigmoidNorm,
        ["cdpo"] = DirectPreferenceLoss.Conservative,
        ["ipo"] = DirectPreferenceLoss.Ipo,
        ["hinge"] = DirectPreferenceLoss.Hinge,
        ["robust"] = DirectPreferenceLoss.Robust,
        ["exo_pair"] = DirectPreferenceLoss.ExoPair,
        ["nca_pair"] = DirectPreferenceLoss.NcaPair,
        ["bco_pair"] = DirectPreferenceLoss.BcoPair,
        ["sppo_hard"] = DirectPreferenceLoss.SppoHard,
        ["aot"] = DirectPreferenceLoss.Aot,
        ["aot_unpaired"] = DirectPreferenceLoss.AotUnpaired,
        ["apo_zero"] = DirectPreferenceLoss.ApoZero,
        ["apo_down"] = DirectPreferenceLoss.ApoDown,
        ["discopop"] = DirectPreferenceLoss.Discopop,
        ["sft"] = DirectPreferenceLoss.Sft,
    };

    static readonly Dictionary<string, Divergence> Divergences = new(StringComparer.Ordinal)
    {
        ["reverse_kl"] = Divergence.ReverseKl,
        ["forward_kl"] = Divergence.ForwardKl,
        ["js_divergence"] = Divergence.JensenShannon,
        ["alpha_divergence"] = Divergence.Alpha,
    };

    static readonly Dictionary<string, ContrastiveLoss> Contrasts = new(StringComparer.Ordinal)
    {
        ["sigmoid"] = ContrastiveLoss.Sigmoid,
        ["hinge"] = ContrastiveLoss.Hinge,
        ["ipo"] = ContrastiveLoss.Ipo,
        ["simpo"] = ContrastiveLoss.Simpo,
    };

    static readonly Dictionary<string, GroupPolicyLoss> Policies = new(StringComparer.Ordinal)
    {
        ["dapo"] = GroupPolicyLoss.Dapo,
        ["grpo"] = GroupPolicyLoss.Grpo,
        ["bnpo"] = GroupPolicyLoss.Bnpo,
        ["dr_grpo"] = GroupPolicyLoss.DrGrpo,
        ["cispo"] = GroupPolicyLoss.Cispo,
        ["sapo"] = GroupPolicyLoss.Sapo,
        ["luspo"] = GroupPolicyLoss.Luspo,
        ["vespo"] = GroupPolicyLoss.Vespo,
    };

    /// <summary>A loss on pairs with a reference model: sigmoid, ipo, hinge, …</summary>
    /// <exception cref="BadInputException">The name is unknown.</exception>
    public static DirectPreferenceLoss DirectPreference(string name) => Find(Direct, name);

    /// <summary>A divergence: reverse_kl, forward_kl, js_divergence, alpha_divergence.</summary>
    /// <exception cref="BadInputException">The name is unknown.</exception>
    public static Divergence DivergenceOf(string name) => Find(Divergences, name);

    /// <summary>A loss on pairs without a reference model: sigmoid (CPO), hinge, ipo, simpo.</summary>
    /// <exception cref="BadInputException">The name is unknown.</exception>
    public static ContrastiveLoss Contrastive(string name) => Find(Contrasts, name);

    /// <summary>A policy loss: dapo, grpo, bnpo, dr_grpo, cispo, sapo, luspo, vespo.</summary>
    /// <exception cref="BadInputException">The name is unknown.</exception>
    public static GroupPolicyLoss GroupPolicy(string name) => Find(Policies, name);

    static T Find<T>(Dictionary<string, T> known, string name) => known.TryGetValue(name, out T? value)
        ? value
        : throw new BadInputException($"The name '{name}' is not known; the nearest is '{Nearest.To(name, known.Keys)[0]}', all are {string.Join(", ", known.Keys)}.");
}
