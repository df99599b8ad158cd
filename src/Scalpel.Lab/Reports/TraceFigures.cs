using Scalpel.Methods.Attribution;

namespace Scalpel.Lab.Reports;

/// <summary>A causal trace as the figures of a report.</summary>
public static class TraceFigures
{
    /// <summary>Three heat maps: the block's state, the MLP outputs and the attention outputs restored.</summary>
    public static IReadOnlyList<HeatMap> Of(CausalTrace trace)
    {
        string unit = $"probability of “{trace.Answer.Trim()}”";
        return
        [
            Map("One state restored", trace.Hidden),
            Map("MLP outputs restored", trace.Mlp),
            Map("Attention outputs restored", trace.Attention),
        ];

        HeatMap Map(string title, double[,] scores) => new(title, trace.Tokens,
            [.. Enumerable.Range(0, scores.GetLength(0)).Select(t => (IReadOnlyList<double>)[.. Enumerable.Range(0, scores.GetLength(1)).Select(l => scores[t, l])])],
            trace.Low, trace.High, unit)
        {
            Subject = [.. Enumerable.Range(trace.Subject.Begin, trace.Subject.End - trace.Subject.Begin)],
        };
    }
}
