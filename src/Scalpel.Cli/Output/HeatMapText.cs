using System.Globalization;
using System.Text;
using Scalpel.Lab.Reports;

namespace Scalpel.Cli.Output;

/// <summary>A heat map for a terminal: one line a token, one character a layer.</summary>
static class HeatMapText
{
    const string Shades = " ·░▒▓█";
    const int Margin = 16;

    /// <summary>The lines, the layers' scale last.</summary>
    public static IEnumerable<string> Lines(HeatMap map)
    {
        int layers = map.Values[0].Count;
        yield return map.Title;
        for (int t = 0; t < map.Tokens.Count; t++)
        {
            string token = map.Tokens[t].ReplaceLineEnds().Trim();
            token = token.Length > Margin - 2 ? token[..(Margin - 3)] + "…" : token;
            var row = new StringBuilder(token.PadLeft(Margin - 2)).Append(map.Subject.Contains(t) ? "* " : "  ");
            for (int l = 0; l < layers; l++)
            {
                row.Append(Shades[(int)Math.Round(map.Fill(t, l) * (Shades.Length - 1))]);
            }

            yield return row.ToString().TrimEnd();
        }

        var scale = new StringBuilder(new string(' ', Margin));
        for (int l = 0; l < layers; l += 5)
        {
            scale.Append(l.ToString(CultureInfo.InvariantCulture).PadRight(5));
        }

        yield return scale.ToString().TrimEnd() + "  layer";
        (int at, int layer, double value) = map.Peak;
        yield return string.Create(CultureInfo.InvariantCulture, $"{"",Margin}{map.Unit}: nothing {map.Low:0.000} ({Shades[0]}), all {map.High:0.000} ({Shades[^1]}); most {value:0.000} at “{map.Tokens[at].Trim()}”, layer {layer}");
    }

    static string ReplaceLineEnds(this string text) => text.ReplaceLineEndings("⏎");
}
