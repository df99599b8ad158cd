using System.Globalization;
using System.Text.Json.Nodes;
using YamlDotNet.Core;
using YamlDotNet.Core.Events;

namespace Scalpel.Lab.Recipes;

/// <summary>A value in a YAML file, with the line where it stands.</summary>
/// <param name="Line">Counted from 1.</param>
abstract record YamlNode(int Line);

/// <summary>A plain or quoted value.</summary>
sealed record YamlScalar(int Line, string Text, bool Quoted) : YamlNode(Line);

/// <summary>A list.</summary>
sealed record YamlList(int Line, IReadOnlyList<YamlNode> Items) : YamlNode(Line);

/// <summary>Keys with values, in the order of the file.</summary>
sealed record YamlMap(int Line, IReadOnlyList<(string Key, int Line, YamlNode Value)> Pairs) : YamlNode(Line);

/// <summary>
/// Reads the part of YAML that recipes need. Anchors, aliases, tags, several documents and keys given twice are refused;
/// size, depth and count are bounded before anything is built, so a hostile file costs no more than its length.
/// </summary>
sealed class YamlDocument
{
    const int MaxBytes = 1 << 20, MaxDepth = 16, MaxNodes = 100_000;
    readonly IParser parser;
    readonly string path;
    ParsingEvent? ahead;
    int nodes;

    YamlDocument(string path, IParser parser)
    {
        this.path = path;
        this.parser = parser;
    }

    /// <summary>The file's one document.</summary>
    /// <exception cref="BadInputException">The file cannot be read, is no YAML, or uses what is refused; the line is named.</exception>
    public static YamlNode Read(string path)
    {
        string text;
        try
        {
            long length = new FileInfo(path).Length;
            text = length > MaxBytes
                ? throw new BadInputException($"{path} is larger than {MaxBytes} bytes, which no recipe is.")
                : File.ReadAllText(path, new System.Text.UTF8Encoding(false, throwOnInvalidBytes: true));
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            throw new BadInputException($"{path} cannot be read: {e.Message}", e);
        }
        catch (System.Text.DecoderFallbackException e)
        {
            throw new BadInputException($"{path} is not UTF-8 text; save the recipe as UTF-8.", e);
        }

        var document = new YamlDocument(path, new Parser(new StringReader(text)));
        try
        {
            document.Expect<StreamStart>();
            document.Expect<DocumentStart>();
            YamlNode root = document.Node(1);
            document.Expect<DocumentEnd>();
            document.Expect<StreamEnd>();
            return root;
        }
        catch (YamlException e)
        {
            throw new BadInputException($"{path}, line {e.Start.Line}: not valid YAML: {e.Message.ReplaceLineEndings(" ")}", e);
        }
        catch (Exception e) when (e is ArgumentException or InvalidOperationException or FormatException or OverflowException or IndexOutOfRangeException)
        {
            throw new BadInputException($"{path} is not valid YAML: {e.Message.ReplaceLineEndings(" ")}", e);
        }
    }

    /// <summary>A node as JSON: plain numbers, true, false and null become what they say, quoted text stays text.</summary>
    public static JsonNode? ToJson(YamlNode node) => node switch
    {
        YamlMap map => new JsonObject(map.Pairs.Select(pair => KeyValuePair.Create(pair.Key, ToJson(pair.Value)))),
        YamlList list => new JsonArray([.. list.Items.Select(ToJson)]),
        YamlScalar { Quoted: true } scalar => JsonValue.Create(scalar.Text),
        YamlScalar scalar => Plain(scalar.Text),
        _ => throw new InvalidOperationException(),
    };

    static JsonNode? Plain(string text) => text switch
    {
        "" or "null" or "~" => null,
        "true" => JsonValue.Create(true),
        "false" => JsonValue.Create(false),
        _ when long.TryParse(text, NumberStyles.AllowLeadingSign, CultureInfo.InvariantCulture, out long whole) => JsonValue.Create(whole),
        _ when double.TryParse(text, NumberStyles.Float, CultureInfo.InvariantCulture, out double number) && double.IsFinite(number) => JsonValue.Create(number),
        _ => JsonValue.Create(text),
    };

    YamlNode Node(int depth)
    {
        ParsingEvent at = Next();
        int line = (int)Math.Min(at.Start.Line, int.MaxValue);
        if (depth > MaxDepth)
        {
            throw Refused(line, $"nesting deeper than {MaxDepth}");
        }

        if (++nodes > MaxNodes)
        {
            throw Refused(line, $"more than {MaxNodes} values");
        }

        if (at is AnchorAlias)
        {
            throw Refused(line, "an alias (*)");
        }

        if (at is NodeEvent node && !node.Anchor.IsEmpty)
        {
            throw Refused(line, "an anchor (&)");
        }

        if (at is NodeEvent tagged && !tagged.Tag.IsEmpty && !tagged.Tag.IsNonSpecific)
        {
            throw Refused(line, "a tag (!)");
        }

        switch (at)
        {
            case Scalar scalar:
                return new YamlScalar(line, scalar.Value, scalar.Style is not ScalarStyle.Plain);
            case SequenceStart:
                var items = new List<YamlNode>();
                while (!Ends<SequenceEnd>())
                {
                    items.Add(Node(depth + 1));
                }

                return new YamlList(line, items);
            case MappingStart:
                var pairs = new List<(string, int, YamlNode)>();
                var seen = new HashSet<string>(StringComparer.Ordinal);
                while (!Ends<MappingEnd>())
                {
                    if (Node(depth + 1) is not YamlScalar key)
                    {
                        throw Refused(line, "a key that is a list or a map");
                    }

                    if (!seen.Add(key.Text))
                    {
                        throw new BadInputException($"{path}, line {key.Line}: '{key.Text}' is given twice; keep one of them.");
                    }

                    pairs.Add((key.Text, key.Line, Node(depth + 1)));
                }

                return new YamlMap(line, pairs);
            default:
                throw Refused(line, "an empty document");
        }
    }

    ParsingEvent Peek() => ahead ??= parser.MoveNext() ? parser.Current! : throw new BadInputException($"{path} ends too early; it is no complete YAML file.");

    ParsingEvent Next()
    {
        ParsingEvent at;
        do
        {
            at = Peek();
            ahead = null;
        }
        while (at is Comment);
        return at;
    }

    bool Ends<T>()
    {
        if (Peek() is not T)
        {
            return false;
        }

        Next();
        return true;
    }

    void Expect<T>()
        where T : ParsingEvent
    {
        ParsingEvent at = Next();
        if (at is not T)
        {
            throw at is DocumentStart ? Refused((int)at.Start.Line, "a second document (---)") : new BadInputException($"{path}, line {at.Start.Line}: a recipe is one map of keys and values.");
        }
    }

    BadInputException Refused(int line, string what) => new($"{path}, line {line}: {what} is not accepted in a recipe; write it out plainly.");
}
