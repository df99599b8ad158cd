using System.Globalization;
using System.Text;
using System.Text.Json.Nodes;
using Scalpel.Checkpoints;

namespace Scalpel.Lab.Reports;

/// <summary>The picture of a training run's loss, as an SVG file that any browser shows.</summary>
public static class LossCurve
{
    const int Width = 800, Height = 440, Left = 64, Right = 20, Top = 40, Bottom = 48;

    /// <summary>Draws <c>loss.svg</c> beside a run's <c>log.jsonl</c>: the loss of each step, its running mean, and evaluations.</summary>
    /// <param name="folder">The run's folder.</param>
    /// <exception cref="BadInputException">The log is malformed, or holds no step.</exception>
    public static void Draw(string folder)
    {
        string log = Path.Combine(folder, "log.jsonl");
        List<(double Step, double Value)> losses = [], evaluations = [];
        foreach (string line in File.ReadLines(log))
        {
            JsonNode entry = JsonNode.Parse(line) ?? throw new BadInputException($"{log} has a line that is no object.");
            double step = entry["step"]!.GetValue<double>();
            if (entry["loss"] is { } loss)
            {
                losses.Add((step, loss.GetValue<double>()));
            }

            if (entry["evaluation"] is { } evaluation)
            {
                evaluations.Add((step, evaluation.GetValue<double>()));
            }
        }

        if (losses.Count == 0)
        {
            throw new BadInputException($"{log} holds no step with a finite loss.");
        }

        AtomicFile.WriteText(Path.Combine(folder, "loss.svg"), Svg(losses, evaluations));
    }

    static string Svg(List<(double Step, double Value)> losses, List<(double Step, double Value)> evaluations)
    {
        (double Step, double Value)[] all = [.. losses, .. evaluations];
        (double low, double high) = (all.Min(point => point.Value), all.Max(point => point.Value));
        double[] ys = Ticks(low, high > low ? high : low + 1), xs = Ticks(losses[0].Step, Math.Max(losses[^1].Step, losses[0].Step + 1));
        (low, high) = (Math.Min(low, ys[0]), Math.Max(high, ys[^1]));
        (double first, double last) = (Math.Min(losses[0].Step, xs[0]), Math.Max(losses[^1].Step, xs[^1]));
        double X(double step) => Left + (step - first) / (last - first) * (Width - Left - Right);
        double Y(double value) => Height - Bottom - (value - low) / (high - low) * (Height - Top - Bottom);
        var svg = new StringBuilder();
        void Add(FormattableString text) => svg.Append(text.ToString(CultureInfo.InvariantCulture)).Append('\n');
        Add($"""<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {Width} {Height}" font-family="system-ui, sans-serif" font-size="12" fill="#333">""");
        Add($"""<rect width="{Width}" height="{Height}" fill="#fff"/>""");
        foreach (double y in ys)
        {
            Add($"""<path d="M{Left} {Y(y):0.##}H{Width - Right}" stroke="#e4e4e4"/><text x="{Left - 8}" y="{Y(y) + 4:0.##}" text-anchor="end">{y:0.#####}</text>""");
        }

        foreach (double x in xs)
        {
            Add($"""<text x="{X(x):0.##}" y="{Height - Bottom + 18}" text-anchor="middle">{x:0.#####}</text>""");
        }

        Add($"""<path d="M{Left} {Height - Bottom}H{Width - Right}" stroke="#888"/><text x="{(Left + Width - Right) / 2}" y="{Height - 10}" text-anchor="middle">step</text>""");
        string Line(IEnumerable<(double Step, double Value)> points) => string.Join('L', points.Select(point => string.Create(CultureInfo.InvariantCulture, $"{X(point.Step):0.##} {Y(point.Value):0.##}")));
        bool smooth = losses.Count > 20;
        Add($"""<path d="M{Line(losses)}" fill="none" stroke="{(smooth ? "#a8c4de" : "#2f6ea8")}" stroke-width="1.5"/>""");
        List<(string Name, string Colour)> legend = [("loss of a step", smooth ? "#a8c4de" : "#2f6ea8")];
        if (smooth)
        {
            int window = Math.Max(5, losses.Count / 20);
            Add($"""<path d="M{Line(Means(losses, window))}" fill="none" stroke="#2f6ea8" stroke-width="2"/>""");
            legend.Add(($"mean of {window} steps", "#2f6ea8"));
        }

        if (evaluations.Count > 0)
        {
            Add($"""<path d="M{Line(evaluations)}" fill="none" stroke="#d9822b" stroke-width="2"/>""");
            foreach ((double step, double value) in evaluations)
            {
                Add($"""<circle cx="{X(step):0.##}" cy="{Y(value):0.##}" r="3" fill="#d9822b"/>""");
            }

            legend.Add(("held-out data", "#d9822b"));
        }

        for (int i = 0; i < legend.Count; i++)
        {
            Add($"""<rect x="{Left + i * 170}" y="14" width="18" height="4" fill="{legend[i].Colour}"/><text x="{Left + i * 170 + 24}" y="20">{legend[i].Name}</text>""");
        }

        return svg.Append("</svg>\n").ToString();
    }

    static IEnumerable<(double Step, double Value)> Means(List<(double Step, double Value)> points, int window)
    {
        double sum = 0;
        for (int i = 0; i < points.Count; i++)
        {
            sum += points[i].Value - (i >= window ? points[i - window].Value : 0);
            yield return (points[i].Step, sum / Math.Min(i + 1, window));
        }
    }

    // Round numbers that lie in the range, about six.
    static double[] Ticks(double low, double high)
    {
        double rough = (high - low) / 5, power = Math.Pow(10, Math.Floor(Math.Log10(rough)));
        double size = ((double[])[1, 2, 5, 10]).First(factor => factor * power >= rough * 0.999) * power;
        double start = Math.Ceiling(low / size - 1e-9) * size;
        return [.. Enumerable.Range(0, 1 + (int)Math.Floor((high - start) / size + 1e-9)).Select(i => start + i * size)];
    }
}
