using System.CommandLine;
using System.Globalization;
using System.Security.Cryptography;
using System.Text.Json;
using System.Text.Json.Nodes;
using Scalpel.Checkpoints;
using Scalpel.Cli.CommandLine;

namespace Scalpel.Cli.Commands;

/// <summary>What a checkpoint is, read from its headers alone.</summary>
sealed class InfoCommand : CliCommand
{
    readonly Argument<string> model = ModelArgument();
    readonly Option<bool> tensors = new("--tensors") { Description = "List every tensor with type, shape and file." };
    readonly Option<bool> noHash = new("--no-hash") { Description = "Leave out the SHA-256 of the weight files, which reads them whole." };

    public InfoCommand() : base("info", "Shows architecture, size, types, tensors, tokenizer, licence and hash of a model.",
        "scalpel info assets/models/smollm2-135m-instruct", "scalpel info assets/models/smollm2-135m-instruct --tensors")
    {
        Add(model);
        Add(tensors);
        Add(noHash);
    }

    public override void Execute(Invocation call)
    {
        using Checkpoint checkpoint = Checkpoint.Open(call.Model(model));
        JsonObject facts = Facts(checkpoint, call.Get(noHash) ? null : call.Context());
        foreach (string warning in checkpoint.Warnings)
        {
            call.Output.Note($"note: {warning}");
        }

        if (call.Get(tensors))
        {
            facts["tensor_list"] = new JsonArray([.. checkpoint.Tensors.Values.OrderBy(t => t.Name, StringComparer.Ordinal).Select(Describe)]);
        }

        if (call.Output.Json)
        {
            call.Output.Emit(facts);
            return;
        }

        foreach ((string key, JsonNode? value) in facts)
        {
            if (value is not null && key is not "tensor_list")
            {
                call.Output.Line($"{key.Replace('_', ' '),-18} {Show(value)}");
            }
        }

        foreach (JsonNode? tensor in facts["tensor_list"] as JsonArray ?? [])
        {
            call.Output.Line($"  {tensor!["name"],-56} {tensor["dtype"],-6} [{string.Join(", ", tensor["shape"]!.AsArray().Select(n => n!.ToString()))}]");
        }
    }

    static JsonObject Facts(Checkpoint checkpoint, RunContext? hashing)
    {
        JsonObject config = checkpoint.Config;
        long parameters = 0, bytes = 0;
        var types = new SortedDictionary<string, int>(StringComparer.Ordinal);
        foreach (TensorEntry entry in checkpoint.Tensors.Values)
        {
            parameters += entry.Shape.Aggregate(1L, (product, size) => product * size);
            bytes += entry.Length;
            types[entry.Type.ToString()] = types.GetValueOrDefault(entry.Type.ToString()) + 1;
        }

        return new JsonObject
        {
            ["model"] = checkpoint.Location,
            ["format"] = checkpoint.Files[0].EndsWith(".gguf", StringComparison.OrdinalIgnoreCase) ? "GGUF" : "safetensors",
            ["architecture"] = Architecture(config),
            ["layers"] = First(config, "num_hidden_layers", "n_layer", "num_layers"),
            ["hidden_size"] = First(config, "hidden_size", "n_embd", "d_model"),
            ["vocabulary"] = First(config, "vocab_size"),
            ["positions"] = First(config, "max_position_embeddings", "n_positions", "n_ctx"),
            ["parameters"] = parameters,
            ["bytes"] = bytes,
            ["dtypes"] = new JsonObject(types.Select(pair => KeyValuePair.Create(pair.Key, (JsonNode?)pair.Value))),
            ["tensors"] = checkpoint.Tensors.Count,
            ["files"] = new JsonArray([.. checkpoint.Files.Select(file => (JsonNode?)Path.GetFileName(file))]),
            ["tokenizer"] = TokenizerOf(checkpoint),
            ["licence"] = Licence(checkpoint),
            ["config_hash"] = checkpoint.ConfigHash,
            ["hash"] = hashing is null ? null : WeightHash(checkpoint, hashing),
        };
    }

    static string Architecture(JsonObject config) =>
        (config["architectures"] as JsonArray)?.FirstOrDefault()?.ToString() ?? config["model_type"]?.ToString() ?? config["_class_name"]?.ToString()
        ?? "unknown (there is no config.json)";

    static JsonNode? First(JsonObject config, params string[] keys) => keys.Select(key => config[key]).FirstOrDefault(node => node is JsonValue)?.DeepClone();

    static JsonNode Describe(TensorEntry entry) => new JsonObject
    {
        ["name"] = entry.Name,
        ["dtype"] = entry.Type.ToString(),
        ["shape"] = new JsonArray([.. entry.Shape.Select(size => (JsonNode?)size)]),
        ["bytes"] = entry.Length,
        ["file"] = Path.GetFileName(entry.File),
    };

    static string TokenizerOf(Checkpoint checkpoint)
    {
        string[] known = ["tokenizer.json", "vocab.json", "vocab.txt", "tokenizer.model"];
        string? file = known.FirstOrDefault(name => File.Exists(Path.Combine(checkpoint.Folder, name)));
        return file ?? (checkpoint is Checkpoints.Gguf.GgufCheckpoint ? "in the GGUF file" : "none");
    }

    static string Licence(Checkpoint checkpoint)
    {
        if (checkpoint is Checkpoints.Gguf.GgufCheckpoint gguf && gguf.File.Metadata.TryGetValue("general.license", out var named))
        {
            return named.ToString()!;
        }

        string card = Path.Combine(checkpoint.Folder, "README.md");
        if (File.Exists(card))
        {
            // The card's front matter, "license: apache-2.0", or a table row "| licence | … |".
            foreach (string line in File.ReadLines(card).Take(60))
            {
                string trimmed = line.Trim();
                if (trimmed.StartsWith("license:", StringComparison.OrdinalIgnoreCase))
                {
                    return trimmed["license:".Length..].Trim();
                }

                string[] cells = [.. trimmed.Split('|', StringSplitOptions.RemoveEmptyEntries | StringSplitOptions.TrimEntries)];
                if (cells is ["licence" or "license", var cell, ..])
                {
                    return cell;
                }
            }
        }

        return File.Exists(Path.Combine(checkpoint.Folder, "LICENSE")) ? "see LICENSE" : "not stated";
    }

    static string WeightHash(Checkpoint checkpoint, RunContext run)
    {
        using var sha = IncrementalHash.CreateHash(HashAlgorithmName.SHA256);
        byte[] buffer = new byte[1 << 20];
        long total = checkpoint.Files.Sum(file => new FileInfo(file).Length), done = 0;
        foreach (string file in checkpoint.Files)
        {
            using FileStream stream = File.OpenRead(file);
            int read;
            while ((read = stream.Read(buffer)) > 0)
            {
                sha.AppendData(buffer, 0, read);
                done += read;
                run.Report("hashing", done >> 20, total >> 20);
            }
        }

        return Convert.ToHexStringLower(sha.GetHashAndReset());
    }

    static string Show(JsonNode value) => value switch
    {
        JsonArray array => string.Join(", ", array.Select(item => item!.ToString())),
        JsonObject map => string.Join(", ", map.Select(pair => $"{pair.Key} × {pair.Value}")),
        JsonValue number when number.GetValueKind() == JsonValueKind.Number && long.TryParse(number.ToString(), out long whole) =>
            whole.ToString("#,0", CultureInfo.InvariantCulture).Replace(',', ' '),
        _ => value.ToString(),
    };
}
