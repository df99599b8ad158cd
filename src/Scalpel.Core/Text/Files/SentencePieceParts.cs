using Scalpel.Text.Models;
using Scalpel.Text.Patterns;
using Scalpel.Text.Pipeline;

namespace Scalpel.Text.Files;

/// <summary>What a SentencePiece vocabulary says of a token; the numbers are those of its files and of GGUF.</summary>
enum PieceType
{
    Normal = 1,
    Unknown = 2,
    Control = 3,
    UserDefined = 4,
    Unused = 5,
    Byte = 6,
}

/// <summary>A SentencePiece vocabulary, from its own file or from GGUF metadata, put together as a tokenizer.</summary>
sealed record SentencePieceParts
{
    public required string[] Texts { get; init; }

    public required float[] Scores { get; init; }

    public required PieceType[] Types { get; init; }

    public bool Unigram { get; init; }

    public byte[] CharacterMap { get; init; } = [];

    public bool AddPrefix { get; init; } = true;

    public bool CollapseSpaces { get; init; } = true;

    public bool ByteFallback { get; init; } = true;

    public string UnknownSurface { get; init; } = " \u2047 ";

    /// <summary>Whether every text between added tokens is normalised on its own, as llama.cpp does.</summary>
    public bool SplitFirst { get; init; }

    public TokenizerParts Build(string path)
    {
        var vocabulary = new Vocabulary(Texts);
        int unknown = Array.IndexOf(Types, PieceType.Unknown);
        List<AddedToken> added = [.. from id in Enumerable.Range(0, Texts.Length)
            where Texts[id].Length > 0 && Types[id] is PieceType.Control or PieceType.Unknown or PieceType.UserDefined
            select new AddedToken(id, Texts[id]) { Special = Types[id] != PieceType.UserDefined, Normalized = !SplitFirst && Types[id] == PieceType.UserDefined }];
        var kept = new PieceList(SplitFirst ? [] : added.Where(token => !token.Special).Select(token => token.Content));
        return new TokenizerParts
        {
            Model = Unigram ? UnigramOf(vocabulary, unknown) : new SentencePieceBpeModel(vocabulary, Scores, id => Types[id] is PieceType.Normal or PieceType.UserDefined or PieceType.Unused, id => Types[id] == PieceType.Unused, unknown),
            AddedTokens = added,
            NormalizesAddedTokens = false,
            Normalizer = new SentencePieceNormalizer(new CharacterMap(CharacterMap, path), kept, AddPrefix, CollapseSpaces),
            Decoder = new DecoderSequence([new SentencePieceDecoder(this, vocabulary), new ByteFallbackDecoder(), new Fuse()]),
            Spelling = TokenSpelling.Metaspace,
        };
    }

    UnigramModel UnigramOf(Vocabulary vocabulary, int unknown)
    {
        float lowest = float.MaxValue, highest = float.MinValue;
        for (int id = 0; id < Texts.Length; id++)
        {
            if (Types[id] == PieceType.Normal)
            {
                lowest = Math.Min(lowest, Scores[id]);
                highest = Math.Max(highest, Scores[id]);
            }
        }

        var scores = new double[Texts.Length];
        for (int id = 0; id < scores.Length; id++)
        {
            scores[id] = Types[id] switch
            {
                PieceType.Normal => Scores[id],
                // User-defined pieces always win: so SentencePiece scores them.
                PieceType.UserDefined => CodePoints.Of(Texts[id]).Length * highest - 0.1f,
                _ => double.NaN,
            };
        }

        return new UnigramModel(vocabulary, scores, unknown, ByteFallback, lowest, singlePrecision: true);
    }

    /// <summary>Spaces from ▁, the one in front taken off; control tokens vanish, the unknown one shows its surface.</summary>
    sealed class SentencePieceDecoder(SentencePieceParts parts, Vocabulary vocabulary) : TokenDecoderStep
    {
        public override List<string> Apply(List<string> tokens)
        {
            var result = new List<string>(tokens.Count);
            bool start = true;
            foreach (string token in tokens)
            {
                PieceType type = vocabulary.Id(token) is { } id ? parts.Types[id] : PieceType.UserDefined;
                string text = type switch
                {
                    PieceType.Byte => token,
                    PieceType.Control when !parts.SplitFirst => "",
                    PieceType.Unknown when !parts.SplitFirst => parts.UnknownSurface,
                    _ => token.Replace('▁', ' '),
                };
                if (start && type is PieceType.Normal or PieceType.UserDefined or PieceType.Unused && (parts.AddPrefix || parts.CollapseSpaces) && text.StartsWith(' '))
                {
                    text = text[1..];
                    start = parts.CollapseSpaces && text.Length == 0;
                }

                start &= text.Length == 0;
                result.Add(text);
            }

            return result;
        }
    }
}
