using System.Globalization;
using System.Text;

namespace Scalpel.Cli.Output;

/// <summary>How close sentences lie, for a terminal: a matrix of few, the closest pairs of many.</summary>
static class CosineText
{
    const int MatrixUpTo = 12, Pairs = 20, Width = 48;

    /// <summary>The lines.</summary>
    public static IEnumerable<string> Lines(IReadOnlyList<string> texts, double[][] cosines) =>
        texts.Count <= MatrixUpTo ? Matrix(texts, cosines) : Closest(texts, cosines);

    /// <summary>A sentence on at most one line.</summary>
    public static string Short(string text)
    {
        string line = text.ReplaceLineEndings("⏎").Trim();
        return line.Length > Width ? line[..(Width - 1)] + "…" : line;
    }

    static IEnumerable<string> Matrix(IReadOnlyList<string> texts, double[][] cosines)
    {
        var head = new StringBuilder("    ");
        for (int b = 0; b < texts.Count; b++)
        {
            head.Append((b + 1).ToString(CultureInfo.InvariantCulture).PadLeft(7));
        }

        yield return head.ToString();
        for (int a = 0; a < texts.Count; a++)
        {
            var row = new StringBuilder((a + 1).ToString(CultureInfo.InvariantCulture).PadLeft(4));
            foreach (double cosine in cosines[a])
            {
                row.Append(cosine.ToString("0.000", CultureInfo.InvariantCulture).PadLeft(7));
            }

            yield return row.Append("  ").Append(Short(texts[a])).ToString();
        }
    }

    static IEnumerable<string> Closest(IReadOnlyList<string> texts, double[][] cosines)
    {
        var pairs = from a in Enumerable.Range(0, texts.Count)
                    from b in Enumerable.Range(a + 1, texts.Count - a - 1)
                    orderby cosines[a][b] descending
                    select (a, b);
        yield return $"the {Pairs} closest pairs of {texts.Count} sentences";
        foreach ((int a, int b) in pairs.Take(Pairs))
        {
            yield return string.Create(CultureInfo.InvariantCulture, $"{cosines[a][b],7:0.000}  {a + 1,4} {Short(texts[a])}");
            yield return string.Create(CultureInfo.InvariantCulture, $"{"",7}  {b + 1,4} {Short(texts[b])}");
        }
    }
}
