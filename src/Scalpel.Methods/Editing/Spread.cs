using Scalpel.Networks;
using TorchSharp;
using static TorchSharp.torch;

namespace Scalpel.Methods.Editing;

/// <summary>The update that spreads target vectors of many facts over several layers (MEMIT, AlphaEdit).</summary>
static class Spread
{
    /// <summary>Given a layer's place among the layers and its keys [ff, n]: the matrix A [ff, n] with ΔW = R Aᵀ.</summary>
    public delegate Tensor Adjust(int index, Tensor keys);

    /// <summary>
    /// For each layer in turn, on the model with the earlier layers' changes: keys, what the facts still lack at the last
    /// layer, and the change for this layer's share of it. The model keeps the changes; <see cref="Written"/> takes them back.
    /// </summary>
    /// <param name="targets">z of each fact, [n, d].</param>
    public static IReadOnlyList<LayerChange> Write(Decoder model, IReadOnlyList<EditTokens> edits, IReadOnlyList<int> layers, Tensor targets, Adjust adjust, Written written, RunContext run)
    {
        using var noGrad = no_grad();
        var changes = new List<LayerChange>();
        for (int i = 0; i < layers.Count; i++)
        {
            using var scope = NewDisposeScope();
            run.Report("layers", i, layers.Count);
            Tensor keys = Keys(model, edits, layers[i]);                                             // [n, ff]
            Tensor current = LookupStates.Read(model, [.. edits.Select(edit => edit.Bare)], layers[^1], "output")[0].to_type(ScalarType.Float32);
            Tensor residual = (targets - current).to_type(ScalarType.Float64).t() / (layers.Count - i); // [d, n]
            Tensor adjusted = adjust(i, keys.t());
            if (!adjusted.isfinite().all().item<bool>() || !residual.isfinite().all().item<bool>())
            {
                throw new BadInputException($"The update of layer {layers[i]} is not finite; choose other layers or a larger weight of the covariance.");
            }

            RoleView view = model.Role(Role.Down, layers[i]);
            var change = new LayerChange(layers[i], view, adjusted.t().contiguous().DetachFromDisposeScope(), residual.contiguous().DetachFromDisposeScope())
            {
                Keys = keys.DetachFromDisposeScope(),
                Current = current.DetachFromDisposeScope(),
            };
            changes.Add(change);
            written.Add(view, change.Change());
        }

        return changes;
    }

    /// <summary>Keys of the facts at a layer, [n, ff]: averaged within each type of context, then over the types.</summary>
    public static Tensor Keys(Decoder model, IReadOnlyList<EditTokens> edits, int layer)
    {
        using var scope = NewDisposeScope();
        Tensor all = LookupStates.Read(model, [.. edits.SelectMany(edit => edit.Keys).SelectMany(type => type)], layer, "mlp.activation")[0].to_type(ScalarType.Float32);
        var keys = new List<Tensor>();
        long row = 0;
        foreach (EditTokens edit in edits)
        {
            var types = new List<Tensor>();
            foreach (IReadOnlyList<EditRow> type in edit.Keys)
            {
                types.Add(all.narrow(0, row, type.Count).mean([0]));
                row += type.Count;
            }

            keys.Add(stack(types).mean([0]));
        }

        return stack(keys).MoveToOuterDisposeScope();
    }
}

/// <summary>Matrices changed in the network's memory, with what they were: disposing gives back the same bits.</summary>
sealed class Written : IDisposable
{
    readonly List<(RoleView View, Tensor Before)> matrices = [];

    /// <summary>Adds a change [out, in] to a matrix.</summary>
    public void Add(RoleView view, Tensor change)
    {
        using var scope = NewDisposeScope();
        Tensor before = view.Read();
        matrices.Add((view, before.DetachFromDisposeScope()));
        view.Write(before.to_type(ScalarType.Float32) + change);
    }

    /// <summary>Takes all changes back.</summary>
    public void Dispose()
    {
        for (int i = matrices.Count - 1; i >= 0; i--)
        {
            matrices[i].View.Write(matrices[i].Before);
            matrices[i].Before.Dispose();
        }

        matrices.Clear();
    }
}
