using System.Numerics;

namespace Scalpel.Text.Models;

/// <summary>
/// For a pair of tokens the rank of their merge and the token that they become. Flat arrays with open addressing: filled
/// with tens of thousands of pairs while a tokenizer loads, asked for every two neighbours of a text.
/// </summary>
sealed class PairTable
{
    const long Empty = -1;

    long[] keys;
    int[] ranks, tokens;
    int count;

    /// <summary>An empty table with room for a number of pairs; it grows when they are exceeded.</summary>
    public PairTable(int expected = 0)
    {
        int size = (int)BitOperations.RoundUpToPowerOf2((uint)Math.Max(16, Math.Min(expected, 1 << 28) * 2));
        (keys, ranks, tokens) = (new long[size], new int[size], new int[size]);
        Array.Fill(keys, Empty);
    }

    /// <summary>Sets a pair; one of before gives way.</summary>
    public void Set(int left, int right, int rank, int token)
    {
        if (2 * (count + 1) > keys.Length)
        {
            Grow();
        }

        int at = Slot(left, right);
        count += keys[at] == Empty ? 1 : 0;
        (keys[at], ranks[at], tokens[at]) = (Key(left, right), rank, token);
    }

    /// <summary>Whether two tokens merge, by which rank, and into what.</summary>
    public bool TryGet(int left, int right, out int rank, out int token)
    {
        int at = Slot(left, right);
        (rank, token) = (ranks[at], tokens[at]);
        return keys[at] != Empty;
    }

    static long Key(int left, int right) => ((long)left << 32) | (uint)right;

    // Where the pair is, or would be.
    int Slot(int left, int right)
    {
        long key = Key(left, right);
        ulong mixed = (ulong)key * 0x9E3779B97F4A7C15;
        int mask = keys.Length - 1, at = (int)((mixed ^ (mixed >> 32)) >> 3) & mask;
        while (keys[at] != key && keys[at] != Empty)
        {
            at = (at + 1) & mask;
        }

        return at;
    }

    void Grow()
    {
        (long[] oldKeys, int[] oldRanks, int[] oldTokens) = (keys, ranks, tokens);
        int size = 2 * keys.Length;
        (keys, ranks, tokens, count) = (new long[size], new int[size], new int[size], 0);
        Array.Fill(keys, Empty);
        for (int i = 0; i < oldKeys.Length; i++)
        {
            if (oldKeys[i] != Empty)
            {
                Set((int)(oldKeys[i] >> 32), (int)oldKeys[i], oldRanks[i], oldTokens[i]);
            }
        }
    }
}
