using System.Text;
using Scalpel.Text.Pipeline;

namespace Scalpel.Text.Models;

/// <summary>
/// Unigram: of all ways to cut a piece into tokens, the one whose scores add up to most. A character without a token
/// costs the lowest score less 10; adjacent ones become one unknown token, or their bytes.
/// </summary>
sealed class UnigramModel : TokenModel
{
    const double UnknownPenalty = 10;

    readonly double[] scores;
    readonly int unknown;
    readonly double unknownScore;
    readonly bool singlePrecision;
    readonly int[]? bytes;
    readonly PieceTrie trie = new();

    /// <summary>A model over tokens and their scores.</summary>
    /// <param name="vocabulary">The tokens.</param>
    /// <param name="scores">Log probabilities by id; NaN for tokens that never occur in text.</param>
    /// <param name="unknown">Id of the unknown token, or -1.</param>
    /// <param name="byteFallback">Whether unknown characters become the tokens of their bytes.</param>
    /// <param name="lowest">The lowest score among those that count for unknown characters.</param>
    /// <param name="singlePrecision">Whether sums are rounded to float32, as SentencePiece's are: it decides between equals.</param>
    public UnigramModel(Vocabulary vocabulary, double[] scores, int unknown, bool byteFallback, double lowest, bool singlePrecision) : base(vocabulary)
    {
        this.scores = scores;
        this.unknown = unknown;
        this.singlePrecision = singlePrecision;
        unknownScore = Rounded(lowest - UnknownPenalty);
        bytes = byteFallback ? vocabulary.ByteTokens() : null;
        foreach ((string text, int id) in vocabulary.All)
        {
            if (!double.IsNaN(scores[id]))
            {
                trie.Add(CodePoints.Of(text), id);
            }
        }
    }

    public override void Tokenize(ReadOnlySpan<int> piece, List<ModelToken> tokens)
    {
        int n = piece.Length;
        var best = new double[n + 1];
        var begins = new int[n + 1];
        var ids = new int[n + 1];
        Array.Fill(begins, -1);
        for (int at = 0; at < n; at++)
        {
            bool single = false;
            int node = 0;
            for (int to = at; to < n && trie.Step(ref node, piece[to]);)
            {
                to++;
                if (trie.Token(node) is int id and >= 0)
                {
                    Offer(at, to, id, best[at] + scores[id]);
                    single |= to == at + 1;
                }
            }

            if (!single)
            {
                Offer(at, at + 1, unknown, best[at] + unknownScore);
            }
        }

        int mark = tokens.Count;
        for (int to = n; to > 0;)
        {
            int from = begins[to], id = ids[to];
            if (id == unknown)
            {
                while (from > 0 && ids[from] == unknown)
                {
                    from = begins[from];
                }
            }

            AddBackwards(piece, from, to, id, tokens);
            to = from;
        }

        tokens.Reverse(mark, tokens.Count - mark);

        void Offer(int from, int to, int id, double score)
        {
            score = Rounded(score);
            if (begins[to] < 0 || score > best[to])
            {
                best[to] = score;
                begins[to] = from;
                ids[to] = id;
            }
        }
    }

    double Rounded(double score) => singlePrecision ? (float)score : score;

    void AddBackwards(ReadOnlySpan<int> piece, int from, int to, int id, List<ModelToken> tokens)
    {
        if (id == unknown)
        {
            // Several unknown characters may spell a token that is written nowhere else.
            if (Vocabulary.TryId(piece[from..to], out int known) && !double.IsNaN(scores[known]))
            {
                tokens.Add(new ModelToken(known, from, to));
                return;
            }

            byte[] utf8 = Encoding.UTF8.GetBytes(CodePoints.Text(piece[from..to]));
            if (bytes is not null && Array.TrueForAll(utf8, value => bytes[value] >= 0))
            {
                for (int i = utf8.Length - 1; i >= 0; i--)
                {
                    tokens.Add(new ModelToken(bytes[utf8[i]], from, to));
                }

                return;
            }

            if (unknown < 0)
            {
                throw new BadInputException("The text holds a character that the vocabulary lacks, and the tokenizer names no unknown token.");
            }
        }

        tokens.Add(new ModelToken(id, from, to));
    }
}

/// <summary>Tokens by their code points, walked one at a time.</summary>
sealed class PieceTrie
{
    readonly Dictionary<long, int> edges = [];
    readonly List<int> tokens = [-1];

    public void Add(ReadOnlySpan<int> text, int token)
    {
        int node = 0;
        foreach (int code in text)
        {
            long key = ((long)node << 32) | (uint)code;
            if (!edges.TryGetValue(key, out int next))
            {
                next = tokens.Count;
                tokens.Add(-1);
                edges[key] = next;
            }

            node = next;
        }

        if (node != 0)
        {
            tokens[node] = token;
        }
    }

    /// <summary>Goes on by one code point; false when no token continues so.</summary>
    public bool Step(ref int node, int code)
    {
        if (!edges.TryGetValue(((long)node << 32) | (uint)code, out int next))
        {
            return false;
        }

        node = next;
        return true;
    }

    /// <summary>The token that ends here, or -1.</summary>
    public int Token(int node) => tokens[node];
}
