using System.Text;
using System.Text.Json.Nodes;

namespace Scalpel.Lab.Worlds;

/// <summary>Which part of a module an item belongs to.</summary>
public enum TextSplit
{
    /// <summary>What base models are trained on.</summary>
    Train,

    /// <summary>What is measured on.</summary>
    Test,

    /// <summary>What choices are made on.</summary>
    Validation,

    /// <summary>The same distribution, never trained on.</summary>
    Holdout,
}

/// <summary>A named part of a text, in characters.</summary>
/// <param name="Name">What it is.</param>
/// <param name="Start">First character.</param>
/// <param name="End">One past the last.</param>
public readonly record struct TextSpan(string Name, int Start, int End);

/// <summary>One item of the text world, with what is true of it; the truth is planted, never read off the text.</summary>
/// <param name="Id">Module, split and number.</param>
/// <param name="Module">The module.</param>
/// <param name="Split">The split.</param>
/// <param name="Text">Lower-case words and punctuation, one space between.</param>
/// <param name="Spans">Named parts.</param>
/// <param name="Truth">What holds.</param>
public sealed record TextRecord(string Id, string Module, TextSplit Split, string Text, IReadOnlyList<TextSpan> Spans, JsonObject Truth)
{
    /// <summary>The group that it speaks of or belongs to, for evaluations by group.</summary>
    public string? Group { get; init; }

    /// <summary>Year 1 to 5 of a dated text.</summary>
    public int? Date { get; init; }

    /// <summary>Kind of text: stories, news, …</summary>
    public string? Domain { get; init; }

    /// <summary>The first item with the same text.</summary>
    public string? DuplicateOf { get; init; }

    /// <summary>The people whose facts it tells; a stream that excludes one leaves it out.</summary>
    internal IReadOnlyList<Person> People { get; init; } = [];

    /// <summary>The text of a span; null when there is none of the name.</summary>
    public string? this[string span]
    {
        get
        {
            foreach (TextSpan part in Spans)
            {
                if (part.Name == span)
                {
                    return Text[part.Start..part.End];
                }
            }

            return null;
        }
    }

    /// <summary>The record as one JSON object; fields that it lacks are null.</summary>
    public JsonObject ToJson() => new()
    {
        ["id"] = Id,
        ["module"] = Module,
        ["split"] = Split.ToString().ToLowerInvariant(),
        ["text"] = Text,
        ["spans"] = new JsonArray([.. Spans.Select(span => (JsonNode)new JsonObject { ["name"] = span.Name, ["start"] = span.Start, ["end"] = span.End })]),
        ["truth"] = Truth.DeepClone(),
        ["group"] = Group,
        ["date"] = Date,
        ["domain"] = Domain,
        ["duplicateOf"] = DuplicateOf,
    };
}

/// <summary>Writes a text word by word and remembers its parts.</summary>
sealed class Passage
{
    readonly StringBuilder text = new();
    readonly List<TextSpan> spans = [];

    /// <summary>Words so far.</summary>
    public int Words { get; private set; }

    /// <summary>Adds words.</summary>
    public Passage Add(string words)
    {
        if (words.Length == 0)
        {
            return this;
        }

        if (text.Length > 0)
        {
            text.Append(' ');
        }

        text.Append(words);
        Words += 1 + words.AsSpan().Count(' ');
        return this;
    }

    /// <summary>Adds words as a named part.</summary>
    public Passage Add(string span, string words)
    {
        int start = text.Length == 0 ? 0 : text.Length + 1;
        Add(words);
        spans.Add(new TextSpan(span, start, text.Length));
        return this;
    }

    /// <summary>The record.</summary>
    public TextRecord Record(ITextModule module, TextSplit split, int index, JsonObject truth) =>
        new($"{module.Name}-{split.ToString().ToLowerInvariant()}-{index}", module.Name, split, text.ToString(), spans, truth) { Domain = module.Name };

    public override string ToString() => text.ToString();
}
