using System.Collections;
using System.Globalization;
using System.Reflection;
using System.Text.Json;
using System.Text.Json.Nodes;

namespace Scalpel.Methods;

/// <summary>
/// Binds options records: a key is a property's name in snake_case; a value is JSON, or text as the command line gives it
/// ("0.1", "3,4,5"). An unknown key is an error, never ignored.
/// </summary>
public static class OptionBinder
{
    /// <summary>An options record with the given values over its defaults.</summary>
    /// <param name="type">The options record, with a constructor without parameters.</param>
    /// <param name="values">Values by key.</param>
    /// <param name="owner">Who has the options, for the error: "method rome".</param>
    /// <exception cref="BadInputException">A key is unknown (the nearest is named) or a value is of another type.</exception>
    public static object Bind(Type type, JsonObject values, string owner)
    {
        object options = Activator.CreateInstance(type)!;
        PropertyInfo[] properties = PropertiesOf(type);
        foreach ((string key, JsonNode? value) in values)
        {
            PropertyInfo? property = properties.FirstOrDefault(p => NameOf(p) == key);
            if (property is null)
            {
                throw new BadInputException(properties.Length == 0
                    ? $"{owner} has no option '{key}'; it has none at all."
                    : $"{owner} has no option '{key}'; the nearest is {Nearest.To(key, properties.Select(NameOf))[0]}; all of them: {string.Join(", ", properties.Select(NameOf))}.");
            }

            try
            {
                property.SetValue(options, Convert(value, property.PropertyType, IsNullable(property)));
            }
            catch (Exception e) when (e is FormatException or OverflowException or InvalidOperationException or ArgumentException)
            {
                throw new BadInputException($"{owner}: option '{key}' is {value?.ToJsonString() ?? "null"}, expected {Words(property.PropertyType)}.", e);
            }
        }

        return options;
    }

    /// <summary>"key=value" pairs of the command line as an object; a key given twice is an error.</summary>
    /// <exception cref="BadInputException">A pair has no equals sign, or a key occurs twice.</exception>
    public static JsonObject FromPairs(IEnumerable<string> pairs)
    {
        var values = new JsonObject();
        foreach (string pair in pairs)
        {
            int at = pair.IndexOf('=', StringComparison.Ordinal);
            if (at <= 0)
            {
                throw new BadInputException($"'{pair}' is not key=value; write for example learning_rate=0.1.");
            }

            if (!values.TryAdd(pair[..at].Trim(), JsonValue.Create(pair[(at + 1)..].Trim())))
            {
                throw new BadInputException($"Option '{pair[..at].Trim()}' is set twice; set it once.");
            }
        }

        return values;
    }

    /// <summary>All options of a record with their values.</summary>
    public static JsonObject ToJson(object options) =>
        new(PropertiesOf(options.GetType()).Select(p => KeyValuePair.Create(NameOf(p), ToNode(p.GetValue(options)))));

    /// <summary>The options of a record with defaults and documentation.</summary>
    public static IReadOnlyList<MethodOption> Describe(Type type)
    {
        object defaults = Activator.CreateInstance(type)!;
        return [.. PropertiesOf(type).Select(p => new MethodOption(NameOf(p), Words(p.PropertyType), ToNode(p.GetValue(defaults)), XmlDocumentation.Of(p) ?? ""))];
    }

    static PropertyInfo[] PropertiesOf(Type type) =>
        [.. type.GetProperties(BindingFlags.Public | BindingFlags.Instance).Where(p => p.SetMethod is not null).OrderBy(p => p.DeclaringType == type).ThenBy(p => p.MetadataToken)];

    static string NameOf(PropertyInfo property) => JsonNamingPolicy.SnakeCaseLower.ConvertName(property.Name);

    static bool IsNullable(PropertyInfo property) =>
        Nullable.GetUnderlyingType(property.PropertyType) is not null || new NullabilityInfoContext().Create(property).WriteState == NullabilityState.Nullable;

    static object? Convert(JsonNode? value, Type type, bool nullable)
    {
        if (value is null)
        {
            return nullable ? null : throw new FormatException("null");
        }

        Type target = Nullable.GetUnderlyingType(type) ?? type;
        if (ElementOf(target) is { } element)
        {
            IEnumerable<JsonNode?> items = value is JsonArray array
                ? array
                : value.ToString().Trim('[', ']').Split(',', StringSplitOptions.RemoveEmptyEntries | StringSplitOptions.TrimEntries).Select(text => (JsonNode?)JsonValue.Create(text));
            object?[] converted = [.. items.Select(item => Convert(item, element, nullable: false))];
            var result = Array.CreateInstance(element, converted.Length);
            converted.CopyTo(result, 0);
            return result;
        }

        if (value is not JsonValue)
        {
            throw new FormatException("a list or an object where one value is expected");
        }

        string text = value.ToString();
        if (target.IsEnum)
        {
            string? name = Enum.GetNames(target).FirstOrDefault(n => JsonNamingPolicy.SnakeCaseLower.ConvertName(n) == text);
            return name is null ? throw new FormatException(text) : Enum.Parse(target, name);
        }

        // Each case boxes its own type; a conditional expression would widen them to a common one.
        return Type.GetTypeCode(target) switch
        {
            TypeCode.String => text,
            TypeCode.Boolean => (object)bool.Parse(text),
            TypeCode.Double => (object)Finite(double.Parse(text, NumberStyles.Float, CultureInfo.InvariantCulture)),
            TypeCode.Int32 => (object)int.Parse(text, NumberStyles.AllowLeadingSign, CultureInfo.InvariantCulture),
            TypeCode.Int64 => (object)long.Parse(text, NumberStyles.AllowLeadingSign, CultureInfo.InvariantCulture),
            TypeCode.UInt64 => (object)ulong.Parse(text, NumberStyles.None, CultureInfo.InvariantCulture),
            _ => throw new NotSupportedException($"{target} is no type of an option."),
        };
    }

    static double Finite(double value) => double.IsFinite(value) ? value : throw new FormatException("not finite");

    static JsonNode? ToNode(object? value) => value switch
    {
        null => null,
        string text => JsonValue.Create(text),
        bool flag => JsonValue.Create(flag),
        int number => JsonValue.Create(number),
        long number => JsonValue.Create(number),
        ulong number => JsonValue.Create(number),
        double number => JsonValue.Create(number),
        Enum name => JsonValue.Create(JsonNamingPolicy.SnakeCaseLower.ConvertName(name.ToString())),
        IEnumerable list => new JsonArray([.. list.Cast<object?>().Select(ToNode)]),
        _ => throw new NotSupportedException($"{value.GetType()} is no type of an option."),
    };

    static Type? ElementOf(Type type) =>
        type.IsArray ? type.GetElementType()
        : type.IsGenericType && type.GetGenericTypeDefinition() == typeof(IReadOnlyList<>) ? type.GetGenericArguments()[0]
        : null;

    static string Words(Type type)
    {
        Type target = Nullable.GetUnderlyingType(type) ?? type;
        return ElementOf(target) is { } element ? $"list of {Words(element)}"
            : target.IsEnum ? $"one of {string.Join(", ", Enum.GetNames(target).Select(JsonNamingPolicy.SnakeCaseLower.ConvertName))}"
            : target == typeof(string) ? "text"
            : target == typeof(bool) ? "true or false"
            : target == typeof(double) ? "number"
            : target == typeof(ulong) ? "non-negative integer"
            : "integer";
    }
}
