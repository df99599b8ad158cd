using System.Text.Json.Nodes;
using System.Text.RegularExpressions;
using Scalpel.Checkpoints;
using Scalpel.Networks;
using Scalpel.Text;
using TorchSharp;
using static TorchSharp.torch;

namespace Scalpel.Lab.Parity;

public sealed partial class GgufParity
{
    // Where the best two logits are nearer than this, the order of summation decides.
    const double UndecidedInGeneration = 0.005, UndecidedInFacts = 0.01;

    static void Model(ParityCase parityCase, Comparison comparison)
    {
        using SafeTensorsFile inputs = SafeTensorsFile.Open(parityCase.PathOf("inputs")), expected = SafeTensorsFile.Open(parityCase.PathOf("expected"));
        using Checkpoint checkpoint = Checkpoint.Open(parityCase.PathOf("model"));
        using Decoder model = Decoder.Load(parityCase.PathOf("model"));
        using var scope = NewDisposeScope();
        using var noGrad = no_grad();
        string[] states = [.. expected.Entries.Keys.Where(name => name.StartsWith("hidden.", StringComparison.Ordinal))];
        using Taps taps = new Taps().Read([.. states.Select(Tap)]);
        Tensor logits = model.Forward(inputs.Read("input_ids"), taps: taps);
        foreach (string name in expected.Entries.Keys)
        {
            Tensor ours = name == "logits" ? logits
                : states.Contains(name) ? taps[Tap(name)]
                : checkpoint.Read(name["weight.".Length..], ScalarType.Float32);
            comparison.Tensors(name, ours, expected.Read(name));
        }

        static string Tap(string state) => int.Parse(state["hidden.".Length..], Invariant) is var l && l == 0 ? "embedding.output" : $"layers.{l - 1}.output";
    }

    static void Logits(ParityCase parityCase, Comparison comparison)
    {
        using SafeTensorsFile inputs = SafeTensorsFile.Open(parityCase.PathOf("inputs")), expected = SafeTensorsFile.Open(parityCase.PathOf("expected"));
        using Decoder model = Decoder.Load(parityCase.PathOf("model"));
        using var noGrad = no_grad();
        string[] texts = [.. ((JsonArray)parityCase.Options["texts"]!).Select(text => text!.GetValue<string>())];
        int layers = model.Config.Layers;
        string[] residual = ["embedding.output", .. Enumerable.Range(0, layers).Select(l => $"layers.{l}.output")];
        foreach (string index in Indices(inputs))
        {
            using var scope = NewDisposeScope();
            Tensor ids = inputs.Read($"ids.{index}");
            comparison.Sequences($"ids.{index}", model.Tokenizer.Encode(texts[int.Parse(index, Invariant)], addSpecial: false).Ids.Select(id => (long)id), ids.data<long>().ToArray());
            using Taps taps = new Taps().Read([.. residual, "final_norm.output"]);
            Tensor logits = model.Forward(ids.unsqueeze(0), taps: taps)[0], normed = taps["final_norm.output"][0];
            Tensor states = stack(residual.Select(name => taps[name][0]));
            foreach (string name in expected.Entries.Keys.Where(name => name.EndsWith("." + index, StringComparison.Ordinal)))
            {
                Tensor theirs = expected.Read(name);
                switch (name[..^(index.Length + 1)])
                {
                    case "logits":
                        comparison.Tensors(name, logits[-1], theirs);
                        break;
                    case "top_ids":
                        // Ids of near-equal logits may swap: what must agree is the logit at each place.
                        Tensor atTheirs = logits.gather(1, theirs), best = logits.topk((int)theirs.shape[1]).values;
                        comparison.Tensors(name + " by logit", atTheirs, expected.Read($"top_logits.{index}"));
                        comparison.Tensors(name + " by rank", best, expected.Read($"top_logits.{index}"));
                        break;
                    case "top_logits":
                        break;
                    case "hidden_norm":
                        comparison.Tensors(name, states.norm(-1), theirs);
                        break;
                    case "final_norm":
                        comparison.Tensors(name, normed.norm(-1), theirs);
                        break;
                    case "hidden_last":
                        comparison.Tensors(name, cat([states[TensorIndex.Colon, -1], normed[-1].unsqueeze(0)]), theirs);
                        break;
                    default:
                        comparison.Mismatch(name, $"{name} is not known here");
                        break;
                }
            }
        }
    }

    static void Generation(ParityCase parityCase, Comparison comparison)
    {
        using Decoder model = Decoder.Load(parityCase.PathOf("model"));
        JsonArray inputs = Records(parityCase, "inputs"), expected = Records(parityCase, "expected");
        int steps = parityCase.Options["max_new_tokens"]!.GetValue<int>();
        comparison.Exact("prompts", inputs.Count, expected.Count);
        (int[] Ids, double[] Gaps)[] continuations = Greedy(model, [.. inputs.Select(input => Integers(input!["ids"]))], steps);
        for (int i = 0; i < Math.Min(inputs.Count, expected.Count); i++)
        {
            int[] prompt = Integers(inputs[i]!["ids"]), theirs = Integers(expected[i]!["ids"]);
            comparison.Sequences($"prompt {i}", model.Tokenizer.Encode(inputs[i]!["text"]!.GetValue<string>(), addSpecial: false).Ids, prompt);
            double[] gaps = [.. ((JsonArray)expected[i]!["gaps"]!).Select(gap => gap!.GetValue<double>())];
            (int[] ours, double[] ourGaps) = continuations[i];
            int decided = Decided(gaps, UndecidedInGeneration);
            comparison.Sequences($"continuation {i}", ours.Take(decided), theirs.Take(decided));
            if (decided == gaps.Length)
            {
                comparison.Exact($"text {i}", model.Tokenizer.Decode(ours), expected[i]!["text"]!.GetValue<string>());
            }

            for (int step = 0; step < decided; step++)
            {
                comparison.Numbers($"gap {i}, {step}", ourGaps[step], gaps[step]);
            }
        }
    }

    static void Perplexity(ParityCase parityCase, Comparison comparison)
    {
        using SafeTensorsFile inputs = SafeTensorsFile.Open(parityCase.PathOf("inputs")), expected = SafeTensorsFile.Open(parityCase.PathOf("expected"));
        using Decoder model = Decoder.Load(parityCase.PathOf("model"));
        string[] texts = [.. ((JsonArray)parityCase.Options["texts"]!).Select(text => text!.GetValue<string>())];
        foreach (string index in Indices(inputs))
        {
            using var scope = NewDisposeScope();
            using var noGrad = no_grad();
            Tensor ids = inputs.Read($"ids.{index}"), logProbabilities = LogProbabilities(model, ids), loss = logProbabilities.mean().neg();
            comparison.Sequences($"ids.{index}", model.Tokenizer.Encode(texts[int.Parse(index, Invariant)], addSpecial: false).Ids.Select(id => (long)id), ids.data<long>().ToArray());
            comparison.Tensors($"token_logprob.{index}", logProbabilities, expected.Read($"token_logprob.{index}"));
            comparison.Numbers($"loss.{index}", loss.ToDouble(), expected.Read($"loss.{index}").reshape(-1)[0].ToDouble());
            comparison.Numbers($"perplexity.{index}", loss.exp().ToDouble(), expected.Read($"perplexity.{index}").reshape(-1)[0].ToDouble());
        }

        Gradients(parityCase, comparison, model, inputs, expected);
    }

    static void Gradients(ParityCase parityCase, Comparison comparison, Decoder model, SafeTensorsFile inputs, SafeTensorsFile expected)
    {
        if (parityCase.Options["gradient_text"]?.GetValue<int>() is not { } text)
        {
            return;
        }

        using var scope = NewDisposeScope();
        string[] names = [.. expected.Entries.Keys.Where(name => name.StartsWith("grad", StringComparison.Ordinal))];
        model.RequireGrad(names.Where(name => name.StartsWith("grad_norm.", StringComparison.Ordinal)).Select(name => name["grad_norm.".Length..]));
        Tensor loss = LogProbabilities(model, inputs.Read(Indices(inputs).First(index => int.Parse(index, Invariant) == text) is var which ? $"ids.{which}" : "")).mean().neg();
        loss.backward();
        foreach (string name in names)
        {
            Tensor theirs = expected.Read(name);
            int dot = name.IndexOf('.', StringComparison.Ordinal);
            (string what, string of) = dot < 0 ? (name, "") : (name[..dot], name[(dot + 1)..]);
            switch (what)
            {
                case "grad_loss":
                    comparison.Numbers(name, loss.ToDouble(), theirs.reshape(-1)[0].ToDouble());
                    break;
                case "grad_norm":
                    comparison.Numbers(name, model.Grad(of)!.norm().ToDouble(), theirs.reshape(-1)[0].ToDouble());
                    break;
                case "grad":
                    comparison.Tensors(name, model.Grad(of)!, theirs);
                    break;
                case "grad_rows":
                    comparison.Tensors(name, model.Grad(of)!.index_select(0, expected.Read("grad_row_ids")), theirs);
                    break;
                case "grad_row_ids":
                    break;
                default:
                    comparison.Mismatch(name, $"{name} is not known here");
                    break;
            }
        }

        model.StopGrad();
    }

    static void Facts(ParityCase parityCase, Comparison comparison)
    {
        using Decoder model = Decoder.Load(parityCase.PathOf("model"));
        Tokenizer tokenizer = model.Tokenizer;
        JsonArray inputs = Records(parityCase, "inputs");
        var expected = (JsonObject)JsonNode.Parse(File.ReadAllBytes(parityCase.PathOf("expected")))!;
        var facts = (JsonArray)expected["facts"]!;
        comparison.Exact("facts", inputs.Count, facts.Count);
        int steps = parityCase.Options["continuation_tokens"]!.GetValue<int>();
        // Of similar length, so that little is padded.
        foreach (JsonNode?[] batch in facts.OrderBy(fact => ((JsonArray)fact!["prompt_ids"]!).Count).Chunk(64))
        {
            (int[] Ids, double[] Gaps)[] ours = Greedy(model, [.. batch.Select(fact => Integers(fact!["prompt_ids"]))], steps, logits =>
            {
                ReadOnlySpan<float> all = logits.contiguous().data<float>().ToArray();
                int width = all.Length / batch.Length;
                for (int row = 0; row < batch.Length; row++)
                {
                    string id = batch[row]!["id"]!.GetValue<string>();
                    CompareToken(comparison, id, all.Slice(row * width, width), Integers(batch[row]!["answer_ids"])[0], batch[row]!);
                    if (batch[row]!["new_target"] is JsonObject target)
                    {
                        CompareToken(comparison, id + " new_target", all.Slice(row * width, width), Integers(target["answer_ids"])[0], target);
                    }
                }
            });
            foreach ((JsonNode? fact, (int[] ids, _)) in batch.Zip(ours))
            {
                string id = fact!["id"]!.GetValue<string>();
                bool decided = fact["smallest_gap"]!.GetValue<double>() >= UndecidedInFacts;
                comparison.Sequences($"{id} prompt_ids", tokenizer.Encode(fact["prompt"]!.GetValue<string>(), addSpecial: false).Ids, Integers(fact["prompt_ids"]));
                comparison.Sequences($"{id} answer_ids", tokenizer.Encode(" " + fact["answer"]!.GetValue<string>(), addSpecial: false).Ids, Integers(fact["answer_ids"]));
                if (decided)
                {
                    comparison.Sequences($"{id} continuation", ids, Integers(fact["continuation_ids"]));
                    comparison.Exact($"{id} known", Holds(tokenizer.Decode(ids), fact["accept"]!), fact["known"]!.GetValue<bool>());
                }
            }
        }

        comparison.Exact("known", facts.Count(fact => fact!["known"]!.GetValue<bool>()), expected["summary"]!["known"]!.GetValue<int>());
    }

    static void CompareToken(Comparison comparison, string id, ReadOnlySpan<float> logits, int token, JsonNode expected)
    {
        double sum = 0, highest = System.Numerics.Tensors.TensorPrimitives.Max(logits);
        int above = 0, atLeast = 0;
        foreach (float logit in logits)
        {
            sum += Math.Exp(logit - highest);
            // A rank is decided as far as no other logit is as near as rounding.
            above += logit > logits[token] + 1e-3 ? 1 : 0;
            atLeast += logit > logits[token] - 1e-3 ? 1 : 0;
        }

        comparison.Numbers($"{id} probability", Math.Exp(logits[token] - highest) / sum, expected["probability"]!.GetValue<double>());
        int rank = expected["rank"]!.GetValue<int>();
        if (rank <= above || rank > atLeast)
        {
            comparison.Mismatch($"{id} rank", $"{id} has the rank {above + 1}, expected {rank}");
        }
    }

    // Greedy continuations with a cache, and the gap between the best two logits at each step. Prompts are padded on the left.
    static (int[] Ids, double[] Gaps)[] Greedy(Decoder model, IReadOnlyList<int[]> prompts, int steps, Action<Tensor>? first = null)
    {
        using var noGrad = no_grad();
        int longest = prompts.Max(prompt => prompt.Length);
        using var cache = new KeyValueCache(model.Config.CacheLayers, longest + steps);
        (int[] Ids, double[] Gaps)[] results = [.. prompts.Select(_ => (new int[steps], new double[steps]))];
        using Tensor prompt = tensor(prompts.SelectMany(ids => Enumerable.Repeat(0L, longest - ids.Length).Concat(ids.Select(id => (long)id))).ToArray(), [prompts.Count, longest]);
        using Tensor mask = tensor(prompts.SelectMany(ids => Enumerable.Repeat(0L, longest - ids.Length).Concat(Enumerable.Repeat(1L, ids.Length))).ToArray(), [prompts.Count, longest]);
        using Tensor one = ones([prompts.Count, 1], dtype: ScalarType.Int64);
        Tensor input = prompt;
        for (int step = 0; step < steps; step++)
        {
            using var scope = NewDisposeScope();
            // One prompt needs no mask, and then compares with an unpadded run to the last bit.
            Tensor? seen = prompts.Count == 1 ? null : step == 0 ? mask : one;
            Tensor logits = model.Forward(input, seen, cache: cache, logits: LogitsAt.Last)[TensorIndex.Colon, -1];
            if (step == 0)
            {
                first?.Invoke(logits);
            }

            (Tensor values, Tensor indexes) = logits.topk(2);
            float[] best = values.data<float>().ToArray();
            long[] ids = indexes.data<long>().ToArray();
            for (int row = 0; row < prompts.Count; row++)
            {
                results[row].Ids[step] = (int)ids[2 * row];
                results[row].Gaps[step] = best[2 * row] - best[2 * row + 1];
            }

            input = indexes[TensorIndex.Colon, 0].unsqueeze(1).clone().DetachFromDisposeScope();
        }

        return results;
    }

    static Tensor LogProbabilities(Decoder model, Tensor ids) =>
        model.Forward(ids.unsqueeze(0))[0, ..^1].log_softmax(-1).gather(1, ids[1..].unsqueeze(1)).squeeze(1);

    static bool Holds(string continuation, JsonNode accept)
    {
        string text = continuation.TrimStart(' ', '\t', '\n', '\r', '"', '\'', '“', '‘');
        return ((JsonArray)accept).Any(answer => Regex.IsMatch(text, $"^{Regex.Escape(answer!.GetValue<string>())}(?!\\w)", RegexOptions.CultureInvariant));
    }

    static int Decided(double[] gaps, double limit) => Array.FindIndex(gaps, gap => gap < limit) is var at && at < 0 ? gaps.Length : at;

    static IEnumerable<string> Indices(SafeTensorsFile inputs) =>
        inputs.Entries.Keys.Where(name => name.StartsWith("ids.", StringComparison.Ordinal)).Select(name => name[4..]).Order(StringComparer.Ordinal);

    static JsonArray Records(ParityCase parityCase, string key) => (JsonArray)JsonNode.Parse(File.ReadAllBytes(parityCase.PathOf(key)))!;

    static int[] Integers(JsonNode? list) => [.. ((JsonArray)list!).Select(value => value!.GetValue<int>())];

    static System.Globalization.CultureInfo Invariant => System.Globalization.CultureInfo.InvariantCulture;
}
