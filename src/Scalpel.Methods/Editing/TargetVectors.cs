using Scalpel.Networks;
using TorchSharp;
using static TorchSharp.torch;

namespace Scalpel.Methods.Editing;

/// <summary>Where the searched vector is added.</summary>
enum VectorSite
{
    /// <summary>The MLP's output (ROME).</summary>
    MlpOutput,

    /// <summary>The block's output (MEMIT, AlphaEdit).</summary>
    BlockOutput,
}

/// <summary>Settings of the search, in the official implementations' words.</summary>
sealed record VectorSearch
{
    public required int Layer { get; init; }
    public required VectorSite Site { get; init; }

    /// <summary>Evaluations of the loss; the last one is not followed by an update.</summary>
    public required int Steps { get; init; }

    public required double LearningRate { get; init; }
    public required double WeightDecay { get; init; }

    /// <summary>δ is kept within this many norms of the initial value.</summary>
    public required double ClampNormFactor { get; init; }

    public required double DriftFactor { get; init; }

    /// <summary>Layer after which final norm and head read the targets; null for the last.</summary>
    public int? LossLayer { get; init; }

    /// <summary>The search of a fact ends when its loss falls below.</summary>
    public double StopLoss { get; init; } = 0.05;
}

/// <summary>What was found for one fact.</summary>
/// <param name="Initial">The value before, [d].</param>
/// <param name="Delta">The summand that was found, [d].</param>
/// <param name="Losses">Total, negative log-likelihood, divergence and decay of every evaluation.</param>
/// <param name="Updates">Steps that Adam took.</param>
sealed record FoundVector(Tensor Initial, Tensor Delta, IReadOnlyList<double[]> Losses, int Updates) : IDisposable
{
    /// <summary>Initial + Delta.</summary>
    public Tensor Value()
    {
        return Initial + Delta;
    }

    public void Dispose()
    {
        Initial.Dispose();
        Delta.Dispose();
    }
}

/// <summary>
/// The search of ROME and MEMIT for the vector that, put at the lookup token, makes the model say the target:
/// L = mean over contexts of −(1/|T|) Σ log p(T_t | …) + λ·KL(p_δ‖p_0 on "{subject} is a") + w·‖δ‖/‖v0‖², by Adam, with δ
/// kept inside c·‖v0‖. Many facts are searched at once; their losses do not meet. What lies before the lookup token and
/// below the edited layer does not depend on δ and is computed once.
/// </summary>
static class TargetVectors
{
    // Tokens per batch: enough for products at full speed, and a bound on what the backward pass keeps.
    const int BatchTokens = 384;

    /// <summary>Searches the vectors of all facts; the caller disposes them.</summary>
    public static IReadOnlyList<FoundVector> Find(Decoder model, IReadOnlyList<EditTokens> edits, VectorSearch search, RunContext run, string stage)
    {
        var found = new FoundVector[edits.Count];
        // Facts with suffixes of like length share a batch, so that little is padded.
        int[] order = [.. Enumerable.Range(0, edits.Count).OrderBy(e => Suffix(edits[e]))];
        for (int start = 0, done = 0; start < order.Length;)
        {
            int rows = 0, end = start;
            while (end < order.Length && (end == start || (rows + Rows(edits[order[end]])) * Suffix(edits[order[end]]) <= BatchTokens))
            {
                rows += Rows(edits[order[end++]]);
            }

            int[] chosen = order[start..end];
            using var batch = new VectorBatch(model, [.. chosen.Select(e => edits[e])], search);
            for (int step = 0; step < search.Steps && batch.Active > 0; step++)
            {
                batch.Step(last: step == search.Steps - 1);
                run.Report(stage, edits.Count == 1 ? step + 1 : done + chosen.Length - batch.Active, edits.Count == 1 ? search.Steps : edits.Count, $"loss {batch.MeanLoss:0.000}");
            }

            foreach ((int index, FoundVector vector) in chosen.Zip(batch.Results()))
            {
                found[index] = vector;
            }

            done += chosen.Length;
            start = end;
        }

        return found;
    }

    static int Rows(EditTokens edit) => edit.Values.Count + 1;

    static int Suffix(EditTokens edit) => edit.Values.Max(row => row.Ids.Count - row.Lookup);
}
