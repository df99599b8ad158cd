using System.Globalization;
using System.Text;
using Scalpel.Text.Patterns;
using Scalpel.Text.Unicode;

namespace Scalpel.Text.Pipeline;

/// <summary>Rewrites text before it is cut, and keeps the alignment with the original.</summary>
abstract class Normalizer
{
    /// <summary>Whether this text would change; saves the copy when not.</summary>
    protected abstract bool Changes(ReadOnlySpan<int> text);

    /// <summary>Writes the new text.</summary>
    protected abstract void Rewrite(ReadOnlySpan<int> text, Rewriter rewriter);

    public virtual (AlignedText Text, Piece Piece) Apply(AlignedText text, Piece piece)
    {
        ReadOnlySpan<int> codes = text.Slice(piece);
        if (codes.Length == 0 || !Changes(codes))
        {
            return (text, piece);
        }

        var rewriter = new Rewriter(text, new AlignedText(codes.Length + 16));
        rewriter.Begin(piece);
        Rewrite(codes, rewriter);
        return (rewriter.Target, rewriter.Finish());
    }
}

sealed class NormalizerSequence(IReadOnlyList<Normalizer> parts) : Normalizer
{
    public override (AlignedText Text, Piece Piece) Apply(AlignedText text, Piece piece)
    {
        foreach (Normalizer part in parts)
        {
            (text, piece) = part.Apply(text, piece);
        }

        return (text, piece);
    }

    protected override bool Changes(ReadOnlySpan<int> text) => parts.Count > 0;

    protected override void Rewrite(ReadOnlySpan<int> text, Rewriter rewriter) => throw new InvalidOperationException();
}

/// <summary>NFC, NFD, NFKC or NFKD.</summary>
sealed class UnicodeForm(bool compose, bool compatibility) : Normalizer
{
    protected override bool Changes(ReadOnlySpan<int> text) => text.ContainsAnyExceptInRange(0, 0x7F);

    protected override void Rewrite(ReadOnlySpan<int> text, Rewriter rewriter) => UnicodeNormalization.Write(text, compose, compatibility, rewriter);
}

sealed class Lowercase : Normalizer
{
    protected override bool Changes(ReadOnlySpan<int> text) => text.ContainsAnyInRange('A', 'Z') || text.ContainsAnyExceptInRange(0, 0x7F);

    protected override void Rewrite(ReadOnlySpan<int> text, Rewriter rewriter)
    {
        foreach (int code in text)
        {
            if (code == 0x130)
            {
                // The one letter whose lower case is two: i and a dot above.
                rewriter.Write('i', 0);
                rewriter.Write(0x307, 1);
            }
            else
            {
                rewriter.Write(Rune.ToLowerInvariant(new Rune(code)).Value, 0);
            }
        }
    }
}

sealed class Strip(bool left, bool right) : Normalizer
{
    protected override bool Changes(ReadOnlySpan<int> text) => CodePoints.IsSpace(text[0]) || CodePoints.IsSpace(text[^1]);

    protected override void Rewrite(ReadOnlySpan<int> text, Rewriter rewriter)
    {
        int from = 0, to = text.Length;
        while (left && from < to && CodePoints.IsSpace(text[from]))
        {
            from++;
        }

        while (right && to > from && CodePoints.IsSpace(text[to - 1]))
        {
            to--;
        }

        rewriter.Skip(from);
        foreach (int code in text[from..to])
        {
            rewriter.Write(code, 0);
        }
    }
}

/// <summary>Keeps some code points.</summary>
class Filter(Func<int, bool> keep) : Normalizer
{
    protected override bool Changes(ReadOnlySpan<int> text) => true;

    protected override void Rewrite(ReadOnlySpan<int> text, Rewriter rewriter)
    {
        foreach (int code in text)
        {
            if (keep(code))
            {
                rewriter.Write(code, 0);
            }
            else
            {
                rewriter.Skip(1);
            }
        }
    }
}

/// <summary>Replaces single code points by single ones.</summary>
sealed class Map(Func<int, int> map) : Normalizer
{
    protected override bool Changes(ReadOnlySpan<int> text) => true;

    protected override void Rewrite(ReadOnlySpan<int> text, Rewriter rewriter)
    {
        foreach (int code in text)
        {
            rewriter.Write(map(code), 0);
        }
    }
}

/// <summary>The parts of BERT's and NMT's normalisers that look at single characters.</summary>
static class CharacterRules
{
    public static NormalizerSequence Bert(bool cleanText, bool chinese, bool stripAccents, bool lowercase)
    {
        var parts = new List<Normalizer>();
        if (cleanText)
        {
            parts.Add(new Filter(code => code is not (0 or 0xFFFD) && (code is '\t' or '\n' or '\r' || !IsOther(code))));
            parts.Add(new Map(code => CodePoints.IsSpace(code) ? ' ' : code));
        }

        if (chinese)
        {
            parts.Add(new SpacedChinese());
        }

        if (stripAccents)
        {
            parts.Add(new UnicodeForm(compose: false, compatibility: false));
            parts.Add(new Filter(code => CodePoints.Category(code) != UnicodeCategory.NonSpacingMark));
        }

        if (lowercase)
        {
            parts.Add(new Lowercase());
        }

        return new NormalizerSequence(parts);
    }

    public static NormalizerSequence Nmt() => new(
    [
        new Filter(code => code is not (>= 1 and <= 8 or 0xB or >= 0xE and <= 0x1F or 0x7F or 0x8F or 0x9F)),
        new Map(code => code is 9 or 0xA or 0xC or 0xD or 0x1680 or >= 0x200B and <= 0x200F or 0x2028 or 0x2029 or 0x2581 or 0xFEFF or 0xFFFD ? ' ' : code),
    ]);

    static bool IsOther(int code) => CodePoints.Category(code) is UnicodeCategory.Control or UnicodeCategory.Format or UnicodeCategory.Surrogate or UnicodeCategory.PrivateUse;

    sealed class SpacedChinese : Normalizer
    {
        protected override bool Changes(ReadOnlySpan<int> text) => text.ContainsAnyInRange(0x3400, 0x2FA1F);

        protected override void Rewrite(ReadOnlySpan<int> text, Rewriter rewriter)
        {
            foreach (int code in text)
            {
                if (code is >= 0x4E00 and <= 0x9FFF or >= 0x3400 and <= 0x4DBF or >= 0x20000 and <= 0x2A6DF or >= 0x2A700 and <= 0x2B73F
                    or >= 0x2B740 and <= 0x2B81F or >= 0x2B920 and <= 0x2CEAF or >= 0xF900 and <= 0xFAFF or >= 0x2F800 and <= 0x2FA1F)
                {
                    rewriter.Write(' ', 0);
                    rewriter.Write(code, 1);
                    rewriter.Write(' ', 1);
                }
                else
                {
                    rewriter.Write(code, 0);
                }
            }
        }
    }
}

/// <summary>Replaces matches of an expression; what is written stands for the last character of the match.</summary>
sealed class Replace(TextPattern pattern, string content) : Normalizer
{
    readonly int[] content = CodePoints.Of(content);

    protected override bool Changes(ReadOnlySpan<int> text) => true;

    protected override void Rewrite(ReadOnlySpan<int> text, Rewriter rewriter)
    {
        var matches = new List<(int From, int To)>();
        pattern.FindAll(text, matches);
        int at = 0;
        foreach ((int from, int to) in matches)
        {
            foreach (int code in text[at..from])
            {
                rewriter.Write(code, 0);
            }

            rewriter.Skip(to - from);
            foreach (int code in content)
            {
                rewriter.Write(code, 1);
            }

            at = to;
        }

        foreach (int code in text[at..])
        {
            rewriter.Write(code, 0);
        }
    }

    public string Apply(string text)
    {
        int[] codes = CodePoints.Of(text);
        var matches = new List<(int From, int To)>();
        pattern.FindAll(codes, matches);
        if (matches.Count == 0)
        {
            return text;
        }

        var result = new StringBuilder();
        int at = 0;
        foreach ((int from, int to) in matches)
        {
            result.Append(CodePoints.Text(codes.AsSpan(at, from - at)));
            result.Append(CodePoints.Text(content));
            at = to;
        }

        return result.Append(CodePoints.Text(codes.AsSpan(at))).ToString();
    }
}

sealed class Prepend(string prefix) : Normalizer
{
    readonly int[] prefix = CodePoints.Of(prefix);

    protected override bool Changes(ReadOnlySpan<int> text) => prefix.Length > 0;

    protected override void Rewrite(ReadOnlySpan<int> text, Rewriter rewriter)
    {
        for (int i = 0; i < prefix.Length; i++)
        {
            rewriter.Write(prefix[i], i == 0 ? 0 : 1);
        }

        rewriter.Write(text[0], 1);
        foreach (int code in text[1..])
        {
            rewriter.Write(code, 0);
        }
    }
}

/// <summary>Spells text in bytes; see <see cref="ByteLevel"/>.</summary>
sealed class ByteSpelling : Normalizer
{
    protected override bool Changes(ReadOnlySpan<int> text) => true;

    protected override void Rewrite(ReadOnlySpan<int> text, Rewriter rewriter)
    {
        Span<byte> bytes = stackalloc byte[4];
        foreach (int code in text)
        {
            int n = new Rune(code).EncodeToUtf8(bytes);
            for (int i = 0; i < n; i++)
            {
                rewriter.Write(ByteAlphabet.CharacterOf(bytes[i]), i == 0 ? 0 : 1);
            }
        }
    }
}
