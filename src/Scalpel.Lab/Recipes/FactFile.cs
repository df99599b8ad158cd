using System.Text.Json;
using System.Text.Json.Nodes;
using Scalpel.Methods.Editing;

namespace Scalpel.Lab.Recipes;

/// <summary>
/// Reads facts to edit from JSON: a list (or JSON lines) of Scalpel's own records {subject, prompt, target, old?,
/// paraphrases?, neighbours?, locality?, portability? [{prompt, answer}]}, of CounterFact's, or of zsRE's as ROME publishes them. The layout is told from the keys.
/// </summary>
public static class FactFile
{
    const long MaxBytes = 1L << 30;
    static readonly string[] Keys = ["subject", "prompt", "target", "old", "paraphrases", "neighbours", "locality", "portability"];

    /// <summary>All facts of a file.</summary>
    /// <exception cref="BadInputException">The file cannot be read, is empty, or a record is of no known layout; the record is named.</exception>
    public static IReadOnlyList<FactEdit> Read(string path)
    {
        var facts = new List<FactEdit>();
        foreach (JsonNode? record in Records(path))
        {
            string where = $"{path}, record {facts.Count + 1}";
            if (record is not JsonObject fact)
            {
                throw new BadInputException($"{where} is not a JSON object; a record has subject, prompt and target.");
            }

            facts.Add(fact.ContainsKey("requested_rewrite") ? CounterFact(fact, where) : fact.ContainsKey("src") ? ZsRe(fact, where) : Own(fact, where));
        }

        return facts.Count > 0 ? facts : throw new BadInputException($"{path} holds no record; write a list of objects with subject, prompt and target.");
    }

    /// <summary>A fact in Scalpel's own layout; what is empty is left out.</summary>
    public static JsonObject ToJson(FactEdit fact)
    {
        var json = new JsonObject { ["subject"] = fact.Subject, ["prompt"] = fact.Prompt, ["target"] = fact.Target };
        if (fact.Old is not null)
        {
            json["old"] = fact.Old;
        }

        foreach ((string key, IReadOnlyList<string> texts) in new[] { ("paraphrases", fact.Paraphrases), ("neighbours", fact.Neighbours), ("locality", fact.Locality) })
        {
            if (texts.Count > 0)
            {
                json[key] = new JsonArray([.. texts.Select(text => (JsonNode?)text)]);
            }
        }

        if (fact.Portability.Count > 0)
        {
            json["portability"] = new JsonArray([.. fact.Portability.Select(item => new JsonObject { ["prompt"] = item.Prompt, ["answer"] = item.Answer })]);
        }

        return json;
    }

    static IEnumerable<JsonNode?> Records(string path)
    {
        string text;
        try
        {
            text = new FileInfo(path).Length > MaxBytes
                ? throw new BadInputException($"{path} is larger than {MaxBytes >> 30} GB; split it.")
                : File.ReadAllText(path);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            throw new BadInputException($"{path} cannot be read: {e.Message}", e);
        }

        var options = new JsonDocumentOptions { MaxDepth = 16, CommentHandling = JsonCommentHandling.Skip, AllowTrailingCommas = true };
        try
        {
            return text.AsSpan().TrimStart().StartsWith("[")
                ? JsonNode.Parse(text, documentOptions: options)!.AsArray()
                : [.. text.Split('\n').Where(line => !string.IsNullOrWhiteSpace(line)).Select(line => JsonNode.Parse(line, documentOptions: options))];
        }
        catch (JsonException e)
        {
            throw new BadInputException($"{path} is not valid JSON: {e.Message}; write one list of objects, or one object a line.", e);
        }
    }

    static FactEdit Own(JsonObject fact, string where)
    {
        foreach ((string key, JsonNode? _) in fact)
        {
            if (!Keys.Contains(key))
            {
                throw new BadInputException($"{where}: unknown key '{key}'; the nearest is {Nearest.To(key, Keys)[0]}; known are {string.Join(", ", Keys)}.");
            }
        }

        return Checked(new FactEdit(Text(fact, "subject", where), Text(fact, "prompt", where), Text(fact, "target", where))
        {
            Old = fact.ContainsKey("old") ? Text(fact, "old", where) : null,
            Paraphrases = Texts(fact, "paraphrases", where),
            Neighbours = Texts(fact, "neighbours", where),
            Locality = Texts(fact, "locality", where),
            Portability = fact["portability"] switch
            {
                null => [],
                JsonArray list when list.All(item => item is JsonObject) => [.. list.Select(item => new Consequence(Text(item!.AsObject(), "prompt", where), Text(item.AsObject(), "answer", where)))],
                _ => throw new BadInputException($"{where}: 'portability' is not a list of {{prompt, answer}}."),
            },
        }, where);
    }

    static FactEdit CounterFact(JsonObject fact, string where)
    {
        if (fact["requested_rewrite"] is not JsonObject rewrite)
        {
            throw new BadInputException($"{where}: requested_rewrite is not an object; CounterFact has prompt, subject, target_new and target_true there.");
        }

        return Checked(new FactEdit(Text(rewrite, "subject", where), Text(rewrite, "prompt", where), Text(Inner(rewrite, "target_new", where), "str", where))
        {
            Old = Text(Inner(rewrite, "target_true", where), "str", where),
            Paraphrases = Texts(fact, "paraphrase_prompts", where),
            Neighbours = Texts(fact, "neighborhood_prompts", where),
        }, where);
    }

    static FactEdit ZsRe(JsonObject fact, string where)
    {
        string subject = Text(fact, "subject", where), question = Text(fact, "src", where);
        int at = question.IndexOf(subject, StringComparison.Ordinal);
        if (at < 0)
        {
            throw new BadInputException($"{where}: the subject \"{subject}\" does not occur in the question \"{question}\".");
        }

        IReadOnlyList<string> answers = Texts(fact, "answers", where);
        // The published loc prompts begin with "nq question: ".
        string? locality = fact.ContainsKey("loc") ? Text(fact, "loc", where).Replace("nq question: ", "", StringComparison.Ordinal) : null;
        return Checked(new FactEdit(subject, string.Concat(question.AsSpan(0, at), "{}", question.AsSpan(at + subject.Length)), fact.ContainsKey("alt") ? Text(fact, "alt", where) : Answer(answers, where))
        {
            Old = fact.ContainsKey("alt") && answers.Count > 0 ? answers[0] : null,
            Paraphrases = fact.ContainsKey("rephrase") ? [Text(fact, "rephrase", where)] : [],
            Locality = locality is null ? [] : [locality],
            Portability = fact["portability"] is JsonObject next ? [new Consequence(Text(next, "New Question", where), Text(next, "New Answer", where))] : [],
        }, where);
    }

    static string Answer(IReadOnlyList<string> answers, string where) =>
        answers.Count > 0 ? answers[0] : throw new BadInputException($"{where} has neither 'alt' nor 'answers'; zsRE has the new answer in one of them.");

    static JsonObject Inner(JsonObject owner, string key, string where) =>
        owner[key] as JsonObject ?? throw new BadInputException($"{where}: '{key}' is not an object.");

    static string Text(JsonObject owner, string key, string where) =>
        owner[key] is JsonValue value && value.GetValueKind() == JsonValueKind.String ? value.GetValue<string>() : throw new BadInputException($"{where} has no text '{key}'.");

    static IReadOnlyList<string> Texts(JsonObject owner, string key, string where) => owner[key] switch
    {
        null => [],
        JsonArray array when array.All(item => item is JsonValue value && value.GetValueKind() == JsonValueKind.String) => [.. array.Select(item => item!.GetValue<string>())],
        _ => throw new BadInputException($"{where}: '{key}' is not a list of texts."),
    };

    static FactEdit Checked(FactEdit fact, string where)
    {
        try
        {
            return fact.Validated();
        }
        catch (BadInputException e)
        {
            throw new BadInputException($"{where}: {e.Message}", e);
        }
    }
}
