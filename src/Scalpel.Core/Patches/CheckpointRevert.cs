using System.Text.Json;
using System.Text.Json.Nodes;
using Scalpel.Checkpoints;
using Scalpel.Checkpoints.Gguf;

namespace Scalpel.Patches;

public static partial class PatchFiles
{
    /// <summary>
    /// Takes back what <see cref="Apply"/> did: the base's files byte for byte, each verified by the hash that was taken of it
    /// when the patch was applied.
    /// </summary>
    /// <param name="folder">A folder that <see cref="Apply"/> made.</param>
    /// <param name="outFolder">The folder to make.</param>
    /// <param name="overwrite">Whether an existing folder may be replaced.</param>
    /// <param name="run">Progress and cancellation.</param>
    /// <param name="store">Where to write; the disk by default.</param>
    /// <returns>SHA-256 of each file by its path.</returns>
    /// <exception cref="BadInputException">There is no undo patch, the weights were changed since, or the folder cannot be written.</exception>
    /// <exception cref="CheckFailedException">A file does not come out with its hash; nothing is left behind.</exception>
    public static IReadOnlyDictionary<string, string> Revert(string folder, string outFolder, bool overwrite = false, RunContext? run = null, FileStore? store = null)
    {
        run ??= new RunContext();
        string undoPath = Path.Combine(folder, UndoRecord.FileName);
        if (!File.Exists(undoPath))
        {
            throw new BadInputException($"{folder} holds no {UndoRecord.FileName}; only a folder that scalpel patch apply made can be reverted.");
        }

        using Patch patch = Patch.Load(undoPath);
        UndoRecord undo = patch.Undo ?? throw new BadInputException($"{undoPath} is a patch but does not undo one; put back the file that scalpel patch apply wrote.");
        using Checkpoint edited = Checkpoint.Open(undo.Single is null ? folder : Path.Combine(folder, undo.Single));
        IReadOnlyList<string> other = patch.Differences(edited);
        if (other.Count > 0)
        {
            throw new BadInputException($"{folder} was changed since the patch was applied: {string.Join(", ", other.Take(8))} differ; get that folder as it was, or the base itself.");
        }

        AtomicFolder.Write(outFolder, overwrite, partial =>
        {
            int done = 0;
            foreach ((string path, string hash) in undo.Files)
            {
                run.Report("writing the base", done++, undo.Files.Count);
                string target = Path.Combine(partial, path), source = Path.Combine(folder, path);
                (store ?? FileStore.Disk).CreateFolder(Path.GetDirectoryName(target)!);
                WriteOriginal(edited, patch, path, source, target, store ?? FileStore.Disk, run);
                string found = HashOf(target, run.Cancellation);
                if (found != hash)
                {
                    throw new CheckFailedException($"{path} came out with the hash {found}, the base had {hash}; the file in {folder} was changed since the patch was applied. Nothing was written.");
                }
            }
        }, store);
        return undo.Files;
    }

    static void WriteOriginal(Checkpoint edited, Patch patch, string path, string source, string target, FileStore store, RunContext run)
    {
        if (patch.Undo!.Contents.TryGetValue(path, out PatchTensor? content))
        {
            using Stream stream = store.Create(target);
            content.WriteTo(stream);
            store.Flush(stream);
            return;
        }

        if (patch.Undo.Contents.TryGetValue(path + UndoRecord.HeaderMark, out PatchTensor? header))
        {
            if (edited is GgufCheckpoint gguf)
            {
                WriteGguf(gguf, patch, path, header.ToArray(), target, store);
            }
            else
            {
                WriteFromHeader(edited, patch, path, header.ToArray(), target, store);
            }

            return;
        }

        if (!File.Exists(source))
        {
            throw new BadInputException($"{source} is missing; it is part of the base and cannot be given back without it.");
        }

        store.Copy(source, target);
        List<TensorEntry> touched = [.. patch.Deltas.Keys.Where(edited.Tensors.ContainsKey).Select(edited.Entry).Where(entry => Path.GetFullPath(entry.File) == Path.GetFullPath(source))];
        if (touched.Count == 0)
        {
            return;
        }

        using Stream update = store.Update(target);
        foreach (TensorEntry entry in touched)
        {
            run.Cancellation.ThrowIfCancellationRequested();
            update.Seek(entry.Offset, SeekOrigin.Begin);
            WriteAll(update, Bits(edited, entry, patch.Deltas[entry.Name], path), entry.Length);
        }

        store.Flush(update);
    }

    static BlockWrite Bits(Checkpoint edited, TensorEntry entry, Delta delta, string path) =>
        delta is DenseXor || delta is Replace replace && replace.Contents.Type == entry.Type && replace.Contents.Shape.SequenceEqual(entry.Shape)
            ? delta.Begin(new DeltaTarget(entry.Type, entry.Shape, BytesOf(edited, entry)), 1)
            : throw new BadInputException($"The undo patch changes {entry.Name} by {delta.Kind}, which does not fit {path}; it is damaged.");

    static void WriteFromHeader(Checkpoint edited, Patch patch, string path, byte[] header, string target, FileStore store)
    {
        using Stream stream = store.Create(target);
        stream.Write(header);
        foreach ((string name, long length) in TensorsOf(header, path))
        {
            BlockWrite read = patch.Deltas.GetValueOrDefault(name) is { } delta
                ? delta is Replace replace ? (into, at) => replace.Contents.Bytes(at, into.Length).CopyTo(into) : Bits(edited, edited.Entry(name), delta, path)
                : BytesOf(edited, edited.Entry(name));
            WriteAll(stream, read, length);
        }

        store.Flush(stream);
    }

    // The header and the right length make a file whose list of tensors can be read; then its tensors are filled in.
    static void WriteGguf(GgufCheckpoint edited, Patch patch, string path, byte[] header, string target, FileStore store)
    {
        long length = header.Length > 8 ? BitConverter.ToInt64(header) : 0;
        if (length < header.Length - 8 || length > 16 * (edited.File.Length + patch.Deltas.Values.Sum(delta => delta.Parts.Values.Sum(part => part.Length))))
        {
            throw new BadInputException($"The undo patch holds a header of {path} that is none; it is damaged.");
        }

        using (Stream stream = store.Create(target))
        {
            stream.Write(header, 8, header.Length - 8);
            if (length > header.Length - 8)
            {
                stream.Seek(length - 1, SeekOrigin.Begin);
                stream.Write([0]);
            }

            store.Flush(stream);
        }

        GgufTensor[] tensors;
        using (GgufFile original = GgufFile.Open(target))
        {
            tensors = [.. original.Tensors.Values];
        }

        using Stream update = store.Update(target);
        foreach (GgufTensor tensor in tensors)
        {
            update.Seek(tensor.Offset, SeekOrigin.Begin);
            List<TensorEntry> parts = [.. edited.Tensors.Values.Where(entry => entry.StoredName == tensor.Name).OrderBy(entry => entry.Offset)];
            long written = 0;
            foreach (TensorEntry entry in parts)
            {
                Delta? delta = patch.Deltas.GetValueOrDefault(entry.Name);
                BlockWrite read = delta is Replace replace ? (into, at) => replace.Contents.Bytes(at, into.Length).CopyTo(into)
                    : delta is null ? BytesOf(edited, entry) : Bits(edited, entry, delta, path);
                written += WriteAll(update, read, delta is Replace whole ? whole.Contents.Length : entry.Length);
            }

            if (parts.Count == 0 && edited.File.Tensors.TryGetValue(tensor.Name, out GgufTensor? carried))
            {
                written = WriteAll(update, (into, at) => edited.File.Bytes(carried.Offset + at, into.Length).CopyTo(into), carried.Length);
            }

            if (written != tensor.Length)
            {
                throw new BadInputException($"The undo patch does not hold all of {tensor.Name}; it is damaged.");
            }
        }

        store.Flush(update);
    }

    static long WriteAll(Stream stream, BlockWrite read, long length)
    {
        byte[] block = new byte[(int)Math.Min(Delta.BlockBytes, length)];
        for (long at = 0; at < length; at += block.Length)
        {
            Span<byte> part = block.AsSpan(0, (int)Math.Min(block.Length, length - at));
            read(part, at);
            stream.Write(part);
        }

        return length;
    }

    static List<(string Name, long Length)> TensorsOf(byte[] header, string path)
    {
        try
        {
            var tensors = new List<(string Name, long Start, long Length)>();
            foreach ((string name, JsonNode? node) in JsonNode.Parse(header.AsSpan(8), documentOptions: new JsonDocumentOptions { MaxDepth = 8 })!.AsObject())
            {
                if (name != "__metadata__")
                {
                    long start = node!["data_offsets"]![0]!.GetValue<long>();
                    tensors.Add((name, start, node["data_offsets"]![1]!.GetValue<long>() - start));
                }
            }

            return [.. tensors.OrderBy(tensor => tensor.Start).ThenBy(tensor => tensor.Length).Select(tensor => (tensor.Name, tensor.Length))];
        }
        catch (Exception e) when (e is JsonException or InvalidOperationException or NullReferenceException or FormatException or ArgumentException)
        {
            throw new BadInputException($"The undo patch holds a header of {path} that is none; it is damaged.", e);
        }
    }
}
