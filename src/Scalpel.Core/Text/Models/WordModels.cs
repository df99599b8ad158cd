namespace Scalpel.Text.Models;

/// <summary>Each piece is one token, or the unknown one.</summary>
sealed class WordLevelModel(Vocabulary vocabulary, string unknownToken) : TokenModel(vocabulary)
{
    public override void Tokenize(ReadOnlySpan<int> piece, List<ModelToken> tokens)
    {
        int id = Vocabulary.TryId(piece, out int known) ? known : Vocabulary.Id(unknownToken)
            ?? throw new BadInputException($"The text holds a word that the vocabulary lacks, and the vocabulary has no unknown token '{unknownToken}'.");
        tokens.Add(new ModelToken(id, 0, piece.Length));
    }
}

/// <summary>WordPiece: the longest token first, then the longest continuation; a word that does not come out whole is unknown.</summary>
sealed class WordPieceModel(Vocabulary vocabulary, string unknownToken, string continuation, int longestWord) : TokenModel(vocabulary)
{
    readonly int[] continuation = Pipeline.CodePoints.Of(continuation);

    public override void Tokenize(ReadOnlySpan<int> piece, List<ModelToken> tokens)
    {
        int mark = tokens.Count;
        int from = 0;
        if (piece.Length <= longestWord)
        {
            int[] buffer = new int[continuation.Length + piece.Length];
            continuation.CopyTo(buffer, 0);
            while (from < piece.Length)
            {
                int to = piece.Length, id = 0;
                if (from > 0)
                {
                    piece[from..].CopyTo(buffer.AsSpan(continuation.Length));
                }

                while (to > from && !Vocabulary.TryId(from == 0 ? piece[..to] : buffer.AsSpan(0, continuation.Length + to - from), out id))
                {
                    to--;
                }

                if (to == from)
                {
                    break;
                }

                tokens.Add(new ModelToken(id, from, to));
                from = to;
            }
        }

        if (from < piece.Length)
        {
            tokens.RemoveRange(mark, tokens.Count - mark);
            int unknown = Vocabulary.Id(unknownToken)
                ?? throw new BadInputException($"The text holds a word that the vocabulary lacks, and the vocabulary has no unknown token '{unknownToken}'.");
            tokens.Add(new ModelToken(unknown, 0, piece.Length));
        }
    }
}
