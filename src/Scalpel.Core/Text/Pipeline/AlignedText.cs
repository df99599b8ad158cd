using System.Globalization;
using System.Text;

namespace Scalpel.Text.Pipeline;

/// <summary>
/// Text on its way through the pipeline: code points, each with the range of code points of the original for which it
/// stands. Everything behind the public surface counts code points, never UTF-16 units.
/// </summary>
sealed class AlignedText
{
    int[] codes, starts, ends;

    public AlignedText(int capacity)
    {
        codes = new int[capacity];
        starts = new int[capacity];
        ends = new int[capacity];
    }

    public int Count { get; private set; }

    public ReadOnlySpan<int> Codes => codes.AsSpan(0, Count);

    /// <summary>The code points of a string, each standing for itself; a lone surrogate becomes U+FFFD.</summary>
    public static AlignedText Of(string text)
    {
        var aligned = new AlignedText(text.Length);
        foreach (Rune rune in text.EnumerateRunes())
        {
            aligned.Add(rune.Value, aligned.Count, aligned.Count + 1);
        }

        return aligned;
    }

    public ReadOnlySpan<int> Slice(Piece piece) => codes.AsSpan(piece.From, piece.Length);

    public int Start(int at) => starts[at];

    public int End(int at) => ends[at];

    public void Add(int code, int start, int end)
    {
        if (Count == codes.Length)
        {
            int capacity = Math.Max(16, 2 * Count);
            Array.Resize(ref codes, capacity);
            Array.Resize(ref starts, capacity);
            Array.Resize(ref ends, capacity);
        }

        codes[Count] = code;
        starts[Count] = start;
        ends[Count] = end;
        Count++;
    }

    /// <summary>The piece [from, to) of this text; it must not be empty.</summary>
    public Piece Cut(int from, int to) => new(from, to, starts[from]);
}

/// <summary>A stretch of an <see cref="AlignedText"/>, or an added token that was found in it.</summary>
/// <param name="From">First code point; for a token, the white space that it took on its left.</param>
/// <param name="To">Code point after the last; for a token, the white space that it took on its right.</param>
/// <param name="Origin">Where the stretch begins in the original.</param>
/// <param name="Token">The id of an added token, or -1 for text.</param>
/// <param name="End">For a token, where it ends in the original.</param>
readonly record struct Piece(int From, int To, int Origin, int Token = -1, int End = 0)
{
    public int Length => To - From;

    public bool IsText => Token < 0;
}

/// <summary>A text and the pieces into which it has been cut so far.</summary>
readonly record struct Pieces(AlignedText Text, List<Piece> List);

/// <summary>
/// Rewrites one piece. Each code point written says how it relates to what is read: 0 replaces the next one, 1 is
/// inserted behind it, −n replaces the next one and swallows n more. The alignment follows from that.
/// </summary>
sealed class Rewriter(AlignedText source, AlignedText target)
{
    int at, from, until, origin, begin;

    public Rewriter(AlignedText source) : this(source, new AlignedText(source.Count + 16)) { }

    public AlignedText Target => target;

    public void Begin(Piece piece)
    {
        from = at = piece.From;
        until = piece.To;
        origin = piece.Origin;
        begin = target.Count;
    }

    /// <summary>Drops code points that are read.</summary>
    public void Skip(int count) => at = Math.Min(at + count, until);

    public void Write(int code, int change)
    {
        if (change > 0 || at >= until)
        {
            if (at == from)
            {
                target.Add(code, origin, origin);
            }
            else
            {
                target.Add(code, source.Start(at - 1), source.End(at - 1));
            }

            return;
        }

        target.Add(code, source.Start(at), source.End(at));
        at = Math.Min(at + 1 - change, until);
    }

    /// <summary>The rewritten piece in the target.</summary>
    public Piece Finish() => new(begin, target.Count, origin);
}

/// <summary>Code points and strings.</summary>
static class CodePoints
{
    public static int[] Of(string text)
    {
        var codes = new List<int>(text.Length);
        foreach (Rune rune in text.EnumerateRunes())
        {
            codes.Add(rune.Value);
        }

        return [.. codes];
    }

    public static string Text(ReadOnlySpan<int> codes)
    {
        var text = new StringBuilder(codes.Length);
        foreach (int code in codes)
        {
            Append(text, code);
        }

        return text.ToString();
    }

    public static void Append(StringBuilder text, int code)
    {
        if (code < 0x10000)
        {
            text.Append((char)code);
        }
        else
        {
            text.Append((char)(0xD7C0 + (code >> 10))).Append((char)(0xDC00 + (code & 0x3FF)));
        }
    }

    /// <summary>Writes the UTF-16 units of code points; returns how many, at most two each.</summary>
    public static int Write(ReadOnlySpan<int> codes, Span<char> units)
    {
        int n = 0;
        foreach (int code in codes)
        {
            if (code < 0x10000)
            {
                units[n++] = (char)code;
            }
            else
            {
                units[n++] = (char)(0xD7C0 + (code >> 10));
                units[n++] = (char)(0xDC00 + (code & 0x3FF));
            }
        }

        return n;
    }

    public static int Utf8Length(int code) => code < 0x80 ? 1 : code < 0x800 ? 2 : code < 0x10000 ? 3 : 4;

    public static UnicodeCategory Category(int code) => CharUnicodeInfo.GetUnicodeCategory(code);

    public static bool IsSpace(int code) => code < 0x10000 && char.IsWhiteSpace((char)code);

    public static bool IsNumeric(int code) =>
        Category(code) is UnicodeCategory.DecimalDigitNumber or UnicodeCategory.LetterNumber or UnicodeCategory.OtherNumber;

    /// <summary>ASCII signs and the categories P of Unicode.</summary>
    public static bool IsPunctuation(int code) => code < 0x80
        ? code is >= 33 and <= 47 or >= 58 and <= 64 or >= 91 and <= 96 or >= 123 and <= 126
        : Category(code) is >= UnicodeCategory.ConnectorPunctuation and <= UnicodeCategory.OtherPunctuation;

    public static bool IsMark(int code) =>
        Category(code) is UnicodeCategory.NonSpacingMark or UnicodeCategory.SpacingCombiningMark or UnicodeCategory.EnclosingMark;

    /// <summary>\w of Unicode expressions: letters, letter numbers, marks, decimal digits, connectors, joiners.</summary>
    public static bool IsWord(int code) => code < 0x80
        ? code is >= '0' and <= '9' or >= 'A' and <= 'Z' or >= 'a' and <= 'z' or '_'
        : code is 0x200C or 0x200D or >= 0x24B6 and <= 0x24E9 or >= 0x1F130 and <= 0x1F149 or >= 0x1F150 and <= 0x1F169 or >= 0x1F170 and <= 0x1F189
            || Category(code) is <= UnicodeCategory.OtherLetter or UnicodeCategory.LetterNumber or UnicodeCategory.NonSpacingMark
                or UnicodeCategory.SpacingCombiningMark or UnicodeCategory.EnclosingMark or UnicodeCategory.DecimalDigitNumber or UnicodeCategory.ConnectorPunctuation;
}
