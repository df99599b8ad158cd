using System.Text.Json.Nodes;
using Scalpel.Text;

namespace Scalpel.Lab.Parity;

/// <summary>
/// Cases of kind <c>chat-template</c>. <c>inputs</c> holds one conversation or a list <c>conversations</c>: each an array of
/// messages, or an object with <c>messages</c>, <c>add_generation_prompt</c>, <c>tools</c> and other variables. The template is
/// <c>options.template</c> (or <c>chat_template</c>), else that of the tokenizer under <c>model</c>. <c>expected</c> has for each
/// conversation a string, or an object with <c>text</c>, <c>ids</c>, or <c>error</c> where the template refuses.
/// </summary>
public sealed class ChatTemplateKind : IParityKind
{
    /// <inheritdoc/>
    public string Kind => "chat-template";

    /// <inheritdoc/>
    public void Run(ParityCase parityCase, Comparison comparison)
    {
        Tokenizer? tokenizer = parityCase.Has("model") ? Tokenizer.Load(parityCase.PathOf("model")) : null;
        JsonObject options = parityCase.Options;
        ChatTemplate template = (Text(options, "template") ?? Text(options, "chat_template")) is { } source
            ? ChatTemplate.Parse(source, Tokens(options, tokenizer))
            : tokenizer?.ChatTemplate ?? throw new BadInputException($"{parityCase.Folder}: neither options.template nor the model gives a chat template.");
        JsonNode inputs = JsonFiles.Any(parityCase.PathOf("inputs")), expected = JsonFiles.Any(parityCase.PathOf("expected"));
        List<JsonNode?> conversations = Entries(inputs, "conversations", "messages"), outcomes = Entries(expected, "conversations", "text", "rendered", "ids", "error");
        if (conversations.Count != outcomes.Count || conversations.Count == 0)
        {
            throw new BadInputException($"{parityCase.Folder}: inputs has {conversations.Count} conversations but expected has {outcomes.Count} outcomes.");
        }

        for (int i = 0; i < conversations.Count; i++)
        {
            Compare($"[{i}]", template, tokenizer, options, conversations[i]!, outcomes[i]!, comparison);
        }
    }

    static void Compare(string name, ChatTemplate template, Tokenizer? tokenizer, JsonObject options, JsonNode conversation, JsonNode outcome, Comparison comparison)
    {
        JsonObject fields = conversation as JsonObject ?? [];
        JsonArray messages = conversation as JsonArray ?? fields["messages"] as JsonArray ?? throw new BadInputException($"The conversation {name} has no messages.");
        var render = new ChatTemplateOptions
        {
            AddGenerationPrompt = (fields["add_generation_prompt"] ?? options["add_generation_prompt"])?.GetValue<bool>() ?? false,
            Tools = (fields["tools"] ?? options["tools"]) as JsonArray,
            Variables = new JsonObject(fields.Where(field => field.Key is not ("messages" or "add_generation_prompt" or "tools" or "name")).Select(field => KeyValuePair.Create(field.Key, field.Value?.DeepClone()))),
        };
        JsonObject want = outcome as JsonObject ?? new JsonObject { ["text"] = outcome.DeepClone() };
        if (want["error"] is { } error)
        {
            try
            {
                template.Render(messages, render);
                comparison.Mismatch(name, $"{name} is rendered, expected the error {error}");
            }
            catch (BadInputException)
            {
                comparison.Exact($"{name}.error", true, true);
            }

            return;
        }

        string text = template.Render(messages, render);
        if ((want["text"] ?? want["rendered"]) is { } wanted)
        {
            comparison.Exact($"{name}.text", text, wanted.GetValue<string>());
        }

        if (want["ids"] is { } ids)
        {
            comparison.Sequences($"{name}.ids", (tokenizer ?? throw new BadInputException("The case expects ids but names no tokenizer.")).Encode(text, addSpecial: false).Ids, JsonFiles.Integers(ids));
        }
    }

    static List<JsonNode?> Entries(JsonNode node, params string[] keys) => node switch
    {
        JsonObject obj when obj[keys[0]] is JsonArray list => [.. list],
        JsonObject obj when keys.Skip(1).Any(obj.ContainsKey) => [node],
        JsonArray messages when messages.Count > 0 && messages[0] is JsonObject first && first.ContainsKey("role") => [node],
        JsonArray list => [.. list],
        JsonValue => [node],
        _ => throw new BadInputException($"A chat-template case holds {string.Join(" or ", keys)}; this one holds {string.Join(", ", (node as JsonObject)?.Select(entry => entry.Key) ?? [])}."),
    };

    static Dictionary<string, string> Tokens(JsonObject options, Tokenizer? tokenizer)
    {
        var tokens = new Dictionary<string, string>(StringComparer.Ordinal);
        foreach ((string key, int? id) in (ReadOnlySpan<(string, int?)>)[("bos_token", tokenizer?.BosId), ("eos_token", tokenizer?.EosId), ("pad_token", tokenizer?.PadId), ("unk_token", tokenizer?.UnkId)])
        {
            if ((Text(options, key) ?? (id is { } known ? tokenizer!.IdToToken(known) : null)) is { } text)
            {
                tokens[key] = text;
            }
        }

        return tokens;
    }

    static string? Text(JsonObject options, string key) => options[key] is JsonValue value && value.TryGetValue(out string? text) ? text : null;
}
