using Scalpel.Networks;
using TorchSharp;
using static TorchSharp.torch;

namespace Scalpel.Lab.Worlds;

/// <summary>
/// What a decoder with the world's tokenizer says to prompts; many prompts at a time, those of one length together. As in
/// training, and as the tokenizer writes it, a text begins after an end mark.
/// </summary>
/// <param name="model">The decoder.</param>
public sealed class ModelScores(Decoder model)
{
    const int BatchTokens = 8192;

    /// <summary>Whether each answer is exactly what the model prefers, token by token.</summary>
    /// <param name="items">Prompts and answers as text.</param>
    public bool[] Exact(IReadOnlyList<(string Prompt, string Answer)> items)
    {
        var right = new bool[items.Count];
        int[][] rows = [.. items.Select(item => Ids($"{item.Prompt} {item.Answer}"))];
        int[] answers = [.. items.Select(item => Ids(item.Answer).Length - 1)];
        EachBatch(rows, (batch, logits) =>
        {
            using Tensor best = logits.argmax(-1);                                             // [B, T]
            long[] flat = best.data<long>().ToArray();
            int length = rows[batch[0]].Length;
            for (int i = 0; i < batch.Length; i++)
            {
                int[] row = rows[batch[i]];
                right[batch[i]] = Enumerable.Range(length - answers[batch[i]], answers[batch[i]]).All(at => flat[i * length + at - 1] == row[at]);
            }
        });
        return right;
    }

    /// <summary>Share of exact answers.</summary>
    public double Accuracy(IReadOnlyList<(string Prompt, string Answer)> items) => items.Count == 0 ? double.NaN : Exact(items).Average(right => right ? 1.0 : 0.0);

    /// <summary>Log-probabilities of single words after prompts.</summary>
    /// <returns>[prompt][word], in nats.</returns>
    public double[][] NextWord(IReadOnlyList<string> prompts, IReadOnlyList<IReadOnlyList<string>> words)
    {
        var result = new double[prompts.Count][];
        EachBatch([.. prompts.Select(Ids)], (batch, logits) =>
        {
            using Tensor last = logits.select(1, -1).log_softmax(-1);                          // [B, V]
            for (int i = 0; i < batch.Length; i++)
            {
                result[batch[i]] = [.. words[batch[i]].Select(word => last[i, Lexicon.Instance.Id(word)].ToDouble())];
            }
        });
        return result;
    }

    /// <summary>Mean negative log-likelihood of the words after the first <paramref name="given"/> and of the end mark, in nats a token.</summary>
    public double Loss(IReadOnlyList<string> texts, int given)
    {
        int from = given + 1;
        double sum = 0;
        long tokens = 0;
        int[][] rows = [.. texts.Select(text => (int[])[.. Ids(text), Lexicon.EndId])];
        EachBatch(rows, (batch, logits) =>
        {
            int length = rows[batch[0]].Length;
            using Tensor ids = Batch(rows, batch);
            using Tensor next = logits.narrow(1, from - 1, length - from).log_softmax(-1).gather(-1, ids.narrow(1, from, length - from).unsqueeze(-1));
            sum -= next.sum().ToDouble();
            tokens += (long)batch.Length * (length - from);
        });
        return sum / tokens;
    }

    /// <summary>Continues prompts by sampling at temperature 1.</summary>
    /// <param name="prompts">The prompts.</param>
    /// <param name="tokens">Words to add; an end mark ends a text.</param>
    /// <param name="seed">Of the samples.</param>
    /// <returns>The added words of each.</returns>
    public string[] Sample(IReadOnlyList<string> prompts, int tokens, ulong seed)
    {
        int[][] rows = [.. prompts.Select(Ids)];
        int[] starts = [.. rows.Select(row => row.Length)];
        SplitMix64[] generators = [.. prompts.Select((_, i) => SplitMix64.Of(seed, "text/sample", i))];
        for (int step = 0; step < tokens; step++)
        {
            EachBatch(rows, (batch, logits) =>
            {
                using Tensor last = logits.select(1, -1).softmax(-1).contiguous();
                float[] p = last.data<float>().ToArray();
                int width = p.Length / batch.Length;
                for (int i = 0; i < batch.Length; i++)
                {
                    int[] row = rows[batch[i]];
                    if (row.Length > starts[batch[i]] && row[^1] == Lexicon.EndId)
                    {
                        continue;
                    }

                    double at = generators[batch[i]].Unit();
                    int id = 0;
                    for (double sum = p[i * width]; sum <= at && id < width - 1; sum += p[i * width + id])
                    {
                        id++;
                    }

                    rows[batch[i]] = [.. row, id];
                }
            });
        }

        return [.. rows.Select((row, i) => string.Join(' ', row.Skip(starts[i]).Where(id => id != Lexicon.EndId && id < Lexicon.Instance.Words.Count).Select(id => Lexicon.Instance.Words[id])))];
    }

    static int[] Ids(string text) => [Lexicon.EndId, .. Lexicon.Instance.Ids(text)];

    static Tensor Batch(int[][] rows, int[] batch) => tensor([.. batch.SelectMany(i => rows[i].Select(id => (long)id))], [batch.Length, rows[batch[0]].Length]);

    void EachBatch(int[][] rows, Action<int[], Tensor> use)
    {
        using var noGrad = inference_mode();
        foreach (IGrouping<int, int> group in Enumerable.Range(0, rows.Length).GroupBy(i => rows[i].Length).OrderBy(group => group.Key).ToArray())
        {
            foreach (int[] batch in group.Chunk(Math.Max(1, BatchTokens / group.Key)))
            {
                using var scope = NewDisposeScope();
                use(batch, model.Forward(Batch(rows, batch)));
            }
        }
    }
}
