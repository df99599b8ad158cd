using System.Globalization;
using System.Text;
using System.Text.Json.Nodes;
using Scalpel.Text.Chat;

namespace Scalpel.Text;

/// <summary>A message of a conversation.</summary>
/// <param name="Role">system, user, assistant, tool.</param>
/// <param name="Content">What is said.</param>
public sealed record ChatMessage(string Role, string Content);

/// <summary>What a chat template may use beside the messages.</summary>
public sealed record ChatTemplateOptions
{
    /// <summary>Ends with what begins the assistant's answer. Default true.</summary>
    public bool AddGenerationPrompt { get; init; } = true;

    /// <summary>Tools that the model may call, as their JSON schemas; null for none.</summary>
    public JsonArray? Tools { get; init; }

    /// <summary>The time that a template's strftime_now shows; null: the template sees no clock.</summary>
    public DateTimeOffset? Now { get; init; }

    /// <summary>More variables for the template, by name; they win over bos_token and its like.</summary>
    public JsonObject? Variables { get; init; }
}

/// <summary>
/// A model's chat template: turns a conversation into the text on which the model was trained. The subset of Jinja that
/// templates use, interpreted; nothing of a template can run code, reach a file, or go on for ever.
/// </summary>
public sealed class ChatTemplate
{
    const int MostSource = 1 << 20;

    readonly List<Statement> body;
    readonly IReadOnlyDictionary<string, string> tokens;

    ChatTemplate(List<Statement> body, IReadOnlyDictionary<string, string> tokens)
    {
        this.body = body;
        this.tokens = tokens;
    }

    /// <summary>Reads a template.</summary>
    /// <param name="source">Its text.</param>
    /// <param name="tokens">Texts of special tokens by the names that templates use: bos_token, eos_token, pad_token, unk_token.</param>
    /// <exception cref="BadInputException">It is malformed or uses something that is not supported; the message names it and its line.</exception>
    public static ChatTemplate Parse(string source, IReadOnlyDictionary<string, string>? tokens = null)
    {
        if (source.Length > MostSource)
        {
            throw new BadInputException($"The chat template has {source.Length} characters; at most {MostSource} are read.");
        }

        return new ChatTemplate(TemplateParser.Parse(source), tokens ?? new Dictionary<string, string>());
    }

    /// <summary>The text of a conversation.</summary>
    /// <exception cref="BadInputException">The template refuses the conversation, or uses something that is not supported.</exception>
    public string Render(IEnumerable<ChatMessage> messages, ChatTemplateOptions? options = null) =>
        Render(new JsonArray([.. messages.Select(message => new JsonObject { ["role"] = message.Role, ["content"] = message.Content })]), options);

    /// <summary>The text of a conversation whose messages have more than role and content: tool calls, parts, names.</summary>
    /// <exception cref="BadInputException">The template refuses the conversation, or uses something that is not supported.</exception>
    public string Render(JsonArray messages, ChatTemplateOptions? options = null)
    {
        options ??= new ChatTemplateOptions();
        var scope = new Scope(null);
        AddFunctions(scope, options);
        foreach ((string name, string text) in tokens)
        {
            scope[name] = text;
        }

        scope["messages"] = TemplateValues.Of(messages);
        scope["add_generation_prompt"] = options.AddGenerationPrompt;
        scope["tools"] = TemplateValues.Of(options.Tools);
        scope["documents"] = null;
        foreach ((string name, JsonNode? value) in options.Variables ?? [])
        {
            scope[name] = TemplateValues.Of(value);
        }

        return new TemplateInterpreter().Run(body, new Scope(scope));
    }

    static void AddFunctions(Scope scope, ChatTemplateOptions options)
    {
        scope["raise_exception"] = (Callable)((arguments, _) =>
            throw new BadInputException($"The chat template refuses this conversation: {TemplateValues.Text(arguments.FirstOrDefault())}"));
        scope["namespace"] = (Callable)((arguments, named) =>
        {
            var space = new Namespace();
            if (arguments.FirstOrDefault() is OrderedDictionary<string, object?> initial)
            {
                foreach ((string name, object? value) in initial)
                {
                    space.Members[name] = value;
                }
            }

            foreach ((string name, object? value) in named)
            {
                space.Members[name] = value;
            }

            return space;
        });
        scope["dict"] = (Callable)((_, named) => new OrderedDictionary<string, object?>(named, StringComparer.Ordinal));
        scope["range"] = (Callable)((arguments, _) => Range(arguments));
        if (options.Now is { } now)
        {
            scope["strftime_now"] = (Callable)((arguments, _) => Time(now, TemplateValues.Text(arguments.FirstOrDefault())));
        }
    }

    static List<object?> Range(IReadOnlyList<object?> arguments)
    {
        const int Most = 100_000;
        long from = arguments.Count > 1 ? (long)arguments[0]! : 0, to = (long)arguments[arguments.Count > 1 ? 1 : 0]!, step = arguments.Count > 2 ? (long)arguments[2]! : 1;
        var values = new List<object?>();
        for (long value = from; step != 0 && (step > 0 ? value < to : value > to); value += step)
        {
            values.Add(value);
            if (values.Count > Most)
            {
                throw new BadInputException($"The chat template counts further than {Most}.");
            }
        }

        return values;
    }

    // Python's strftime codes, in English.
    static string Time(DateTimeOffset now, string format)
    {
        var text = new StringBuilder();
        for (int i = 0; i < format.Length; i++)
        {
            if (format[i] != '%' || i + 1 == format.Length)
            {
                text.Append(format[i]);
                continue;
            }

            bool unpadded = format[i + 1] == '-' && i + 2 < format.Length;
            i += unpadded ? 2 : 1;
            string part = format[i] switch
            {
                'd' => now.ToString("dd", CultureInfo.InvariantCulture),
                'm' => now.ToString("MM", CultureInfo.InvariantCulture),
                'Y' => now.ToString("yyyy", CultureInfo.InvariantCulture),
                'y' => now.ToString("yy", CultureInfo.InvariantCulture),
                'b' => now.ToString("MMM", CultureInfo.InvariantCulture),
                'B' => now.ToString("MMMM", CultureInfo.InvariantCulture),
                'a' => now.ToString("ddd", CultureInfo.InvariantCulture),
                'A' => now.ToString("dddd", CultureInfo.InvariantCulture),
                'H' => now.ToString("HH", CultureInfo.InvariantCulture),
                'I' => now.ToString("hh", CultureInfo.InvariantCulture),
                'M' => now.ToString("mm", CultureInfo.InvariantCulture),
                'S' => now.ToString("ss", CultureInfo.InvariantCulture),
                'p' => now.ToString("tt", CultureInfo.InvariantCulture),
                'j' => now.DayOfYear.ToString("000", CultureInfo.InvariantCulture),
                '%' => "%",
                char other => throw new BadInputException($"The chat template formats the time by %{other}, which is not supported."),
            };
            text.Append(unpadded ? part.TrimStart('0') : part);
        }

        return text.ToString();
    }
}
