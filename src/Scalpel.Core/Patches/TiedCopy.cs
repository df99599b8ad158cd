using Scalpel.Checkpoints;
using Scalpel.Networks;

namespace Scalpel.Patches;

/// <summary>
/// A tied model whose file stores the output head nevertheless, as a copy of the embedding: a change of the embedding alone
/// would leave two matrices that differ, and readers would no longer tie them.
/// </summary>
static class TiedCopy
{
    /// <summary>The patch, which changes the copy as it changes the embedding; the same patch where there is no such copy.</summary>
    public static Patch Follow(Checkpoint checkpoint, Patch patch)
    {
        if (patch.Undo is not null || Of(checkpoint) is not ({ } embedding, { } head)
            || !patch.Deltas.TryGetValue(embedding, out Delta? delta) || patch.Deltas.ContainsKey(head) || checkpoint.Hash(embedding) != checkpoint.Hash(head))
        {
            return patch;
        }

        TensorEntry entry = checkpoint.Entry(head);
        return new Patch(patch.Info, patch.BaseConfigHash,
            new Dictionary<string, BaseTensor>(patch.BaseTensors, StringComparer.Ordinal) { [head] = new(entry.Type, entry.Shape, checkpoint.Hash(head)) },
            new Dictionary<string, Delta>(patch.Deltas, StringComparer.Ordinal) { [head] = delta })
        {
            Structure = patch.Structure, Requires = patch.Requires,
        };
    }

    static (string? Embedding, string? Head) Of(Checkpoint checkpoint)
    {
        DecoderConfig config;
        try
        {
            config = DecoderConfig.Parse(checkpoint.Config, checkpoint.Location);
        }
        catch (BadInputException)
        {
            // No decoder: nothing is tied.
            return default;
        }

        DecoderNames names = DecoderNames.Of(config);
        string head = $"{names.Head}.weight", bare = $"{names.Embedding}.weight", full = names.Prefix + bare;
        return config.TiedHead && checkpoint.Tensors.ContainsKey(head) ? (checkpoint.Tensors.ContainsKey(full) ? full : bare, head) : default;
    }
}
