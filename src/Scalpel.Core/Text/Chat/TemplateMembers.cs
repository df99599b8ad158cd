using System.Globalization;
using System.Text;

namespace Scalpel.Text.Chat;

/// <summary>Members, items and methods of the values of templates.</summary>
static class TemplateMembers
{
    /// <summary>target.name</summary>
    public static object? Get(object? target, string name) => target switch
    {
        OrderedDictionary<string, object?> map when map.TryGetValue(name, out object? value) => value,
        Namespace space when space.Members.TryGetValue(name, out object? value) => value,
        _ => new Undefined(name),
    };

    /// <summary>target[key]</summary>
    public static object? Get(object? target, object? key, int line)
    {
        switch (target, key)
        {
            case (OrderedDictionary<string, object?> or Namespace, string name):
                return Get(target, name);
            case (List<object?> list, long or bool):
                long at = key is long whole ? whole : (bool)key ? 1 : 0;
                at += at < 0 ? list.Count : 0;
                return at >= 0 && at < list.Count ? list[(int)at] : new Undefined($"item {key}");
            case (string text, long at1):
                int[] codes = Pipeline.CodePoints.Of(text);
                at1 += at1 < 0 ? codes.Length : 0;
                return at1 >= 0 && at1 < codes.Length ? char.ConvertFromUtf32(codes[at1]) : new Undefined($"item {key}");
            case (List<object?> or string or null or long or double or bool or OrderedDictionary<string, object?>, _):
                return new Undefined($"item {TemplateValues.Text(key)}");
            default:
                throw TemplateError.At(line, $"{TemplateValues.KindOf(target)} has no items.");
        }
    }

    /// <summary>target[from:to:step]</summary>
    public static object Cut(object? target, long? from, long? to, long? step, int line)
    {
        List<object?> items = target switch
        {
            List<object?> list => list,
            string text => TemplateInterpreter.Sequence(text, line),
            _ => throw TemplateError.At(line, $"{TemplateValues.KindOf(target)} cannot be sliced."),
        };
        long by = step ?? 1;
        if (by == 0)
        {
            throw TemplateError.At(line, "a slice with a step of zero never ends.");
        }

        long n = items.Count, first = Bound(from, by > 0 ? 0 : n - 1), last = Bound(to, by > 0 ? n : -1, isEnd: true);
        var result = new List<object?>();
        for (long i = first; by > 0 ? i < last : i > last; i += by)
        {
            result.Add(items[(int)i]);
        }

        return target is string ? string.Concat(result.Select(TemplateValues.Text)) : result;

        long Bound(long? value, long absent, bool isEnd = false)
        {
            if (value is not { } given)
            {
                return absent;
            }

            given += given < 0 ? n : 0;
            return by > 0 ? Math.Clamp(given, 0, n) : Math.Clamp(given, -1, n - 1);
        }
    }

    /// <summary>target.name(arguments): the methods of Python's strings, lists and dictionaries that templates use.</summary>
    public static object? Call(object? target, string name, List<object?> arguments, Dictionary<string, object?> named, int line)
    {
        object? First(object? absent = null) => arguments.Count > 0 ? arguments[0] : absent;
        string Word(int i) => i < arguments.Count && arguments[i] is string word ? word : throw TemplateError.At(line, $"{name}() takes strings.");
        switch (target)
        {
            case string text:
                return name switch
                {
                    "strip" => Strip(text, First() as string, true, true),
                    "lstrip" => Strip(text, First() as string, true, false),
                    "rstrip" => Strip(text, First() as string, false, true),
                    "split" => SplitText(text, First() as string, Count(arguments, named)),
                    "splitlines" => SplitLines(text),
                    "startswith" => Any(First(), part => text.StartsWith(part, StringComparison.Ordinal)),
                    "endswith" => Any(First(), part => text.EndsWith(part, StringComparison.Ordinal)),
                    "upper" => text.ToUpperInvariant(),
                    "lower" => text.ToLowerInvariant(),
                    "title" => TemplateFilters.Title(text),
                    "capitalize" => TemplateFilters.Capitalize(text),
                    "replace" => Word(0).Length == 0 ? text : text.Replace(Word(0), Word(1), StringComparison.Ordinal),
                    "removeprefix" => text.StartsWith(Word(0), StringComparison.Ordinal) ? text[Word(0).Length..] : text,
                    "removesuffix" => text.EndsWith(Word(0), StringComparison.Ordinal) ? text[..^Word(0).Length] : text,
                    "find" => (long)text.IndexOf(Word(0), StringComparison.Ordinal),
                    "count" => Word(0).Length == 0 ? text.Length + 1L : (text.Length - text.Replace(Word(0), "", StringComparison.Ordinal).Length) / (long)Word(0).Length,
                    "join" => string.Join(text, TemplateInterpreter.Sequence(First(), line).Select(TemplateValues.Text)),
                    "isdigit" => text.Length > 0 && text.All(char.IsDigit),
                    "isalpha" => text.Length > 0 && text.All(char.IsLetter),
                    "isspace" => text.Length > 0 && text.All(char.IsWhiteSpace),
                    _ => throw Unknown(),
                };
            case OrderedDictionary<string, object?> map:
                return name switch
                {
                    "get" => First() is string key && map.TryGetValue(key, out object? value) ? value : arguments.Count > 1 ? arguments[1] : named.GetValueOrDefault("default"),
                    "items" => map.Select(pair => (object?)new List<object?> { pair.Key, pair.Value }).ToList(),
                    "keys" => map.Keys.Select(key => (object?)key).ToList(),
                    "values" => map.Values.ToList(),
                    "copy" => new OrderedDictionary<string, object?>(map, StringComparer.Ordinal),
                    _ => throw Unknown(),
                };
            case List<object?> list:
                return name switch
                {
                    "index" => list.FindIndex(item => TemplateValues.AreEqual(item, First())) is >= 0 and int at ? (long)at : throw TemplateError.At(line, "index() does not find the value."),
                    "count" => (long)list.Count(item => TemplateValues.AreEqual(item, First())),
                    "copy" => list.ToList(),
                    _ => throw Unknown(),
                };
            default:
                throw Unknown();
        }

        BadInputException Unknown() => TemplateError.At(line, $"{TemplateValues.KindOf(target)} has no method '{name}' that Scalpel's templates know.");
    }

    static int Count(List<object?> arguments, Dictionary<string, object?> named) =>
        (arguments.Count > 1 ? arguments[1] : named.GetValueOrDefault("maxsplit")) is long most and >= 0 ? (int)Math.Min(most, int.MaxValue - 1) : int.MaxValue - 1;

    static bool Any(object? argument, Func<string, bool> test) => argument switch
    {
        string part => test(part),
        List<object?> parts => parts.OfType<string>().Any(test),
        _ => false,
    };

    public static string Strip(string text, string? characters, bool left, bool right)
    {
        int from = 0, to = text.Length;
        bool Drops(char unit) => characters is null ? char.IsWhiteSpace(unit) || unit is >= '\x1C' and <= '\x1F' : characters.Contains(unit);
        while (left && from < to && Drops(text[from]))
        {
            from++;
        }

        while (right && to > from && Drops(text[to - 1]))
        {
            to--;
        }

        return text[from..to];
    }

    static List<object?> SplitText(string text, string? separator, int most)
    {
        if (separator is { Length: > 0 })
        {
            return [.. text.Split(separator, most + 1, StringSplitOptions.None)];
        }

        var parts = new List<object?>();
        string rest = Strip(text, null, true, false);
        while (rest.Length > 0)
        {
            int end = parts.Count >= most ? -1 : rest.AsSpan().IndexOfAny(" \t\n\r\f\v\u00a0\u2003\u3000");
            if (end < 0)
            {
                parts.Add(parts.Count >= most ? rest : Strip(rest, null, false, true));
                break;
            }

            parts.Add(rest[..end]);
            rest = Strip(rest[end..], null, true, false);
        }

        return parts;
    }

    static List<object?> SplitLines(string text)
    {
        List<object?> lines = [.. text.Replace("\r\n", "\n", StringComparison.Ordinal).Replace('\r', '\n').Split('\n')];
        if (lines[^1] is "")
        {
            lines.RemoveAt(lines.Count - 1);
        }

        return lines;
    }
}
