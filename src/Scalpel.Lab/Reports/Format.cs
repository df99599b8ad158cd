using System.Globalization;

namespace Scalpel.Lab.Reports;

/// <summary>Numbers as a reader of a report wants them: three figures, shares in per cent.</summary>
static class Format
{
    public static string Number(double value) => value switch
    {
        double.NaN => "not a number",
        0 => "0",
        _ when !double.IsFinite(value) => value > 0 ? "∞" : "−∞",
        _ when Math.Abs(value) is >= 0.001 and < 100_000 => value.ToString(Math.Abs(value) >= 100 ? "0.#" : Math.Abs(value) >= 1 ? "0.##" : "0.####", CultureInfo.InvariantCulture).Replace('-', '−'),
        _ => value.ToString("0.##e+0", CultureInfo.InvariantCulture).Replace('-', '−'),
    };

    public static string Value(double value, bool percent) => percent ? (value * 100).ToString("0.#", CultureInfo.InvariantCulture) + " %" : Number(value);

    /// <summary>An interval; a dash for a single value, which has none.</summary>
    public static string Interval(Estimate estimate, bool percent, long count) => count <= 1 && estimate.Low.Equals(estimate.High) ? "–" : percent
        ? $"{(estimate.Low * 100).ToString("0", CultureInfo.InvariantCulture)}–{(estimate.High * 100).ToString("0", CultureInfo.InvariantCulture)} %"
        : $"{Number(estimate.Low)} to {Number(estimate.High)}";

    /// <summary>Coordinates and opacities: a point, two decimals.</summary>
    public static string Plain(double value) => value.ToString("0.##", CultureInfo.InvariantCulture);
}
