using System.Text.Json;
using System.Text.Json.Nodes;

namespace Scalpel.Lab.Reports;

/// <summary>What the log of a training run says of its loss.</summary>
/// <param name="Losses">Loss of each step; steps whose loss was not finite are left out.</param>
/// <param name="Evaluations">Loss on held-out data, where it was measured.</param>
public sealed record TrainingLog(IReadOnlyList<(double Step, double Value)> Losses, IReadOnlyList<(double Step, double Value)> Evaluations)
{
    /// <summary>Reads <c>log.jsonl</c> of a run's folder.</summary>
    /// <exception cref="BadInputException">There is none, it is malformed, or it holds no step.</exception>
    public static TrainingLog Read(string folder)
    {
        string log = Path.Combine(folder, "log.jsonl");
        List<(double Step, double Value)> losses = [], evaluations = [];
        try
        {
            // A run that is killed, or still going, may have half a line at its end.
            string text = File.ReadAllText(log);
            foreach (string line in text[..(text.LastIndexOf('\n') + 1)].Split('\n')[..^1])
            {
                JsonNode? entry = JsonNode.Parse(line);
                double step = entry!["step"]!.GetValue<double>();
                if (entry["loss"] is { } loss)
                {
                    losses.Add((step, loss.GetValue<double>()));
                }

                if (entry["evaluation"] is { } evaluation)
                {
                    evaluations.Add((step, evaluation.GetValue<double>()));
                }
            }
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            throw new BadInputException($"{folder} is not the folder of a training run: {e.Message}", e);
        }
        catch (Exception e) when (e is JsonException or NullReferenceException or InvalidOperationException or FormatException)
        {
            throw new BadInputException($"{log} has a line that is not an object with a step and numbers after step {(losses.Count > 0 ? losses[^1].Step : 0)}; it is not the log of a training run.", e);
        }

        return losses.Count > 0 ? new TrainingLog(losses, evaluations) : throw new BadInputException($"{log} holds no step with a finite loss.");
    }

    /// <summary>Mean loss of the last tenth of the steps.</summary>
    public double LastLoss => Losses.Skip(Losses.Count - Math.Max(1, Losses.Count / 10)).Average(point => point.Value);

    /// <summary>Step and value of the best evaluation; null without any.</summary>
    public (double Step, double Value)? Best => Evaluations.Count > 0 ? Evaluations.MinBy(point => point.Value) : null;
}
