using Scalpel.Networks;
using Scalpel.Numerics;
using TorchSharp;
using static TorchSharp.torch;

namespace Scalpel.Methods.Editing;

/// <summary>Text that a model itself writes, seeded: contexts of edits, and a corpus for statistics where the user gives none.</summary>
static class ModelText
{
    /// <summary>Continues rows of equal length.</summary>
    /// <param name="start">Ids [B, T].</param>
    /// <param name="length">Tokens to add.</param>
    /// <param name="topK">Draws among so many most likely tokens; 0 for all.</param>
    /// <returns>The whole rows, int64 [B, T + length].</returns>
    public static Tensor Continue(Decoder model, Tensor start, int length, int topK, Generator generator, RunContext run)
    {
        using var noGrad = no_grad();
        using var cache = new KeyValueCache(model.Config.CacheLayers, (int)start.shape[1] + length);
        using var pool = new WorkerPool(get_num_threads());
        using Decoder.DecodeStep? step = Decoder.DecodeStep.For(model, (int)start.shape[0], pool);
        var noPadding = new int[start.shape[0]];
        var columns = new List<Tensor> { start.alias() };
        for (int i = 0; i < length; i++)
        {
            run.Cancellation.ThrowIfCancellationRequested();
            using var scope = NewDisposeScope();
            Tensor logits = step is null || i == 0
                ? model.Forward(columns[^1], cache: cache, logits: LogitsAt.Last).select(1, 0).to_type(ScalarType.Float32)
                : tensor(step.Run(columns[^1].data<long>().ToArray(), cache, noPadding).ToArray()).view(start.shape[0], -1);
            if (topK > 0)
            {
                (Tensor best, Tensor which) = logits.topk(Math.Min(topK, (int)logits.shape[1]), -1);
                columns.Add(which.gather(1, best.softmax(-1).multinomial(1, generator: generator)).MoveToOuterDisposeScope());
            }
            else
            {
                columns.Add(logits.softmax(-1).multinomial(1, generator: generator).MoveToOuterDisposeScope());
            }
        }

        Tensor rows = cat(columns, 1);
        columns.ForEach(column => column.Dispose());
        return rows;
    }

    /// <summary>The token that stands before a document: end-of-text, beginning-of-sequence, or token 0.</summary>
    public static long DocumentStart(Decoder model) =>
        model.Tokenizer.TokenToId("<|endoftext|>") ?? model.Tokenizer.BosId ?? model.Tokenizer.EosId ?? 0;

    /// <summary>Contexts of ROME: the bare one, ten of five tokens and ten of ten, written from nothing.</summary>
    public static IReadOnlyList<string> RomeContexts(Decoder model, RunContext run)
    {
        using var scope = NewDisposeScope();
        using var generator = new Generator(run.Seed, CPU);
        using Tensor start = full([20, 1], DocumentStart(model), dtype: ScalarType.Int64);
        Tensor rows = Continue(model, start, 10, topK: 5, generator, run).narrow(1, 1, 10);
        return ["{}", .. Templates(model, rows.narrow(0, 0, 10).narrow(1, 0, 5).contiguous()), .. Templates(model, rows.narrow(0, 10, 10).contiguous())];
    }

    /// <summary>Contexts of MEMIT: the bare one, and one of ten tokens after each of five words.</summary>
    public static IReadOnlyList<IReadOnlyList<string>> MemitContexts(Decoder model, RunContext run)
    {
        using var generator = new Generator(run.Seed, CPU);
        var written = new List<string>();
        foreach (string word in (string[])["The", "Therefore", "Because", "I", "You"])
        {
            using var scope = NewDisposeScope();
            Tensor start = tensor(model.Tokenizer.Encode(word).Ids.Select(id => (long)id).ToArray()).unsqueeze(0);
            written.AddRange(Templates(model, Continue(model, start, 9, topK: 5, generator, run)));
        }

        return [["{}"], written];
    }

    static IEnumerable<string> Templates(Decoder model, Tensor rows)
    {
        long[] ids = [.. rows.data<long>()];
        int width = (int)rows.shape[1];
        return [.. ids.Chunk(width).Select(row => model.Tokenizer.Decode(row.Select(id => (int)id), skipSpecial: true).Replace('{', ' ').Replace('}', ' ') + ". {}")];
    }
}
