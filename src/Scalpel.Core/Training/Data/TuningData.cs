using System.Text.Json;
using System.Text.Json.Nodes;
using Scalpel.Text;

namespace Scalpel.Training;

/// <summary>What a file of training data held.</summary>
/// <param name="Rows">Texts to learn; empty when the file holds pairs.</param>
/// <param name="Pairs">Prompts with a better and a worse answer; empty when it holds texts.</param>
/// <param name="Layout">text, prompt-completion, messages or pairs.</param>
/// <param name="Shortened">Rows that were cut to the length asked for.</param>
/// <param name="Moved">Rows whose prompt is no prefix in tokens, so that the boundary was moved back.</param>
public sealed record TuningData(IReadOnlyList<TokenRow> Rows, IReadOnlyList<PreferencePair> Pairs, string Layout, int Shortened, int Moved)
{
    /// <summary>Reads JSON lines with <c>text</c>, <c>prompt</c> and <c>completion</c>, <c>messages</c>, or <c>prompt</c>, <c>chosen</c> and <c>rejected</c>.</summary>
    /// <param name="path">The file.</param>
    /// <param name="tokenizer">The model's.</param>
    /// <param name="limit">Most tokens the model takes.</param>
    /// <param name="maxLength">Where to cut longer rows; null to refuse them.</param>
    /// <exception cref="BadInputException">The file is empty, a line is malformed or lacks a field, or a row is too long.</exception>
    public static TuningData Read(string path, Tokenizer tokenizer, int limit, int? maxLength = null)
    {
        var reader = new Reader(path, tokenizer, maxLength ?? limit, maxLength is not null);
        string[] lines;
        try
        {
            lines = File.ReadAllLines(path);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            throw new BadInputException($"{path} cannot be read: {e.Message.TrimEnd('.')}; give a file of JSON lines.", e);
        }

        for (int i = 0; i < lines.Length; i++)
        {
            if (!string.IsNullOrWhiteSpace(lines[i]))
            {
                reader.Add(lines[i], i + 1);
            }
        }

        return reader.Finish();
    }

    sealed class Reader(string path, Tokenizer tokenizer, int limit, bool cut)
    {
        readonly List<TokenRow> rows = [];
        readonly List<PreferencePair> pairs = [];
        string? layout;
        int shortened, moved, tooLong, firstTooLong;

        public void Add(string line, int number)
        {
            JsonObject json;
            try
            {
                json = JsonNode.Parse(line, documentOptions: new JsonDocumentOptions { MaxDepth = 32 }) as JsonObject ?? throw new JsonException("it is not an object");
            }
            catch (JsonException e)
            {
                throw new BadInputException($"{path}, line {number} is not a JSON object: {e.Message}", e);
            }

            string own = json.ContainsKey("chosen") || json.ContainsKey("rejected") ? "pairs" : json.ContainsKey("messages") ? "messages" : json.ContainsKey("completion") ? "prompt-completion" : "text";
            layout ??= own;
            if (own != layout)
            {
                throw new BadInputException($"{path}, line {number} is of the layout {own}, the lines before of {layout}; a file holds one layout.");
            }

            switch (own)
            {
                case "pairs":
                    (long[] prompt, long[] chosen) = Split(Text(json, "prompt", number), Text(json, "chosen", number));
                    (long[] same, long[] rejected) = Split(Text(json, "prompt", number), Text(json, "rejected", number));
                    int common = Common(prompt, same);
                    pairs.Add(new PreferencePair(prompt[..common], Fit([.. prompt[common..], .. chosen], limit - common, number), Fit([.. same[common..], .. rejected], limit - common, number)));
                    break;
                case "messages":
                    (string before, string after) = Chat(json, number);
                    Add(before, after, special: false, number);
                    break;
                case "prompt-completion":
                    Add(Text(json, "prompt", number), Text(json, "completion", number), special: true, number);
                    break;
                default:
                    long[] ids = Fit(Ended(Encode(Text(json, "text", number), special: true)), limit, number);
                    rows.Add(new TokenRow(ids, ids));
                    break;
            }
        }

        public TuningData Finish()
        {
            if (rows.Count + pairs.Count == 0)
            {
                throw new BadInputException($"{path} holds no line to train on; each line is an object with text, with prompt and completion, with messages, or with prompt, chosen and rejected.");
            }

            if (tooLong > 0)
            {
                throw new BadInputException($"{path}: {tooLong} of {rows.Count + pairs.Count} rows are longer than the {limit} tokens that the model takes, the first in line {firstTooLong}; shorten them, or cut them with --max-length.");
            }

            int learnt = rows.Count(row => row.Labels.Skip(1).Any(label => label != TokenScores.Ignored));
            return rows.Count > 0 && learnt == 0
                ? throw new BadInputException($"{path}: no row has a token to learn; its completions are empty, or cut off.")
                : new TuningData(rows, pairs, layout!, shortened, moved);
        }

        void Add(string before, string after, bool special, int number)
        {
            (long[] prompt, long[] completion) = Split(before, after, special);
            long[] ids = Fit([.. prompt, .. completion], limit, number);
            rows.Add(new TokenRow(ids, [.. ids.Select((id, i) => i < prompt.Length ? TokenScores.Ignored : id)]));
        }

        (string Before, string After) Chat(JsonObject json, int number)
        {
            ChatTemplate template = tokenizer.ChatTemplate ?? throw new BadInputException($"{path}, line {number} holds messages, but the model has no chat template; give prompt and completion.");
            if (json["messages"] is not JsonArray { Count: > 0 } messages || messages[^1]?["role"]?.GetValue<string>() != "assistant")
            {
                throw new BadInputException($"{path}, line {number}: messages must be a list that ends with one of the role assistant, which is learned.");
            }

            var asked = new JsonArray([.. messages.Take(messages.Count - 1).Select(m => m!.DeepClone())]);
            string all = template.Render((JsonArray)messages.DeepClone(), new ChatTemplateOptions { AddGenerationPrompt = false }), start = template.Render(asked);
            return all.StartsWith(start, StringComparison.Ordinal) ? (start, all[start.Length..]) : throw new BadInputException($"{path}, line {number}: the chat template renders the answer so that the question before it changes; give prompt and completion.");
        }

        // The completion is what follows the common tokens of the prompt and the whole.
        (long[] Prompt, long[] Completion) Split(string before, string after, bool special = true)
        {
            long[] prompt = Encode(before, special), whole = Encode(before + after, special);
            int common = Common(prompt, whole);
            moved += common < prompt.Length ? 1 : 0;
            return (whole[..common], special ? Ended(whole[common..]) : whole[common..]);
        }

        long[] Encode(string text, bool special) => [.. tokenizer.Encode(text, addSpecial: special).Ids.Select(id => (long)id)];

        long[] Ended(long[] ids) => tokenizer.EosId is { } end && (ids.Length == 0 || ids[^1] != end) ? [.. ids, end] : ids;

        long[] Fit(long[] ids, int room, int number)
        {
            if (ids.Length <= room)
            {
                return ids;
            }

            if (cut)
            {
                shortened++;
                return ids[..Math.Max(0, room)];
            }

            firstTooLong = tooLong++ == 0 ? number : firstTooLong;
            return ids;
        }

        string Text(JsonObject json, string key, int number) => json[key] is JsonValue value && value.TryGetValue(out string? text) && text.Length > 0
            ? text
            : throw new BadInputException($"{path}, line {number} has no text '{key}'; it needs text, or prompt and completion, or messages, or prompt, chosen and rejected.");

        static int Common(long[] a, long[] b)
        {
            int n = 0;
            while (n < a.Length && n < b.Length && a[n] == b[n])
            {
                n++;
            }

            return n;
        }
    }
}
