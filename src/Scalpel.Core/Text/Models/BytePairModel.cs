using System.Buffers;
using System.Text;
using Scalpel.Text.Pipeline;

namespace Scalpel.Text.Models;

/// <summary>Options of <see cref="BytePairModel"/>, as tokenizer.json names them.</summary>
sealed record BytePairOptions
{
    public string? UnknownToken { get; init; }

    public string ContinuingSubwordPrefix { get; init; } = "";

    public string EndOfWordSuffix { get; init; } = "";

    public bool FuseUnknown { get; init; }

    public bool ByteFallback { get; init; }

    public bool IgnoreMerges { get; init; }
}

/// <summary>
/// Byte pair encoding: starts from single characters and merges the adjacent pair of lowest rank, the leftmost first,
/// until no pair has a rank. Pieces that were seen are kept, because words repeat.
/// </summary>
sealed class BytePairModel : TokenModel
{
    const int CacheSlots = 1 << 14, LongestCached = 64;

    readonly PairTable merges;
    readonly Dictionary<int, int> single = [];
    readonly int[] bytes;
    readonly BytePairOptions options;
    readonly int unknown;
    readonly Known?[] cache = new Known?[CacheSlots];

    sealed record Known(int[] Piece, ModelToken[] Tokens);

    /// <summary>A model over a vocabulary and its merges.</summary>
    /// <param name="vocabulary">The tokens.</param>
    /// <param name="merges">The pairs that merge.</param>
    /// <param name="options">The rest.</param>
    public BytePairModel(Vocabulary vocabulary, PairTable merges, BytePairOptions options) : base(vocabulary)
    {
        this.merges = merges;
        this.options = options;
        unknown = options.UnknownToken is { } token ? vocabulary.Id(token) ?? -1 : -1;
        bytes = vocabulary.ByteTokens();
        foreach ((string text, int id) in vocabulary.All)
        {
            if (text.Length is 1 or 2 && Rune.TryGetRuneAt(text, 0, out Rune rune) && rune.Utf16SequenceLength == text.Length)
            {
                single[rune.Value] = id;
            }
        }
    }

    /// <inheritdoc/>
    public override void Tokenize(ReadOnlySpan<int> piece, List<ModelToken> tokens)
    {
        if (piece.Length > LongestCached)
        {
            tokens.AddRange(Merge(piece));
            return;
        }

        uint hash = 2166136261;
        foreach (int code in piece)
        {
            hash = (hash ^ (uint)code) * 16777619;
        }

        ref Known? slot = ref cache[(hash ^ (hash >> 15)) & (CacheSlots - 1)];
        Known? known = Volatile.Read(ref slot);
        if (known is null || !piece.SequenceEqual(known.Piece))
        {
            known = new Known(piece.ToArray(), Merge(piece));
            Volatile.Write(ref slot, known);
        }

        tokens.AddRange(known.Tokens);
    }

    ModelToken[] Merge(ReadOnlySpan<int> piece)
    {
        if (piece.Length == 0)
        {
            return [];
        }

        if (options.IgnoreMerges && Vocabulary.TryId(piece, out int whole))
        {
            return [new ModelToken(whole, 0, piece.Length)];
        }

        var word = new List<Symbol>(piece.Length);
        Spell(piece, word);
        Join(word);
        return Place(piece, word);
    }

    /// <summary>The symbols from which merging starts, each with its length in UTF-8 bytes.</summary>
    void Spell(ReadOnlySpan<int> piece, List<Symbol> word)
    {
        int pending = 0;
        Span<byte> utf8 = stackalloc byte[4];
        for (int i = 0; i < piece.Length; i++)
        {
            int code = piece[i];
            string before = i > 0 ? options.ContinuingSubwordPrefix : "", after = i == piece.Length - 1 ? options.EndOfWordSuffix : "";
            int length = CodePoints.Utf8Length(code) + Encoding.UTF8.GetByteCount(before) + Encoding.UTF8.GetByteCount(after);
            bool found = before.Length + after.Length == 0
                ? single.TryGetValue(code, out int id)
                : Vocabulary.TryId(before + char.ConvertFromUtf32(code) + after, out id);
            if (found)
            {
                Flush(ref pending);
                word.Add(new Symbol(id, length));
                continue;
            }

            if (options.ByteFallback && before.Length + after.Length == 0)
            {
                int n = new Rune(code).EncodeToUtf8(utf8);
                bool all = true;
                foreach (byte value in utf8[..n])
                {
                    all &= bytes[value] >= 0;
                }

                if (all)
                {
                    foreach (byte value in utf8[..n])
                    {
                        word.Add(new Symbol(bytes[value], 1));
                    }

                    continue;
                }
            }

            // Without an unknown token the character vanishes, and what follows moves up: so the reference counts.
            if (unknown >= 0)
            {
                if (!options.FuseUnknown)
                {
                    Flush(ref pending);
                }

                pending += length;
            }
        }

        Flush(ref pending);

        void Flush(ref int bytesOfUnknown)
        {
            if (bytesOfUnknown > 0)
            {
                word.Add(new Symbol(unknown, bytesOfUnknown));
                bytesOfUnknown = 0;
            }
        }
    }

    void Join(List<Symbol> word)
    {
        int n = word.Count;
        if (n < 2)
        {
            return;
        }

        int[] pool = ArrayPool<int>.Shared.Rent(3 * n);
        Span<int> next = pool.AsSpan(0, n), previous = pool.AsSpan(n, n), lengths = pool.AsSpan(2 * n, n);
        var queue = new PriorityQueue<(int At, int Id), long>(n);
        for (int i = 0; i < n; i++)
        {
            next[i] = i + 1 < n ? i + 1 : -1;
            previous[i] = i - 1;
            lengths[i] = word[i].Bytes;
            if (i + 1 < n)
            {
                Enqueue(i, i + 1);
            }
        }

        while (queue.TryDequeue(out (int At, int Id) top, out _))
        {
            int left = top.At, right = lengths[left] == 0 ? -1 : next[left];
            if (right < 0 || !merges.TryGet(word[left].Id, word[right].Id, out _, out int token) || token != top.Id)
            {
                continue;
            }

            lengths[left] += lengths[right];
            lengths[right] = 0;
            word[left] = new Symbol(top.Id, lengths[left]);
            next[left] = next[right];
            if (next[left] >= 0)
            {
                previous[next[left]] = left;
                Enqueue(left, next[left]);
            }

            if (previous[left] >= 0)
            {
                Enqueue(previous[left], left);
            }
        }

        int kept = 0;
        for (int i = 0; i >= 0; i = next[i])
        {
            word[kept++] = word[i];
        }

        word.RemoveRange(kept, n - kept);
        ArrayPool<int>.Shared.Return(pool);

        void Enqueue(int left, int right)
        {
            if (merges.TryGet(word[left].Id, word[right].Id, out int rank, out int token))
            {
                queue.Enqueue((left, token), ((long)rank << 32) | (uint)left);
            }
        }
    }

    /// <summary>From lengths in bytes to code points: a token that holds a part of a character stands for all of it.</summary>
    static ModelToken[] Place(ReadOnlySpan<int> piece, List<Symbol> word)
    {
        var tokens = new ModelToken[word.Count];
        int at = 0, atByte = 0, begin = 0;
        for (int i = 0; i < tokens.Length; i++)
        {
            int end = begin + word[i].Bytes;
            while (at < piece.Length && atByte + CodePoints.Utf8Length(piece[at]) <= begin)
            {
                atByte += CodePoints.Utf8Length(piece[at++]);
            }

            int to = at, toByte = atByte;
            while (to < piece.Length && toByte < end)
            {
                toByte += CodePoints.Utf8Length(piece[to++]);
            }

            tokens[i] = new ModelToken(word[i].Id, at, to);
            begin = end;
        }

        return tokens;
    }

    readonly record struct Symbol(int Id, int Bytes);
}
