using System.Text.Json;
using System.Text.Json.Nodes;
using Scalpel.Checkpoints;
using Scalpel.Text;

namespace Scalpel.Lab.Worlds;

/// <summary>The lexicon as the tokenizer files of a Hugging Face folder.</summary>
static class WorldTokenizer
{
    static readonly JsonSerializerOptions Indented = new() { WriteIndented = true, Encoder = System.Text.Encodings.Web.JavaScriptEncoder.UnsafeRelaxedJsonEscaping };

    /// <summary>The tokenizer, read back from its files.</summary>
    public static Lazy<Tokenizer> Words { get; } = new(() =>
    {
        DirectoryInfo folder = Directory.CreateTempSubdirectory("scalpel-world-");
        try
        {
            Write(folder.FullName);
            return Tokenizer.Load(folder.FullName);
        }
        finally
        {
            folder.Delete(recursive: true);
        }
    });

    /// <summary>Writes tokenizer.json, tokenizer_config.json and special_tokens_map.json.</summary>
    public static void Write(string folder)
    {
        IReadOnlyList<string> words = Lexicon.Instance.Words;
        var vocabulary = new JsonObject();
        for (int id = 0; id < words.Count; id++)
        {
            vocabulary[words[id]] = id;
        }

        Write(folder, "tokenizer.json", new JsonObject
        {
            ["version"] = "1.0",
            ["truncation"] = null,
            ["padding"] = null,
            ["added_tokens"] = new JsonArray([.. words.Take(4).Select((word, id) => (JsonNode)new JsonObject
            {
                ["id"] = id, ["content"] = word, ["single_word"] = false, ["lstrip"] = true, ["rstrip"] = true, ["normalized"] = false, ["special"] = true,
            })]),
            ["normalizer"] = null,
            ["pre_tokenizer"] = new JsonObject { ["type"] = "WhitespaceSplit" },
            ["post_processor"] = null,
            ["decoder"] = null,
            ["model"] = new JsonObject { ["type"] = "WordLevel", ["vocab"] = vocabulary, ["unk_token"] = words[Lexicon.UnknownId] },
        });
        var roles = new JsonObject { ["bos_token"] = words[Lexicon.BeginId], ["eos_token"] = Lexicon.End, ["pad_token"] = words[Lexicon.PadId], ["unk_token"] = words[Lexicon.UnknownId] };
        var settings = (JsonObject)roles.DeepClone();
        settings["tokenizer_class"] = "PreTrainedTokenizerFast";
        settings["clean_up_tokenization_spaces"] = false;
        settings["model_max_length"] = 128;
        Write(folder, "tokenizer_config.json", settings);
        Write(folder, "special_tokens_map.json", roles);
    }

    static void Write(string folder, string name, JsonObject json) => AtomicFile.WriteText(Path.Combine(folder, name), json.ToJsonString(Indented) + "\n");
}
