using System.Text.Json;
using System.Text.Json.Nodes;
using Scalpel.Numerics;

namespace Scalpel.Lab.Evaluations;

/// <summary>One measure of a scorecard.</summary>
/// <param name="Name">What is measured: <c>paraphrase_success</c>.</param>
/// <param name="Explanation">How, in one sentence.</param>
/// <param name="Percent">Whether it is a share.</param>
/// <param name="Count">Sample size.</param>
/// <param name="Before">On the original model; null for measures of the difference alone.</param>
/// <param name="After">On the edited model.</param>
public sealed record Metric(string Name, string Explanation, bool Percent, int Count, Interval? Before, Interval After);

/// <summary>Named measures with sample size and interval, before and after, bound to what was compared.</summary>
public sealed record Scorecard
{
    static readonly JsonSerializerOptions Json = new() { WriteIndented = true, PropertyNamingPolicy = JsonNamingPolicy.SnakeCaseLower };

    /// <summary>SHA-256 over model, data, tokenizer, options and version: scorecards are comparable only when it is equal.</summary>
    public required string Fingerprint { get; init; }

    /// <summary>What the fingerprint is made of.</summary>
    public required JsonObject Compared { get; init; }

    /// <summary>The measures.</summary>
    public required IReadOnlyList<Metric> Metrics { get; init; }

    /// <summary>A measure by name.</summary>
    /// <exception cref="BadInputException">It was not taken.</exception>
    public Metric this[string name] => Metrics.FirstOrDefault(metric => metric.Name == name)
        ?? throw new BadInputException($"The scorecard has no measure {name}; it has {string.Join(", ", Metrics.Select(metric => metric.Name))}.");

    /// <summary>The scorecard as JSON.</summary>
    public JsonObject ToJson() => (JsonObject)JsonSerializer.SerializeToNode(this, Json)!;

    /// <summary>Reads a scorecard.</summary>
    /// <exception cref="BadInputException">It is none.</exception>
    public static Scorecard FromJson(JsonNode json)
    {
        try
        {
            return json.Deserialize<Scorecard>(Json) ?? throw new JsonException("it is null");
        }
        catch (JsonException e)
        {
            throw new BadInputException($"This is no scorecard: {e.Message}", e);
        }
    }

    /// <summary>The differences of the measures after, other minus this.</summary>
    /// <exception cref="BadInputException">The fingerprints differ, so that the figures do not measure the same.</exception>
    public IReadOnlyDictionary<string, double> Compare(Scorecard other)
    {
        if (other.Fingerprint != Fingerprint)
        {
            string[] keys = [.. Compared.Select(pair => pair.Key).Union(other.Compared.Select(pair => pair.Key))
                .Where(key => Compared[key]?.ToJsonString() != other.Compared[key]?.ToJsonString())];
            throw new BadInputException($"The scorecards do not measure the same: {string.Join(", ", keys)} differ; evaluate both with the same model, data and options.");
        }

        return Metrics.ToDictionary(metric => metric.Name, metric => other[metric.Name].After.Value - metric.After.Value);
    }
}
