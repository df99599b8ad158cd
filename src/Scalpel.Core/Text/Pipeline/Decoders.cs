using System.Text;

namespace Scalpel.Text.Pipeline;

/// <summary>Turns the texts of tokens back into text: each decoder gives the strings that are joined in the end.</summary>
abstract class TokenDecoderStep
{
    public abstract List<string> Apply(List<string> tokens);
}

sealed class DecoderSequence(IReadOnlyList<TokenDecoderStep> steps) : TokenDecoderStep
{
    public override List<string> Apply(List<string> tokens)
    {
        foreach (TokenDecoderStep step in steps)
        {
            tokens = step.Apply(tokens);
        }

        return tokens;
    }
}

/// <summary>One function on each token, which knows its place.</summary>
sealed class EachToken(Func<string, int, int, string> change) : TokenDecoderStep
{
    public override List<string> Apply(List<string> tokens)
    {
        var result = new List<string>(tokens.Count);
        for (int i = 0; i < tokens.Count; i++)
        {
            result.Add(change(tokens[i], i, tokens.Count));
        }

        return result;
    }
}

sealed class Fuse : TokenDecoderStep
{
    public override List<string> Apply(List<string> tokens) => [string.Concat(tokens)];
}

sealed class ByteLevelDecoder : TokenDecoderStep
{
    public override List<string> Apply(List<string> tokens)
    {
        var bytes = new List<byte>();
        foreach (string token in tokens)
        {
            Append(token, bytes);
        }

        return [Encoding.UTF8.GetString([.. bytes])];
    }

    /// <summary>The bytes of a token; one that holds other characters than the alphabet's is text itself.</summary>
    public static void Append(string token, List<byte> bytes)
    {
        int mark = bytes.Count;
        foreach (char unit in token)
        {
            int value = ByteAlphabet.ByteOf(unit);
            if (value < 0)
            {
                bytes.RemoveRange(mark, bytes.Count - mark);
                bytes.AddRange(Encoding.UTF8.GetBytes(token));
                return;
            }

            bytes.Add((byte)value);
        }
    }
}

/// <summary>Joins tokens like &lt;0xE2&gt; into characters; bytes that are no UTF-8 become U+FFFD each.</summary>
sealed class ByteFallbackDecoder : TokenDecoderStep
{
    static readonly UTF8Encoding Strict = new(false, throwOnInvalidBytes: true);

    public override List<string> Apply(List<string> tokens)
    {
        var result = new List<string>(tokens.Count);
        var bytes = new List<byte>();
        foreach (string token in tokens)
        {
            if (ByteOf(token) is { } value)
            {
                bytes.Add(value);
                continue;
            }

            Flush();
            result.Add(token);
        }

        Flush();
        return result;

        void Flush()
        {
            if (bytes.Count == 0)
            {
                return;
            }

            try
            {
                result.Add(Strict.GetString([.. bytes]));
            }
            catch (DecoderFallbackException)
            {
                result.AddRange(Enumerable.Repeat("\uFFFD", bytes.Count));
            }

            bytes.Clear();
        }
    }

    public static byte? ByteOf(string token) =>
        token.Length == 6 && token.StartsWith("<0x", StringComparison.Ordinal) && token[5] == '>'
        && byte.TryParse(token.AsSpan(3, 2), System.Globalization.NumberStyles.AllowHexSpecifier, null, out byte value) ? value : null;
}

static class DecoderRules
{
    public static EachToken WordPiece(string prefix, bool cleanUp) => new((token, i, _) =>
    {
        if (i > 0)
        {
            token = prefix.Length > 0 && token.StartsWith(prefix, StringComparison.Ordinal) ? token[prefix.Length..] : " " + token;
        }

        return cleanUp ? CleanUp(token) : token;
    });

    public static EachToken Metaspace(char replacement, PrependScheme scheme) => new((token, i, _) =>
        i == 0 && scheme != PrependScheme.Never ? token.Replace(replacement.ToString(), "", StringComparison.Ordinal) : token.Replace(replacement, ' '));

    public static EachToken Suffix(string suffix) => new((token, i, count) =>
        suffix.Length == 0 ? token : token.Replace(suffix, i == count - 1 ? "" : " ", StringComparison.Ordinal));

    public static EachToken Strip(char content, int start, int stop) => new((token, _, _) =>
    {
        int from = 0, to = token.Length;
        while (from < to && from < start && token[from] == content)
        {
            from++;
        }

        while (to > from && token.Length - to < stop && token[to - 1] == content)
        {
            to--;
        }

        return token[from..to];
    });

    /// <summary>Takes back the spaces that splitting put before signs and English contractions.</summary>
    public static string CleanUp(string text) => new StringBuilder(text)
        .Replace(" .", ".").Replace(" ?", "?").Replace(" !", "!").Replace(" ,", ",").Replace(" ' ", "'").Replace(" n't", "n't")
        .Replace(" 'm", "'m").Replace(" do not", " don't").Replace(" 's", "'s").Replace(" 've", "'ve").Replace(" 're", "'re").ToString();
}
