using System.Globalization;
using System.Text.Json;

namespace Scalpel.Text.Files;

/// <summary>A JSON value that knows where it stands, so that what is wrong with it can be said.</summary>
readonly struct Json(JsonElement element, string path)
{
    public JsonElement Element => element;

    public string Path => path;

    public JsonValueKind Kind => element.ValueKind;

    /// <summary>A member; a missing one is <see cref="JsonValueKind.Undefined"/>.</summary>
    public Json this[string key]
    {
        get
        {
            JsonElement value = default;
            if (element.ValueKind == JsonValueKind.Object)
            {
                element.TryGetProperty(key, out value);
            }

            return new Json(value, $"{path}.{key}");
        }
    }

    public bool IsNull => element.ValueKind is JsonValueKind.Undefined or JsonValueKind.Null;

    public string Text(string? absent = null) => element.ValueKind switch
    {
        JsonValueKind.String => ReadText(),
        JsonValueKind.Undefined or JsonValueKind.Null when absent is not null => absent,
        _ => throw Wrong("a string"),
    };

    /// <summary>A string; null when it is none or not valid Unicode.</summary>
    public string? TryText()
    {
        try
        {
            return element.ValueKind == JsonValueKind.String ? element.GetString() : null;
        }
        catch (InvalidOperationException)
        {
            return null;
        }
    }

    public bool Flag(bool? absent = null) => element.ValueKind switch
    {
        JsonValueKind.True => true,
        JsonValueKind.False => false,
        JsonValueKind.Undefined or JsonValueKind.Null when absent is not null => absent.Value,
        _ => throw Wrong("true or false"),
    };

    public int Whole(int least, int most, int? absent = null)
    {
        if (IsNull && absent is not null)
        {
            return absent.Value;
        }

        return element.ValueKind == JsonValueKind.Number && element.TryGetInt64(out long value) && value >= least && value <= most
            ? (int)value
            : throw Wrong(string.Create(CultureInfo.InvariantCulture, $"a whole number from {least} to {most}"));
    }

    public double Number() => element.ValueKind == JsonValueKind.Number && element.TryGetDouble(out double value) ? value : throw Wrong("a number");

    public IEnumerable<Json> Items()
    {
        if (element.ValueKind != JsonValueKind.Array)
        {
            throw Wrong("an array");
        }

        return Walk(element, path);

        static IEnumerable<Json> Walk(JsonElement array, string path)
        {
            int i = 0;
            foreach (JsonElement item in array.EnumerateArray())
            {
                yield return new Json(item, $"{path}[{i++}]");
            }
        }
    }

    /// <summary>The error that something is not what was expected.</summary>
    public BadInputException Wrong(string expected)
    {
        string found = element.ValueKind == JsonValueKind.Undefined ? "is missing" : $"is {Shorten(element.GetRawText())}";
        return new BadInputException($"{path} {found}, expected {expected}.");
    }

    /// <summary>The error that something is understood but not supported.</summary>
    public BadInputException Unsupported(string what) => new($"{path}: {what}");

    // Half a surrogate pair, or bytes that are no UTF-8, is no text.
    string ReadText() => TryText() ?? throw Wrong("a string of valid Unicode");

    static string Shorten(string text) => text.Length <= 60 ? text : text[..60] + "…";
}
