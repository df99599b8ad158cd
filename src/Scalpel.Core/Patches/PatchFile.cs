using System.Globalization;
using System.Text.Json;
using System.Text.Json.Nodes;
using Scalpel.Checkpoints;

namespace Scalpel.Patches;

/// <summary>
/// The patch file: safetensors whose header metadata holds JSON under the keys below, and whose tensors are named
/// <c>tensor.suffix</c>. The order and spelling are fixed, so that equal patches have equal bytes.
/// </summary>
static class PatchFile
{
    const string Version = "1", FilePrefix = "file:";
    static readonly string[] Keys = ["scalpel_patch", "base", "tensors", "method", "options", "seed", "version", "evidence", "created", "structure", "requires", "undo", "signature", "format"];
    static readonly JsonDocumentOptions Strict = new() { MaxDepth = 32, AllowDuplicateProperties = false };

    public sealed record Contents(PatchInfo Info, string BaseConfigHash, Dictionary<string, BaseTensor> BaseTensors, Dictionary<string, Delta> Deltas)
    {
        public PatchStructure? Structure { get; init; }

        public IReadOnlyList<string> Requires { get; init; } = [];

        public PatchSignature? Signature { get; init; }

        public UndoRecord? Undo { get; init; }
    }

    public static void Write(Stream stream, Patch patch, bool signed)
    {
        var tensors = new List<TensorToWrite>();
        void Add(string name, PatchTensor part)
        {
            bool blocks = part.Type.IsQuantised();
            tensors.Add(new TensorToWrite(name, blocks ? StorageType.U8 : part.Type, blocks ? [part.Length] : part.Shape, part.WriteTo));
        }

        foreach ((string name, Delta delta) in patch.Deltas)
        {
            foreach ((string suffix, PatchTensor part) in delta.Parts)
            {
                Add($"{name}.{suffix}", part);
            }
        }

        foreach ((string name, PatchTensor content) in patch.Undo?.Contents ?? new Dictionary<string, PatchTensor>())
        {
            Add(FilePrefix + name, content);
        }

        SafeTensorsWriter.WriteTo(stream, tensors, Metadata(patch, signed));
    }

    static Dictionary<string, string> Metadata(Patch patch, bool signed)
    {
        PatchInfo info = patch.Info;
        var metadata = new Dictionary<string, string>
        {
            ["scalpel_patch"] = Version,
            ["base"] = new JsonObject { ["config"] = patch.BaseConfigHash }.ToJsonString(),
            ["tensors"] = new JsonObject(patch.Deltas.OrderBy(pair => pair.Key, StringComparer.Ordinal)
                .Select(pair => KeyValuePair.Create<string, JsonNode?>(pair.Key, Entry(pair.Value, patch.BaseTensors.GetValueOrDefault(pair.Key))))).ToJsonString(),
            ["method"] = info.Method,
            ["options"] = info.Options.ToJsonString(),
            ["version"] = info.Version,
        };
        if (info.Seed is { } seed)
        {
            metadata["seed"] = seed.ToString(CultureInfo.InvariantCulture);
        }

        if (info.Evidence is { } evidence)
        {
            metadata["evidence"] = evidence.ToJsonString();
        }

        if (info.Created is { } created)
        {
            metadata["created"] = created.UtcDateTime.ToString("yyyy-MM-ddTHH:mm:ssZ", CultureInfo.InvariantCulture);
        }

        if (patch.Structure is { } structure)
        {
            metadata["structure"] = new JsonObject
            {
                ["config"] = structure.Config.DeepClone(),
                ["tokens"] = new JsonArray([.. structure.Tokens.Select(token => new JsonObject { ["content"] = token.Content, ["id"] = token.Id, ["special"] = token.Special })]),
            }.ToJsonString();
        }

        if (patch.Requires.Count > 0)
        {
            metadata["requires"] = new JsonArray([.. patch.Requires.Select(name => JsonValue.Create(name))]).ToJsonString();
        }

        if (patch.Undo is { } undo)
        {
            metadata["undo"] = new JsonObject
            {
                ["files"] = new JsonObject(undo.Files.OrderBy(pair => pair.Key, StringComparer.Ordinal).Select(pair => KeyValuePair.Create<string, JsonNode?>(pair.Key, pair.Value))),
                ["single"] = undo.Single,
            }.ToJsonString();
        }

        if (signed && patch.Signature is { } signature)
        {
            metadata["signature"] = new JsonObject { ["signer"] = signature.Signer, ["value"] = signature.Value }.ToJsonString();
        }

        return metadata;
    }

    static JsonObject Entry(Delta delta, BaseTensor? target)
    {
        var entry = new JsonObject { ["kind"] = delta.Kind };
        if (target is not null)
        {
            entry["dtype"] = target.Type.ToString();
            entry["shape"] = Shape(target.Shape);
            entry["base"] = target.Hash;
        }

        foreach ((string key, long number) in delta.Numbers)
        {
            entry[key] = number;
        }

        if (delta is DenseXor xor)
        {
            entry["edited"] = xor.EditedHash;
        }

        if (delta is Replace replace && replace.Contents.Type.IsQuantised())
        {
            entry["blocks"] = replace.Contents.Type.ToString();
            entry["blocks_shape"] = Shape(replace.Contents.Shape);
        }

        return entry;
    }

    static JsonArray Shape(IEnumerable<long> shape) => [.. shape.Select(size => JsonValue.Create(size))];

    public static Contents Read(SafeTensorsFile file)
    {
        var reader = new Reader(file);
        string version = reader.Text("scalpel_patch") ?? throw new BadInputException(
            $"{file.Path} is not a patch: its header has no scalpel_patch; a LoRA file of another tool is turned into one by scalpel patch import.");
        if (version != Version)
        {
            throw reader.Error($"has the format version {version}, this program reads {Version}; update it");
        }

        if (file.Metadata.Keys.FirstOrDefault(key => !Keys.Contains(key)) is { } unknown)
        {
            throw reader.Error($"has the unknown header key '{unknown}'; known are {string.Join(", ", Keys)}");
        }

        return reader.Read();
    }

    /// <summary>Reads one file; each error names the file and what is wrong in it.</summary>
    sealed class Reader(SafeTensorsFile file)
    {
        readonly HashSet<string> unread = [.. file.Entries.Keys];

        public string? Text(string key) => file.Metadata.GetValueOrDefault(key);

        public BadInputException Error(string message) => new($"{file.Path} {message}.");

        public Contents Read()
        {
            var bases = new Dictionary<string, BaseTensor>(StringComparer.Ordinal);
            var deltas = new Dictionary<string, Delta>(StringComparer.Ordinal);
            foreach ((string name, JsonNode? node) in Object("tensors") ?? throw Error("has no list of tensors"))
            {
                JsonObject entry = node as JsonObject ?? throw Error($"describes the tensor {name} by something that is not an object");
                if (entry.ContainsKey("base"))
                {
                    bases[name] = new BaseTensor(Type(entry, "dtype", name), Sizes(entry, "shape", name, Type(entry, "dtype", name)), Hash(entry, "base", name));
                }

                deltas[name] = ReadDelta(name, entry, bases.GetValueOrDefault(name));
            }

            PatchStructure? structure = ReadStructure();
            UndoRecord? undo = ReadUndo();
            if (deltas.Count == 0 && structure is null && undo is null)
            {
                throw Error("changes nothing: it touches no tensor");
            }

            if (unread.Count > 0)
            {
                throw Error($"holds the tensor {unread.Order(StringComparer.Ordinal).First()}, which belongs to none of its deltas");
            }

            JsonObject identity = Object("base") ?? throw Error("does not say which base it is for");
            return new Contents(ReadInfo(), Hash(identity, "config", "base"), bases, deltas)
            {
                Structure = structure,
                Undo = undo,
                Requires = Text("requires") is null ? [] : [.. Array("requires").Select(node => node is JsonValue value && value.TryGetValue(out string? name) ? name : throw Error("requires something that is not named by a string"))],
                Signature = Object("signature") is { } signature ? new PatchSignature(Hash(signature, "signer", "signature"), String(signature, "value", "signature")) : null,
            };
        }

        Delta ReadDelta(string name, JsonObject entry, BaseTensor? target)
        {
            string kind = String(entry, "kind", name);
            return kind switch
            {
                "xor" when target is null || target.Type.IsQuantised() => throw Error($"has a XOR for {name}, which needs a base tensor of a plain type"),
                "xor" => file.Entries.ContainsKey($"{name}.xor")
                    ? new DenseXor(Part(name, "xor"), packed: false, target!.Length) { EditedHash = Hash(entry, "edited", name) }
                    : new DenseXor(Part(name, "xor.zst"), packed: true, target!.Length) { EditedHash = Hash(entry, "edited", name) },
                "add" => new DenseAdd(Part(name, "add")),
                "sparse" => new Sparse(Part(name, "indices"), Part(name, "values")),
                "rows" => new Rows(Part(name, "rows"), Part(name, "values")),
                "low-rank" => new LowRank(Part(name, "down"), Part(name, "up"), Scale(name)),
                "dora" => new Dora(Part(name, "down"), Part(name, "up"), Part(name, "magnitude"), Axis(entry, name), Scale(name)),
                "factors" => new Scaled(Part(name, "factors"), Axis(entry, name)),
                "zeros" => new Zeroed(Part(name, "zeros")),
                "replace" => new Replace(ReadReplacement(name, entry)),
                "set-rows" => new SetRows(Part(name, "rows"), Part(name, "contents")),
                "append" => new Append(Part(name, "append")),
                "keep" => new Keep(Part(name, "keep"), Axis(entry, name)),
                "remove" => new Remove(),
                _ => throw Error($"changes {name} by the unknown kind '{kind}'"),
            };
        }

        PatchTensor Part(string name, string suffix)
        {
            string full = $"{name}.{suffix}";
            TensorEntry entry = file.Entries.GetValueOrDefault(full) ?? throw Error($"lacks the tensor {full}");
            unread.Remove(full);
            return PatchTensor.From(entry.Type, entry.Shape, (start, count) => file.Bytes(entry, start, count));
        }

        PatchTensor ReadReplacement(string name, JsonObject entry)
        {
            PatchTensor part = Part(name, "replace");
            if (!entry.ContainsKey("blocks"))
            {
                return part;
            }

            StorageType type = Type(entry, "blocks", name);
            IReadOnlyList<long> shape = Sizes(entry, "blocks_shape", name, type);
            return type.IsQuantised() && type.ByteLength(shape) == part.Length
                ? PatchTensor.From(type, shape, part.Bytes)
                : throw Error($"has {part.Length} bytes of blocks for {name}, which is not {type} [{string.Join(", ", shape)}]");
        }

        double Scale(string name)
        {
            if (!file.Entries.ContainsKey($"{name}.scale"))
            {
                return 1;
            }

            PatchTensor scale = Part(name, "scale");
            return scale.Count == 1 && Elements.IsFloat(scale.Type)
                ? scale.Values<double>()[0]
                : throw Error($"has a scale for {name} that is not one number");
        }

        int Axis(JsonObject entry, string name) => entry["axis"] is JsonValue value && value.TryGetValue(out int axis) && axis is >= 0 and < 16
            ? axis
            : throw Error($"needs an axis from 0 to 15 for {name}");

        PatchInfo ReadInfo() => new()
        {
            Method = Text("method") is { Length: > 0 } method ? method : throw Error("does not name its method"),
            Options = Object("options") ?? [],
            Seed = Text("seed") is not { } seed ? null : ulong.TryParse(seed, NumberStyles.None, CultureInfo.InvariantCulture, out ulong number) ? number : throw Error($"has the seed '{seed}', which is not a whole number"),
            Version = Text("version") ?? "",
            Evidence = Object("evidence"),
            Created = Text("created") is not { } created ? null
                : DateTimeOffset.TryParse(created, CultureInfo.InvariantCulture, DateTimeStyles.AssumeUniversal, out DateTimeOffset time) ? time : throw Error($"was created at '{created}', which is not a time"),
        };

        PatchStructure? ReadStructure()
        {
            if (Object("structure") is not { } json)
            {
                return null;
            }

            var tokens = new List<NewToken>();
            foreach (JsonNode? node in json["tokens"] as JsonArray ?? [])
            {
                JsonObject token = node as JsonObject ?? throw Error("lists a token that is not an object");
                int id = token["id"] is JsonValue value && value.TryGetValue(out int number) && number >= 0 ? number : throw Error("lists a token without an id");
                tokens.Add(new NewToken(String(token, "content", "structure"), id, token["special"] is JsonValue special && special.TryGetValue(out bool yes) && yes));
            }

            return new PatchStructure { Config = json["config"]?.DeepClone() as JsonObject ?? [], Tokens = tokens };
        }

        UndoRecord? ReadUndo()
        {
            if (Object("undo") is not { } json)
            {
                return null;
            }

            var files = new Dictionary<string, string>(StringComparer.Ordinal);
            JsonObject listed = json["files"] as JsonObject ?? throw Error("is an undo patch without a list of files");
            foreach (string path in listed.Select(pair => pair.Key))
            {
                files[RelativePath(path)] = Hash(listed, path, "undo");
            }

            var contents = new Dictionary<string, PatchTensor>(StringComparer.Ordinal);
            foreach (string name in file.Entries.Keys.Where(name => name.StartsWith(FilePrefix, StringComparison.Ordinal)))
            {
                string path = RelativePath(name[FilePrefix.Length..]);
                TensorEntry entry = file.Entries[name];
                string owner = path.EndsWith(UndoRecord.HeaderMark, StringComparison.Ordinal) ? path[..^UndoRecord.HeaderMark.Length] : path;
                if (entry.Type != StorageType.U8 || !files.ContainsKey(owner))
                {
                    throw Error($"holds the content of {path}, which is not among the files of its base");
                }

                unread.Remove(name);
                contents[path] = PatchTensor.From(entry.Type, entry.Shape, (start, count) => file.Bytes(entry, start, count));
            }

            string? single = json["single"] is JsonValue value && value.TryGetValue(out string? text) ? RelativePath(text) : null;
            return new UndoRecord(files, contents, single);
        }

        // A patch from elsewhere must not reach beyond the folder that it is applied to.
        string RelativePath(string path) => path.Length is > 0 and < 1024 && !path.Contains('\\', StringComparison.Ordinal) && !path.Contains('\0', StringComparison.Ordinal)
            && !Path.IsPathRooted(path) && path.Split('/').All(part => part is not ("" or "." or ".."))
            ? path
            : throw Error($"names the file '{path}', which is not a plain path below its folder");

        JsonObject? Object(string key) => Text(key) is not { } text ? null : Json(key, text) as JsonObject ?? throw Error($"has something under {key} that is not a JSON object");

        JsonArray Array(string key) => Json(key, Text(key)!) as JsonArray ?? throw Error($"has something under {key} that is not a JSON list");

        JsonNode? Json(string key, string text)
        {
            try
            {
                return JsonNode.Parse(text, documentOptions: Strict);
            }
            catch (JsonException e)
            {
                throw Error($"has {key} that is not valid JSON: {e.Message.TrimEnd('.')}");
            }
        }

        string String(JsonObject json, string key, string where) => json[key] is JsonValue value && value.TryGetValue(out string? text)
            ? text
            : throw Error($"needs a string as {key} of {where}");

        string Hash(JsonObject json, string key, string where)
        {
            string text = String(json, key, where);
            return text.Length == 64 && text.All(char.IsAsciiHexDigitLower) ? text : throw Error($"needs a SHA-256 in lower-case hexadecimal as {key} of {where}");
        }

        StorageType Type(JsonObject json, string key, string where)
        {
            string text = String(json, key, where);
            return Enum.TryParse(text, out StorageType type) && type.ToString() == text ? type : throw Error($"has the unknown type '{text}' as {key} of {where}");
        }

        List<long> Sizes(JsonObject json, string key, string where, StorageType type)
        {
            var sizes = new List<long>();
            foreach (JsonNode? node in json[key] as JsonArray ?? throw Error($"needs a list as {key} of {where}"))
            {
                sizes.Add(node is JsonValue value && value.TryGetValue(out long size) && size >= 0 && sizes.Count < 16 ? size : throw Error($"has a {key} of {where} that is no list of at most 16 sizes"));
            }

            try
            {
                _ = type.ByteLength(sizes);
            }
            catch (OverflowException)
            {
                throw Error($"has a {key} of {where} that cannot be: {type} [{string.Join(", ", sizes)}]");
            }

            return sizes;
        }
    }
}
