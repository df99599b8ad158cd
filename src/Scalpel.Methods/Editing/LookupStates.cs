using Scalpel.Networks;
using TorchSharp;
using static TorchSharp.torch;

namespace Scalpel.Methods.Editing;

/// <summary>Activations at the lookup tokens of many rows.</summary>
static class LookupStates
{
    // Rows are read in chunks of about this many tokens, so that memory does not grow with the number of edits.
    const int ChunkTokens = 2048;

    /// <summary>
    /// The activations <paramref name="leaves"/> (taps below <c>layers.l.</c>) at the lookup token of each row: one tensor
    /// [rows, features] a leaf. Only what precedes the lookup token is read and only layers up to <paramref name="layer"/> run.
    /// </summary>
    public static Tensor[] Read(Decoder model, IReadOnlyList<EditRow> rows, int layer, params string[] leaves)
    {
        using var noGrad = no_grad();
        using var scope = NewDisposeScope();
        var parts = leaves.Select(_ => new List<Tensor>()).ToArray();
        for (int start = 0; start < rows.Count;)
        {
            int longest = 0, end = start;
            while (end < rows.Count && (end == start || Math.Max(longest, rows[end].Lookup + 1) * (end - start + 1) <= ChunkTokens))
            {
                longest = Math.Max(longest, rows[end++].Lookup + 1);
            }

            EditRow[] chunk = [.. rows.Skip(start).Take(end - start)];
            using var inner = NewDisposeScope();
            Tensor ids = zeros([chunk.Length, longest], dtype: ScalarType.Int64), mask = zeros_like(ids);
            for (int r = 0; r < chunk.Length; r++)
            {
                int count = chunk[r].Lookup + 1;
                ids[r, TensorIndex.Slice(0, count)] = tensor(chunk[r].Ids.Take(count).ToArray());
                mask[r, TensorIndex.Slice(0, Math.Min(count, chunk[r].Valid))] = 1;
            }

            using var taps = new Taps();
            taps.Read([.. leaves.Select(leaf => $"layers.{layer}.{leaf}")]);
            using Pass pass = model.Prepare(ids, mask, arange(longest, dtype: ScalarType.Int64).unsqueeze(0), taps: taps);
            model.RunLayers(model.Embed(ids, pass), 0, layer + 1, pass);
            pass.End();
            Tensor row = arange(chunk.Length, dtype: ScalarType.Int64), column = tensor(chunk.Select(r => (long)r.Lookup).ToArray());
            for (int i = 0; i < leaves.Length; i++)
            {
                parts[i].Add(taps[$"layers.{layer}.{leaves[i]}"].index(row, column).MoveToOuterDisposeScope());
            }

            start = end;
        }

        return [.. parts.Select(list => (list.Count == 1 ? list[0].alias() : cat(list)).MoveToOuterDisposeScope())];
    }
}
