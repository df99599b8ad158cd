using System.Security.Cryptography;
using Scalpel.Checkpoints;
using Scalpel.Checkpoints.Gguf;
using TorchSharp;
using static TorchSharp.torch;

namespace Scalpel.Patches;

/// <summary>How a patch is applied to files.</summary>
public sealed record ApplyOptions
{
    /// <summary>Factor of additive deltas. Default 1.</summary>
    public double Scale { get; init; } = 1;

    /// <summary>Whether an additive patch may be applied to another base than its own. Default false.</summary>
    public bool Force { get; init; }

    /// <summary>Whether an existing destination may be replaced. Default false.</summary>
    public bool Overwrite { get; init; }

    /// <summary>
    /// The type in which edited tensors are written that the base stores in quantised blocks (GGUF), one of
    /// <see cref="Quantiser.Types"/>; null for F32, which is exact. The others are smaller and round the edit.
    /// </summary>
    public StorageType? BlockType { get; init; }

    /// <summary>What the caller provides of the patch's requirements.</summary>
    public IReadOnlyCollection<string> Provided { get; init; } = [];
}

/// <summary>What was written.</summary>
/// <param name="Folder">The new checkpoint.</param>
/// <param name="Changed">Names of the tensors whose bytes changed.</param>
/// <param name="Unchanged">Names of the tensors that the patch touches but whose values round to what was there.</param>
/// <param name="LeftOut">Files of the base that hold its weights in another form and were not copied.</param>
/// <param name="Bytes">Bytes of weights written.</param>
public sealed record ApplyReport(string Folder, IReadOnlyList<string> Changed, IReadOnlyList<string> Unchanged, IReadOnlyList<string> LeftOut, long Bytes);

/// <summary>
/// Patches and checkpoint files, streamed: whatever the size of the model, memory holds a few blocks of 4 MiB. Everything
/// is written to a new folder, which is there complete or not at all.
/// </summary>
public static partial class PatchFiles
{
    // The base's weights in another form: left beside edited ones, a loader may take them instead.
    static readonly string[] OtherWeights = [".bin", ".pt", ".pth", ".ckpt", ".pkl", ".msgpack", ".h5", ".onnx", ".onnx_data"];

    static readonly string[] Companions = ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
        "added_tokens.json", "vocab.json", "vocab.txt", "merges.txt", "tokenizer.model", "chat_template.jinja"];

    /// <summary>Writes the edited checkpoint in the base's layout and types, and <c>undo.patch.safetensors</c> beside it.</summary>
    /// <param name="checkpoint">The base; a folder or one file.</param>
    /// <param name="patch">The patch.</param>
    /// <param name="outFolder">The folder to make.</param>
    /// <param name="options">Scale, force, overwrite.</param>
    /// <param name="run">Progress and cancellation.</param>
    /// <param name="store">Where to write; the disk by default.</param>
    /// <exception cref="BadInputException">The patch is for another base, changes nothing, or the folder cannot be written; nothing is left behind.</exception>
    public static ApplyReport Apply(Checkpoint checkpoint, Patch patch, string outFolder, ApplyOptions? options = null, RunContext? run = null, FileStore? store = null)
    {
        options ??= new ApplyOptions();
        run ??= new RunContext();
        patch.CheckApplicable(options.Scale, options.Provided);
        CheckBase(checkpoint, patch, options.Force);
        CheckBlockType(checkpoint, patch, options.BlockType);
        ApplyReport? report = null;
        AtomicFolder.Write(outFolder, options.Overwrite, partial =>
        {
            using var writing = new CheckpointEdit(checkpoint, TiedCopy.Follow(checkpoint, patch), patch.ContentHash, partial, options, run, store ?? FileStore.Disk);
            report = writing.Run() with { Folder = outFolder };
        }, store);
        return report!;
    }

    static void CheckBase(Checkpoint checkpoint, Patch patch, bool force)
    {
        List<string> missing = [.. patch.BaseTensors.Keys.Where(name => !checkpoint.Tensors.ContainsKey(name))];
        if (missing.Contains("lm_head.weight") && checkpoint.Tensors.ContainsKey("model.embed_tokens.weight"))
        {
            throw new BadInputException($"The patch changes lm_head.weight, but {checkpoint.Location} uses its embedding as output head; change the embedding, or untie the two first (tie_word_embeddings false).");
        }

        if (missing.Count > 0)
        {
            throw new BadInputException($"{checkpoint.Location} has no tensor {missing[0]}{(missing.Count > 1 ? $" and lacks {missing.Count - 1} more" : "")}; the nearest are {string.Join(", ", Nearest.To(missing[0], checkpoint.Tensors.Keys, 3))}.");
        }

        IReadOnlyList<string> other = patch.Differences(checkpoint);
        if (other.Count > 0 && !(force && patch.IsAdditive))
        {
            throw Patch.OtherBase(checkpoint.Location, other, force);
        }

        foreach ((string name, Delta delta) in patch.Deltas)
        {
            if (checkpoint.Tensors.TryGetValue(name, out TensorEntry? entry) && delta.Mismatch(new BaseTensor(entry.Type, entry.Shape, "")) is { } mismatch)
            {
                throw new BadInputException($"The patch, tensor {name} of {checkpoint.Location}: the delta {mismatch}.");
            }
        }
    }

    static void CheckBlockType(Checkpoint checkpoint, Patch patch, StorageType? type)
    {
        if (type is not { } wanted)
        {
            return;
        }

        if (!Quantiser.Types.Contains(wanted))
        {
            throw new BadInputException($"Tensors cannot be written as {wanted}; choose one of {string.Join(", ", Quantiser.Types)}.");
        }

        if (!patch.Deltas.Any(pair => checkpoint.Tensors.TryGetValue(pair.Key, out TensorEntry? entry) && Rounds(entry, pair.Value)))
        {
            throw new BadInputException($"None of the tensors that the patch computes with is stored in quantised blocks in {checkpoint.Location}, so they keep their types; leave the type {wanted} out.");
        }
    }

    /// <summary>Whether an edit computes with quantised blocks, so that the result needs a type of its own.</summary>
    internal static bool Rounds(TensorEntry entry, Delta delta) => entry.Type.IsQuantised() && delta is not (Replace or DenseXor);

    /// <summary>The files of a checkpoint by path relative to its folder with '/', and those that stay behind.</summary>
    internal static (List<(string Path, string File)> Files, List<string> LeftOut) FilesOf(Checkpoint checkpoint)
    {
        var files = new List<(string, string)>();
        var left = new List<string>();
        if (!Directory.Exists(checkpoint.Location))
        {
            string main = checkpoint.Files[0];
            files.Add((Path.GetFileName(main), main));
            if (checkpoint is not GgufCheckpoint)
            {
                files.AddRange(Companions.Select(name => (name, Path.Combine(checkpoint.Folder, name))).Where(pair => File.Exists(pair.Item2)));
            }

            return (files, left);
        }

        var weights = checkpoint.Files.Select(Path.GetFullPath).ToHashSet(StringComparer.Ordinal);
        foreach (string file in Directory.EnumerateFiles(checkpoint.Folder, "*", SearchOption.AllDirectories).Order(StringComparer.Ordinal))
        {
            string path = Path.GetRelativePath(checkpoint.Folder, file).Replace('\\', '/');
            if (path.Split('/').Any(part => part.StartsWith('.')))
            {
                continue;
            }

            bool other = OtherWeights.Contains(Path.GetExtension(path).ToLowerInvariant())
                || path.EndsWith(".safetensors", StringComparison.Ordinal) && !path.EndsWith(Patch.Suffix, StringComparison.Ordinal) && !weights.Contains(Path.GetFullPath(file))
                || path.EndsWith(".gguf", StringComparison.OrdinalIgnoreCase) && !weights.Contains(Path.GetFullPath(file));
            if (other)
            {
                left.Add(path);
            }
            else
            {
                files.Add((path, file));
            }
        }

        return (files, left);
    }

    /// <summary>Reads a tensor's stored bytes.</summary>
    internal static BlockWrite BytesOf(Checkpoint checkpoint, TensorEntry entry) => (into, at) =>
        checkpoint.Bytes(entry, at, into.Length).CopyTo(into);

    /// <summary>The first bytes of a file.</summary>
    internal static byte[] Start(string file, long count)
    {
        byte[] bytes = new byte[count];
        using var stream = new FileStream(file, FileMode.Open, FileAccess.Read, FileShare.Read | FileShare.Delete);
        stream.ReadExactly(bytes);
        return bytes;
    }

    internal static string HashOf(string file, CancellationToken cancellation)
    {
        using var sha = IncrementalHash.CreateHash(HashAlgorithmName.SHA256);
        using var stream = new FileStream(file, FileMode.Open, FileAccess.Read, FileShare.Read | FileShare.Delete, 1);
        byte[] buffer = new byte[1 << 20];
        for (int count; (count = stream.Read(buffer)) > 0;)
        {
            cancellation.ThrowIfCancellationRequested();
            sha.AppendData(buffer, 0, count);
        }

        return Convert.ToHexStringLower(sha.GetHashAndReset());
    }

    /// <summary>
    /// The edited bytes of one tensor. The rows of some GGUF tensors lie in another order than under their Hugging Face name;
    /// kinds that know rows and columns are computed in the latter.
    /// </summary>
    /// <param name="checkpoint">The base.</param>
    /// <param name="entry">The tensor.</param>
    /// <param name="delta">Its change.</param>
    /// <param name="scale">Factor of additive changes.</param>
    /// <param name="blockType">The type to write when the edit computes with quantised blocks.</param>
    internal static BlockWrite Edited(Checkpoint checkpoint, TensorEntry entry, Delta delta, double scale, StorageType blockType = StorageType.F32)
    {
        if (checkpoint is not GgufCheckpoint gguf || delta is DenseXor or Replace)
        {
            return delta.Begin(new DeltaTarget(entry.Type, entry.Shape, BytesOf(checkpoint, entry)), scale);
        }

        byte[] stored;
        using (Tensor canonical = gguf.Read(entry.Name))
        {
            PatchTensor start = PatchTensor.Of(canonical);
            BlockWrite write = delta.Begin(new DeltaTarget(start.Type, start.Shape, (into, at) => start.Bytes(at, into.Length).CopyTo(into)), scale);
            using Tensor edited = empty_like(canonical);
            for (long at = 0; at < start.Length; at += Delta.BlockBytes)
            {
                write(StoredTensor.Bytes(edited, at, (int)Math.Min(Delta.BlockBytes, start.Length - at)), at);
            }

            using Tensor back = gguf.ToFileOrder(entry.Name, edited);
            stored = PatchTensor.Of(back).ToArray();
        }

        if (Rounds(entry, delta) && blockType != StorageType.F32)
        {
            byte[] rounded = new byte[blockType.ByteLength(entry.Shape)];
            Quantiser.Quantise(blockType, System.Runtime.InteropServices.MemoryMarshal.Cast<byte, float>(stored), rounded);
            stored = rounded;
        }

        return (into, at) => stored.AsSpan((int)at, into.Length).CopyTo(into);
    }
}
