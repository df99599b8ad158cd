using TorchSharp;
using static TorchSharp.torch;

namespace Scalpel.Training;

/// <summary>One row to train on: tokens and, for each, the label to learn or −100.</summary>
/// <param name="Ids">Tokens.</param>
/// <param name="Labels">As many labels.</param>
/// <param name="Lengths">Lengths of the sequences within it, in order; they do not attend to each other.</param>
public sealed record TokenRow(IReadOnlyList<long> Ids, IReadOnlyList<long> Labels, IReadOnlyList<int> Lengths)
{
    /// <summary>A row of one sequence.</summary>
    public TokenRow(IReadOnlyList<long> ids, IReadOnlyList<long> labels) : this(ids, labels, [ids.Count]) { }
}

/// <summary>A piece of a sequence within a packed row.</summary>
/// <param name="Row">The sequence.</param>
/// <param name="Start">Its first token.</param>
/// <param name="Count">Tokens.</param>
public readonly record struct PackedPart(int Row, int Start, int Count);

/// <summary>Puts several sequences into one row, so that less is padding.</summary>
public static class Packing
{
    /// <summary>Where each sequence goes: best fit, longest first, into the row with the least room that still takes it.</summary>
    /// <param name="lengths">Tokens of each sequence.</param>
    /// <param name="length">Tokens of a row.</param>
    /// <param name="split">Whether the tail of a longer sequence becomes a sequence of its own; else it is cut off.</param>
    public static IReadOnlyList<IReadOnlyList<PackedPart>> Plan(IReadOnlyList<int> lengths, int length, bool split = false)
    {
        List<PackedPart> parts = [];
        for (int row = 0; row < lengths.Count; row++)
        {
            for (int at = 0; at < lengths[row]; at += length)
            {
                parts.Add(new PackedPart(row, at, Math.Min(length, lengths[row] - at)));
                if (!split)
                {
                    break;
                }
            }
        }

        List<(List<PackedPart> Parts, int Room)> bins = [];
        // Rows by the room that they have left; of equal ones the one that got there first.
        var open = new SortedDictionary<int, Queue<int>>();
        foreach (PackedPart part in parts.OrderByDescending(part => part.Count))
        {
            int room = open.Keys.FirstOrDefault(free => free >= part.Count, -1), bin;
            if (room >= 0)
            {
                bin = open[room].Dequeue();
                if (open[room].Count == 0)
                {
                    open.Remove(room);
                }
            }
            else
            {
                bin = bins.Count;
                bins.Add(([], length));
            }

            bins[bin].Parts.Add(part);
            int left = bins[bin].Room - part.Count;
            bins[bin] = (bins[bin].Parts, left);
            if (left > 0)
            {
                (open.TryGetValue(left, out Queue<int>? queue) ? queue : open[left] = new Queue<int>()).Enqueue(bin);
            }
        }

        return [.. bins.Select(bin => bin.Parts)];
    }

    /// <summary>The sequences in rows as <see cref="Plan"/> says.</summary>
    /// <param name="rows">Sequences.</param>
    /// <param name="length">Tokens of a row.</param>
    /// <param name="split">Whether the tail of a longer sequence becomes a sequence of its own; else it is cut off.</param>
    public static IReadOnlyList<TokenRow> BestFit(IReadOnlyList<TokenRow> rows, int length, bool split = false) =>
    [
        .. Plan([.. rows.Select(row => row.Ids.Count)], length, split).Select(parts => new TokenRow(
            [.. parts.SelectMany(part => rows[part.Row].Ids.Skip(part.Start).Take(part.Count))],
            [.. parts.SelectMany(part => rows[part.Row].Labels.Skip(part.Start).Take(part.Count))],
            [.. parts.Select(part => part.Count)])),
    ];

    /// <summary>Cuts the stream of all tokens every <paramref name="length"/>, whatever the boundaries of sequences.</summary>
    public static IReadOnlyList<TokenRow> Wrapped(IReadOnlyList<TokenRow> rows, int length) =>
        [.. rows.SelectMany(row => row.Ids.Zip(row.Labels)).Chunk(length).Select(part => new TokenRow([.. part.Select(t => t.First)], [.. part.Select(t => t.Second)]))];
}

/// <summary>Rows as tensors, for one pass.</summary>
/// <param name="Ids">[B, T] int64.</param>
/// <param name="Labels">[B, T] int64, −100 = ignored.</param>
/// <param name="Sequences">[B, T] int64: number of the token's sequence within its row, from 1; 0 on padding. The mask of a pass: tokens of different sequences do not see each other.</param>
/// <param name="Positions">[B, T] int64, counted within each sequence; 0 on padding.</param>
public sealed record TokenBatch(Tensor Ids, Tensor Labels, Tensor Sequences, Tensor Positions) : IDisposable
{
    /// <summary>Rows one below the other, padded on the right.</summary>
    /// <param name="rows">At least one row.</param>
    /// <param name="padding">The token that fills up.</param>
    /// <param name="multiple">The width is rounded up to a multiple of this. Default 1.</param>
    public static TokenBatch Padded(IReadOnlyList<TokenRow> rows, long padding, int multiple = 1)
    {
        int width = (rows.Max(row => row.Ids.Count) + multiple - 1) / multiple * multiple;
        long[] ids = new long[rows.Count * width], labels = new long[ids.Length], sequences = new long[ids.Length], positions = new long[ids.Length];
        Array.Fill(ids, padding);
        Array.Fill(labels, TokenScores.Ignored);
        for (int i = 0; i < rows.Count; i++)
        {
            int at = i * width, sequence = 0;
            foreach (int length in rows[i].Lengths)
            {
                sequence++;
                for (int j = 0; j < length; j++, at++)
                {
                    int k = at - i * width;
                    (ids[at], labels[at], sequences[at], positions[at]) = (rows[i].Ids[k], rows[i].Labels[k], sequence, j);
                }
            }
        }

        long[] shape = [rows.Count, width];
        return new TokenBatch(tensor(ids, shape), tensor(labels, shape), tensor(sequences, shape), tensor(positions, shape));
    }

    /// <summary>All sequences in one row without padding; the first token of each is not learned, nothing stands before it.</summary>
    public static TokenBatch PaddingFree(IReadOnlyList<TokenRow> rows)
    {
        List<long> ids = [], labels = [], sequences = [], positions = [];
        long sequence = 0;
        foreach (TokenRow row in rows)
        {
            int at = 0;
            foreach (int length in row.Lengths)
            {
                sequence++;
                for (int j = 0; j < length; j++, at++)
                {
                    ids.Add(row.Ids[at]);
                    labels.Add(j == 0 ? TokenScores.Ignored : row.Labels[at]);
                    sequences.Add(sequence);
                    positions.Add(j);
                }
            }
        }

        long[] shape = [1, ids.Count];
        return new TokenBatch(tensor(ids.ToArray(), shape), tensor(labels.ToArray(), shape), tensor(sequences.ToArray(), shape), tensor(positions.ToArray(), shape));
    }

    /// <summary>Frees the tensors.</summary>
    public void Dispose()
    {
        Ids.Dispose();
        Labels.Dispose();
        Sequences.Dispose();
        Positions.Dispose();
    }
}

/// <summary>A prompt with a better and a worse answer, as tokens.</summary>
public sealed record PreferencePair(IReadOnlyList<long> Prompt, IReadOnlyList<long> Chosen, IReadOnlyList<long> Rejected);

/// <summary>Answers after their prompts as tensors; of pairs all chosen rows, then all rejected ones.</summary>
/// <param name="Ids">[rows, T] int64.</param>
/// <param name="Mask">[rows, T] int64, 1 = token.</param>
/// <param name="Completion">[rows, T] int64, 1 = part of the answer.</param>
public sealed record PreferenceBatch(Tensor Ids, Tensor Mask, Tensor Completion) : IDisposable
{
    /// <summary>Pairs, cut to <paramref name="maxLength"/> and padded on the right.</summary>
    /// <param name="pairs">At least one pair.</param>
    /// <param name="padding">The token that fills up.</param>
    /// <param name="maxLength">Longest row; null for no limit.</param>
    /// <param name="keepEnd">Whether a longer row loses its start instead of its end. Default false.</param>
    /// <param name="multiple">The width is rounded up to a multiple of this. Default 1.</param>
    public static PreferenceBatch Create(IReadOnlyList<PreferencePair> pairs, long padding, int? maxLength = null, bool keepEnd = false, int multiple = 1)
    {
        (long Id, bool Answer)[] Row(IReadOnlyList<long> prompt, IReadOnlyList<long> answer)
        {
            (long, bool)[] all = [.. prompt.Select(id => (id, false)), .. answer.Select(id => (id, true))];
            return maxLength is { } limit && all.Length > limit ? keepEnd ? all[^limit..] : all[..limit] : all;
        }

        return Padded([.. pairs.Select(pair => Row(pair.Prompt, pair.Chosen)), .. pairs.Select(pair => Row(pair.Prompt, pair.Rejected))], padding, multiple);
    }

    /// <summary>Prompts, each with its answer, padded on the right.</summary>
    /// <param name="rows">At least one prompt with its answer.</param>
    /// <param name="padding">The token that fills up.</param>
    public static PreferenceBatch Of(IReadOnlyList<(IReadOnlyList<long> Prompt, IReadOnlyList<long> Answer)> rows, long padding) =>
        Padded([.. rows.Select(row => ((long, bool)[])[.. row.Prompt.Select(id => (id, false)), .. row.Answer.Select(id => (id, true))])], padding, 1);

    static PreferenceBatch Padded((long Id, bool Answer)[][] rows, long padding, int multiple)
    {
        int width = (rows.Max(row => row.Length) + multiple - 1) / multiple * multiple;
        long[] ids = new long[rows.Length * width], mask = new long[ids.Length], completion = new long[ids.Length];
        Array.Fill(ids, padding);
        for (int i = 0; i < rows.Length; i++)
        {
            for (int j = 0; j < rows[i].Length; j++)
            {
                (ids[i * width + j], mask[i * width + j], completion[i * width + j]) = (rows[i][j].Id, 1, rows[i][j].Answer ? 1 : 0);
            }
        }

        long[] shape = [rows.Length, width];
        return new PreferenceBatch(tensor(ids, shape), tensor(mask, shape), tensor(completion, shape));
    }

    /// <summary>Frees the tensors.</summary>
    public void Dispose()
    {
        Ids.Dispose();
        Mask.Dispose();
        Completion.Dispose();
    }
}
