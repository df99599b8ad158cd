using System.Text.Json;
using System.Text.Json.Nodes;
using Scalpel.Checkpoints;
using Scalpel.Text;

namespace Scalpel.Lab.Worlds;

/// <summary>How the world's texts are cut into tokens.</summary>
public enum TokenizerKind
{
    /// <summary>A word or mark is a token.</summary>
    Words,

    /// <summary>As words, with the forms of the cipher languages (text-x).</summary>
    Extended,

    /// <summary>Byte-level BPE of 1,024 merges.</summary>
    Bytes,

    /// <summary>A character is a token, 64 in all.</summary>
    Characters,
}

/// <summary>The lexicon as the tokenizer files of a Hugging Face folder.</summary>
static class WorldTokenizer
{
    static readonly JsonSerializerOptions Indented = new() { WriteIndented = true, Encoder = System.Text.Encodings.Web.JavaScriptEncoder.UnsafeRelaxedJsonEscaping };

    /// <summary>The tokenizer of a kind, read back from its files.</summary>
    public static Tokenizer Create(TextWorld world, TokenizerKind kind)
    {
        DirectoryInfo folder = Directory.CreateTempSubdirectory("scalpel-world-");
        try
        {
            Write(world, kind, folder.FullName);
            return Tokenizer.Load(folder.FullName);
        }
        finally
        {
            folder.Delete(recursive: true);
        }
    }

    /// <summary>Writes tokenizer.json, tokenizer_config.json and special_tokens_map.json.</summary>
    public static void Write(TextWorld world, TokenizerKind kind, string folder)
    {
        IReadOnlyList<string> words = Lexicon.Instance.Words;
        IEnumerable<string> vocabulary = kind == TokenizerKind.Extended ? words.Concat(Lexicon.Instance.CipherForms.SelectMany(forms => forms)) : words;
        bool bytes = kind is TokenizerKind.Bytes or TokenizerKind.Characters;
        Write(folder, "tokenizer.json", new JsonObject
        {
            ["version"] = "1.0",
            ["truncation"] = null,
            ["padding"] = null,
            ["added_tokens"] = new JsonArray([.. words.Take(4).Select((word, id) => (JsonNode)new JsonObject
            {
                ["id"] = id, ["content"] = word, ["single_word"] = false, ["lstrip"] = !bytes, ["rstrip"] = !bytes, ["normalized"] = false, ["special"] = true,
            })]),
            ["normalizer"] = null,
            ["pre_tokenizer"] = bytes ? ByteLevel() : new JsonObject { ["type"] = "WhitespaceSplit" },
            // A text begins after the end of the one before.
            ["post_processor"] = new JsonObject
            {
                ["type"] = "TemplateProcessing",
                ["single"] = new JsonArray(Special(), Sequence("A", 0)),
                ["pair"] = new JsonArray(Special(), Sequence("A", 0), Sequence("B", 0)),
                ["special_tokens"] = new JsonObject { [Lexicon.End] = new JsonObject { ["id"] = Lexicon.End, ["ids"] = new JsonArray(Lexicon.EndId), ["tokens"] = new JsonArray(Lexicon.End) } },
            },
            ["decoder"] = bytes ? ByteLevel() : null,
            ["model"] = kind switch
            {
                TokenizerKind.Bytes => BytePairTraining.Train(world, BytePairTraining.Merges),
                TokenizerKind.Characters => BytePairTraining.Train(world, 0),
                _ => new JsonObject { ["type"] = "WordLevel", ["vocab"] = new JsonObject(vocabulary.Select(word => KeyValuePair.Create(word, (JsonNode?)Lexicon.Instance.Id(word)))), ["unk_token"] = words[Lexicon.UnknownId] },
            },
        });
        var roles = new JsonObject { ["bos_token"] = Lexicon.End, ["eos_token"] = Lexicon.End, ["pad_token"] = words[Lexicon.PadId], ["unk_token"] = words[Lexicon.UnknownId] };
        var settings = (JsonObject)roles.DeepClone();
        settings["tokenizer_class"] = "PreTrainedTokenizerFast";
        settings["clean_up_tokenization_spaces"] = false;
        settings["model_max_length"] = 128;
        Write(folder, "tokenizer_config.json", settings);
        Write(folder, "special_tokens_map.json", roles);
    }

    static JsonObject Special() => new() { ["SpecialToken"] = new JsonObject { ["id"] = Lexicon.End, ["type_id"] = 0 } };

    static JsonObject Sequence(string id, int type) => new() { ["Sequence"] = new JsonObject { ["id"] = id, ["type_id"] = type } };

    static JsonObject ByteLevel() => new() { ["type"] = "ByteLevel", ["add_prefix_space"] = false, ["trim_offsets"] = true, ["use_regex"] = true };

    static void Write(string folder, string name, JsonObject json) => AtomicFile.WriteText(Path.Combine(folder, name), json.ToJsonString(Indented) + "\n");
}
