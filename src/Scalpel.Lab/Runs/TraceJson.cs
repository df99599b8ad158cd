using System.Text.Json.Nodes;
using Scalpel.Methods.Attribution;

namespace Scalpel.Lab.Runs;

/// <summary>A causal trace as JSON, there and back.</summary>
public static class TraceJson
{
    /// <summary>The whole trace.</summary>
    public static JsonNode Write(CausalTrace trace) => new JsonObject
    {
        ["tokens"] = new JsonArray([.. trace.Tokens.Select(token => (JsonNode)token)]),
        ["subject"] = new JsonArray(trace.Subject.Begin, trace.Subject.End),
        ["answer"] = trace.Answer,
        ["probability"] = trace.High,
        ["probability_with_noise"] = trace.Low,
        ["noise_level"] = trace.NoiseLevel,
        ["peak_layer"] = trace.PeakLayer,
        ["state"] = Matrix(trace.Hidden),
        ["mlp"] = Matrix(trace.Mlp),
        ["attention"] = Matrix(trace.Attention),
    };

    /// <summary>Reads what <see cref="Write"/> wrote.</summary>
    public static CausalTrace Read(JsonNode json) => new()
    {
        Tokens = [.. json["tokens"]!.AsArray().Select(node => node!.GetValue<string>())],
        Subject = (json["subject"]![0]!.GetValue<int>(), json["subject"]![1]!.GetValue<int>()),
        Answer = json["answer"]!.GetValue<string>(),
        High = json["probability"]!.GetValue<double>(),
        Low = json["probability_with_noise"]!.GetValue<double>(),
        NoiseLevel = json["noise_level"]!.GetValue<double>(),
        Hidden = Matrix(json["state"]!.AsArray()),
        Mlp = Matrix(json["mlp"]!.AsArray()),
        Attention = Matrix(json["attention"]!.AsArray()),
    };

    static JsonArray Matrix(double[,] values) => new([.. Enumerable.Range(0, values.GetLength(0)).Select(t =>
        (JsonNode)new JsonArray([.. Enumerable.Range(0, values.GetLength(1)).Select(l => (JsonNode)values[t, l])]))]);

    static double[,] Matrix(JsonArray rows)
    {
        var values = new double[rows.Count, rows[0]!.AsArray().Count];
        for (int t = 0; t < values.GetLength(0); t++)
        {
            for (int l = 0; l < values.GetLength(1); l++)
            {
                values[t, l] = rows[t]![l]!.GetValue<double>();
            }
        }

        return values;
    }
}
