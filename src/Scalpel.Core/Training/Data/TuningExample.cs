using System.Text.Json.Nodes;
using Scalpel.Text;

namespace Scalpel.Training;

/// <summary>What the records of a file of training data are.</summary>
public enum TuningLayout
{
    /// <summary><c>text</c>: all of it is learned.</summary>
    Text,

    /// <summary><c>prompt</c> and <c>completion</c>, or <c>instruction</c> (<c>input</c>) and <c>output</c> or <c>response</c>: what follows the prompt is learned.</summary>
    PromptCompletion,

    /// <summary><c>messages</c> or <c>conversations</c>: the last answer is learned.</summary>
    Messages,

    /// <summary><c>prompt</c>, <c>chosen</c> and <c>rejected</c>; without a prompt it is what both begin with.</summary>
    Pairs,

    /// <summary><c>prompt</c>, <c>completions</c> (or <c>responses</c>) and <c>scores</c> or <c>ranks</c>.</summary>
    Ranking,

    /// <summary><c>prompt</c>, <c>completion</c> and <c>label</c>, true when the completion is good.</summary>
    Judged,

    /// <summary><c>prompt</c> alone: the model answers itself.</summary>
    Prompts,
}

/// <summary>A record as text: a prompt and its answers.</summary>
/// <param name="Prompt">What is given.</param>
/// <param name="Answers">One to learn; chosen and rejected; or several that are ranked.</param>
/// <param name="Scores">The answers' scores, larger is better; null where there are none.</param>
/// <param name="Rendered">Whether a chat template has put the special tokens in already.</param>
sealed record TuningExample(string Prompt, IReadOnlyList<string> Answers, IReadOnlyList<double>? Scores = null, bool Rendered = false);

/// <summary>Reads records of one layout.</summary>
sealed class ExampleReader(RecordFile file, ChatTemplate? template)
{
    static readonly string[] AnswerLists = ["completions", "responses"], InstructionOutputs = ["output", "response"];

    /// <summary>The layout of the first record.</summary>
    public TuningLayout Layout { get; } = Detect(file, file.Read(0));

    /// <summary>One record as text.</summary>
    /// <exception cref="BadInputException">It lacks a field, or is of another layout than the first.</exception>
    public TuningExample Read(int record)
    {
        try
        {
            return Example(file.Read(record), record);
        }
        catch (InvalidOperationException e)
        {
            // Texts are decoded when they are asked for.
            throw new BadInputException($"{file.Where(record)} holds a text that is no Unicode: bytes that are not UTF-8, or half of a surrogate pair.", e);
        }
    }

    TuningExample Example(JsonObject json, int record)
    {
        TuningLayout own = Detect(file, json, record);
        if (own != Layout)
        {
            throw new BadInputException($"{file.Where(record)} is of the layout {Name(own)}, the first of {Name(Layout)}; a file holds one layout.");
        }

        return Layout switch
        {
            TuningLayout.Text => new TuningExample("", [Text(json, "text", record)]),
            TuningLayout.Messages => Chat(json, record),
            TuningLayout.Pairs => Pair(json, record),
            TuningLayout.Ranking => Ranking(json, record),
            TuningLayout.Judged => Answered(json, record) with { Scores = [Label(json, record) ? 1 : 0] },
            TuningLayout.Prompts => json["prompt"] is JsonArray messages ? new TuningExample(Render(messages, record), [], Rendered: true) : new TuningExample(Text(json, "prompt", record), []),
            _ => Answered(json, record),
        };
    }

    /// <summary>The layout's name in messages and reports.</summary>
    public static string Name(TuningLayout layout) => layout switch { TuningLayout.PromptCompletion => "prompt-completion", _ => layout.ToString().ToLowerInvariant() };

    static TuningLayout Detect(RecordFile file, JsonObject json, int record = 0)
    {
        bool Has(string key) => json.ContainsKey(key);
        return Has("chosen") || Has("rejected") ? TuningLayout.Pairs
            : AnswerLists.Any(Has) ? TuningLayout.Ranking
            : Has("messages") || Has("conversations") ? TuningLayout.Messages
            : Has("completion") ? Has("label") ? TuningLayout.Judged : TuningLayout.PromptCompletion
            : Has("instruction") && InstructionOutputs.Any(Has) ? TuningLayout.PromptCompletion
            : Has("text") ? TuningLayout.Text
            : Has("prompt") ? TuningLayout.Prompts
            : throw new BadInputException($"{file.Where(record)} has no text that could be learned: its fields are {string.Join(", ", json.Select(pair => pair.Key).Take(8))}; it needs text; prompt and completion; messages; "
                + "instruction and output; prompt, chosen and rejected; prompt, completions and scores; or prompt, completion and label.");
    }

    TuningExample Answered(JsonObject json, int record)
    {
        if (json.ContainsKey("instruction") && !json.ContainsKey("completion"))
        {
            string instruction = Text(json, "instruction", record), input = json["input"] is JsonValue value && value.TryGetValue(out string? given) ? given : "";
            string output = Text(json, InstructionOutputs.First(json.ContainsKey), record);
            return template is not null
                ? Completed([Message("user", input.Length > 0 ? $"{instruction}\n\n{input}" : instruction)], [Message("assistant", output)], record)
                : new TuningExample(input.Length > 0 ? $"### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:\n" : $"### Instruction:\n{instruction}\n\n### Response:\n", [output]);
        }

        return json["prompt"] is JsonArray prompt && json["completion"] is JsonArray completion ? Completed(prompt, completion, record)
            : new TuningExample(Text(json, "prompt", record), [Text(json, "completion", record)]);
    }

    TuningExample Chat(JsonObject json, int record)
    {
        JsonArray messages = json.ContainsKey("messages") ? Messages(json["messages"], "messages", record) : [.. Messages(json["conversations"], "conversations", record).Select(Renamed)];
        return Role(messages[^1]) == "assistant" ? Completed([.. messages.Take(messages.Count - 1).Select(m => m!.DeepClone())], [messages[^1]!.DeepClone()], record)
            : throw new BadInputException($"{file.Where(record)}: messages must end with one of the role assistant, which is learned; the last has '{Role(messages[^1])}'.");
    }

    TuningExample Pair(JsonObject json, int record)
    {
        if (json["chosen"] is JsonArray || json["rejected"] is JsonArray)
        {
            JsonArray chosen = Messages(json["chosen"], "chosen", record), rejected = Messages(json["rejected"], "rejected", record);
            // What both begin with belongs to the prompt; the data sets of the field repeat it.
            int common = 0;
            while (common < Math.Min(chosen.Count, rejected.Count) - 1 && JsonNode.DeepEquals(chosen[common], rejected[common]))
            {
                common++;
            }

            JsonArray prompt = common > 0 ? Copy(chosen.Take(common)) : json["prompt"] is JsonArray given ? given : [Message("user", Text(json, "prompt", record))];
            TuningExample better = Completed(prompt, Copy(chosen.Skip(common)), record), worse = Completed(prompt, Copy(rejected.Skip(common)), record);
            return better with { Answers = [better.Answers[0], worse.Answers[0]] };
        }

        string good = Text(json, "chosen", record), bad = Text(json, "rejected", record);
        if (json.ContainsKey("prompt"))
        {
            return json["prompt"] is JsonArray messages
                ? new TuningExample(Render(messages, record), [good, bad], Rendered: true)
                : new TuningExample(Text(json, "prompt", record), [good, bad]);
        }

        int shared = 0;
        while (shared < Math.Min(good.Length, bad.Length) && good[shared] == bad[shared])
        {
            shared++;
        }

        // Words stay whole.
        while (shared > 0 && !(shared < good.Length && char.IsWhiteSpace(good[shared])))
        {
            shared--;
        }

        return shared > 0 ? new TuningExample(good[..shared], [good[shared..], bad[shared..]])
            : throw new BadInputException($"{file.Where(record)}: chosen and rejected begin with different words and there is no prompt; give the prompt.");
    }

    TuningExample Ranking(JsonObject json, int record)
    {
        string key = AnswerLists.First(json.ContainsKey);
        string[] answers = json[key] is JsonArray { Count: > 1 } list && list.All(item => item is JsonValue value && value.TryGetValue(out string? _)) ? [.. list.Select(item => item!.GetValue<string>())]
            : throw new BadInputException($"{file.Where(record)}: '{key}' must be a list of at least two texts.");
        bool ranked = json.ContainsKey("ranks");
        string numbers = ranked ? "ranks" : "scores";
        double[] scores = json[numbers] is JsonArray given && given.Count == answers.Length && given.All(item => item is JsonValue value && value.GetValueKind() == System.Text.Json.JsonValueKind.Number)
            ? [.. given.Select(item => item!.GetValue<double>() * (ranked ? -1 : 1))]
            : throw new BadInputException($"{file.Where(record)}: there are {answers.Length} {key} but not as many numbers in 'scores' (larger is better) or 'ranks' (1 is best).");
        return json["prompt"] is JsonArray messages ? new TuningExample(Render(messages, record), answers, scores, Rendered: true) : new TuningExample(Text(json, "prompt", record), answers, scores);
    }

    // The answer is what the template adds to the prompt.
    TuningExample Completed(JsonArray prompt, JsonArray answer, int record)
    {
        string all = Render(Copy(prompt.Concat(answer)), record, generation: false), start = Render(Copy(prompt), record);
        return all.StartsWith(start, StringComparison.Ordinal) ? new TuningExample(start, [all[start.Length..]], Rendered: true)
            : throw new BadInputException($"{file.Where(record)}: the chat template renders the answer so that the question before it changes; give prompt and completion as texts.");
    }

    string Render(JsonArray messages, int record, bool generation = true)
    {
        if (template is null)
        {
            throw new BadInputException($"{file.Where(record)} holds messages, but the model has no chat template; give prompt and completion as texts.");
        }

        try
        {
            return template.Render(messages, new ChatTemplateOptions { AddGenerationPrompt = generation });
        }
        catch (BadInputException e)
        {
            throw new BadInputException($"{file.Where(record)}: {e.Message}", e);
        }
    }

    JsonArray Messages(JsonNode? node, string key, int record) => node is JsonArray { Count: > 0 } list && list.All(item => item is JsonObject) ? list
        : throw new BadInputException($"{file.Where(record)}: '{key}' must be a list of messages, each with role and content.");

    // The words of ShareGPT.
    static JsonObject Renamed(JsonNode? message) => Message(message!["from"]?.ToString() switch { "human" => "user", "gpt" or "bot" => "assistant", var other => other ?? Role(message) }, (message["value"] ?? message["content"])?.ToString() ?? "");

    static JsonObject Message(string role, string content) => new() { ["role"] = role, ["content"] = content };

    static string Role(JsonNode? message) => message?["role"] is JsonValue value && value.TryGetValue(out string? role) ? role : "";

    static JsonArray Copy(IEnumerable<JsonNode?> messages) => [.. messages.Select(message => message!.DeepClone())];

    bool Label(JsonObject json, int record) => json["label"] is JsonValue value
        ? value.TryGetValue(out bool flag) ? flag
            : value.TryGetValue(out double number) && number is 0 or 1 ? number == 1
            : value.TryGetValue(out string? text) && text.ToLowerInvariant() is "true" or "1" or "false" or "0" ? value.ToString().ToLowerInvariant() is "true" or "1"
            : throw NoLabel(record)
        : throw NoLabel(record);

    BadInputException NoLabel(int record) => new($"{file.Where(record)}: 'label' must be true (good) or false (bad).");

    string Text(JsonObject json, string key, int record) => json[key] is JsonValue value && value.TryGetValue(out string? text) && text.Length > 0 ? text
        : throw new BadInputException($"{file.Where(record)} has no text '{key}', which the layout {Name(Layout)} needs.");
}
