using System.Globalization;
using System.Text.Json.Nodes;
using Scalpel.Checkpoints;
using Scalpel.Generation;
using Scalpel.Methods.Interpretability;
using Scalpel.Networks;
using TorchSharp;
using static TorchSharp.torch;

namespace Scalpel.Lab.Parity;

/// <summary>Causal language models: logits, states, attention, losses with gradients, generation, cache, taps, edits, lenses, heads.</summary>
public sealed class DecoderParity : IParityKind
{
    /// <inheritdoc/>
    public string Kind => "decoder";

    /// <inheritdoc/>
    public void Run(ParityCase parityCase, Comparison comparison)
    {
        using var scope = NewDisposeScope();
        using var inputs = SafeTensorsFile.Open(parityCase.PathOf("inputs"));
        using var expected = SafeTensorsFile.Open(parityCase.PathOf("expected"));
        string[] runs = [.. parityCase.Options["run"]?.AsArray().Select(run => run!.GetValue<string>()) ?? []];
        if (runs.Contains("filters"))
        {
            Filters(parityCase, inputs, expected, comparison);
            return;
        }

        using Decoder model = Decoder.Load(parityCase.PathOf("model"), TypeOf(parityCase));
        new DecoderCase(parityCase, model, inputs, expected, comparison).Run(runs);
    }

    // Probabilities after filters of sampling; no model.
    static void Filters(ParityCase parityCase, SafeTensorsFile inputs, SafeTensorsFile expected, Comparison comparison)
    {
        Tensor given = inputs.Read("logits"), ids = inputs.Read("input_ids");
        int number = 0;
        foreach (JsonNode? node in parityCase.Options["filters"]?.AsArray() ?? [])
        {
            var filter = new CaseOptions(node!.AsObject(), $"{parityCase.Folder}: filters[{number}]");
            var options = new GenerationOptions
            {
                Temperature = filter.Number("temperature", 1),
                TopK = (int?)filter.NumberOrNull("top_k"),
                TopP = filter.NumberOrNull("top_p"),
                MinP = filter.NumberOrNull("min_p"),
                RepetitionPenalty = filter.Number("repetition_penalty", 1),
            };
            filter.Finish();
            var rows = new List<Tensor>();
            for (long row = 0; row < given.shape[0]; row++)
            {
                float[] logits = given[row].to_type(ScalarType.Float32).data<float>().ToArray();
                SamplingFilters.Apply(logits, [.. ids[row].data<long>().ToArray().Select(id => (int)id)], options);
                rows.Add(tensor(logits).softmax(-1));
            }

            comparison.Tensors($"probabilities.{number}", stack(rows, 0), expected.Read($"probabilities.{number}"));
            number++;
        }
    }

    static ScalarType TypeOf(ParityCase parityCase) => parityCase.Options["dtype"]?.GetValue<string>() switch
    {
        null or "float32" => ScalarType.Float32,
        "bfloat16" => ScalarType.BFloat16,
        "float16" => ScalarType.Float16,
        "float64" => ScalarType.Float64,
        var other => throw new BadInputException($"{parityCase.Folder}: the dtype '{other}' is not known; known are float32, bfloat16, float16, float64."),
    };
}

/// <summary>One case of a decoder: what its runs compute, and under which names the expected tensors stand.</summary>
sealed class DecoderCase
{
    readonly JsonObject options;
    readonly string folder;
    readonly Decoder model;
    readonly SafeTensorsFile inputs, expected;
    readonly Comparison comparison;
    readonly HashSet<string> left;
    readonly Tensor ids;
    readonly Tensor? mask, positions, valid;

    public DecoderCase(ParityCase parityCase, Decoder model, SafeTensorsFile inputs, SafeTensorsFile expected, Comparison comparison)
    {
        (options, folder) = (parityCase.Options, parityCase.Folder);
        (this.model, this.inputs, this.expected, this.comparison) = (model, inputs, expected, comparison);
        left = [.. expected.Entries.Keys];
        ids = inputs.Read("input_ids");
        mask = Input("attention_mask");
        positions = Input("position_ids");
        valid = mask is not null && options["compare"]?.GetValue<string>() == "valid" ? mask.to_type(ScalarType.Bool) : null;
    }

    public void Run(string[] runs)
    {
        using (no_grad())
        {
            bool edited = runs.Contains("edited");
            foreach (string run in runs)
            {
                switch (run)
                {
                    case "forward" or "hidden" or "attention" or "taps" or "edited" or "lens" or "dla":
                        break;
                    case "generate":
                        Generate(edited);
                        break;
                    case "cache":
                        Cached();
                        break;
                    case "metric":
                        Metric();
                        break;
                    case "head":
                        Compare("logits", model.Classify(ids, mask, positions), model.Config.Head == HeadKind.TokenClassification ? 1 : -1);
                        break;
                    case "loss":
                        using (enable_grad())
                        {
                            Loss();
                        }

                        break;
                    default:
                        comparison.Mismatch(run, $"the run '{run}' is not known");
                        break;
                }
            }

            Pass(edited);
            if (runs.Contains("dla"))
            {
                Attribute();
            }
        }

        if (left.Count > 0)
        {
            comparison.Mismatch(left.Order(StringComparer.Ordinal).First(), $"{string.Join(", ", left.Order(StringComparer.Ordinal))} is expected, but no run of the case computes it");
        }
    }

    // Logits, states, patterns, taps and lenses of one forward pass, with edits or without.
    void Pass(bool edited)
    {
        using Taps taps = new();
        if (edited)
        {
            CaseEdits.AddTo(taps, options["edits"], name => inputs.Read(name));
        }

        var read = new List<(string Expected, string Tap)>();
        foreach (string name in left)
        {
            if (TapOf(name) is { } tap)
            {
                read.Add((name, tap));
            }
        }

        string[] lenses = [.. left.Where(name => name.StartsWith("lens.", StringComparison.Ordinal))];
        string[] states = [.. lenses.Select(name => $"layers.{name[5..]}.output")];
        if (read.Count == 0 && lenses.Length == 0 && !left.Contains("logits"))
        {
            return;
        }

        taps.Read([.. read.Select(pair => pair.Tap).Concat(states).Distinct()]);
        Tensor logits = model.Forward(ids, mask, positions, taps: taps);
        if (left.Contains("logits"))
        {
            Compare("logits", logits, 1);
        }

        foreach ((string name, string tap) in read)
        {
            Compare(name, taps[tap], tap.EndsWith(".pattern", StringComparison.Ordinal) || tap.EndsWith(".score", StringComparison.Ordinal) ? 2 : 1);
        }

        foreach ((string name, string state) in lenses.Zip(states))
        {
            Compare(name, model.Unembed(taps[state]), 1);
        }
    }

    string? TapOf(string name)
    {
        string[] parts = name.Split('.', 2);
        int layers = model.Config.Layers;
        return parts is not [var group, var rest] ? null : group switch
        {
            "hidden" when rest == "norm" => "final_norm.output",
            "hidden" when int.TryParse(rest, out int l) => l == 0 ? "layers.0.input" : $"layers.{Math.Min(l, layers) - 1}.output",
            "attention" => $"layers.{rest}.attention.pattern",
            "tap" => rest,
            _ => null,
        };
    }

    void Loss()
    {
        string[] gradients = [.. left.Where(name => name.StartsWith("grad.", StringComparison.Ordinal)).Select(name => name[5..])];
        model.RequireGrad(gradients);
        using LanguageModelLoss loss = model.Loss(ids, inputs.Read("labels"), mask);
        Tensor mean = loss.Mean();
        if (gradients.Length > 0)
        {
            mean.backward();
        }

        Compare("loss", mean.detach(), -1);
        Compare("token_nll", loss.Tokens.detach(), -1);
        if (left.Contains("router_balance_loss"))
        {
            Compare("router_balance_loss", loss.RouterBalance!.detach(), -1);
        }

        foreach (string name in gradients)
        {
            Compare($"grad.{name}", model.Grad(name)!, -1);
        }

        model.StopGrad();
    }

    // Greedy, token by token through the cache.
    void Generate(bool edited)
    {
        int count = (int)Number(options["generate"] as JsonObject ?? [], "max_new_tokens");
        using Taps taps = new();
        if (edited)
        {
            CaseEdits.AddTo(taps, options["edits"], name => inputs.Read(name));
        }

        using var cache = new KeyValueCache(model.Config.CacheLayers);
        var tokens = new List<Tensor>();
        var logits = new List<Tensor>();
        Tensor next = ids;
        Tensor? nextMask = mask, nextPositions = positions;
        for (int step = 0; step < count; step++)
        {
            taps.Step = step;
            Tensor last = model.Forward(next, nextMask, nextPositions, cache, taps, LogitsAt.Last).squeeze(1);                     // [B, V]
            logits.Add(last);
            next = last.argmax(1).unsqueeze(1);
            tokens.Add(next);
            nextMask = mask is null ? null : ones_like(next);
            nextPositions = null;
        }

        Compare("generated", cat(tokens, 1), -1);
        Compare("generated.logits", stack(logits, 1), -1);
    }

    void Cached()
    {
        using var cache = new KeyValueCache(model.Config.CacheLayers, 2);
        var parts = new List<Tensor>();
        int at = 0;
        foreach (int count in Indices(options, "chunks") ?? [])
        {
            parts.Add(model.Forward(ids.narrow(1, at, count), mask?.narrow(1, at, count), positions?.narrow(1, at, count), cache));
            at += count;
        }

        Compare("cached_logits", cat(parts, 1), 1);
        for (int l = 0; l < model.Config.Layers; l++)
        {
            if (left.Contains($"cache.key.{l}"))
            {
                Compare($"cache.key.{l}", cache.Keys(l), 2);
                Compare($"cache.value.{l}", cache.Values(l), 2);
            }
        }
    }

    void Metric()
    {
        var metric = options["metric"] as JsonObject ?? [];
        var patching = new ActivationPatching(model, ActivationPatching.LogitDifference((int)Number(metric, "token"), (int)Number(metric, "other")));
        string[] taps = [.. metric["taps"]!.AsArray().Select(tap => tap!.GetValue<string>())];
        using PatchingEffects effects = patching.Run(ids, inputs.Read("source_ids"), taps, Indices(metric, "positions")!, new RunContext(), mask);
        Compare("effects", effects.Effects, -1);
        Compare("metric.base", effects.Base, -1);
        Compare("metric.source", effects.Source, -1);
    }

    void Attribute()
    {
        IReadOnlyList<int> direction = Indices(options, "direction")!;
        using LogitParts parts = DirectLogitAttribution.Run(model, ids, direction[0], direction.Count > 1 ? direction[1] : null, mask);
        Compare("dla.embedding", parts.Embedding, 1);
        Compare("dla.total", parts.Total, 1);
        Compare("dla.constant", tensor(new[] { (float)parts.Constant }), -1);
        foreach ((string name, IReadOnlyList<Tensor> layers) in new[] { ("heads", parts.Heads), ("attention_bias", parts.AttentionBias), ("attention", parts.Attention), ("mlp", parts.Mlp) })
        {
            for (int l = 0; l < layers.Count; l++)
            {
                Compare($"dla.{name}.{l}", layers[l], 1);
            }
        }
    }

    // What a case does not expect is computed in vain; what it expects and nobody computes fails at the end.
    void Compare(string name, Tensor ours, int positionAxis)
    {
        if (!left.Remove(name))
        {
            return;
        }

        Tensor? where = null;
        if (valid is not null && positionAxis >= 0)
        {
            long[] shape = [.. Enumerable.Repeat(1L, (int)ours.dim())];
            (shape[0], shape[positionAxis]) = (valid.shape[0], valid.shape[1]);
            where = valid.view(shape);
        }

        comparison.Tensors(name, ours, expected.Read(name), where);
    }

    Tensor? Input(string name) => inputs.Entries.ContainsKey(name) ? inputs.Read(name) : null;

    static IReadOnlyList<int>? Indices(JsonObject json, string key) => json[key] is JsonArray array ? [.. array.Select(node => node!.GetValue<int>())] : null;

    string Text(JsonObject json, string key) => json[key] is JsonValue value ? value.ToString() : throw new BadInputException($"{folder}: '{key}' is missing.");

    double Number(JsonObject json, string key) => double.Parse(Text(json, key), CultureInfo.InvariantCulture);
}
