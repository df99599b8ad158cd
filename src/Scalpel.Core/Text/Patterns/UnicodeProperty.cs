using System.Globalization;
using Scalpel.Text.Pipeline;

namespace Scalpel.Text.Patterns;

/// <summary>The properties that expressions name: categories, scripts, POSIX classes.</summary>
static class UnicodeProperty
{
    // In the order of UnicodeCategory.
    static readonly string[] Categories =
    [
        "Lu", "Ll", "Lt", "Lm", "Lo", "Mn", "Mc", "Me", "Nd", "Nl", "No", "Zs", "Zl", "Zp", "Cc", "Cf", "Cs", "Co", "Pc", "Pd", "Ps", "Pe", "Pi", "Pf", "Po", "Sm", "Sc", "Sk", "So", "Cn",
    ];

    static readonly Dictionary<string, string> LongNames = new(StringComparer.Ordinal)
    {
        ["letter"] = "L", ["uppercaseletter"] = "Lu", ["lowercaseletter"] = "Ll", ["titlecaseletter"] = "Lt", ["modifierletter"] = "Lm", ["otherletter"] = "Lo",
        ["mark"] = "M", ["nonspacingmark"] = "Mn", ["spacingmark"] = "Mc", ["enclosingmark"] = "Me", ["number"] = "N", ["decimalnumber"] = "Nd", ["letternumber"] = "Nl",
        ["othernumber"] = "No", ["punctuation"] = "P", ["symbol"] = "S", ["mathsymbol"] = "Sm", ["currencysymbol"] = "Sc", ["separator"] = "Z", ["spaceseparator"] = "Zs", ["other"] = "C", ["control"] = "Cc",
        ["format"] = "Cf", ["digit"] = "Nd", ["upper"] = "Lu", ["uppercase"] = "Lu", ["lower"] = "Ll", ["lowercase"] = "Ll", ["cntrl"] = "Cc",
    };

    static readonly Dictionary<string, (int First, int Last)[]> Scripts = new(StringComparer.Ordinal)
    {
        ["han"] = [(0x2E80, 0x2E99), (0x2E9B, 0x2EF3), (0x2F00, 0x2FD5), (0x3005, 0x3005), (0x3007, 0x3007), (0x3021, 0x3029), (0x3038, 0x303B), (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFA6D), (0xFA70, 0xFAD9), (0x16FE2, 0x16FE3), (0x16FF0, 0x16FF1), (0x20000, 0x2A6DF), (0x2A700, 0x2EBE0), (0x2F800, 0x2FA1D), (0x30000, 0x323AF)],
        ["hiragana"] = [(0x3041, 0x3096), (0x309D, 0x309F), (0x1B001, 0x1B11F), (0x1B132, 0x1B132), (0x1B150, 0x1B152), (0x1F200, 0x1F200)],
        ["katakana"] = [(0x30A1, 0x30FA), (0x30FD, 0x30FF), (0x31F0, 0x31FF), (0x32D0, 0x32FE), (0x3300, 0x3357), (0xFF66, 0xFF6F), (0xFF71, 0xFF9D), (0x1AFF0, 0x1AFFE), (0x1B000, 0x1B000), (0x1B120, 0x1B122), (0x1B155, 0x1B155), (0x1B164, 0x1B167)],
        ["hangul"] = [(0x1100, 0x11FF), (0x302E, 0x302F), (0x3131, 0x318E), (0x3200, 0x321E), (0x3260, 0x327E), (0xA960, 0xA97C), (0xAC00, 0xD7A3), (0xD7B0, 0xD7C6), (0xD7CB, 0xD7FB), (0xFFA0, 0xFFBE), (0xFFC2, 0xFFC7), (0xFFCA, 0xFFCF), (0xFFD2, 0xFFD7), (0xFFDA, 0xFFDC)],
        ["cyrillic"] = [(0x400, 0x484), (0x487, 0x52F), (0x1C80, 0x1C88), (0x1D2B, 0x1D2B), (0x1D78, 0x1D78), (0x2DE0, 0x2DFF), (0xA640, 0xA69F), (0xFE2E, 0xFE2F), (0x1E030, 0x1E06D), (0x1E08F, 0x1E08F)],
        ["thai"] = [(0xE01, 0xE3A), (0xE40, 0xE5B)],
        ["latin"] = [(0x41, 0x5A), (0x61, 0x7A), (0xAA, 0xAA), (0xBA, 0xBA), (0xC0, 0xD6), (0xD8, 0xF6), (0xF8, 0x2B8), (0x2E0, 0x2E4), (0x1D00, 0x1D25), (0x1D2C, 0x1D5C), (0x1D62, 0x1D65), (0x1D6B, 0x1D77), (0x1D79, 0x1DBE), (0x1E00, 0x1EFF), (0x2071, 0x2071), (0x207F, 0x207F), (0x2090, 0x209C), (0x212A, 0x212B), (0x2132, 0x2132), (0x214E, 0x214E), (0x2160, 0x2188), (0x2C60, 0x2C7F), (0xA722, 0xA787), (0xA78B, 0xA7CA), (0xA7D0, 0xA7D9), (0xA7F2, 0xA7FF), (0xAB30, 0xAB5A), (0xAB5C, 0xAB64), (0xAB66, 0xAB69), (0xFB00, 0xFB06), (0xFF21, 0xFF3A), (0xFF41, 0xFF5A), (0x10780, 0x107BA), (0x1DF00, 0x1DF2A)],
    };

    /// <summary>The test for a property, whatever the case of its name; null when it is not known.</summary>
    public static Func<int, bool>? Find(string name)
    {
        string key = name.Replace("_", "", StringComparison.Ordinal).Replace(" ", "", StringComparison.Ordinal).ToLowerInvariant();
        int equals = key.IndexOf('=', StringComparison.Ordinal);
        key = equals < 0 ? key : key[(equals + 1)..];
        if (Scripts.TryGetValue(key, out (int First, int Last)[]? ranges))
        {
            return code => Array.Exists(ranges, range => code >= range.First && code <= range.Last);
        }

        string category = LongNames.GetValueOrDefault(key, key);
        int bits = 0;
        for (int i = 0; i < Categories.Length; i++)
        {
            if (Categories[i].StartsWith(category, StringComparison.OrdinalIgnoreCase))
            {
                bits |= 1 << i;
            }
        }

        if (bits != 0 && category.Length <= 2)
        {
            return code => (bits >> (int)CodePoints.Category(code) & 1) != 0;
        }

        return key switch
        {
            "space" or "whitespace" => CodePoints.IsSpace,
            "word" => CodePoints.IsWord,
            "alpha" or "alphabetic" => code => CodePoints.IsWord(code) && CodePoints.Category(code) is not (UnicodeCategory.DecimalDigitNumber or UnicodeCategory.ConnectorPunctuation or UnicodeCategory.Format),
            "alnum" => code => CodePoints.IsWord(code) && CodePoints.Category(code) is not (UnicodeCategory.ConnectorPunctuation or UnicodeCategory.Format),
            "punct" => CodePoints.IsPunctuation,
            "blank" => code => code == '\t' || CodePoints.Category(code) == UnicodeCategory.SpaceSeparator,
            "xdigit" => code => code < 128 && char.IsAsciiHexDigit((char)code),
            "ascii" => code => code < 128,
            "any" => _ => true,
            "assigned" => code => CodePoints.Category(code) != UnicodeCategory.OtherNotAssigned,
            _ => null,
        };
    }
}
