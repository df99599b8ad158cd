using System.Text.Json;
using Scalpel.Text.Pipeline;

namespace Scalpel.Text.Files;

/// <summary>What tokenizer_config.json, special_tokens_map.json, generation_config.json and chat_template.jinja add.</summary>
sealed class TokenizerSettings(string folder)
{
    readonly Json config = Read(folder, "tokenizer_config.json"), map = Read(folder, "special_tokens_map.json"), generation = Read(folder, "generation_config.json");

    public TokenizerParts Apply(TokenizerParts parts) => parts with
    {
        Roles = new SpecialTokens
        {
            Bos = Token("bos_token") ?? parts.Roles.Bos,
            Eos = Token("eos_token") ?? parts.Roles.Eos,
            Pad = Token("pad_token") ?? parts.Roles.Pad,
            Unk = Token("unk_token") ?? parts.Roles.Unk,
            EndIds = EndIds(parts.Roles.EndIds),
        },
        ChatTemplate = ChatTemplate() ?? parts.ChatTemplate,
        MaxLength = config["model_max_length"] is { Kind: JsonValueKind.Number } length && length.Number() is > 0 and < 1e9 and double most ? (int)most : parts.MaxLength,
    };

    /// <summary>A JSON object of the folder; a missing file is an undefined value.</summary>
    public static Json Read(string folder, string name)
    {
        string file = Path.Combine(folder, name);
        if (!File.Exists(file))
        {
            return new Json(default, file);
        }

        // The document is kept alive by its elements: a few kilobytes.
        var json = new Json(TokenizerJson.Open(file).RootElement, file);
        return json.Kind == JsonValueKind.Object ? json : throw json.Wrong("an object");
    }

    string? Token(string key)
    {
        Json value = map[key].IsNull ? config[key] : map[key];
        return value.Kind switch
        {
            JsonValueKind.String => value.Text(),
            JsonValueKind.Object => value["content"].Text(),
            _ => null,
        };
    }

    List<int> EndIds(IReadOnlyList<int> known)
    {
        Json ids = generation["eos_token_id"];
        var result = new List<int>(known);
        if (ids.Kind == JsonValueKind.Number)
        {
            result.Add(ids.Whole(0, int.MaxValue));
        }
        else if (ids.Kind == JsonValueKind.Array)
        {
            result.AddRange(ids.Items().Select(id => id.Whole(0, int.MaxValue)));
        }

        return result;
    }

    string? ChatTemplate()
    {
        string file = Path.Combine(folder, "chat_template.jinja");
        if (File.Exists(file))
        {
            return File.ReadAllText(file);
        }

        Json template = config["chat_template"];
        if (template.IsNull)
        {
            template = Read(folder, "chat_template.json")["chat_template"];
        }

        if (template.Kind != JsonValueKind.Array)
        {
            return template.IsNull ? null : template.Text();
        }

        // Several named ones: the default is meant.
        return template.Items().FirstOrDefault(item => item["name"].Text("") == "default") is { Kind: JsonValueKind.Object } chosen ? chosen["template"].Text() : null;
    }
}
