using System.Globalization;
using System.Text;

namespace Scalpel.Text.Chat;

/// <summary>Filters (value | name) and tests (value is name).</summary>
static class TemplateFilters
{
    public static object? Apply(string name, object? value, List<object?> arguments, Dictionary<string, object?> named, int line)
    {
        object? Argument(int place, string key, object? absent = null) =>
            place < arguments.Count ? arguments[place] : named.TryGetValue(key, out object? given) ? given : absent;
        List<object?> Items() => TemplateInterpreter.Sequence(value, line);
        switch (name)
        {
            case "trim":
                return TemplateMembers.Strip(Text(), Argument(0, "chars") as string, true, true);
            case "upper":
                return Text().ToUpperInvariant();
            case "lower":
                return Text().ToLowerInvariant();
            case "capitalize":
                return Capitalize(Text());
            case "title":
                return Title(Text());
            case "string" or "safe":
                return Text();
            case "replace":
                string old = TemplateValues.Text(Argument(0, "old"));
                return old.Length == 0 ? Text() : Text().Replace(old, TemplateValues.Text(Argument(1, "new")), StringComparison.Ordinal);
            case "indent":
                return Indent(Text(), Argument(0, "width", 4L), TemplateValues.IsTrue(Argument(1, "first")), TemplateValues.IsTrue(Argument(2, "blank")));
            case "tojson":
                (string, string)? separators = named.GetValueOrDefault("separators") is List<object?> { Count: 2 } pair ? (TemplateValues.Text(pair[0]), TemplateValues.Text(pair[1])) : null;
                int? indent = Argument(0, "indent") is long width ? (int)Math.Clamp(width, 0, 64) : null;
                return TemplateValues.ToJson(value, indent, separators, TemplateValues.IsTrue(named.GetValueOrDefault("sort_keys")));
            case "length" or "count":
                return value switch
                {
                    string text => (long)Pipeline.CodePoints.Of(text).Length,
                    Undefined => 0L,
                    _ => (long)Items().Count,
                };
            case "default" or "d":
                return value is Undefined || (TemplateValues.IsTrue(Argument(1, "boolean")) && !TemplateValues.IsTrue(value)) ? Argument(0, "default_value", "") : value;
            case "first":
                return Items() is { Count: > 0 } starts ? starts[0] : new Undefined("the first of nothing");
            case "last":
                return Items() is { Count: > 0 } ends ? ends[^1] : new Undefined("the last of nothing");
            case "list":
                return Items().ToList();
            case "reverse":
                return value is string forwards ? string.Concat(Items().AsEnumerable().Reverse().Select(TemplateValues.Text)) : Items().AsEnumerable().Reverse().ToList();
            case "join":
                IEnumerable<object?> parts = Argument(1, "attribute") is string attribute ? Items().Select(item => Path(item, attribute)) : Items();
                return string.Join(TemplateValues.Text(Argument(0, "d", "")), parts.Select(TemplateValues.Text));
            case "int":
                return value switch
                {
                    double number when double.IsFinite(number) => (long)number,
                    string digits when long.TryParse(digits.Trim(), NumberStyles.AllowLeadingSign, CultureInfo.InvariantCulture, out long whole) => whole,
                    _ => TemplateValues.Number(value) is { } n ? (long)n : Argument(0, "default", 0L),
                };
            case "float":
                return value is string decimals && double.TryParse(decimals, CultureInfo.InvariantCulture, out double parsed) ? parsed : TemplateValues.Number(value) ?? Argument(0, "default", 0.0);
            case "abs":
                return value is long and not long.MinValue ? (object)Math.Abs((long)value) : Math.Abs(TemplateValues.Number(value) ?? throw Wrong("a number"));
            case "items":
                return value is Undefined ? new List<object?>() : TemplateMembers.Call(value, "items", [], named, line);
            case "dictsort":
                return value is OrderedDictionary<string, object?> map
                    ? map.OrderBy(entry => entry.Key, StringComparer.OrdinalIgnoreCase).Select(entry => (object?)new List<object?> { entry.Key, entry.Value }).ToList()
                    : throw Wrong("a mapping");
            case "map":
                return Map(Items(), arguments, named, line);
            case "select" or "reject":
                return Items().FindAll(item => Passes(item, arguments, 0, line) == (name == "select"));
            case "selectattr" or "rejectattr":
                string path = arguments.Count > 0 && arguments[0] is string given0 ? given0 : throw Wrong("the name of a member");
                return Items().FindAll(item => Passes(Path(item, path), arguments, 1, line) == (name == "selectattr"));
            case "unique":
                var seen = new List<object?>();
                foreach (object? item in Items())
                {
                    if (!seen.Exists(other => TemplateValues.AreEqual(other, item)))
                    {
                        seen.Add(item);
                    }
                }

                return seen;
            case "sort":
                IEnumerable<object?> ordered = Items();
                Func<object?, object?> key = Argument(2, "attribute") is string by ? item => Path(item, by) : item => item;
                ordered = ordered.OrderBy(item => TemplateValues.Number(key(item)) ?? 0).ThenBy(item => TemplateValues.Text(key(item)), StringComparer.OrdinalIgnoreCase);
                return TemplateValues.IsTrue(Argument(0, "reverse")) ? ordered.Reverse().ToList() : ordered.ToList();
            case "sum":
                return Items().Aggregate((object?)0L, (total, item) => TemplateArithmetic.Apply("+", total, item) ?? throw Wrong("numbers"));
            case "min" or "max":
                return Items().Count == 0 ? new Undefined(name) : name == "min" ? Items().MinBy(item => TemplateValues.Number(item) ?? 0) : Items().MaxBy(item => TemplateValues.Number(item) ?? 0);
            case "escape" or "e":
                return Text().Replace("&", "&amp;", StringComparison.Ordinal).Replace("<", "&lt;", StringComparison.Ordinal).Replace(">", "&gt;", StringComparison.Ordinal).Replace("\"", "&#34;", StringComparison.Ordinal).Replace("'", "&#39;", StringComparison.Ordinal);
            default:
                throw TemplateError.At(line, $"the filter '{name}' is not supported.");
        }

        string Text() => TemplateValues.Text(value);

        BadInputException Wrong(string expected) => TemplateError.At(line, $"the filter '{name}' takes {expected}, not {TemplateValues.KindOf(value)}.");
    }

    public static bool Test(string name, object? value, List<object?> arguments, int line)
    {
        object? argument = arguments.Count > 0 ? arguments[0] : null;
        return name switch
        {
            "defined" => value is not Undefined,
            "undefined" => value is Undefined,
            "none" => value is null,
            "string" => value is string,
            "mapping" => value is OrderedDictionary<string, object?> or Namespace,
            "sequence" => value is List<object?> or string or OrderedDictionary<string, object?>,
            "iterable" => value is List<object?> or string or OrderedDictionary<string, object?> or Undefined,
            "number" => value is long or double or bool,
            "integer" => value is long,
            "float" => value is double,
            "boolean" => value is bool,
            "true" => value is true,
            "false" => value is false,
            "callable" => value is Callable,
            "equalto" or "eq" or "==" => TemplateValues.AreEqual(value, argument),
            "ne" or "!=" => !TemplateValues.AreEqual(value, argument),
            "in" => TemplateArithmetic.Holds("in", value, argument, line),
            "gt" or "greaterthan" or ">" => TemplateArithmetic.Holds(">", value, argument, line),
            "ge" => TemplateArithmetic.Holds(">=", value, argument, line),
            "lt" or "lessthan" or "<" => TemplateArithmetic.Holds("<", value, argument, line),
            "le" => TemplateArithmetic.Holds("<=", value, argument, line),
            "odd" => value is long odd && odd % 2 != 0,
            "even" => value is long even && even % 2 == 0,
            "divisibleby" => value is long whole && argument is long by && by != 0 && whole % by == 0,
            "upper" => value is string upper && upper == upper.ToUpperInvariant() && upper.Any(char.IsLetter),
            "lower" => value is string lower && lower == lower.ToLowerInvariant() && lower.Any(char.IsLetter),
            "sameas" => ReferenceEquals(value, argument) || (value is bool or null && Equals(value, argument)),
            _ => throw TemplateError.At(line, $"the test '{name}' is not supported."),
        };
    }

    static List<object?> Map(List<object?> items, List<object?> arguments, Dictionary<string, object?> named, int line)
    {
        if (named.GetValueOrDefault("attribute") is string attribute)
        {
            bool hasDefault = named.TryGetValue("default", out object? absent);
            return items.ConvertAll(item => Path(item, attribute) is { } value && (value is not Undefined || !hasDefault) ? value : hasDefault ? absent : null);
        }

        return arguments.Count > 0 && arguments[0] is string filter
            ? items.ConvertAll(item => Apply(filter, item, arguments[1..], named, line))
            : throw TemplateError.At(line, "the filter 'map' needs attribute= or the name of a filter.");
    }

    static bool Passes(object? value, List<object?> arguments, int test, int line) => arguments.Count <= test
        ? TemplateValues.IsTrue(value)
        : Test(TemplateValues.Text(arguments[test]), value, arguments[(test + 1)..], line);

    static object? Path(object? item, string path)
    {
        foreach (string name in path.Split('.'))
        {
            item = long.TryParse(name, NumberStyles.None, CultureInfo.InvariantCulture, out long place) ? TemplateMembers.Get(item, place, 0) : TemplateMembers.Get(item, name);
        }

        return item;
    }

    public static string Capitalize(string text) => text.Length == 0 ? text : text[..1].ToUpperInvariant() + text[1..].ToLowerInvariant();

    public static string Title(string text)
    {
        var result = new StringBuilder(text.Length);
        bool inside = false;
        foreach (char unit in text)
        {
            result.Append(inside ? char.ToLowerInvariant(unit) : char.ToUpperInvariant(unit));
            inside = char.IsLetter(unit);
        }

        return result.ToString();
    }

    static string Indent(string text, object? width, bool first, bool blank)
    {
        string space = width is string given ? given : new string(' ', (int)Math.Clamp(TemplateValues.Number(width) ?? 4, 0, 1000));
        string[] lines = text.Split('\n');
        for (int i = first ? 0 : 1; i < lines.Length; i++)
        {
            lines[i] = blank || lines[i].Length > 0 ? space + lines[i] : lines[i];
        }

        return string.Join('\n', lines);
    }
}
