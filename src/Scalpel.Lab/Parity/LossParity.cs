using System.Text.Json.Nodes;
using Scalpel.Checkpoints;
using Scalpel.Networks;
using Scalpel.Training;
using TorchSharp;
using static TorchSharp.torch;

namespace Scalpel.Lab.Parity;

/// <summary>Objectives and their gradients, advantages, packing and collating.</summary>
public sealed class LossParity : IParityKind
{
    /// <inheritdoc/>
    public string Kind => "loss";

    /// <inheritdoc/>
    public string? Unsupported(ParityCase parityCase) => parityCase.Json["method"] is { } method
        ? $"losses of the method '{method}' are not known here"
        : null;

    /// <inheritdoc/>
    public void Run(ParityCase parityCase, Comparison comparison)
    {
        using var scope = NewDisposeScope();
        var options = new CaseOptions(parityCase.Options, parityCase.Folder);
        string algorithm = options.Text("algorithm");
        if (algorithm is "packing" or "preference-collator")
        {
            RunCollating(parityCase, algorithm, options, comparison);
            options.Finish();
            return;
        }

        using SafeTensorsFile inputs = SafeTensorsFile.Open(parityCase.PathOf("inputs")), expected = SafeTensorsFile.Open(parityCase.PathOf("expected"));
        var given = new GoldenTensors(inputs);
        Dictionary<string, Func<Tensor>> ours = algorithm switch
        {
            "dpo" => Dpo(given, options),
            "kto" => KtoLoss(given, options),
            "cpo" or "orpo" => ReferenceFreeLoss(given, options, algorithm),
            "slic" => Values(ReferenceFree.Slic(given.Leaf("log_probs"), given["completion_mask"], options.Number("delta", 1), options.Number("lambda", 0.1))),
            "rrhf" => Values(ReferenceFree.RankResponses(given.Leaf("log_probs"), given["completion_mask"], given["rewards"], (int)options.Number("answers", 4))),
            "reward" => Values(RewardModelling.Loss(given.Leaf("rewards"), given.Optional("margin"), options.Number("center_rewards_coefficient", 0))),
            "sft" => Sft(given, options),
            "grpo" => Grpo(given, options),
            "rloo" => Values(PolicyGradient.LeaveOneOut(given.Leaf("log_probs"), given["old_log_probs"], given["completion_mask"], given["advantages"],
                Clip(options).Low, Clip(options).High)),
            "grpo-advantages" => GrpoAdvantages(given, options),
            "rloo-advantages" => RlooAdvantages(given, options),
            "reward-model" or "packed-forward" => [],
            _ => throw new BadInputException($"{parityCase.Folder}: the algorithm '{algorithm}' is not known here."),
        };
        options.Finish();
        if (algorithm is "reward-model" or "packed-forward")
        {
            RunModel(parityCase, algorithm, given, expected, comparison);
            return;
        }

        if (ours.TryGetValue("loss", out Func<Tensor>? loss))
        {
            loss().backward();
        }

        foreach (string name in expected.Entries.Keys)
        {
            Tensor? value = ours.TryGetValue(name, out Func<Tensor>? compute) ? compute()
                : name.StartsWith("grad.", StringComparison.Ordinal) ? given.Gradient(name[5..])
                : null;
            if (value is null)
            {
                comparison.Mismatch(name, $"{name} is not computed here");
                continue;
            }

            Tensor wanted = expected.Read(name);
            comparison.Tensors(name, value.to_type(wanted.dtype), wanted);
        }
    }

    static Dictionary<string, Func<Tensor>> Values(Objective objective)
    {
        var values = new Dictionary<string, Func<Tensor>> { ["loss"] = () => objective.Loss };
        foreach ((string name, double value) in objective.Metrics)
        {
            values[$"metric.{name}"] = () => tensor(value);
        }

        return values;
    }

    static Dictionary<string, Func<Tensor>> Dpo(GoldenTensors given, CaseOptions options)
    {
        bool apart = options.Flag("pair_by_pair"), weighted = options.Flag("use_weighting");
        DirectPreferenceOptions settings = Direct(options);
        Tensor mask = given["completion_mask"];
        if (apart && given.Has("logits") || weighted && !given.Has("logits"))
        {
            throw new BadInputException($"pair_by_pair goes with log_probs, use_weighting with logits; the case has {(given.Has("logits") ? "logits" : "log_probs")}.");
        }

        if (!given.Has("logits"))
        {
            Tensor logProbs = given.Leaf("log_probs"), reference = given["ref_log_probs"];
            if (!apart)
            {
                return Values(DirectPreference.Loss(logProbs, reference, mask, settings));
            }

            long pairs = mask.shape[0] / 2;
            Tensor Pair(Tensor x, long i) => cat([x.narrow(0, i, 1), x.narrow(0, pairs + i, 1)]);
            Objective[] each = [.. Enumerable.Range(0, (int)pairs).Select(i => DirectPreference.Loss(Pair(logProbs, i), Pair(reference, i), Pair(mask, i), settings))];
            return Values(new Objective(stack(each.Select(one => one.Loss)).mean(), each[0].Metrics.Keys.ToDictionary(name => name, name => each.Average(one => one.Metrics[name]))));
        }

        Tensor logits = given.Leaf("logits"), ids = given["input_ids"];
        Tensor policy = TokenScores.Shifted(logits, ids);
        Dictionary<string, Func<Tensor>> values = Values(DirectPreference.Loss(policy, TokenScores.Shifted(given["ref_logits"], ids), mask, settings,
            weighted ? DirectPreference.PolicyWeights(logits, policy, mask) : null));
        Tensor shifted = logits.detach()[.., ..^1], inner = mask[.., 1..], targets = ids[.., 1..];
        long half = mask.shape[0] / 2;
        values["metric.entropy"] = () => tensor(TokenScores.Entropy(shifted, inner));
        values["metric.logits/chosen"] = () => tensor(TokenScores.MeanLogit(shifted.narrow(0, 0, half), inner.narrow(0, 0, half)));
        values["metric.logits/rejected"] = () => tensor(TokenScores.MeanLogit(shifted.narrow(0, half, half), inner.narrow(0, half, half)));
        values["metric.mean_token_accuracy"] = () => tensor(TokenScores.Accuracy(shifted.narrow(0, 0, half), targets.narrow(0, 0, half), inner.narrow(0, 0, half)));
        return values;
    }

    /// <summary>Options of DPO's losses, by TRL's names.</summary>
    internal static DirectPreferenceOptions Direct(CaseOptions options)
    {
        string[] names = options.Texts("loss_type");
        names = names.Length > 0 ? names : ["sigmoid"];
        double[] weights = options.Numbers("loss_weights") ?? [.. names.Select(_ => 1.0)];
        return new DirectPreferenceOptions
        {
            Losses = weights.Length == names.Length ? [.. names.Zip(weights, (name, weight) => (TrlNames.DirectPreference(name), weight))]
                : throw new BadInputException($"There are {names.Length} losses and {weights.Length} weights."),
            Beta = options.Number("beta", 0.1),
            LabelSmoothing = options.Number("label_smoothing", 0),
            Divergence = TrlNames.DivergenceOf(options.Text("f_divergence_type", "reverse_kl")),
            AlphaCoefficient = options.Number("f_alpha_divergence_coef", 0.5),
            TailWeight = options.NumberOrNull("ld_alpha"),
            DiscopopTau = options.Number("discopop_tau", 0.05),
        };
    }

    /// <summary>Options of KTO, by TRL's names.</summary>
    internal static KtoOptions Unpaired(CaseOptions options)
    {
        string kind = options.Text("loss_type", "kto");
        return new KtoOptions
        {
            Beta = options.Number("beta", 0.1),
            DesirableWeight = options.Number("desirable_weight", 1),
            UndesirableWeight = options.Number("undesirable_weight", 1),
            AgainstZero = kind switch { "kto" => false, "apo_zero_unpaired" => true, _ => throw new BadInputException($"The loss '{kind}' is not known here.") },
        };
    }

    static Dictionary<string, Func<Tensor>> KtoLoss(GoldenTensors given, CaseOptions options)
    {
        return Values(Kto.Loss(given.Leaf("log_probs"), given["ref_log_probs"], given["completion_mask"], given["label"], Unpaired(options),
            given.Has("kl_log_probs") ? (given["kl_log_probs"], given["ref_kl_log_probs"], given["kl_completion_mask"]) : null));
    }

    static Dictionary<string, Func<Tensor>> ReferenceFreeLoss(GoldenTensors given, CaseOptions options, string algorithm)
    {
        if (algorithm == "orpo")
        {
            return Values(ReferenceFree.OddsRatio(given.Leaf("logits"), given["input_ids"], given["attention_mask"], given["labels"], options.Number("beta", 0.1)));
        }

        // TRL's alphapo is simpo without cross-entropy.
        string kind = options.Text("loss_type", "sigmoid");
        bool alpha = kind == "alphapo";
        return Values(ReferenceFree.Contrast(given.Leaf("logits"), given["labels"], new ContrastiveOptions
        {
            Loss = TrlNames.Contrastive(alpha ? "simpo" : kind),
            Beta = options.Number("beta", 0.1),
            Gamma = options.Number("simpo_gamma", 0.5),
            LabelSmoothing = options.Number("label_smoothing", 0),
            NllWeight = options.Number("cpo_alpha", 1) * (alpha ? 0 : 1),
            Alpha = options.Number("alpha", 0),
        }));
    }

    static Dictionary<string, Func<Tensor>> Sft(GoldenTensors given, CaseOptions options)
    {
        Tensor logits = given.Leaf("logits"), labels = given["labels"];
        string kind = options.Text("loss_type", "nll");
        var settings = new SupervisedOptions
        {
            Dynamic = kind switch { "nll" or "chunked_nll" => false, "dft" => true, _ => throw new BadInputException($"The loss '{kind}' is not known here.") },
            LabelSmoothing = options.Number("label_smoothing_factor", 0),
        };
        Dictionary<string, Func<Tensor>> values = Values(Supervised.Loss(logits, labels, settings, (long?)options.NumberOrNull("num_items_in_batch")));
        values["token_log_probs"] = () => Supervised.LogProbs(logits.detach(), labels);
        Tensor shifted = logits.detach()[.., ..^1], target = labels[.., 1..], mask = target.ne(TokenScores.Ignored);
        values["metric.entropy"] = () => tensor(TokenScores.Entropy(shifted, mask));
        values["metric.mean_token_accuracy"] = () => tensor(TokenScores.Accuracy(shifted, target, mask));
        return values;
    }

    static Dictionary<string, Func<Tensor>> Grpo(GoldenTensors given, CaseOptions options) => Values(PolicyGradient.GroupRelative(
        given.Leaf("log_probs"), given["completion_mask"], given["advantages"], new GroupPolicyOptions
        {
            Loss = TrlNames.GroupPolicy(options.Text("loss_type", "dapo")),
            Beta = options.Number("beta", 0),
            EpsilonLow = Clip(options).Low,
            EpsilonHigh = Clip(options).High,
            Delta = options.NumberOrNull("delta"),
            SequenceLevel = options.Text("importance_sampling_level", "token") == "sequence",
            MaxLength = (long)options.Number("max_completion_length", 256),
            GammaPositive = (options.Number("vespo_k_pos", 2), options.Number("vespo_lambda_pos", 3)),
            GammaNegative = (options.Number("vespo_k_neg", 3), options.Number("vespo_lambda_neg", 2)),
            OffPolicyThreshold = options.NumberOrNull("off_policy_mask_threshold"),
            TemperaturePositive = options.Number("sapo_temperature_pos", 1),
            TemperatureNegative = options.Number("sapo_temperature_neg", 1.05),
            CorrectDivergence = options.Flag("use_bias_correction_kl"),
        },
        given.Optional("old_log_probs"), given.Optional("ref_log_probs"), options.NumberOrNull("num_items_in_batch")));

    // TRL's epsilon is the lower bound, and the upper one where none is given.
    static (double Low, double High) Clip(CaseOptions options)
    {
        double low = options.NumberOrNull("epsilon_low") ?? options.Number("epsilon", 0.2);
        return (low, options.Number("epsilon_high", low));
    }

    static string Scale(CaseOptions options) => options.IsFlag("scale_rewards") ? options.Flag("scale_rewards") ? "group" : "none" : options.Text("scale_rewards", "group");

    static Dictionary<string, Func<Tensor>> GrpoAdvantages(GoldenTensors given, CaseOptions options)
    {
        Tensor rewards = given["rewards"];
        (Tensor advantages, Tensor spread) = PolicyGradient.GroupAdvantages(rewards, (int)options.Number("num_generations", 8),
            options.Numbers("reward_weights") ?? [.. Enumerable.Repeat(1.0, (int)rewards.shape[1])],
            Scale(options) switch
            {
                "group" => AdvantageScale.Group,
                "batch" => AdvantageScale.Batch,
                "none" => AdvantageScale.None,
                var other => throw new BadInputException($"The scale '{other}' is not known here."),
            },
            options.Text("multi_objective_aggregation", "sum_then_normalize") == "normalize_then_sum");
        return new() { ["advantages"] = () => advantages, ["std"] = () => spread };
    }

    static Dictionary<string, Func<Tensor>> RlooAdvantages(GoldenTensors given, CaseOptions options)
    {
        Tensor rewards = given["rewards"];
        Tensor? kl = given.Has("ref_log_probs") ? ((given["old_log_probs"] - given["ref_log_probs"]) * given["completion_mask"]).sum(1) : null;
        double[]? clip = options.Numbers("reward_clip_range");
        (Tensor advantages, Tensor sums) = PolicyGradient.LeaveOneOutAdvantages(rewards, (int)options.Number("num_generations", 2),
            options.Numbers("reward_weights") ?? [.. Enumerable.Repeat(1.0, (int)rewards.shape[1])],
            clip is null ? null : (clip[0], clip[1]), kl, options.Number("beta", 0.05), options.Flag("normalize_advantages"));
        return new() { ["advantages"] = () => advantages, ["rewards"] = () => sums };
    }

    static void RunModel(ParityCase parityCase, string algorithm, GoldenTensors given, SafeTensorsFile expected, Comparison comparison)
    {
        using Decoder model = Decoder.Load(parityCase.PathOf("model"));
        string[] gradients = [.. expected.Entries.Keys.Where(name => name.StartsWith("grad.", StringComparison.Ordinal)).Select(name => name[5..])];
        model.RequireGrad(gradients);
        Tensor loss;
        if (algorithm == "packed-forward")
        {
            Tensor positions = given["position_ids"], sequences = positions.eq(0).to_type(ScalarType.Int64).cumsum(1);
            Tensor logits = model.Forward(given["input_ids"], sequences, positions);
            comparison.Tensors("logits", logits, expected.Read("logits"));
            loss = Supervised.Loss(logits, given["labels"]).Loss;
        }
        else
        {
            Tensor mask = given["attention_mask"], columns = arange(mask.shape[1], dtype: ScalarType.Int64).unsqueeze(0);
            Tensor all = model.Forward(given["input_ids"], mask, columns);
            Tensor scores = all[arange(mask.shape[0]), RewardModelling.LastTokens(mask)];
            comparison.Tensors("scores", scores, expected.Read("scores"));
            loss = RewardModelling.Loss(scores.squeeze(-1)).Loss;
        }

        comparison.Tensors("loss", loss, expected.Read("loss"));
        if (gradients.Length > 0)
        {
            loss.backward();
            foreach (string name in gradients)
            {
                comparison.Tensors($"grad.{name}", model.Grad(name)!, expected.Read($"grad.{name}"));
            }
        }
    }

    static void RunCollating(ParityCase parityCase, string algorithm, CaseOptions options, Comparison comparison)
    {
        JsonObject inputs = JsonNode.Parse(File.ReadAllText(parityCase.PathOf("inputs")))!.AsObject(), expected = JsonNode.Parse(File.ReadAllText(parityCase.PathOf("expected")))!.AsObject();
        int multiple = (int)options.Number("pad_to_multiple_of", 1);
        if (algorithm == "preference-collator")
        {
            PreferencePair[] pairs = [.. inputs["examples"]!.AsArray().Select(e => new PreferencePair(Longs(e!["prompt_ids"]!), Longs(e["chosen_ids"]!), Longs(e["rejected_ids"]!)))];
            using PreferenceBatch batch = PreferenceBatch.Create(pairs, 0, (int?)options.NumberOrNull("max_length"), options.Text("truncation_mode", "keep_start") == "keep_end", multiple);
            Compare(expected, new() { ["input_ids"] = batch.Ids, ["attention_mask"] = batch.Mask, ["completion_mask"] = batch.Completion }, comparison);
            return;
        }

        IReadOnlyList<TokenRow> rows = [.. inputs["input_ids"]!.AsArray().Zip(inputs["labels"]?.AsArray() ?? inputs["input_ids"]!.AsArray(), (ids, labels) => new TokenRow(Longs(ids!), Longs(labels!)))];
        int length = (int)options.Number("seq_length", 0);
        string strategy = options.Text("strategy");
        rows = strategy switch
        {
            "none" => rows,
            "bfd" => Packing.BestFit(rows, length),
            "bfd_split" => Packing.BestFit(rows, length, split: true),
            "wrapped" => Packing.Wrapped(rows, length),
            _ => throw new BadInputException($"The strategy '{strategy}' is not known here."),
        };
        bool free = options.Flag("padding_free");
        options.Ignore("return_position_ids");
        if (expected["packed"] is JsonObject packed)
        {
            foreach ((string name, JsonNode? value) in packed)
            {
                IEnumerable<IEnumerable<long>> ours = name switch
                {
                    "input_ids" => rows.Select(row => (IEnumerable<long>)row.Ids),
                    "labels" => rows.Select(row => (IEnumerable<long>)row.Labels),
                    "seq_lengths" => rows.Select(row => row.Lengths.Select(n => (long)n)),
                    _ => throw new BadInputException($"The packed column '{name}' is not known here."),
                };
                comparison.Sequences(name, ours.Select(row => string.Join(",", row)), value!.AsArray().Select(row => string.Join(",", Longs(row!))));
            }
        }

        using TokenBatch tokens = free ? TokenBatch.PaddingFree(rows) : TokenBatch.Padded(rows, 0, multiple);
        long[] starts = [.. rows.SelectMany(row => row.Lengths).Aggregate(new List<long> { 0 }, (sums, n) => [.. sums, sums[^1] + n])];
        long longest = rows.SelectMany(row => row.Lengths).Max();
        Compare(expected["batch"]!.AsObject(), new()
        {
            ["input_ids"] = tokens.Ids,
            ["labels"] = tokens.Labels,
            ["position_ids"] = tokens.Positions,
            ["attention_mask"] = tokens.Sequences.ne(0).to_type(ScalarType.Int64),
            ["seq_idx"] = tokens.Sequences - 1,
            ["cu_seq_lens_q"] = tensor(starts),
            ["cu_seq_lens_k"] = tensor(starts),
            ["max_length_q"] = tensor(longest),
            ["max_length_k"] = tensor(longest),
        }, comparison);
    }

    static void Compare(JsonObject expected, Dictionary<string, Tensor> ours, Comparison comparison)
    {
        foreach ((string name, JsonNode? value) in expected)
        {
            if (ours.TryGetValue(name, out Tensor? tensor))
            {
                comparison.Sequences(name, tensor.contiguous().data<long>().ToArray(), Longs(value!));
            }
            else
            {
                comparison.Mismatch(name, $"{name} is not computed here");
            }
        }
    }

    // Rows one after another; the widths are compared by the count.
    static long[] Longs(JsonNode node) => node is JsonArray array ? [.. array.SelectMany(item => Longs(item!))] : [node.GetValue<long>()];
}

/// <summary>Tensors of a golden file; those that gradients are asked for are leaves.</summary>
sealed class GoldenTensors(SafeTensorsFile file)
{
    readonly Dictionary<string, Tensor> leaves = [];

    public Tensor this[string name] => file.Read(name);

    public bool Has(string name) => file.Entries.ContainsKey(name);

    public Tensor? Optional(string name) => Has(name) ? file.Read(name) : null;

    public Tensor Leaf(string name)
    {
        if (!leaves.TryGetValue(name, out Tensor? leaf))
        {
            leaf = file.Read(name).requires_grad_(true);
            leaves.Add(name, leaf);
        }

        return leaf;
    }

    public Tensor? Gradient(string name) => leaves.TryGetValue(name, out Tensor? leaf) ? leaf.grad : null;
}
