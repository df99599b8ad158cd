using System.Globalization;
using System.Text;

namespace Scalpel.Text.Chat;

enum TokenKind
{
    /// <summary>Text between tags, given out as it is.</summary>
    Text,

    /// <summary>The start of {{ … }}.</summary>
    OutputBegin,
    OutputEnd,

    /// <summary>The start of {% … %}.</summary>
    BlockBegin,
    BlockEnd,
    Name,
    String,
    Integer,
    Float,
    Operator,
    End,
}

readonly record struct TemplateToken(TokenKind Kind, string Text, int Line)
{
    public bool Is(string op) => Kind == TokenKind.Operator && Text == op;

    public bool IsName(string name) => Kind == TokenKind.Name && Text == name;
}

/// <summary>
/// Cuts a template into tokens. White space as transformers sets Jinja up: the line break behind a block and the indentation
/// before it are dropped (trim_blocks, lstrip_blocks), a minus strips everything, a plus nothing, and the last line break of
/// the template is dropped.
/// </summary>
sealed class TemplateLexer
{
    static readonly string[] Operators = ["**", "//", "==", "!=", "<=", ">=", "+", "-", "*", "/", "%", "~", "<", ">", "=", "(", ")", "[", "]", "{", "}", ",", ".", ":", "|"];

    readonly string source;
    readonly List<TemplateToken> tokens = [];
    int at, line = 1;

    TemplateLexer(string source) => this.source = source;

    public static List<TemplateToken> Read(string source)
    {
        source = source.Replace("\r\n", "\n", StringComparison.Ordinal).Replace('\r', '\n');
        if (source.EndsWith('\n'))
        {
            source = source[..^1];
        }

        var lexer = new TemplateLexer(source);
        lexer.ReadAll();
        return lexer.tokens;
    }

    void ReadAll()
    {
        bool stripStart = false;
        while (at < source.Length)
        {
            int tag = NextTag(at);
            int end = tag < 0 ? source.Length : tag;
            string text = source[at..end];
            int textLine = line;
            Advance(end);
            if (stripStart)
            {
                text = text.TrimStart();
            }

            if (tag < 0)
            {
                AddText(text, textLine);
                break;
            }

            char kind = source[at + 1], sign = at + 2 < source.Length ? source[at + 2] : ' ';
            if (sign == '-')
            {
                text = text.TrimEnd();
            }
            else if (kind != '{' && sign != '+')
            {
                text = WithoutIndentation(text, tag);
            }

            AddText(text, textLine);
            Advance(at + 2);
            if (sign is '-' or '+')
            {
                Advance(at + 1);
            }

            stripStart = kind switch
            {
                '#' => Comment(),
                '{' => Tag(TokenKind.OutputBegin, TokenKind.OutputEnd, "}}"),
                _ => Block(),
            };
        }

        tokens.Add(new TemplateToken(TokenKind.End, "", line));
    }

    int NextTag(int from)
    {
        for (int i = from; i + 1 < source.Length; i++)
        {
            if (source[i] == '{' && source[i + 1] is '{' or '%' or '#')
            {
                return i;
            }
        }

        return -1;
    }

    // Only white space between the start of the line and the tag: it goes. What an earlier tag on the line left does not.
    string WithoutIndentation(string text, int tag)
    {
        int lineStart = tag == 0 ? 0 : source.LastIndexOf('\n', tag - 1) + 1;
        return tag - lineStart <= text.Length && source.AsSpan(lineStart, tag - lineStart).IsWhiteSpace() ? text[..^(tag - lineStart)] : text;
    }

    bool Comment()
    {
        int end = source.IndexOf("#}", at, StringComparison.Ordinal);
        if (end < 0)
        {
            throw TemplateError.At(line, "a comment is not closed by #}.");
        }

        bool strip = end > at && source[end - 1] == '-';
        Advance(end + 2);
        DropLineBreak(strip || (end > at && source[end - 1] == '+'));
        return strip;
    }

    bool Block()
    {
        int mark = tokens.Count;
        bool strip = Tag(TokenKind.BlockBegin, TokenKind.BlockEnd, "%}");
        if (tokens.Count == mark + 3 && tokens[mark + 1].IsName("raw"))
        {
            tokens.RemoveRange(mark, 3);
            return Raw(strip);
        }

        return strip;
    }

    bool Raw(bool stripStart)
    {
        for (int i = at; i < source.Length; i++)
        {
            if (source[i] == '{' && source.AsSpan(i).StartsWith("{%"))
            {
                int close = source.IndexOf("%}", i, StringComparison.Ordinal);
                if (close > 0 && source[(i + 2)..close].Trim('-', '+', ' ', '\n', '\t') == "endraw")
                {
                    string text = source[at..i];
                    text = stripStart ? text.TrimStart() : text;
                    text = source[i + 2] == '-' ? text.TrimEnd() : WithoutIndentation(text, i);
                    AddText(text, line);
                    bool strip = source[close - 1] == '-';
                    Advance(close + 2);
                    DropLineBreak(strip || source[close - 1] == '+');
                    return strip;
                }
            }
        }

        throw TemplateError.At(line, "a raw block is not closed by {% endraw %}.");
    }

    void DropLineBreak(bool keep)
    {
        if (!keep && at < source.Length && source[at] == '\n')
        {
            Advance(at + 1);
        }
    }

    /// <summary>Reads a tag up to its end; whether the text behind it is stripped.</summary>
    bool Tag(TokenKind begin, TokenKind end, string close)
    {
        int start = line, depth = 0;
        tokens.Add(new TemplateToken(begin, "", line));
        while (true)
        {
            while (at < source.Length && char.IsWhiteSpace(source[at]))
            {
                Advance(at + 1);
            }

            if (at >= source.Length)
            {
                throw TemplateError.At(start, $"a tag is not closed by {close}.");
            }

            bool minus = source[at] == '-', plus = source[at] == '+';
            int ahead = minus || plus ? at + 1 : at;
            if (depth == 0 && string.CompareOrdinal(source, ahead, close, 0, 2) == 0)
            {
                tokens.Add(new TemplateToken(end, "", line));
                Advance(ahead + 2);
                if (end == TokenKind.BlockEnd)
                {
                    DropLineBreak(minus || plus);
                }

                return minus;
            }

            TemplateToken token = Next();
            depth += token.Kind == TokenKind.Operator ? token.Text is "(" or "[" or "{" ? 1 : token.Text is ")" or "]" or "}" ? -1 : 0 : 0;
            tokens.Add(token);
        }
    }

    TemplateToken Next()
    {
        char first = source[at];
        int from = at;
        if (char.IsLetter(first) || first == '_')
        {
            while (at < source.Length && (char.IsLetterOrDigit(source[at]) || source[at] == '_'))
            {
                at++;
            }

            return new TemplateToken(TokenKind.Name, source[from..at], line);
        }

        if (char.IsAsciiDigit(first))
        {
            return Number(from);
        }

        if (first is '"' or '\'')
        {
            return Quoted(first);
        }

        foreach (string op in Operators)
        {
            if (string.CompareOrdinal(source, at, op, 0, op.Length) == 0)
            {
                at += op.Length;
                return new TemplateToken(TokenKind.Operator, op, line);
            }
        }

        throw TemplateError.At(line, $"the character '{first}' means nothing here.");
    }

    TemplateToken Number(int from)
    {
        while (at < source.Length && (char.IsAsciiDigit(source[at]) || source[at] == '_'))
        {
            at++;
        }

        bool whole = true;
        if (at + 1 < source.Length && source[at] == '.' && char.IsAsciiDigit(source[at + 1]))
        {
            whole = false;
            at++;
            while (at < source.Length && char.IsAsciiDigit(source[at]))
            {
                at++;
            }
        }

        string text = source[from..at].Replace("_", "", StringComparison.Ordinal);
        return whole && !long.TryParse(text, NumberStyles.None, CultureInfo.InvariantCulture, out _)
            ? throw TemplateError.At(line, $"the number {(text.Length > 20 ? text[..20] : text)} is too large.")
            : new TemplateToken(whole ? TokenKind.Integer : TokenKind.Float, text, line);
    }

    TemplateToken Quoted(char quote)
    {
        int start = line;
        var text = new StringBuilder();
        Advance(at + 1);
        while (at < source.Length && source[at] != quote)
        {
            char unit = source[at];
            if (unit == '\\' && at + 1 < source.Length)
            {
                Escape(text);
                continue;
            }

            text.Append(unit);
            Advance(at + 1);
        }

        if (at >= source.Length)
        {
            throw TemplateError.At(start, "a string is not closed.");
        }

        at++;
        return new TemplateToken(TokenKind.String, text.ToString(), start);
    }

    void Escape(StringBuilder text)
    {
        char code = source[at + 1];
        int digits = code switch { 'x' => 2, 'u' => 4, 'U' => 8, _ => 0 };
        if (digits > 0)
        {
            if (at + 2 + digits > source.Length || !int.TryParse(source.AsSpan(at + 2, digits), NumberStyles.AllowHexSpecifier, null, out int value) || value is < 0 or > 0x10FFFF)
            {
                throw TemplateError.At(line, $"\\{code} needs {digits} hexadecimal digits.");
            }

            text.Append(value is >= 0xD800 and < 0xE000 or < 0x10000 ? ((char)value).ToString() : char.ConvertFromUtf32(value));
            at += 2 + digits;
            return;
        }

        switch (code)
        {
            case 'n':
                text.Append('\n');
                break;
            case 't':
                text.Append('\t');
                break;
            case 'r':
                text.Append('\r');
                break;
            case 'b':
                text.Append('\b');
                break;
            case 'f':
                text.Append('\f');
                break;
            case 'v':
                text.Append('\v');
                break;
            case 'a':
                text.Append('\a');
                break;
            case '0':
                text.Append('\0');
                break;
            case '\n':
                break;
            case '\\' or '\'' or '"':
                text.Append(code);
                break;
            default:
                // As in Python, an unknown escape stays as it is.
                text.Append('\\').Append(code);
                break;
        }

        Advance(at + 2);
    }

    void AddText(string text, int textLine)
    {
        if (text.Length > 0)
        {
            tokens.Add(new TemplateToken(TokenKind.Text, text, textLine));
        }
    }

    void Advance(int to)
    {
        line += source.AsSpan(at, to - at).Count('\n');
        at = to;
    }
}

/// <summary>Errors of a template.</summary>
static class TemplateError
{
    public static BadInputException At(int line, string what) => new($"The chat template, line {line}: {what}");
}
