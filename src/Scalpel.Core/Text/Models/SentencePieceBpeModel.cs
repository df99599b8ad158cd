using System.Text;
using Scalpel.Text.Pipeline;

namespace Scalpel.Text.Models;

/// <summary>
/// SentencePiece's byte pair encoding: merges the adjacent pair whose text is the token of the highest score, the
/// leftmost first; what is no token becomes its bytes, or the unknown token.
/// </summary>
sealed class SentencePieceBpeModel : TokenModel
{
    readonly float[] scores;
    readonly Func<int, bool> mergeable, unused;
    readonly int[] bytes;
    readonly int unknown;

    /// <summary>A model over tokens and their scores.</summary>
    /// <param name="vocabulary">The tokens.</param>
    /// <param name="scores">By id; a higher score merges first.</param>
    /// <param name="mergeable">Which tokens may come out of a merge.</param>
    /// <param name="unused">Which of these are taken apart again in the end.</param>
    /// <param name="unknown">The unknown token, or -1.</param>
    public SentencePieceBpeModel(Vocabulary vocabulary, float[] scores, Func<int, bool> mergeable, Func<int, bool> unused, int unknown) : base(vocabulary)
    {
        this.scores = scores;
        this.mergeable = mergeable;
        this.unused = unused;
        this.unknown = unknown;
        bytes = vocabulary.ByteTokens();
    }

    public override void Tokenize(ReadOnlySpan<int> piece, List<ModelToken> tokens)
    {
        int n = piece.Length;
        int[] text = piece.ToArray(), length = new int[n], next = new int[n], previous = new int[n];
        var halves = new Dictionary<(int From, int Length), int>();
        var queue = new PriorityQueue<(int Left, int Size, int LeftSize), (float Score, int At)>(n);
        for (int i = 0; i < n; i++)
        {
            length[i] = 1;
            next[i] = i + 1 < n ? i + 1 : -1;
            previous[i] = i - 1;
        }

        for (int i = 0; i + 1 < n; i++)
        {
            Offer(i);
        }

        while (queue.TryDequeue(out (int Left, int Size, int LeftSize) top, out _))
        {
            int left = top.Left, right = length[left] == 0 ? -1 : next[left];
            if (right < 0 || length[left] != top.LeftSize || length[left] + length[right] != top.Size)
            {
                continue;
            }

            halves[(left, top.Size)] = length[left];
            length[left] = top.Size;
            length[right] = 0;
            next[left] = next[right];
            if (next[left] >= 0)
            {
                previous[next[left]] = left;
            }

            Offer(left);
            if (previous[left] >= 0)
            {
                Offer(previous[left]);
            }
        }

        for (int i = 0; i >= 0; i = next[i])
        {
            Add(i, length[i]);
        }

        void Offer(int left)
        {
            if (next[left] < 0)
            {
                return;
            }

            int size = length[left] + length[next[left]];
            if (Vocabulary.TryId(text.AsSpan(left, size), out int id) && mergeable(id))
            {
                queue.Enqueue((left, size, length[left]), (-scores[id], left));
            }
        }

        void Add(int from, int size)
        {
            bool known = Vocabulary.TryId(text.AsSpan(from, size), out int id) && mergeable(id);
            if (known && unused(id) && halves.TryGetValue((from, size), out int half))
            {
                Add(from, half);
                Add(from + half, size - half);
            }
            else if (known)
            {
                tokens.Add(new ModelToken(id, from, from + size));
            }
            else
            {
                Spell(from, size);
            }
        }

        void Spell(int from, int size)
        {
            byte[] utf8 = Encoding.UTF8.GetBytes(CodePoints.Text(text.AsSpan(from, size)));
            if (Array.TrueForAll(utf8, value => bytes[value] >= 0))
            {
                foreach (byte value in utf8)
                {
                    tokens.Add(new ModelToken(bytes[value], from, from + size));
                }
            }
            else if (unknown >= 0)
            {
                tokens.Add(new ModelToken(unknown, from, from + size));
            }
        }
    }
}
