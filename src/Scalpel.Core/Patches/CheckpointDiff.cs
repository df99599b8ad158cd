using System.Text.Json.Nodes;
using Scalpel.Checkpoints;

namespace Scalpel.Patches;

public static partial class PatchFiles
{
    /// <summary>
    /// Writes the patch that turns one checkpoint into another: a XOR where type and shape are equal, the whole tensor where
    /// they are not, additions, removals and changed keys of config.json.
    /// </summary>
    /// <param name="from">The base.</param>
    /// <param name="to">What the patch should give.</param>
    /// <param name="path">The patch to write.</param>
    /// <param name="info">How it came to be; by default the method <c>diff</c>.</param>
    /// <param name="overwrite">Whether an existing patch may be replaced.</param>
    /// <param name="run">Progress and cancellation.</param>
    /// <param name="store">Where to write; the disk by default.</param>
    /// <returns>The names of the tensors that differ.</returns>
    /// <exception cref="BadInputException">They are equal, or one is a GGUF file and the other is not.</exception>
    public static IReadOnlyList<string> Diff(Checkpoint from, Checkpoint to, string path, PatchInfo? info = null, bool overwrite = false, RunContext? run = null, FileStore? store = null)
    {
        run ??= new RunContext();
        if (from is Checkpoints.Gguf.GgufCheckpoint != to is Checkpoints.Gguf.GgufCheckpoint)
        {
            throw new BadInputException($"{from.Location} and {to.Location} are of different formats, whose bytes cannot be compared; convert one of them.");
        }

        string spoolPath = Path.GetFullPath(path) + $".{Environment.ProcessId:x}.tmp";
        var deltas = new Dictionary<string, Delta>(StringComparer.Ordinal);
        var bases = new Dictionary<string, BaseTensor>(StringComparer.Ordinal);
        MappedFile? mapped = null;
        try
        {
            if (!overwrite && File.Exists(path))
            {
                throw new BadInputException($"{path} exists already; choose another name or add --force to replace it.");
            }

            (store ?? FileStore.Disk).CreateFolder(Path.GetDirectoryName(spoolPath)!);
            using (Stream spool = (store ?? FileStore.Disk).Create(spoolPath))
            {
                int done = 0;
                foreach (TensorEntry entry in from.Tensors.Values.OrderBy(entry => entry.Name, StringComparer.Ordinal))
                {
                    run.Report("comparing tensors", done++, from.Tensors.Count, deltas.Count == 0 ? null : $"{deltas.Count} differ");
                    if (Between(from, to, entry, spool, (start, length) => PatchTensor.From(StorageType.U8, [length], (at, count) => mapped!.Span(start + at, count))) is { } delta)
                    {
                        deltas[entry.Name] = delta;
                        bases[entry.Name] = new BaseTensor(entry.Type, entry.Shape, from.Hash(entry.Name));
                    }
                }

                spool.Flush();
            }

            foreach (TensorEntry entry in to.Tensors.Values.Where(entry => !from.Tensors.ContainsKey(entry.Name)))
            {
                deltas[entry.Name] = new Replace(Whole(to, entry));
            }

            JsonObject config = from.Config.Count == 0 || to.Config.Count == 0 ? [] : ConfigChanges(from.Config, to.Config);
            if (deltas.Count == 0 && config.Count == 0)
            {
                throw new BadInputException($"{from.Location} and {to.Location} hold the same tensors and the same configuration; there is no patch between them.");
            }

            mapped = new MappedFile(spoolPath);
            using var patch = new Patch(info ?? new PatchInfo { Method = "diff" }, from.ConfigHash, bases, deltas) { Structure = config.Count == 0 ? null : new PatchStructure { Config = config } };
            patch.Save(path, overwrite, store);
            return [.. deltas.Keys.Order(StringComparer.Ordinal)];
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            throw new BadInputException($"{path} cannot be written: {e.Message.TrimEnd('.')}.", e);
        }
        finally
        {
            mapped?.Dispose();
            AtomicFile.TryDelete(spoolPath);
        }
    }

    static Delta? Between(Checkpoint from, Checkpoint to, TensorEntry entry, Stream spool, Func<long, long, PatchTensor> spooled)
    {
        if (!to.Tensors.TryGetValue(entry.Name, out TensorEntry? other))
        {
            return new Remove();
        }

        if (other.Type != entry.Type || !other.Shape.SequenceEqual(entry.Shape))
        {
            return new Replace(Whole(to, other));
        }

        if (SameBytes(from, entry, to, other))
        {
            return null;
        }

        if (entry.Type.IsQuantised())
        {
            return new Replace(Whole(to, other));
        }

        long start = spool.Position;
        string hash = DenseXor.Encode(spool, entry.Type, entry.Length, BytesOf(from, entry), BytesOf(to, other));
        return new DenseXor(spooled(start, spool.Position - start), packed: true, entry.Length) { EditedHash = hash };
    }

    static bool SameBytes(Checkpoint from, TensorEntry a, Checkpoint to, TensorEntry b)
    {
        for (long at = 0; at < a.Length; at += Delta.BlockBytes)
        {
            int count = (int)Math.Min(Delta.BlockBytes, a.Length - at);
            if (!from.Bytes(a, at, count).SequenceEqual(to.Bytes(b, at, count)))
            {
                return false;
            }
        }

        return true;
    }

    static PatchTensor Whole(Checkpoint checkpoint, TensorEntry entry) => PatchTensor.From(entry.Type, entry.Shape, (at, count) => checkpoint.Bytes(entry, at, count));

    static JsonObject ConfigChanges(JsonObject from, JsonObject to)
    {
        var changes = new JsonObject();
        foreach (string key in from.Select(pair => pair.Key).Union(to.Select(pair => pair.Key), StringComparer.Ordinal).Order(StringComparer.Ordinal))
        {
            if (!to.TryGetPropertyValue(key, out JsonNode? value))
            {
                changes[key] = null;
            }
            else if (!JsonNode.DeepEquals(from[key], value) || !from.ContainsKey(key))
            {
                changes[key] = value?.DeepClone();
            }
        }

        return changes;
    }
}
