using System.Globalization;
using System.Text.Json.Nodes;
using Scalpel.Methods.Attribution;
using TorchSharp;
using static TorchSharp.torch;

namespace Scalpel.Lab.Parity.Methods;

/// <summary>Causal tracing with given noise samples; scores are probabilities of the clean answer.</summary>
sealed class CausalTraceCase : IMethodCase
{
    public IReadOnlyList<string> Names => ["causal-trace"];

    public void Run(MethodCase c)
    {
        long[] subject = c.Longs("subject_range");
        double level = NoiseLevel(c);
        Tensor ids = c.Input("input_ids").view(1, -1);
        using var trace = new TraceRun(c.Model, ids, ((int)subject[0], (int)subject[1]), c.Input("noise") * level, "output", "mlp.output", "attention.output");
        c.Compare("noise_level", tensor(level, dtype: ScalarType.Float64));
        c.Compare("answer", tensor(new[] { trace.Answer }));
        c.Compare("high_score", tensor((float)trace.High));
        c.Compare("low_score", tensor((float)trace.Low));
        int window = c.Case.Options["window"]?.GetValue<int>() ?? 10;
        foreach ((string name, string leaf, int width) in ((string, string, int)[])[("hidden", "output", 1), ("mlp", "mlp.output", window), ("attn", "attention.output", window)])
        {
            c.Compare($"{name}.scores", tensor(trace.Restore(leaf, width, new RunContext())).to_type(ScalarType.Float32));
        }
    }

    // "s3": three standard deviations of the subjects' token embeddings; "u0.1" and 0.1: the level itself.
    static double NoiseLevel(MethodCase c)
    {
        string text = c.Case.Options["noise"]?.ToString() ?? throw c.Missing("noise");
        if (text.StartsWith('s'))
        {
            double factor = text.Length > 1 ? double.Parse(text[1..], CultureInfo.InvariantCulture) : 1;
            string[] subjects = [.. (c.Case.Options["subjects"] as JsonArray ?? throw c.Missing("subjects")).Select(s => s!.ToString())];
            return factor * CausalTracing.EmbeddingDeviation(c.Model, subjects);
        }

        return double.TryParse(text.TrimStart('u'), CultureInfo.InvariantCulture, out double level) ? level : throw c.Missing("noise");
    }
}
