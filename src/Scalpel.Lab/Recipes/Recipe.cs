using System.Globalization;
using System.Text.Json.Nodes;
using Scalpel.Methods;
using Scalpel.Methods.Editing;

namespace Scalpel.Lab.Recipes;

/// <summary>A run as a user writes it down: a model, a method with its options, the facts, what to measure, the seed.</summary>
/// <remarks>
/// <code>
/// model: assets/models/smollm2-135m-instruct
/// method: rome
/// options:
///   layer: 5
/// requests: facts.json      # or a list of facts written here
/// locate: true
/// text: held-out.txt        # perplexity and divergence are measured on it
/// seed: 7
/// </code>
/// </remarks>
public sealed record Recipe
{
    static readonly string[] Keys = ["model", "method", "options", "requests", "locate", "text", "seed"];
    static readonly string[] FactKeys = ["subject", "prompt", "target", "old", "paraphrases", "neighbours", "locality"];

    /// <summary>The model: folder, file or hub name; a relative path counts from the recipe's folder.</summary>
    public required string Model { get; init; }

    /// <summary>Name of the method.</summary>
    public required string Method { get; init; }

    /// <summary>Its options; those that are absent keep their defaults.</summary>
    public JsonObject Options { get; init; } = [];

    /// <summary>The facts to edit.</summary>
    public required IReadOnlyList<FactEdit> Requests { get; init; }

    /// <summary>Whether the first fact is traced first, for the report. Default true.</summary>
    public bool Locate { get; init; } = true;

    /// <summary>A file of text that was never edited, on which drift is measured; null for a few paragraphs about other things.</summary>
    public string? Text { get; init; }

    /// <summary>Seed of everything random. Default 0.</summary>
    public ulong Seed { get; init; }

    /// <summary>Reads a recipe.</summary>
    /// <exception cref="BadInputException">The file is malformed, a key is unknown (the nearest is named) or a value is of another kind; the line is named.</exception>
    public static Recipe Load(string path)
    {
        YamlNode root = YamlDocument.Read(path);
        var reader = new Reader(path);
        Dictionary<string, YamlNode> values = reader.Map(root, "the recipe", Keys);
        string folder = Path.GetDirectoryName(Path.GetFullPath(path))!;
        string slug = reader.Text(reader.Required(values, root, "method"), "method");
        MethodDescription method = reader.At(values["method"].Line, () => MethodRegistry.Find(slug));
        return new Recipe
        {
            Model = Located(folder, reader.Text(reader.Required(values, root, "model"), "model")),
            Method = slug,
            Options = values.TryGetValue("options", out YamlNode? options) ? reader.Options(options, method) : [],
            Requests = reader.Requests(reader.Required(values, root, "requests"), folder),
            Locate = !values.TryGetValue("locate", out YamlNode? locate) || reader.Flag(locate, "locate"),
            Text = values.TryGetValue("text", out YamlNode? text) ? Located(folder, reader.Text(text, "text")) : null,
            Seed = values.TryGetValue("seed", out YamlNode? seed) ? reader.Seed(seed) : 0,
        };
    }

    /// <summary>The recipe with every default written out, as a recipe that gives the same run.</summary>
    public string Resolved()
    {
        var text = new System.Text.StringBuilder();
        // JSON values are YAML values, so each is written on one line with its quotes.
        void Line(string key, JsonNode? value) => text.Append(key).Append(": ").Append(value?.ToJsonString(Plain) ?? "null").Append('\n');
        Line("model", Model);
        Line("method", Method);
        Line("options", MethodRegistry.Find(Method).Resolve(Options));
        text.Append("requests:\n");
        foreach (FactEdit fact in Requests)
        {
            text.Append("  - ").Append(FactFile.ToJson(fact).ToJsonString(Plain)).Append('\n');
        }

        Line("locate", Locate);
        if (Text is not null)
        {
            Line("text", Text);
        }

        Line("seed", Seed);
        return text.ToString();
    }

    static readonly System.Text.Json.JsonSerializerOptions Plain = new() { Encoder = System.Text.Encodings.Web.JavaScriptEncoder.UnsafeRelaxedJsonEscaping };

    static string Located(string folder, string name) =>
        name.StartsWith("hf:", StringComparison.Ordinal) ? name : Path.GetFullPath(Path.Combine(folder, name));

    sealed class Reader(string path)
    {
        public Dictionary<string, YamlNode> Map(YamlNode node, string what, IReadOnlyList<string> known)
        {
            if (node is not YamlMap map)
            {
                throw Wrong(node, $"{what} is a map of keys and values");
            }

            foreach ((string key, int line, YamlNode _) in map.Pairs)
            {
                if (!known.Contains(key))
                {
                    throw new BadInputException($"{path}, line {line}: unknown key '{Short(key)}'; the nearest is {Nearest.To(Short(key), known)[0]}; known are {string.Join(", ", known)}.");
                }
            }

            return map.Pairs.ToDictionary(pair => pair.Key, pair => pair.Value, StringComparer.Ordinal);
        }

        public YamlNode Required(Dictionary<string, YamlNode> values, YamlNode owner, string key) =>
            values.TryGetValue(key, out YamlNode? value) ? value : throw new BadInputException($"{path}, line {owner.Line}: '{key}' is missing; it is required.");

        public string Text(YamlNode node, string key) => node is YamlScalar { Text.Length: > 0 } scalar ? scalar.Text : throw Wrong(node, $"'{key}' is one text, not empty");

        public bool Flag(YamlNode node, string key) => node is YamlScalar { Quoted: false, Text: "true" or "false" } scalar ? scalar.Text == "true" : throw Wrong(node, $"'{key}' is true or false");

        public ulong Seed(YamlNode node) => node is YamlScalar scalar && ulong.TryParse(scalar.Text, NumberStyles.None, CultureInfo.InvariantCulture, out ulong seed)
            ? seed
            : throw Wrong(node, "'seed' is a whole number from 0");

        public JsonObject Options(YamlNode node, MethodDescription method)
        {
            if (node is not YamlMap map)
            {
                throw Wrong(node, "'options' is a map of keys and values");
            }

            var all = new JsonObject();
            foreach ((string key, int line, YamlNode value) in map.Pairs)
            {
                JsonNode? json = YamlDocument.ToJson(value);
                // Bound one by one first, so that an error knows its line.
                At(line, () => OptionBinder.Bind(method.OptionsType, new JsonObject { [key] = json?.DeepClone() }, $"method {method.Slug}"));
                all[key] = json;
            }

            At(node.Line, () => method.Create(all));
            return all;
        }

        public IReadOnlyList<FactEdit> Requests(YamlNode node, string folder)
        {
            if (node is YamlScalar { Text.Length: > 0 } file)
            {
                return At(node.Line, () => FactFile.Read(Located(folder, file.Text)));
            }

            if (node is not YamlList { Items.Count: > 0 } list)
            {
                throw Wrong(node, "'requests' is the name of a file or a list of facts");
            }

            return [.. list.Items.Select(item =>
            {
                Dictionary<string, YamlNode> fact = Map(item, "a request", FactKeys);
                return At(item.Line, () => new FactEdit(Text(Required(fact, item, "subject"), "subject"), Text(Required(fact, item, "prompt"), "prompt"), Text(Required(fact, item, "target"), "target"))
                {
                    Old = fact.TryGetValue("old", out YamlNode? old) ? Text(old, "old") : null,
                    Paraphrases = Texts(fact, "paraphrases"),
                    Neighbours = Texts(fact, "neighbours"),
                    Locality = Texts(fact, "locality"),
                }.Validated());
            })];
        }

        public T At<T>(int line, Func<T> read)
        {
            try
            {
                return read();
            }
            catch (BadInputException e) when (!e.Message.StartsWith(path, StringComparison.Ordinal))
            {
                throw new BadInputException($"{path}, line {line}: {e.Message}", e);
            }
        }

        IReadOnlyList<string> Texts(Dictionary<string, YamlNode> values, string key) => !values.TryGetValue(key, out YamlNode? node) ? []
            : node is YamlList list ? [.. list.Items.Select(item => Text(item, key))]
            : throw Wrong(node, $"'{key}' is a list of texts");

        BadInputException Wrong(YamlNode node, string expected) => new($"{path}, line {node.Line}: {expected}; found {node switch
        {
            YamlScalar scalar => $"\"{Short(scalar.Text)}\"",
            YamlList => "a list",
            _ => "a map",
        }}.");

        static string Short(string text) => text.Length <= 60 ? text : text[..60] + "…";
    }
}
