using Scalpel.Networks;
using TorchSharp;
using static TorchSharp.torch;

namespace Scalpel.Lab.Evaluations;

/// <summary>How a model takes a continuation.</summary>
/// <param name="Nll">Mean negative log-probability of its tokens.</param>
/// <param name="Greedy">Whether each of its tokens is the most probable one.</param>
readonly record struct Continuation(double Nll, bool Greedy)
{
    /// <summary>exp(−nll), the geometric mean of the tokens' probabilities.</summary>
    public double Probability => Math.Exp(-Nll);
}

/// <summary>Scores many prompts and continuations in batches of like length.</summary>
sealed class ContinuationScores(Decoder model, RunContext run)
{
    const int TokensAtOnce = 1024;

    /// <summary>One score a pair, in order.</summary>
    public Continuation[] Of(IReadOnlyList<(string Prompt, string Answer)> pairs, string stage)
    {
        if (pairs.Count == 0)
        {
            return [];
        }

        (long[] Ids, int From)[] rows = [.. pairs.Select(pair => Row(pair.Prompt, pair.Answer))];
        var result = new Continuation[pairs.Count];
        int done = 0;
        foreach (int[] batch in Batches(rows))
        {
            run.Report(stage, done, pairs.Count);
            Score(rows, batch, result);
            done += batch.Length;
        }

        run.Report(stage, done, pairs.Count);
        return result;
    }

    (long[] Ids, int From) Row(string prompt, string answer)
    {
        long[] before = Ids(prompt), whole = Ids(prompt + (answer.StartsWith(' ') ? answer : " " + answer));
        // A text whose tokens change with what follows begins to differ before its end: scored from there.
        int from = 0;
        while (from < before.Length && from < whole.Length - 1 && before[from] == whole[from])
        {
            from++;
        }

        return from > 0 ? (whole, from) : throw new BadInputException($"The prompt \"{prompt}\" has no token before its continuation.");
    }

    long[] Ids(string text) => [.. model.Tokenizer.Encode(text).Ids.Select(id => (long)id)];

    static IEnumerable<int[]> Batches((long[] Ids, int From)[] rows)
    {
        var batch = new List<int>();
        int width = 0;
        foreach (int i in Enumerable.Range(0, rows.Length).OrderBy(i => rows[i].Ids.Length))
        {
            if (batch.Count > 0 && Math.Max(width, rows[i].Ids.Length) * (batch.Count + 1) > TokensAtOnce)
            {
                yield return [.. batch];
                batch.Clear();
            }

            batch.Add(i);
            width = rows[i].Ids.Length;
        }

        if (batch.Count > 0)
        {
            yield return [.. batch];
        }
    }

    void Score((long[] Ids, int From)[] rows, int[] batch, Continuation[] result)
    {
        using var scope = NewDisposeScope();
        using var noGrad = no_grad();
        int width = batch.Max(i => rows[i].Ids.Length), first = batch.Min(i => rows[i].From) - 1;
        long[] ids = new long[batch.Length * width], mask = new long[batch.Length * width];
        for (int r = 0; r < batch.Length; r++)
        {
            long[] row = rows[batch[r]].Ids;
            row.CopyTo(ids, r * width);
            Array.Fill(mask, 1, r * width, row.Length);
        }

        int[] columns = [.. Enumerable.Range(first, width - 1 - first)];
        Tensor input = tensor(ids, [batch.Length, width]);
        Tensor logits = model.Forward(input, tensor(mask, [batch.Length, width]), logits: LogitsAt.Columns(columns)).to_type(ScalarType.Float32);
        Tensor next = input.narrow(1, first + 1, columns.Length);
        Tensor log = logits.gather(2, next.unsqueeze(2)).squeeze(2) - logits.logsumexp(2);
        Tensor hit = logits.argmax(2).eq(next);
        float[] logs = log.contiguous().data<float>().ToArray();
        bool[] hits = hit.contiguous().data<bool>().ToArray();
        for (int r = 0; r < batch.Length; r++)
        {
            (long[] row, int from) = rows[batch[r]];
            double sum = 0;
            bool greedy = true;
            for (int t = from; t < row.Length; t++)
            {
                sum -= logs[r * columns.Length + t - 1 - first];
                greedy &= hits[r * columns.Length + t - 1 - first];
            }

            result[batch[r]] = new Continuation(sum / (row.Length - from), greedy);
        }
    }
}
