using System.Globalization;
using System.Reflection;
using System.Text;
using Scalpel.Text.Pipeline;

namespace Scalpel.Text.Unicode;

/// <summary>
/// The four normal forms of Unicode, with alignment. The runtime's own <c>string.Normalize</c> returns its input when
/// globalisation is invariant, and knows no alignment; so the tables are ours (normalization.txt, from the Unicode
/// Character Database).
/// </summary>
static class UnicodeNormalization
{
    const int HangulFirst = 0xAC00, HangulCount = 11172, LeadFirst = 0x1100, VowelFirst = 0x1161, TailFirst = 0x11A7;

    static readonly Lazy<Tables> Data = new(Tables.Read);

    /// <summary>Writes the normal form. As in the reference, what composes stands for its first character.</summary>
    public static void Write(ReadOnlySpan<int> text, bool compose, bool compatibility, Rewriter rewriter)
    {
        Tables tables = Data.Value;
        var parts = new List<(int Code, int Change, int Class)>(text.Length + 16);
        int run = 0;
        foreach (int code in text)
        {
            int first = parts.Count;
            Decompose(code, compatibility, tables, parts);
            for (int i = first; i < parts.Count; i++)
            {
                parts[i] = parts[i] with { Change = i == first ? 0 : 1 };
                // Marks are put in the order of their classes, equal ones as they came; the run since the last starter is sorted.
                if (parts[i].Class == 0)
                {
                    run = i + 1;
                    continue;
                }

                for (int j = i; j > run && parts[j - 1].Class > parts[j].Class; j--)
                {
                    (parts[j - 1], parts[j]) = (parts[j], parts[j - 1]);
                }
            }
        }

        if (compose)
        {
            Compose(parts, tables);
        }

        foreach ((int code, int change, _) in parts)
        {
            rewriter.Write(code, change);
        }
    }

    static void Decompose(int code, bool compatibility, Tables tables, List<(int Code, int Change, int Class)> parts)
    {
        if (code < 0xA0)
        {
            parts.Add((code, 0, 0));
        }
        else if (code is >= HangulFirst and < HangulFirst + HangulCount)
        {
            int index = code - HangulFirst, tail = index % 28;
            parts.Add((LeadFirst + index / 588, 0, 0));
            parts.Add((VowelFirst + index % 588 / 28, 0, 0));
            if (tail > 0)
            {
                parts.Add((TailFirst + tail, 0, 0));
            }
        }
        else if (tables.Canonical.TryGetValue(code, out int[]? to) || (compatibility && tables.Compatible.TryGetValue(code, out to)))
        {
            foreach (int part in to)
            {
                Decompose(part, compatibility, tables, parts);
            }
        }
        else
        {
            parts.Add((code, 0, tables.Classes.GetValueOrDefault(code)));
        }
    }

    static void Compose(List<(int Code, int Change, int Class)> parts, Tables tables)
    {
        int kept = 0, starter = -1, lastClass = 0;
        for (int i = 0; i < parts.Count; i++)
        {
            (int code, int change, int category) = parts[i];
            // Blocked: another mark of the same or a higher class stands between, or a starter that did not compose.
            bool open = starter >= 0 && (kept == starter + 1 || (lastClass != 0 && lastClass < category));
            if (open && Pair(parts[starter].Code, code, tables) is { } whole)
            {
                parts[starter] = (whole, parts[starter].Change + change - 1, 0);
                continue;
            }

            if (category == 0)
            {
                starter = kept;
            }

            lastClass = category;
            parts[kept++] = parts[i];
        }

        parts.RemoveRange(kept, parts.Count - kept);
    }

    static int? Pair(int first, int second, Tables tables)
    {
        if (first is >= LeadFirst and < LeadFirst + 19 && second is >= VowelFirst and < VowelFirst + 21)
        {
            return HangulFirst + ((first - LeadFirst) * 21 + second - VowelFirst) * 28;
        }

        if (first is >= HangulFirst and < HangulFirst + HangulCount && (first - HangulFirst) % 28 == 0 && second is > TailFirst and < TailFirst + 28)
        {
            return first + second - TailFirst;
        }

        return tables.Pairs.TryGetValue((first, second), out int whole) ? whole : null;
    }

    sealed class Tables
    {
        public Dictionary<int, int[]> Canonical { get; } = [];

        public Dictionary<int, int[]> Compatible { get; } = [];

        public Dictionary<int, int> Classes { get; } = [];

        public Dictionary<(int First, int Second), int> Pairs { get; } = [];

        // Lines: "c CODE PARTS…" canonical and composed again, "x CODE PARTS…" canonical only, "k CODE PARTS…" compatible,
        // "m CLASS FIRST LAST" marks. All numbers hexadecimal but the class.
        public static Tables Read()
        {
            var tables = new Tables();
            using Stream stream = Assembly.GetExecutingAssembly().GetManifestResourceStream("Scalpel.Text.Unicode.normalization.txt")!;
            using var reader = new StreamReader(stream, Encoding.UTF8);
            while (reader.ReadLine() is { } line)
            {
                if (line.StartsWith('#'))
                {
                    continue;
                }

                string[] words = line.Split(' ');
                if (words[0] == "m")
                {
                    for (int code = Hexadecimal(words[2]); code <= Hexadecimal(words[3]); code++)
                    {
                        tables.Classes[code] = int.Parse(words[1], CultureInfo.InvariantCulture);
                    }

                    continue;
                }

                int from = Hexadecimal(words[1]);
                int[] to = [.. words.Skip(2).Select(Hexadecimal)];
                (words[0] == "k" ? tables.Compatible : tables.Canonical)[from] = to;
                if (words[0] == "c")
                {
                    tables.Pairs[(to[0], to[1])] = from;
                }
            }

            return tables;
        }

        static int Hexadecimal(string word) => int.Parse(word, NumberStyles.AllowHexSpecifier, CultureInfo.InvariantCulture);
    }
}
