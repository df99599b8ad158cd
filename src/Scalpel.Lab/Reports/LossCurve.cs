using System.Text.Json.Nodes;
using Scalpel.Checkpoints;
using ScottPlot;

namespace Scalpel.Lab.Reports;

/// <summary>The picture of a training run's loss.</summary>
public static class LossCurve
{
    /// <summary>Draws <c>loss.png</c> beside a run's <c>log.jsonl</c>: the loss of each step, its running mean, and evaluations.</summary>
    /// <param name="folder">The run's folder.</param>
    /// <exception cref="BadInputException">The log is missing or malformed.</exception>
    public static void Draw(string folder)
    {
        string log = Path.Combine(folder, "log.jsonl");
        List<(double Step, double Loss)> losses = [], evaluations = [];
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

        using var plot = new Plot();
        double[] steps = [.. losses.Select(point => point.Step)];
        var line0 = plot.Add.ScatterLine(steps, [.. losses.Select(point => point.Loss)], Colors.SteelBlue.WithAlpha(losses.Count > 20 ? 0.35 : 1));
        line0.LegendText = "loss";
        line0.LineWidth = 1.5f;
        if (losses.Count > 20)
        {
            int window = Math.Max(5, losses.Count / 20);
            var mean = plot.Add.ScatterLine(steps, [.. losses.Select((_, i) => losses.Skip(Math.Max(0, i - window + 1)).Take(Math.Min(i + 1, window)).Average(point => point.Loss))], Colors.SteelBlue);
            mean.LegendText = $"mean of {window} steps";
            mean.LineWidth = 2;
        }

        if (evaluations.Count > 0)
        {
            var held = plot.Add.Scatter(evaluations.Select(point => point.Step).ToArray(), evaluations.Select(point => point.Loss).ToArray(), Colors.DarkOrange);
            held.LegendText = "held-out data";
        }

        plot.XLabel("step");
        plot.YLabel("loss");
        plot.ShowLegend(Alignment.UpperRight);
        byte[] picture = plot.GetImageBytes(800, 480, ImageFormat.Png);
        AtomicFile.Write(Path.Combine(folder, "loss.png"), stream => stream.Write(picture));
    }
}
