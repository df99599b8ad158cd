using System.Globalization;
using Scalpel.Lab.Evaluations;
using Scalpel.Numerics;

namespace Scalpel.Cli.Output;

/// <summary>A scorecard for a terminal.</summary>
static class ScorecardText
{
    /// <summary>A line a measure.</summary>
    public static IEnumerable<string> Lines(Scorecard card)
    {
        yield return $"{"",-26}{"n",5}  {"before",-24}{"after",-24}";
        foreach (Metric metric in card.Metrics)
        {
            yield return $"{metric.Name.Replace('_', ' '),-26}{metric.Count,5}  {(metric.Before is { } before ? Show(before, metric.Percent) : "–"),-24}{Show(metric.After, metric.Percent),-24}".TrimEnd();
        }

        yield return $"intervals at 95 %; fingerprint {card.Fingerprint[..16]}";
    }

    static string Show(Interval interval, bool percent)
    {
        string Number(double value) => percent ? (value * 100).ToString("0", CultureInfo.InvariantCulture)
            : value == 0 ? "0" : Math.Abs(value) < 0.001 ? value.ToString("0.0e0", CultureInfo.InvariantCulture) : value.ToString("0.000", CultureInfo.InvariantCulture);
        return $"{Number(interval.Value)}{(percent ? " %" : "")} [{Number(interval.Low)}, {Number(interval.High)}]";
    }
}
