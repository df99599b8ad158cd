using System.Reflection;
using System.Security.Cryptography;
using System.Text;
using System.Text.Json.Nodes;
using Scalpel.Generation;
using Scalpel.Lab.Recipes;
using Scalpel.Methods.Editing;
using Scalpel.Numerics;
using Scalpel.Patches;
using Decoder = Scalpel.Networks.Decoder;

namespace Scalpel.Lab.Evaluations;

/// <summary>Options of <see cref="EditEvaluation"/>.</summary>
public sealed record EditEvaluationOptions
{
    /// <summary>Text that has nothing to do with the facts, for perplexity and divergence; by default a few paragraphs about other things.</summary>
    public string? Text { get; init; }

    /// <summary>Facts whose prompts are continued to measure fluency; generation is the slow part. Default 10, 0 for none.</summary>
    public int FluencyFacts { get; init; } = 10;

    /// <summary>Tokens of each such continuation. Default 100.</summary>
    public int FluencyTokens { get; init; } = 100;
}

/// <summary>
/// Does the edit hold, and did nothing else move? Efficacy, paraphrases, neighbours, unrelated prompts, consequences
/// (portability), fluency, and divergence on text never edited, before and after. Everything is measured against the original model, bound by hash.
/// Sources: ROME (2202.05262) for the success measures and n-gram entropy.
/// </summary>
public sealed class EditEvaluation(EditEvaluationOptions? options = null)
{
    readonly EditEvaluationOptions options = options ?? new EditEvaluationOptions();

    /// <summary>Measures a patch. The model must be the unedited one; it is left as it was.</summary>
    /// <param name="model">The original model.</param>
    /// <param name="patch">The edit; a patch that changes nothing scores exactly zero drift.</param>
    /// <param name="facts">What was edited, with the prompts that shall follow or stay.</param>
    /// <param name="run">Seed of the intervals, progress, cancellation.</param>
    /// <exception cref="BadInputException">There is no fact, or the patch is for another model.</exception>
    public Scorecard Run(Decoder model, Patch patch, IReadOnlyList<FactEdit> facts, RunContext run)
    {
        if (facts.Count == 0)
        {
            throw new BadInputException("There is no fact to evaluate; give at least one.");
        }

        string text = options.Text ?? TextDrift.DefaultText;
        Answers before = Ask(model, facts, run, "original"), after;
        TextDrift drift = TextDrift.Measure(model, patch, text, run);
        using (patch.ApplyTo(model))
        {
            after = Ask(model, facts, run, "edited");
        }

        JsonObject compared = Compared(model, facts, text);
        return new Scorecard
        {
            Fingerprint = Convert.ToHexStringLower(SHA256.HashData(Encoding.UTF8.GetBytes(compared.ToJsonString()))),
            Compared = compared,
            Metrics = [.. Measures(before, after, drift, run.Seed)],
        };
    }

    /// <summary>What one model says to all prompts.</summary>
    sealed record Answers(Pair[] Prompts, Pair[] Paraphrases, Pair[] Neighbours, Continuation[] Consequences, int[] KeptTop, double[] Entropies);

    /// <summary>How a prompt takes the new and, where it is known, the old answer.</summary>
    readonly record struct Pair(Continuation New, Continuation? Old);

    Answers Ask(Decoder model, IReadOnlyList<FactEdit> facts, RunContext run, string which)
    {
        var scores = new ContinuationScores(model, run);
        Pair[] Pairs(Func<FactEdit, IEnumerable<string>> prompts, string what)
        {
            var all = (from fact in facts from prompt in prompts(fact) select (fact, prompt)).ToList();
            Continuation[] fresh = scores.Of([.. all.Select(item => (item.prompt, item.fact.Target))], $"{what}, {which} model");
            var known = all.Where(item => item.fact.Old is not null).ToList();
            var old = new Queue<Continuation>(scores.Of([.. known.Select(item => (item.prompt, item.fact.Old!))], $"{what}, {which} model"));
            return [.. all.Select((item, i) => new Pair(fresh[i], item.fact.Old is null ? null : old.Dequeue()))];
        }

        string[] kept = [.. facts.SelectMany(fact => fact.Neighbours.Concat(fact.Locality))];
        return new Answers(
            Pairs(fact => [fact.FilledPrompt], "prompts"),
            Pairs(fact => fact.Paraphrases, "paraphrases"),
            Pairs(fact => fact.Neighbours, "neighbours"),
            scores.Of([.. facts.SelectMany(fact => fact.Portability).Select(item => (item.Prompt, item.Answer))], $"consequences, {which} model"),
            [.. kept.Select(prompt => NextToken(model, prompt))],
            [.. facts.Take(options.FluencyFacts).Select((fact, i) => Entropy(model, fact, i, run, which))]);
    }

    static int NextToken(Decoder model, string prompt) => new TextGenerator(model, new() { MaxNewTokens = 1, EndIds = [] }).Generate([model.Tokenizer.Encode(prompt).Ids])[0].Tokens[0];

    double Entropy(Decoder model, FactEdit fact, int number, RunContext run, string which)
    {
        run.Report($"fluency, {which} model", number, options.FluencyFacts);
        IReadOnlyList<int> tokens = new TextGenerator(model, new() { MaxNewTokens = options.FluencyTokens, Temperature = 1, TopK = 5, Seed = run.Seed, EndIds = [] })
            .Generate([model.Tokenizer.Encode(fact.FilledPrompt).Ids], run.Cancellation)[0].Tokens;
        return NGramEntropy(tokens);
    }

    /// <summary>The weighted entropy of bigrams (2/3) and trigrams (4/3) in bits, halved: low when a text repeats itself.</summary>
    public static double NGramEntropy(IReadOnlyList<int> tokens)
    {
        double Of(int n)
        {
            var counts = new Dictionary<string, int>(StringComparer.Ordinal);
            int total = tokens.Count - n + 1;
            for (int i = 0; i < total; i++)
            {
                string key = string.Join(' ', tokens.Skip(i).Take(n));
                counts[key] = counts.GetValueOrDefault(key) + 1;
            }

            return -counts.Values.Sum(count => (double)count / total * Math.Log2((double)count / total));
        }

        return tokens.Count < 3 ? 0 : (2.0 / 3 * Of(2) + 4.0 / 3 * Of(3)) / 2;
    }

    static IEnumerable<Metric> Measures(Answers before, Answers after, TextDrift drift, ulong seed)
    {
        var shares = new List<(double Before, double After)>();
        foreach ((string name, string what, Pair[] b, Pair[] a, bool old) in new[]
        {
            ("efficacy", "the prompt", before.Prompts, after.Prompts, false),
            ("paraphrase", "other wordings", before.Paraphrases, after.Paraphrases, false),
            ("neighbourhood", "other subjects", before.Neighbours, after.Neighbours, true),
        })
        {
            Pair[] bk = [.. b.Where(pair => pair.Old is not null)], ak = [.. a.Where(pair => pair.Old is not null)];
            if (ak.Length > 0)
            {
                bool Success(Pair pair) => old ? pair.Old!.Value.Nll < pair.New.Nll : pair.New.Nll < pair.Old!.Value.Nll;
                yield return Share($"{name}_success", $"Share of {what} where the {(old ? "old" : "new")} answer is more probable than the {(old ? "new" : "old")} one.", bk.Select(Success), ak.Select(Success));
                yield return Mean($"{name}_magnitude", $"Probability of the {(old ? "old" : "new")} answer minus that of the {(old ? "new" : "old")} one, {what}.",
                    bk.Select(pair => Difference(pair, old)), ak.Select(pair => Difference(pair, old)), seed);
                shares.Add((bk.Count(Success) / (double)bk.Length, ak.Count(Success) / (double)ak.Length));
            }

            if (a.Length > 0 && !old)
            {
                yield return Share($"{name}_exact", $"Share of {what} where every token of the new answer is the most probable one.", b.Select(pair => pair.New.Greedy), a.Select(pair => pair.New.Greedy));
                yield return Mean($"{name}_probability", $"Probability of the new answer, geometric mean over its tokens, {what}.", b.Select(pair => pair.New.Probability), a.Select(pair => pair.New.Probability), seed);
            }
        }

        if (shares.Count == 3)
        {
            Interval Harmonic(IEnumerable<double> values)
            {
                double value = values.Any(v => v == 0) ? 0 : 3 / values.Sum(v => 1 / v);
                return new Interval(value, value, value);
            }

            yield return new Metric("score", "Harmonic mean of efficacy, paraphrase and neighbourhood success; no interval of its own.", true, after.Prompts.Length, Harmonic(shares.Select(s => s.Before)), Harmonic(shares.Select(s => s.After)));
        }

        if (after.Consequences.Length > 0)
        {
            yield return Share("portability_exact", "Share of consequences of the new fact where every token of the answer is the most probable one.", before.Consequences.Select(answer => answer.Greedy), after.Consequences.Select(answer => answer.Greedy));
            yield return Mean("portability_probability", "Probability of the answer that follows from the new fact, geometric mean over its tokens.", before.Consequences.Select(answer => answer.Probability), after.Consequences.Select(answer => answer.Probability), seed);
        }

        if (after.KeptTop.Length > 0)
        {
            int same = before.KeptTop.Zip(after.KeptTop).Count(pair => pair.First == pair.Second);
            yield return new Metric("locality", "Share of neighbours and unrelated prompts with the same most probable next token as before.", true, after.KeptTop.Length, null, Intervals.Wilson(same, after.KeptTop.Length));
        }

        if (after.Entropies.Length > 0)
        {
            yield return Mean("fluency", "Weighted entropy of bigrams and trigrams in continuations, in bits; low when a text repeats itself.", before.Entropies, after.Entropies, seed);
        }

        double[] change = [.. drift.Before.Zip(drift.After, (b, a) => b - a)];
        yield return new Metric("perplexity", "Perplexity of text never edited.", false, drift.Before.Count, Exp(Intervals.Mean([.. drift.Before.Select(x => -x)], seed)), Exp(Intervals.Mean([.. drift.After.Select(x => -x)], seed)));
        yield return new Metric("loss_change", "Rise of the loss on text never edited, in nats a token.", false, change.Length, null, Intervals.Mean(change, seed));
        yield return new Metric("divergence", "KL divergence of the next-token distribution on text never edited, original to edited, in nats.", false, drift.Divergence.Count, null, Intervals.Mean(drift.Divergence, seed));
        yield return new Metric("text_agreement", "Share of positions in text never edited with the same most probable next token.", true, drift.Same.Count, null, Intervals.Wilson(drift.Same.Count(s => s), drift.Same.Count));
    }

    static Interval Exp(Interval log) => new(Math.Exp(log.Value), Math.Exp(log.Low), Math.Exp(log.High));

    static double Difference(Pair pair, bool old) => old ? pair.Old!.Value.Probability - pair.New.Probability : pair.New.Probability - pair.Old!.Value.Probability;

    static Metric Share(string name, string explanation, IEnumerable<bool> before, IEnumerable<bool> after)
    {
        bool[] b = [.. before], a = [.. after];
        return new Metric(name, explanation, true, a.Length, Intervals.Wilson(b.Count(x => x), b.Length), Intervals.Wilson(a.Count(x => x), a.Length));
    }

    static Metric Mean(string name, string explanation, IEnumerable<double> before, IEnumerable<double> after, ulong seed)
    {
        double[] b = [.. before], a = [.. after];
        return new Metric(name, explanation, false, a.Length, Intervals.Mean(b, seed), Intervals.Mean(a, seed));
    }

    JsonObject Compared(Decoder model, IReadOnlyList<FactEdit> facts, string text)
    {
        static string Sha(string value) => Convert.ToHexStringLower(SHA256.HashData(Encoding.UTF8.GetBytes(value)));
        var all = new StringBuilder(model.ConfigHash);
        foreach (string name in model.Parameters.Keys.Order(StringComparer.Ordinal))
        {
            all.Append('\n').Append(name).Append(' ').Append(model.Hash(name));
        }

        return new JsonObject
        {
            ["model"] = Sha(all.ToString()),
            ["arithmetic"] = model.DType.ToString(),
            ["facts"] = Sha(new JsonArray([.. facts.Select(fact => (JsonNode)FactFile.ToJson(fact))]).ToJsonString()),
            ["text"] = Sha(text),
            ["tokenizer"] = Sha(string.Join('\n', Enumerable.Range(0, model.Tokenizer.VocabularySize).Select(id => model.Tokenizer.IdToToken(id)))),
            ["template"] = "none",
            ["fluency_facts"] = options.FluencyFacts,
            ["fluency_tokens"] = options.FluencyTokens,
            ["version"] = typeof(EditEvaluation).Assembly.GetCustomAttribute<AssemblyInformationalVersionAttribute>()!.InformationalVersion.Split('+')[0],
        };
    }
}
