using Scalpel.Methods.Editing;
using Scalpel.Networks;
using TorchSharp;
using static TorchSharp.torch;

namespace Scalpel.Methods.Attribution;

/// <summary>Options of <see cref="CausalTracing"/>.</summary>
public sealed record CausalTracingOptions
{
    /// <summary>Noisy runs that every score is averaged over. Paper: 10.</summary>
    public int Samples { get; init; } = 10;

    /// <summary>Layers restored together for MLP and attention outputs, centred at the layer. Paper: 10.</summary>
    public int Window { get; init; } = 10;

    /// <summary>Noise in standard deviations of the subjects' token embeddings. Paper: 3.</summary>
    public double NoiseFactor { get; init; } = 3;

    /// <summary>Subjects whose token embeddings give the standard deviation; by default the traced subject's own.</summary>
    public IReadOnlyList<string>? Subjects { get; init; }

    /// <summary>Noise as a standard deviation of its own instead; null to follow noise_factor.</summary>
    public double? NoiseLevel { get; init; }
}

/// <summary>What tracing found: probabilities of the clean answer.</summary>
public sealed record CausalTrace
{
    /// <summary>The prompt's tokens as text.</summary>
    public required IReadOnlyList<string> Tokens { get; init; }

    /// <summary>First token of the subject and the one after its last.</summary>
    public required (int Begin, int End) Subject { get; init; }

    /// <summary>The most likely next token of the clean run, as text.</summary>
    public required string Answer { get; init; }

    /// <summary>Its probability in the clean run.</summary>
    public required double High { get; init; }

    /// <summary>Its mean probability in the noisy runs.</summary>
    public required double Low { get; init; }

    /// <summary>Standard deviation of the noise.</summary>
    public required double NoiseLevel { get; init; }

    /// <summary>Probability with one state of the residual stream restored, [tokens, layers].</summary>
    public required double[,] Hidden { get; init; }

    /// <summary>Probability with the MLP outputs of a window of layers restored, [tokens, layers].</summary>
    public required double[,] Mlp { get; init; }

    /// <summary>Probability with the attention outputs of a window of layers restored, [tokens, layers].</summary>
    public required double[,] Attention { get; init; }

    /// <summary>The layer at which restoring the MLP at the subject's last token gives back most.</summary>
    public int PeakLayer => Enumerable.Range(0, Mlp.GetLength(1)).MaxBy(l => Mlp[Subject.End - 1, l]);
}

/// <summary>
/// Causal tracing: the subject's embeddings are drowned in noise, then clean states are put back one place at a time; where
/// the answer comes back, the fact is kept. Score = mean probability of the clean answer with the state restored.
/// </summary>
[Method("causal-tracing", Family.Attribution, paper: "2202.05262")]
public sealed class CausalTracing
{
    readonly CausalTracingOptions options;

    /// <summary>The method with its options.</summary>
    /// <exception cref="BadInputException">An option is out of range.</exception>
    public CausalTracing(CausalTracingOptions? options = null)
    {
        this.options = options ?? new CausalTracingOptions();
        OptionChecks.Require(this.options.Samples > 0, "causal-tracing", "samples", this.options.Samples, "at least 1");
        OptionChecks.Require(this.options.Window > 0, "causal-tracing", "window", this.options.Window, "at least 1");
        OptionChecks.Require(this.options.NoiseFactor > 0, "causal-tracing", "noise_factor", this.options.NoiseFactor, "more than 0");
        OptionChecks.Require(this.options.NoiseLevel is null or > 0, "causal-tracing", "noise_level", this.options.NoiseLevel, "more than 0");
    }

    /// <summary>Traces a fact through the model.</summary>
    /// <param name="model">The model.</param>
    /// <param name="subject">What the fact is about.</param>
    /// <param name="prompt">The beginning of a sentence with one {} where the subject stands.</param>
    /// <param name="run">Seed of the noise, progress, cancellation.</param>
    /// <param name="expected">What the model shall answer; null for whatever it answers.</param>
    /// <exception cref="BadInputException">The prompt lacks exactly one {}, the subject is empty, or the model answers something else.</exception>
    public CausalTrace Trace(Decoder model, string subject, string prompt, RunContext run, string? expected = null)
    {
        new FactEdit(subject, prompt, "-").Validated();
        using var scope = NewDisposeScope();
        string text = prompt.Replace("{}", subject, StringComparison.Ordinal);
        (long[] ids, int first, int last) = FactTokens.Locate(model.Tokenizer, text, prompt.IndexOf("{}", StringComparison.Ordinal), subject.Length);
        double level = options.NoiseLevel ?? options.NoiseFactor * EmbeddingDeviation(model, options.Subjects ?? [subject]);
        using var generator = new Generator(run.Seed, CPU);
        Tensor noise = randn([options.Samples, last + 1 - first, model.Config.Width], generator: generator) * level;
        using var trace = new TraceRun(model, tensor(ids).unsqueeze(0), (first, last + 1), noise, "output", "mlp.output", "attention.output");
        string answer = model.Tokenizer.Decode([(int)trace.Answer]);
        if (expected is not null && !expected.Trim().StartsWith(answer.Trim(), StringComparison.OrdinalIgnoreCase))
        {
            throw new BadInputException(FormattableString.Invariant(
                $"The model answers “{answer.Trim()}” (probability {trace.High:0.000}), not “{expected.Trim()}”, so there is no such fact to locate; leave out the target to trace its own answer."));
        }

        return new CausalTrace
        {
            Tokens = [.. ids.Select(id => model.Tokenizer.Decode([(int)id]))],
            Subject = (first, last + 1),
            Answer = answer,
            High = trace.High,
            Low = trace.Low,
            NoiseLevel = level,
            Hidden = trace.Restore("output", 1, run),
            Mlp = trace.Restore("mlp.output", options.Window, run),
            Attention = trace.Restore("attention.output", options.Window, run),
        };
    }

    /// <summary>The standard deviation, over all entries, of the token embeddings of some subjects.</summary>
    public static double EmbeddingDeviation(Decoder model, IReadOnlyList<string> subjects)
    {
        using var scope = NewDisposeScope();
        long[] ids = [.. subjects.SelectMany(subject => model.Tokenizer.Encode(subject).Ids).Select(id => (long)id)];
        RoleView embedding = model.Role(Role.Embedding);
        return model.Parameter(embedding.TensorName).index_select(0, tensor(ids)).to_type(ScalarType.Float32).std().ToDouble();
    }
}
