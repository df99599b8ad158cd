using Scalpel.Networks;
using TorchSharp;
using static TorchSharp.torch;

namespace Scalpel.Methods.Editing;

/// <summary>Which key and value ROME's update is anchored to.</summary>
public enum KeyConsistency
{
    /// <summary>The mean key over contexts throughout: (W + ΔW) k* = v0 + δ holds exactly.</summary>
    Averaged,

    /// <summary>As the official code: the direction from the mean key, the denominator and old value from the bare prompt.</summary>
    Official,
}

/// <summary>The rank-one update of ROME and all that it was computed from.</summary>
/// <param name="KStar">k*, mean key, [ff].</param>
/// <param name="U">C⁻¹k* normalised, [ff].</param>
/// <param name="Found">v0 and δ.</param>
/// <param name="KBare">Key in the bare prompt, [ff].</param>
/// <param name="VBare">Value in the bare prompt, [d].</param>
/// <param name="Right">Λ, [d].</param>
sealed record RankOne(LayerChange Change, Tensor KStar, Tensor U, FoundVector Found, Tensor KBare, Tensor VBare, Tensor Right) : IDisposable
{
    /// <summary>Computes the update of one fact on the model as it is.</summary>
    /// <param name="factor">Cholesky factor of the covariance in float64; null to take k* itself as direction.</param>
    public static RankOne Compute(Decoder model, EditTokens tokens, VectorSearch search, Tensor? factor, KeyConsistency consistency, RunContext run)
    {
        using var scope = NewDisposeScope();
        FoundVector found = TargetVectors.Find(model, [tokens], search, run, "target vector")[0];
        using var noGrad = no_grad();
        RoleView view = model.Role(Role.Down, search.Layer);
        EditRow[] contexts = [.. tokens.Keys.SelectMany(type => type)];
        Tensor keys = LookupStates.Read(model, contexts, search.Layer, "mlp.activation")[0].to_type(ScalarType.Float32);
        Tensor kStar = keys.mean([0]);
        Tensor direction = factor is null ? kStar : ClosedForm.Solve(factor, kStar.unsqueeze(1)).squeeze(1);
        Tensor u = (direction / direction.norm()).to_type(ScalarType.Float32);
        Tensor[] bare = LookupStates.Read(model, [tokens.Bare], search.Layer, "mlp.activation", model.DownTap);
        (Tensor kBare, Tensor vBare) = (bare[0][0].to_type(ScalarType.Float32), bare[1][0].to_type(ScalarType.Float32));
        (Tensor key, Tensor value) = consistency == KeyConsistency.Official ? (kBare, vBare) : (kStar, Mapped(model, view, kStar));
        Tensor denominator = key.dot(u);
        Tensor right = (found.Value() - value) / denominator;
        if (!right.isfinite().all().item<bool>())
        {
            throw new BadInputException($"The key of the fact has no part along the update's direction in layer {search.Layer}; choose another layer.");
        }

        var change = new LayerChange(search.Layer, view, Kept(u.unsqueeze(0)), Kept(right.unsqueeze(1))) { Keys = Kept(keys) };
        return new RankOne(change, Kept(kStar), Kept(u), found, Kept(kBare), Kept(vBare), Kept(right));
    }

    // The MLP's output for a key, with the bias where the family has one.
    static Tensor Mapped(Decoder model, RoleView view, Tensor key)
    {
        Tensor mapped = view.Read().to_type(ScalarType.Float32).mv(key);
        string bias = view.TensorName[..^"weight".Length] + "bias";
        return model.Parameters.TryGetValue(bias, out Tensor? b) ? mapped + b.to_type(ScalarType.Float32) : mapped;
    }

    static Tensor Kept(Tensor tensor) => tensor.DetachFromDisposeScope();

    public void Dispose()
    {
        Change.Dispose();
        Found.Dispose();
        foreach (Tensor owned in (Tensor[])[KStar, U, KBare, VBare, Right])
        {
            owned.Dispose();
        }
    }
}
