using static TorchSharp.torch;

namespace Scalpel.Networks.Layers;

/// <summary>Rows of a table by index.</summary>
static class Embedding
{
    /// <summary>[.., d] for indices [..]. The row <paramref name="paddingId"/> is read like any other but gets no gradient, as in the field's embeddings.</summary>
    public static Tensor Rows(Tensor table, Tensor index, int? paddingId = null)
    {
        Tensor rows = table.index_select(0, index.flatten()).unflatten(0, index.shape);
        return paddingId is { } padding && table.requires_grad ? where(index.eq(padding).unsqueeze(-1), rows.detach(), rows) : rows;
    }
}
