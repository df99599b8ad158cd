using System.Globalization;
using System.Text.Json;
using System.Text.Json.Nodes;

namespace Scalpel.Lab.Parity;

/// <summary>Reads one object of a case's options; what nobody asked for is an error at the end, so no option passes unheeded.</summary>
sealed class CaseOptions(JsonObject json, string where)
{
    readonly HashSet<string> asked = new(StringComparer.Ordinal);

    public bool Has(string key)
    {
        asked.Add(key);
        return json[key] is not null;
    }

    public double Number(string key, double otherwise) => Has(key) ? Parse(json[key]!) : otherwise;

    public double? NumberOrNull(string key) => Has(key) ? Parse(json[key]!) : null;

    public bool IsFlag(string key) => json[key]?.GetValueKind() is JsonValueKind.True or JsonValueKind.False;

    public bool Flag(string key, bool otherwise = false) => Has(key) ? json[key]!.GetValue<bool>() : otherwise;

    public string Text(string key, string otherwise) => Has(key) ? json[key]!.GetValue<string>() : otherwise;

    public string Text(string key) => Has(key) ? json[key]!.GetValue<string>() : throw new BadInputException($"{where}: the options have no '{key}'.");

    public double[]? Numbers(string key) => Has(key) ? [.. json[key]!.AsArray().Select(node => node is null ? double.NaN : Parse(node))] : null;

    public string[] Texts(string key) => Has(key)
        ? json[key] is JsonArray array ? [.. array.Select(node => node!.GetValue<string>())] : [json[key]!.GetValue<string>()]
        : [];

    public CaseOptions Part(string key) => new(Has(key) ? json[key]!.AsObject() : [], $"{where}: {key}");

    /// <summary>Marks keys that change nothing here.</summary>
    public CaseOptions Ignore(params string[] keys)
    {
        asked.UnionWith(keys);
        return this;
    }

    public void Finish()
    {
        string[] unknown = [.. json.Where(pair => pair.Value is not null && !asked.Contains(pair.Key)).Select(pair => pair.Key)];
        if (unknown.Length > 0)
        {
            throw new BadInputException($"{where}: the option '{unknown[0]}' is not known here.");
        }
    }

    static double Parse(JsonNode node) => node.GetValueKind() == JsonValueKind.String
        ? double.Parse(node.GetValue<string>(), CultureInfo.InvariantCulture)
        : double.Parse(node.ToJsonString(), CultureInfo.InvariantCulture);
}
