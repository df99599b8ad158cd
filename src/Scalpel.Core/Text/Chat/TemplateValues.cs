using System.Globalization;
using System.Text;
using System.Text.Json;
using System.Text.Json.Nodes;

namespace Scalpel.Text.Chat;

/// <summary>What a name stands for that nothing defines; printing it prints nothing, using it is an error.</summary>
sealed record Undefined(string Name);

/// <summary>A namespace: the one thing whose members a template may set.</summary>
sealed class Namespace
{
    public Dictionary<string, object?> Members { get; } = new(StringComparer.Ordinal);
}

/// <summary>A function that a template may call.</summary>
delegate object? Callable(IReadOnlyList<object?> positional, IReadOnlyDictionary<string, object?> named);

/// <summary>
/// The values of templates: null, bool, long, double, string, <see cref="List{T}"/>, <see cref="OrderedDictionary{TKey, TValue}"/>,
/// <see cref="Namespace"/>, <see cref="Callable"/> and <see cref="Undefined"/>, with Python's notions of truth, equality and text.
/// </summary>
static class TemplateValues
{
    /// <summary>JSON as values.</summary>
    public static object? Of(JsonNode? node)
    {
        switch (node)
        {
            case null:
                return null;
            case JsonArray array:
                return array.Select(Of).ToList();
            case JsonObject obj:
                var map = new OrderedDictionary<string, object?>(StringComparer.Ordinal);
                foreach ((string key, JsonNode? value) in obj)
                {
                    map[key] = Of(value);
                }

                return map;
            default:
                return node.GetValueKind() switch
                {
                    JsonValueKind.True => true,
                    JsonValueKind.False => false,
                    JsonValueKind.String => node.GetValue<string>(),
                    JsonValueKind.Number => long.TryParse(node.ToString(), NumberStyles.AllowLeadingSign, CultureInfo.InvariantCulture, out long whole) ? (object)whole : double.Parse(node.ToString(), CultureInfo.InvariantCulture),
                    _ => null,
                };
        }
    }

    public static bool IsTrue(object? value) => value switch
    {
        null or Undefined => false,
        bool flag => flag,
        long whole => whole != 0,
        double number => number != 0,
        string text => text.Length > 0,
        List<object?> list => list.Count > 0,
        OrderedDictionary<string, object?> map => map.Count > 0,
        _ => true,
    };

    public static bool AreEqual(object? a, object? b)
    {
        if (Number(a) is { } x && Number(b) is { } y)
        {
            return x == y;
        }

        return (a, b) switch
        {
            (null, null) or (Undefined, Undefined) => true,
            (string s, string t) => string.Equals(s, t, StringComparison.Ordinal),
            (List<object?> s, List<object?> t) => s.Count == t.Count && s.Zip(t).All(pair => AreEqual(pair.First, pair.Second)),
            (OrderedDictionary<string, object?> s, OrderedDictionary<string, object?> t) => s.Count == t.Count && s.All(pair => t.TryGetValue(pair.Key, out object? other) && AreEqual(pair.Value, other)),
            _ => ReferenceEquals(a, b),
        };
    }

    /// <summary>A number, or true and false as 1 and 0; null for anything else.</summary>
    public static double? Number(object? value) => value switch
    {
        bool flag => flag ? 1 : 0,
        long whole => whole,
        double number => number,
        _ => null,
    };

    public static string KindOf(object? value) => value switch
    {
        null => "none",
        Undefined undefined => $"the undefined '{undefined.Name}'",
        bool => "a boolean",
        long => "a whole number",
        double => "a number",
        string => "a string",
        List<object?> => "a list",
        OrderedDictionary<string, object?> => "a mapping",
        Namespace => "a namespace",
        _ => "a function",
    };

    /// <summary>Python's str().</summary>
    public static string Text(object? value) => value switch
    {
        string text => text,
        Undefined => "",
        _ => Shown(value),
    };

    /// <summary>Python's repr().</summary>
    static string Shown(object? value)
    {
        switch (value)
        {
            case null:
                return "None";
            case bool flag:
                return flag ? "True" : "False";
            case long whole:
                return whole.ToString(CultureInfo.InvariantCulture);
            case double number:
                return Float(number);
            case string text:
                char quote = text.Contains('\'') && !text.Contains('"') ? '"' : '\'';
                var escaped = new StringBuilder().Append(quote);
                foreach (char unit in text)
                {
                    escaped.Append(unit == quote || unit == '\\' ? $"\\{unit}" : unit == '\n' ? "\\n" : unit == '\r' ? "\\r" : unit == '\t' ? "\\t" : unit < ' ' || unit == 127 ? $"\\x{(int)unit:x2}" : unit.ToString());
                }

                return escaped.Append(quote).ToString();
            case List<object?> list:
                return $"[{string.Join(", ", list.Select(Shown))}]";
            case OrderedDictionary<string, object?> map:
                return $"{{{string.Join(", ", map.Select(pair => $"{Shown(pair.Key)}: {Shown(pair.Value)}"))}}}";
            case Undefined:
                return "Undefined";
            default:
                return $"<{KindOf(value)[2..]}>";
        }
    }

    static string Float(double number)
    {
        string text = number.ToString("R", CultureInfo.InvariantCulture);
        if (double.IsFinite(number))
        {
            int exponent = number == 0 ? 0 : (int)Math.Floor(Math.Log10(Math.Abs(number)));
            if (exponent is < -4 or >= 16)
            {
                string[] parts = number.ToString("E16", CultureInfo.InvariantCulture).Split('E');
                string digits = text.Contains('E', StringComparison.Ordinal) ? text.Split('E')[0] : parts[0].TrimEnd('0').TrimEnd('.');
                int power = int.Parse(parts[1], CultureInfo.InvariantCulture);
                return $"{digits}e{(power < 0 ? "-" : "+")}{Math.Abs(power):00}";
            }

            return text.Contains('.', StringComparison.Ordinal) ? text : text + ".0";
        }

        return double.IsNaN(number) ? "nan" : number > 0 ? "inf" : "-inf";
    }

    /// <summary>Python's json.dumps with ensure_ascii=False, as transformers sets the filter up.</summary>
    public static string ToJson(object? value, int? indent, (string Item, string Key)? separators, bool sortKeys)
    {
        var text = new StringBuilder();
        (string item, string key) = separators ?? (indent is null ? ", " : ",", ": ");
        Write(value, 0);
        return text.ToString();

        void Write(object? part, int level)
        {
            switch (part)
            {
                case null:
                    text.Append("null");
                    break;
                case bool flag:
                    text.Append(flag ? "true" : "false");
                    break;
                case long or double:
                    text.Append(Shown(part));
                    break;
                case string s:
                    Quote(s);
                    break;
                case List<object?> list:
                    Enclose('[', ']', list.Count, level, list.Select<object?, Action>(entry => () => Write(entry, level + 1)));
                    break;
                case OrderedDictionary<string, object?> map:
                    IEnumerable<KeyValuePair<string, object?>> pairs = sortKeys ? map.OrderBy(pair => pair.Key, StringComparer.Ordinal) : map;
                    Enclose('{', '}', map.Count, level, pairs.Select<KeyValuePair<string, object?>, Action>(pair => () =>
                    {
                        Quote(pair.Key);
                        text.Append(key);
                        Write(pair.Value, level + 1);
                    }));
                    break;
                default:
                    throw new BadInputException($"The chat template turns {KindOf(part)} into JSON, which has no such value.");
            }
        }

        void Enclose(char open, char close, int count, int level, IEnumerable<Action> entries)
        {
            text.Append(open);
            bool first = true;
            foreach (Action entry in entries)
            {
                text.Append(first ? "" : item);
                first = false;
                Break(level + 1);
                entry();
            }

            if (count > 0)
            {
                Break(level);
            }

            text.Append(close);
        }

        void Break(int level)
        {
            if (indent is { } width)
            {
                text.Append('\n').Append(' ', width * level);
            }
        }

        void Quote(string s)
        {
            text.Append('"');
            foreach (char unit in s)
            {
                text.Append(unit switch
                {
                    '"' => "\\\"",
                    '\\' => "\\\\",
                    '\n' => "\\n",
                    '\r' => "\\r",
                    '\t' => "\\t",
                    '\b' => "\\b",
                    '\f' => "\\f",
                    < ' ' => $"\\u{(int)unit:x4}",
                    _ => unit.ToString(),
                });
            }

            text.Append('"');
        }
    }
}
