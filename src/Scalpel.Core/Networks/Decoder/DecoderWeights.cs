using Scalpel.Networks.Layers;

namespace Scalpel.Networks;

/// <summary>One expert of a mixture, or a dense MLP: down(act(gate x) ⊙ up x), or down(act(up x)).</summary>
/// <param name="Up">[gate; up] when gated, else up.</param>
/// <param name="Down">Back to the residual stream.</param>
sealed record Mlp(Linear Up, Linear Down);

/// <summary>The weights of one block.</summary>
sealed record DecoderLayer
{
    public Norm? AttentionNorm { get; init; }
    public Norm? MlpNorm { get; init; }
    public Norm? AfterAttentionNorm { get; init; }
    public Norm? AfterMlpNorm { get; init; }
    public Norm? QueryNorm { get; init; }
    public Norm? KeyNorm { get; init; }
    public required Linear QueryKeyValue { get; init; }
    public required Linear Output { get; init; }

    /// <summary>One dense MLP, or the experts.</summary>
    public required IReadOnlyList<Mlp> Mlps { get; init; }

    /// <summary>Router of a mixture, [E, d].</summary>
    public Linear? Router { get; init; }
}
