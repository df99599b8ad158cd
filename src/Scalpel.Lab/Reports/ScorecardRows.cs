using System.Globalization;
using Scalpel.Lab.Evaluations;
using Scalpel.Numerics;

namespace Scalpel.Lab.Reports;

/// <summary>Scorecards and inspections as the rows of a report.</summary>
public static class ScorecardRows
{
    /// <summary>A row a measure.</summary>
    public static IReadOnlyList<ScoreRow> Of(Scorecard card) => [.. card.Metrics.Select(metric => new ScoreRow(
        metric.Name.Replace('_', ' '), metric.Explanation, metric.Before is { } before ? Estimate(before) : null, Estimate(metric.After), metric.Count, metric.Percent))];

    /// <summary>A row a tensor.</summary>
    public static IReadOnlyList<TensorChange> Of(IReadOnlyList<Patches.TensorChange> changes) => [.. changes.Select(change => new TensorChange(
        change.Name, Layer(change.Name), change.Shape, change.Rank is { } rank ? $"{change.Kind} {rank}" : change.Kind,
        change.Norm, change.RelativeNorm, change.Changed))];

    static Estimate Estimate(Interval interval) => new(interval.Value, interval.Low, interval.High);

    // The first number among a name's parts.
    static int? Layer(string name) => name.Split('.').Select(part => int.TryParse(part, NumberStyles.None, CultureInfo.InvariantCulture, out int layer) ? layer : (int?)null).FirstOrDefault(layer => layer is not null);
}
