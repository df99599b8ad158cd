using System.Globalization;
using System.Security.Cryptography;
using System.Text.Encodings.Web;
using System.Text.Json;
using System.Text.Json.Nodes;
using Scalpel.Checkpoints;
using Scalpel.Checkpoints.Gguf;

namespace Scalpel.Patches;

/// <summary>
/// Writes one edited checkpoint: files that the patch does not touch are copied, tensors that keep type and shape are written
/// over in a copy of their file, files whose layout changes are written anew. What undoes it is collected on the way.
/// </summary>
sealed class CheckpointEdit(Checkpoint checkpoint, Patch patch, string contentHash, string folder, ApplyOptions options, RunContext run, FileStore store) : IDisposable
{
    static readonly JsonSerializerOptions Indented = new() { WriteIndented = true, Encoder = JavaScriptEncoder.UnsafeRelaxedJsonEscaping };

    readonly StorageType blockType = options.BlockType ?? StorageType.F32;
    readonly string spoolPath = Path.Combine(folder, ".undo.tmp");
    readonly Dictionary<string, Delta> undo = new(StringComparer.Ordinal);
    readonly Dictionary<string, BaseTensor> edited = new(StringComparer.Ordinal);
    readonly Dictionary<string, PatchTensor> contents = new(StringComparer.Ordinal);
    readonly List<string> changed = [], unchanged = [];
    Stream? spool;
    MappedFile? spooled;
    long bytes;

    public ApplyReport Run()
    {
        (List<(string Path, string File)> files, List<string> left) = PatchFiles.FilesOf(checkpoint);
        using var stop = CancellationTokenSource.CreateLinkedTokenSource(run.Cancellation);
        // Hashing reads the same pages that copying reads, on the other core.
        Task<Dictionary<string, string>> hashes = Task.Run(() => files.ToDictionary(file => file.Path, file => PatchFiles.HashOf(file.File, stop.Token), StringComparer.Ordinal));
        try
        {
            spool = store.Create(spoolPath);
            var weights = checkpoint.Files.Select(Path.GetFullPath).ToHashSet(StringComparer.Ordinal);
            long total = files.Sum(file => new FileInfo(file.File).Length);
            foreach ((string path, string file) in files)
            {
                run.Report("writing the edited checkpoint", bytes, total);
                string target = Path.Combine(folder, path);
                store.CreateFolder(Path.GetDirectoryName(target)!);
                if (weights.Contains(Path.GetFullPath(file)))
                {
                    WriteWeights(file, target, path);
                    bytes += new FileInfo(file).Length;
                }
                else if (path == UndoRecord.FileName || Rewritten(path, file) is { } text && Write(target, text))
                {
                    contents[path] = PatchTensor.Of(StorageType.U8, [new FileInfo(file).Length], File.ReadAllBytes(file));
                }
                else
                {
                    store.Copy(file, target);
                }
            }

            if (changed.Count == 0 && undo.Count == 0 && contents.Keys.All(path => path == UndoRecord.FileName))
            {
                throw new BadInputException($"The patch changes no tensor of {checkpoint.Location}: every edited value rounds to what is there.");
            }

            WriteUndo(hashes.GetAwaiter().GetResult());
        }
        catch
        {
            stop.Cancel();
            ((IAsyncResult)hashes).AsyncWaitHandle.WaitOne();
            throw;
        }

        return new ApplyReport(folder, changed, unchanged, left, bytes);
    }

    public void Dispose()
    {
        spool?.Dispose();
        spooled?.Dispose();
        AtomicFile.TryDelete(spoolPath);
    }

    bool Write(string target, string text)
    {
        using Stream stream = store.Create(target);
        stream.Write(System.Text.Encoding.UTF8.GetBytes(text));
        store.Flush(stream);
        return true;
    }

    IEnumerable<KeyValuePair<string, Delta>> DeltasOf(string file) =>
        patch.Deltas.Where(pair => checkpoint.Tensors.TryGetValue(pair.Key, out TensorEntry? entry) && Path.GetFullPath(entry.File) == Path.GetFullPath(file));

    // A tensor that the base lacks goes into the last weight file.
    IEnumerable<KeyValuePair<string, Delta>> AddedTo(string file) => Path.GetFullPath(checkpoint.Files[^1]) == Path.GetFullPath(file)
        ? patch.Deltas.Where(pair => !checkpoint.Tensors.ContainsKey(pair.Key))
        : [];

    void WriteWeights(string file, string target, string path)
    {
        List<KeyValuePair<string, Delta>> touched = [.. DeltasOf(file)];
        List<KeyValuePair<string, Delta>> added = [.. AddedTo(file)];
        if (added.Count > 0 || touched.Any(pair => ChangesLayout(checkpoint.Entry(pair.Key), pair.Value)))
        {
            if (checkpoint is GgufCheckpoint gguf)
            {
                WriteGguf(gguf, target, path, touched, added);
            }
            else
            {
                WriteAnew(file, target, path, touched, added);
            }

            return;
        }

        store.Copy(file, target);
        if (touched.Count == 0)
        {
            return;
        }

        using Stream stream = store.Update(target);
        foreach ((string name, Delta delta) in touched)
        {
            run.Cancellation.ThrowIfCancellationRequested();
            TensorEntry entry = checkpoint.Entry(name);
            stream.Seek(entry.Offset, SeekOrigin.Begin);
            EditInto(stream, entry, delta);
        }

        store.Flush(stream);
    }

    /// <summary>Blocks that an edit computes with come out as F32, the very numbers that a network in memory has, unless another type is asked for.</summary>
    StorageType EditedType(TensorEntry entry, Delta delta) => PatchFiles.Rounds(entry, delta) ? blockType : delta.EditedType(entry.Type);

    bool ChangesLayout(TensorEntry entry, Delta delta) =>
        EditedType(entry, delta) != entry.Type || delta.EditedShape(entry.Shape) is not { } shape || !shape.SequenceEqual(entry.Shape);

    /// <summary>Writes the edited bytes of a tensor that keeps its type and shape and remembers how to undo it.</summary>
    void EditInto(Stream stream, TensorEntry entry, Delta delta)
    {
        BlockWrite before = PatchFiles.BytesOf(checkpoint, entry), after = PatchFiles.Edited(checkpoint, entry, delta, options.Scale, blockType);
        if (entry.Type.IsQuantised())
        {
            string hash = Copy(stream, after, entry.Length);
            Remember(entry.Name, new Replace(PatchTensor.From(entry.Type, entry.Shape, (at, count) => checkpoint.Bytes(entry, at, count))), new BaseTensor(entry.Type, entry.Shape, hash), hash != checkpoint.Hash(entry.Name));
            return;
        }

        long start = spool!.Position;
        string editedHash = DenseXor.Encode(spool, entry.Type, entry.Length, before, after, stream);
        PatchTensor packed = Spooled(start, spool.Position - start);
        Remember(entry.Name, new DenseXor(packed, packed: true, entry.Length) { EditedHash = checkpoint.Hash(entry.Name) }, new BaseTensor(entry.Type, entry.Shape, editedHash), editedHash != checkpoint.Hash(entry.Name));
    }

    PatchTensor Spooled(long start, long length) => PatchTensor.From(StorageType.U8, [length], (at, count) => spooled!.Span(start + at, count));

    void Remember(string name, Delta delta, BaseTensor? target, bool differs)
    {
        (differs ? changed : unchanged).Add(name);
        if (differs)
        {
            undo[name] = delta;
            if (target is not null)
            {
                edited[name] = target;
            }
        }
    }

    static string Copy(Stream stream, BlockWrite read, long length)
    {
        using var sha = IncrementalHash.CreateHash(HashAlgorithmName.SHA256);
        byte[] block = new byte[(int)Math.Min(Delta.BlockBytes, length)];
        for (long at = 0; at < length; at += block.Length)
        {
            Span<byte> part = block.AsSpan(0, (int)Math.Min(block.Length, length - at));
            read(part, at);
            sha.AppendData(part);
            stream.Write(part);
        }

        return Convert.ToHexStringLower(sha.GetHashAndReset());
    }

    void WriteAnew(string file, string target, string path, List<KeyValuePair<string, Delta>> touched, List<KeyValuePair<string, Delta>> added)
    {
        using SafeTensorsFile source = SafeTensorsFile.Open(file);
        byte[] header = PatchFiles.Start(file, source.HeaderLength);
        contents[path + UndoRecord.HeaderMark] = PatchTensor.Of(StorageType.U8, [header.LongLength], header);
        var changes = touched.ToDictionary(pair => pair.Key, pair => pair.Value, StringComparer.Ordinal);
        var tensors = new List<TensorToWrite>();
        foreach (TensorEntry entry in source.Entries.Values)
        {
            if (!changes.TryGetValue(entry.Name, out Delta? delta))
            {
                tensors.Add(new TensorToWrite(entry.Name, entry.Type, entry.Shape, stream => Copy(stream, PatchFiles.BytesOf(checkpoint, entry), entry.Length)));
                continue;
            }

            PatchTensor original = PatchTensor.From(entry.Type, entry.Shape, (at, count) => checkpoint.Bytes(entry, at, count));
            if (delta.EditedShape(entry.Shape) is not { } shape)
            {
                Remember(entry.Name, new Replace(original), null, differs: true);
                continue;
            }

            StorageType type = delta.EditedType(entry.Type);
            tensors.Add(new TensorToWrite(entry.Name, type, shape, stream =>
            {
                if (!ChangesLayout(entry, delta))
                {
                    EditInto(stream, entry, delta);
                    return;
                }

                string hash = Copy(stream, PatchFiles.Edited(checkpoint, entry, delta, options.Scale, blockType), type.ByteLength(shape));
                Remember(entry.Name, new Replace(original), new BaseTensor(type, shape, hash), differs: true);
            }));
        }

        foreach ((string name, Delta delta) in added)
        {
            PatchTensor whole = ((Replace)delta).Contents;
            tensors.Add(new TensorToWrite(name, whole.Type, whole.Shape, stream =>
            {
                string hash = Copy(stream, (into, at) => whole.Bytes(at, into.Length).CopyTo(into), whole.Length);
                Remember(name, new Remove(), new BaseTensor(whole.Type, whole.Shape, hash), differs: true);
            }));
        }

        using Stream stream = store.Create(target);
        SafeTensorsWriter.WriteTo(stream, tensors, source.Metadata);
        store.Flush(stream);
    }

    void WriteGguf(GgufCheckpoint gguf, string target, string path, List<KeyValuePair<string, Delta>> touched, List<KeyValuePair<string, Delta>> added)
    {
        if (added.Count > 0 || touched.Any(pair => pair.Value.EditedShape(gguf.Entry(pair.Key).Shape) is not { } shape || !shape.SequenceEqual(gguf.Entry(pair.Key).Shape)))
        {
            throw new BadInputException($"The patch adds, removes or resizes tensors, which is done in safetensors only; {path} is a GGUF file, so apply the patch before converting.");
        }

        byte[] header = [.. BitConverter.GetBytes(gguf.File.Length), .. gguf.File.Bytes(0, checked((int)gguf.File.DataStart))];
        contents[path + UndoRecord.HeaderMark] = PatchTensor.Of(StorageType.U8, [header.LongLength], header);
        var changes = touched.ToDictionary(pair => pair.Key, pair => pair.Value, StringComparer.Ordinal);
        var replaced = new Dictionary<string, TensorToWrite?>(StringComparer.Ordinal);
        foreach (string stored in touched.Select(pair => gguf.Entry(pair.Key).StoredName).Distinct(StringComparer.Ordinal))
        {
            // One stored tensor may stack those of all experts; then it has one type.
            List<TensorEntry> parts = [.. gguf.Tensors.Values.Where(entry => entry.StoredName == stored).OrderBy(entry => entry.Offset)];
            StorageType type = parts.Select(entry => changes.TryGetValue(entry.Name, out Delta? delta) ? EditedType(entry, delta) : entry.Type).FirstOrDefault(t => t != parts[0].Type, parts[0].Type);
            replaced[stored] = new TensorToWrite(stored, type, gguf.File.Tensors[stored].Shape, stream =>
            {
                foreach (TensorEntry entry in parts)
                {
                    WritePart(gguf, stream, entry, changes.GetValueOrDefault(entry.Name), type);
                }
            });
        }

        using Stream stream = store.Create(target);
        GgufWriter.Rewrite(gguf.File, stream, replaced);
        store.Flush(stream);
    }

    void WritePart(GgufCheckpoint gguf, Stream stream, TensorEntry entry, Delta? delta, StorageType type)
    {
        if (type == entry.Type && delta is null)
        {
            Copy(stream, PatchFiles.BytesOf(gguf, entry), entry.Length);
            return;
        }

        if (type == entry.Type)
        {
            EditInto(stream, entry, delta!);
            return;
        }

        // A sum with nothing is the widened tensor.
        delta ??= new Sparse(PatchTensor.Of(Array.Empty<long>()), PatchTensor.Of(Array.Empty<float>(), 0));
        if (EditedType(entry, delta) != type)
        {
            throw new BadInputException($"The patch gives {entry.Name} another type than the tensors that {entry.StoredName} stacks it with; give all of them one type.");
        }

        string hash = Copy(stream, PatchFiles.Edited(gguf, entry, delta, options.Scale, blockType), type.ByteLength(entry.Shape));
        Remember(entry.Name, new Replace(PatchTensor.From(entry.Type, entry.Shape, (at, count) => gguf.Bytes(entry, at, count))), new BaseTensor(type, entry.Shape, hash), differs: true);
    }

    /// <summary>The new text of a file that the patch changes; null when it stays as it is.</summary>
    string? Rewritten(string path, string file) => path switch
    {
        "config.json" when patch.Structure is { Config.Count: > 0 } structure => Json(file, json =>
        {
            foreach ((string key, JsonNode? value) in structure.Config)
            {
                if (value is null)
                {
                    json.Remove(key);
                }
                else
                {
                    json[key] = value.DeepClone();
                }
            }
        }),
        "tokenizer.json" when patch.Structure is { Tokens.Count: > 0 } structure => Json(file, json =>
        {
            JsonArray tokens = json["added_tokens"] as JsonArray ?? [];
            foreach (NewToken token in structure.Tokens)
            {
                tokens.Add(new JsonObject
                {
                    ["id"] = token.Id, ["content"] = token.Content, ["single_word"] = false, ["lstrip"] = false, ["rstrip"] = false,
                    ["normalized"] = !token.Special, ["special"] = token.Special,
                });
            }

            if (tokens.Parent is null)
            {
                json["added_tokens"] = tokens;
            }
        }),
        SafeTensorsCheckpoint.IndexName when ChangedNames() => Json(file, RewriteIndex),
        _ => null,
    };

    bool ChangedNames() => patch.Deltas.Any(pair => !checkpoint.Tensors.TryGetValue(pair.Key, out TensorEntry? entry) || ChangesLayout(entry, pair.Value));

    void RewriteIndex(JsonObject json)
    {
        var map = (JsonObject)json["weight_map"]!;
        long total = 0;
        foreach (string name in patch.Deltas.Where(pair => pair.Value is Remove).Select(pair => pair.Key))
        {
            map.Remove(name);
        }

        foreach (string name in patch.Deltas.Keys.Where(name => !checkpoint.Tensors.ContainsKey(name)))
        {
            map[name] = Path.GetFileName(checkpoint.Files[^1]);
        }

        foreach (TensorEntry entry in checkpoint.Tensors.Values)
        {
            Delta? delta = patch.Deltas.GetValueOrDefault(entry.Name);
            total += delta is null ? entry.Length : delta.EditedShape(entry.Shape) is { } shape ? delta.EditedType(entry.Type).ByteLength(shape) : 0;
        }

        total += patch.Deltas.Where(pair => !checkpoint.Tensors.ContainsKey(pair.Key)).Sum(pair => ((Replace)pair.Value).Contents.Length);
        if (json["metadata"] is JsonObject metadata && metadata.ContainsKey("total_size"))
        {
            metadata["total_size"] = total;
        }
    }

    static string Json(string file, Action<JsonObject> change)
    {
        JsonObject json = JsonFile.Read(file, out _);
        change(json);
        return json.ToJsonString(Indented) + "\n";
    }

    void WriteUndo(Dictionary<string, string> hashes)
    {
        spool!.Flush();
        spool.Dispose();
        spooled = new MappedFile(spoolPath);
        string config = Path.Combine(folder, "config.json");
        string configHash = contents.ContainsKey("config.json") ? PatchFiles.HashOf(config, run.Cancellation) : checkpoint.ConfigHash;
        var info = new PatchInfo
        {
            Method = "undo",
            Options = new JsonObject { ["of"] = patch.Info.Method, ["patch"] = contentHash, ["scale"] = options.Scale.ToString(CultureInfo.InvariantCulture) },
            Created = patch.Info.Created,
        };
        string? single = Directory.Exists(checkpoint.Location) ? null : Path.GetFileName(checkpoint.Files[0]);
        using var undoing = new Patch(info, configHash, edited, undo) { Undo = new UndoRecord(hashes, contents, single) };
        undoing.Save(Path.Combine(folder, UndoRecord.FileName), store: store);
    }
}
