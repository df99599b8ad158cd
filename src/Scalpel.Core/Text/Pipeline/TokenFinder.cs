namespace Scalpel.Text.Pipeline;

/// <summary>Finds added tokens: the leftmost, of these the longest.</summary>
sealed class TokenFinder
{
    readonly Dictionary<(int Node, int Code), int> edges = [];
    readonly List<AddedToken?> ends = [null];
    readonly HashSet<int> firsts = [];

    public bool IsEmpty => firsts.Count == 0;

    public void Add(AddedToken token, ReadOnlySpan<int> text)
    {
        int node = 0;
        foreach (int code in text)
        {
            if (!edges.TryGetValue((node, code), out int next))
            {
                next = ends.Count;
                ends.Add(null);
                edges[(node, code)] = next;
            }

            node = next;
        }

        if (node != 0)
        {
            firsts.Add(text[0]);
            ends[node] ??= token;
        }
    }

    /// <summary>Cuts the pieces at the tokens in them.</summary>
    /// <param name="pieces">What has been cut so far.</param>
    /// <param name="parseSpecial">Whether special tokens are found too.</param>
    public Pieces Apply(Pieces pieces, bool parseSpecial)
    {
        if (IsEmpty)
        {
            return pieces;
        }

        var list = new List<Piece>();
        foreach (Piece piece in pieces.List)
        {
            if (piece.IsText)
            {
                Cut(pieces.Text, piece, parseSpecial, list);
            }
            else
            {
                list.Add(piece);
            }
        }

        return pieces with { List = list };
    }

    void Cut(AlignedText text, Piece piece, bool parseSpecial, List<Piece> list)
    {
        ReadOnlySpan<int> codes = text.Slice(piece);
        int done = 0;
        for (int at = 0; at < codes.Length;)
        {
            if (!firsts.Contains(codes[at]) || Longest(codes, at) is not { } found)
            {
                at++;
                continue;
            }

            (AddedToken token, int to) = found;
            int from = at, start = at, end = to;
            at = to;
            if ((token.Special && !parseSpecial)
                || (token.SingleWord && ((from > 0 && CodePoints.IsWord(codes[from - 1])) || (to < codes.Length && CodePoints.IsWord(codes[to])))))
            {
                continue;
            }

            if (token.StripLeft)
            {
                while (from > done && CodePoints.IsSpace(codes[from - 1]))
                {
                    from--;
                }
            }

            if (token.StripRight)
            {
                while (to < codes.Length && CodePoints.IsSpace(codes[to]))
                {
                    to++;
                }
            }

            Add(done, from);
            int left = start - from, right = to - end;
            list.Add(new Piece(left, right, text.Start(piece.From + from), token.Id, text.End(piece.From + to - 1)));
            done = to;
            at = Math.Max(at, to);
        }

        Add(done, codes.Length);

        void Add(int from, int to)
        {
            if (to > from)
            {
                list.Add(new Piece(piece.From + from, piece.From + to, from == 0 ? piece.Origin : text.Start(piece.From + from)));
            }
        }
    }

    (AddedToken Token, int To)? Longest(ReadOnlySpan<int> codes, int at)
    {
        (AddedToken, int)? best = null;
        int node = 0;
        while (at < codes.Length && edges.TryGetValue((node, codes[at]), out node))
        {
            at++;
            if (ends[node] is { } token)
            {
                best = (token, at);
            }
        }

        return best;
    }
}
