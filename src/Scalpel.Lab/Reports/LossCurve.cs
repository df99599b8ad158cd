using System.Globalization;
using System.Net;
using System.Text;
using Scalpel.Checkpoints;

namespace Scalpel.Lab.Reports;

/// <summary>The picture of a training run's loss, as an SVG file that any browser shows.</summary>
public static class LossCurve
{
    const int Width = 800, Height = 440, Left = 64, Right = 20, Top = 40, Bottom = 48;

    static readonly string[] Colours = ["#2f6ea8", "#d9822b", "#3c8d5a", "#a8487c", "#7a6ac2", "#8a6d3b", "#3b8a94", "#b5483e"];

    sealed record Series(string Name, string Colour, IReadOnlyList<(double Step, double Value)> Points, double Width = 2, bool Dots = false);

    /// <summary>Draws <c>loss.svg</c> beside a run's <c>log.jsonl</c>: the loss of each step, its running mean, and evaluations.</summary>
    /// <param name="folder">The run's folder.</param>
    /// <exception cref="BadInputException">The log is malformed, or holds no step.</exception>
    public static void Draw(string folder)
    {
        TrainingLog log = TrainingLog.Read(folder);
        List<Series> series = [];
        if (Window(log) is var window and > 1)
        {
            series.Add(new("loss of a step", "#a8c4de", log.Losses, 1.5));
            series.Add(new($"mean of {window} steps", Colours[0], Means(log.Losses, window)));
        }
        else
        {
            series.Add(new("loss of a step", Colours[0], log.Losses, 1.5));
        }

        if (log.Evaluations.Count > 0)
        {
            series.Add(new("held-out data", Colours[1], log.Evaluations, Dots: true));
        }

        AtomicFile.WriteText(Path.Combine(folder, "loss.svg"), Svg(series));
    }

    /// <summary>Draws several runs into one picture: the running mean of each one's loss, and its evaluations as dots.</summary>
    /// <param name="runs">What the legend calls them, and their logs.</param>
    /// <param name="path">The file, .svg.</param>
    public static void Draw(IReadOnlyList<(string Name, TrainingLog Log)> runs, string path) => AtomicFile.WriteText(path, Svg([.. runs.SelectMany((run, i) =>
    {
        string colour = Colours[i % Colours.Length];
        Series loss = new(run.Name, colour, Means(run.Log.Losses, Window(run.Log)));
        return run.Log.Evaluations.Count > 0 ? (Series[])[loss, new($"{run.Name}, held-out data", colour, run.Log.Evaluations, 1, Dots: true)] : [loss];
    })]));

    // Few steps are shown as they are.
    static int Window(TrainingLog log) => log.Losses.Count > 20 ? Math.Max(5, log.Losses.Count / 20) : 1;

    static string Svg(IReadOnlyList<Series> series)
    {
        const int Column = 238, Row = 20, LongName = 34;
        int columns = (Width - Left - Right) / Column, top = Top + Row * ((series.Count - 1) / columns);
        (double Step, double Value)[] all = [.. series.SelectMany(line => line.Points)];
        (double low, double high, double first, double last) = (all.Min(point => point.Value), all.Max(point => point.Value), all.Min(point => point.Step), all.Max(point => point.Step));
        double[] ys = Ticks(low, high > low ? high : low + 1), xs = Ticks(first, Math.Max(last, first + 1));
        (low, high) = (Math.Min(low, ys[0]), Math.Max(high, ys[^1]));
        (first, last) = (Math.Min(first, xs[0]), Math.Max(last, xs[^1]));
        double X(double step) => Left + (step - first) / (last - first) * (Width - Left - Right);
        double Y(double value) => Height - Bottom - (value - low) / (high - low) * (Height - top - Bottom);
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
        for (int i = 0; i < series.Count; i++)
        {
            Series line = series[i];
            Add($"""<path d="M{Line(line.Points)}" fill="none" stroke="{line.Colour}" stroke-width="{line.Width}"/>""");
            foreach ((double step, double value) in line.Dots ? line.Points : [])
            {
                Add($"""<circle cx="{X(step):0.##}" cy="{Y(value):0.##}" r="3" fill="{line.Colour}"/>""");
            }

            (int x, int y) = (Left + i % columns * Column, 16 + i / columns * Row);
            Add($"""<rect x="{x}" y="{y - 2}" width="18" height="4" fill="{line.Colour}"/>""");
            if (line.Dots)
            {
                Add($"""<circle cx="{x + 9}" cy="{y}" r="3" fill="{line.Colour}"/>""");
            }

            Add($"""<text x="{x + 24}" y="{y + 4}">{WebUtility.HtmlEncode(line.Name.Length > LongName ? $"…{line.Name[^LongName..]}" : line.Name)}</text>""");
        }

        return svg.Append("</svg>\n").ToString();
    }

    static (double Step, double Value)[] Means(IReadOnlyList<(double Step, double Value)> points, int window)
    {
        double sum = 0;
        return [.. points.Select((point, i) =>
        {
            sum += point.Value - (i >= window ? points[i - window].Value : 0);
            return (point.Step, sum / Math.Min(i + 1, window));
        })];
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
