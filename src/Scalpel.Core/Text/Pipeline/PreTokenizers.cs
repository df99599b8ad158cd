using Scalpel.Text.Patterns;

namespace Scalpel.Text.Pipeline;

/// <summary>Cuts text into the pieces that a model sees.</summary>
abstract class PreTokenizer
{
    public abstract Pieces Apply(Pieces pieces);
}

/// <summary>What becomes of the matches of a split.</summary>
enum SplitBehavior
{
    Removed,
    Isolated,
    MergedWithPrevious,
    MergedWithNext,
    Contiguous,
}

/// <summary>Splits at matches of an expression, or at characters.</summary>
sealed class Split : PreTokenizer
{
    readonly TextPattern? pattern;
    readonly Func<int, bool>? delimiter;
    readonly SplitBehavior behavior;
    readonly bool invert;

    public Split(TextPattern pattern, SplitBehavior behavior, bool invert = false)
    {
        this.pattern = pattern;
        this.behavior = behavior;
        this.invert = invert;
    }

    public Split(Func<int, bool> delimiter, SplitBehavior behavior)
    {
        this.delimiter = delimiter;
        this.behavior = behavior;
    }

    /// <inheritdoc/>
    public override Pieces Apply(Pieces pieces)
    {
        var result = new List<Piece>(pieces.List.Count * 4);
        var matches = new List<(int From, int To)>();
        var parts = new List<(int From, int To, bool Match)>();
        foreach (Piece piece in pieces.List)
        {
            if (!piece.IsText)
            {
                result.Add(piece);
                continue;
            }

            ReadOnlySpan<int> text = pieces.Text.Slice(piece);
            matches.Clear();
            parts.Clear();
            Find(text, matches);
            int at = 0;
            foreach ((int from, int to) in matches)
            {
                if (from > at)
                {
                    parts.Add((at, from, invert));
                }

                if (to > from)
                {
                    parts.Add((from, to, !invert));
                }

                at = to;
            }

            if (at < text.Length)
            {
                parts.Add((at, text.Length, invert));
            }

            Merge(parts);
            foreach ((int from, int to, bool match) in parts)
            {
                if (!match || behavior != SplitBehavior.Removed)
                {
                    result.Add(pieces.Text.Cut(piece.From + from, piece.From + to) with { Origin = from == 0 ? piece.Origin : pieces.Text.Start(piece.From + from) });
                }
            }
        }

        return pieces with { List = result };
    }

    void Find(ReadOnlySpan<int> text, List<(int From, int To)> matches)
    {
        if (pattern is not null)
        {
            pattern.FindAll(text, matches);
            return;
        }

        for (int i = 0; i < text.Length; i++)
        {
            if (delimiter!(text[i]))
            {
                matches.Add((i, i + 1));
            }
        }
    }

    void Merge(List<(int From, int To, bool Match)> parts)
    {
        if (behavior is SplitBehavior.Removed or SplitBehavior.Isolated)
        {
            return;
        }

        bool backwards = behavior == SplitBehavior.MergedWithNext;
        if (backwards)
        {
            parts.Reverse();
        }

        int kept = 0;
        bool before = false;
        for (int i = 0; i < parts.Count; i++)
        {
            (int from, int to, bool match) = parts[i];
            bool joins = behavior == SplitBehavior.Contiguous ? match == before : match && !before;
            if (joins && kept > 0)
            {
                (int lastFrom, int lastTo, bool lastMatch) = parts[kept - 1];
                parts[kept - 1] = (Math.Min(lastFrom, from), Math.Max(lastTo, to), lastMatch);
            }
            else
            {
                parts[kept++] = parts[i];
            }

            before = match;
        }

        parts.RemoveRange(kept, parts.Count - kept);
        if (backwards)
        {
            parts.Reverse();
        }
    }
}

/// <summary>Spells text in bytes, each shown as one of 256 printable characters.</summary>
sealed class ByteLevel(bool addPrefixSpace, bool useRegex) : PreTokenizer
{
    /// <summary>The expression of GPT-2.</summary>
    public const string Expression = @"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";

    readonly Split? split = useRegex ? new Split(TextPattern.Parse(Expression), SplitBehavior.Isolated) : null;

    /// <inheritdoc/>
    public override Pieces Apply(Pieces pieces)
    {
        if (addPrefixSpace)
        {
            pieces = Prefix.Apply(pieces, ' ', _ => true);
        }

        return ToBytes(split?.Apply(pieces) ?? pieces);
    }

    public static Pieces ToBytes(Pieces pieces)
    {
        AlignedText source = pieces.Text;
        var target = new AlignedText(source.Count + (source.Count >> 2) + 16);
        var list = new List<Piece>(pieces.List.Count);
        foreach (Piece piece in pieces.List)
        {
            if (!piece.IsText)
            {
                list.Add(piece);
                continue;
            }

            int begin = target.Count;
            for (int i = piece.From; i < piece.To; i++)
            {
                int code = source.Codes[i], start = source.Start(i), end = source.End(i);
                if (code < 0x80)
                {
                    target.Add(ByteAlphabet.CharacterOf(code), start, end);
                    continue;
                }

                int n = CodePoints.Utf8Length(code);
                for (int b = n - 1; b >= 0; b--)
                {
                    int bits = code >> (6 * b);
                    int value = b == n - 1 ? (n == 2 ? 0xC0 : n == 3 ? 0xE0 : 0xF0) | bits : 0x80 | (bits & 0x3F);
                    target.Add(ByteAlphabet.CharacterOf(value), start, end);
                }
            }

            list.Add(piece with { From = begin, To = target.Count });
        }

        return new Pieces(target, list);
    }
}

/// <summary>The printable characters that stand for bytes: 33–126, 161–172, 174–255 themselves, the others 256 and on.</summary>
static class ByteAlphabet
{
    static readonly char[] Characters = Build();

    public static int CharacterOf(int value) => Characters[value];

    /// <summary>The byte that a character stands for, or -1.</summary>
    public static int ByteOf(int character) => character switch
    {
        >= 33 and <= 126 or >= 161 and <= 172 or >= 174 and <= 255 => character,
        >= 256 and <= 288 => character - 256,
        >= 289 and <= 322 => character - 289 + 127,
        323 => 173,
        _ => -1,
    };

    static char[] Build()
    {
        var characters = new char[256];
        for (int character = 0; character < 324; character++)
        {
            if (ByteOf(character) is >= 0 and int value)
            {
                characters[value] = (char)character;
            }
        }

        return characters;
    }
}

/// <summary>Puts a character before pieces that do not begin with it.</summary>
static class Prefix
{
    public static Pieces Apply(Pieces pieces, int prefix, Func<Piece, bool> where)
    {
        var rewriter = new Rewriter(pieces.Text);
        var list = new List<Piece>(pieces.List.Count);
        foreach (Piece piece in pieces.List)
        {
            if (!piece.IsText)
            {
                list.Add(piece);
                continue;
            }

            ReadOnlySpan<int> text = pieces.Text.Slice(piece);
            rewriter.Begin(piece);
            if (text.Length > 0 && text[0] != prefix && where(piece))
            {
                rewriter.Write(prefix, 0);
                rewriter.Write(text[0], 1);
                text = text[1..];
            }

            foreach (int code in text)
            {
                rewriter.Write(code, 0);
            }

            list.Add(rewriter.Finish());
        }

        return new Pieces(rewriter.Target, list);
    }
}

/// <summary>Shows spaces as a visible character, puts one in front, and splits before each.</summary>
sealed class Metaspace(int replacement, PrependScheme scheme, bool split) : PreTokenizer
{
    readonly Split splitter = new(code => code == replacement, SplitBehavior.MergedWithNext);

    /// <inheritdoc/>
    public override Pieces Apply(Pieces pieces)
    {
        var rewriter = new Rewriter(pieces.Text);
        var list = new List<Piece>(pieces.List.Count);
        foreach (Piece piece in pieces.List)
        {
            if (!piece.IsText)
            {
                list.Add(piece);
                continue;
            }

            rewriter.Begin(piece);
            foreach (int code in pieces.Text.Slice(piece))
            {
                rewriter.Write(code == ' ' ? replacement : code, 0);
            }

            list.Add(rewriter.Finish());
        }

        pieces = new Pieces(rewriter.Target, list);
        pieces = scheme switch
        {
            PrependScheme.Always => Prefix.Apply(pieces, replacement, _ => true),
            PrependScheme.First => Prefix.Apply(pieces, replacement, piece => piece.Origin == 0),
            _ => pieces,
        };
        return split ? splitter.Apply(pieces) : pieces;
    }
}

/// <summary>When <see cref="Metaspace"/> puts its character in front.</summary>
enum PrependScheme
{
    Always,
    First,
    Never,
}

/// <summary>Cuts pieces of a fixed number of characters.</summary>
sealed class FixedLength(int length) : PreTokenizer
{
    /// <inheritdoc/>
    public override Pieces Apply(Pieces pieces)
    {
        var list = new List<Piece>();
        foreach (Piece piece in pieces.List)
        {
            if (!piece.IsText)
            {
                list.Add(piece);
                continue;
            }

            for (int at = piece.From; at < piece.To; at += length)
            {
                list.Add(pieces.Text.Cut(at, Math.Min(at + length, piece.To)));
            }
        }

        return pieces with { List = list };
    }
}
