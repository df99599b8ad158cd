using System.Globalization;
using System.Text.Json;
using System.Text.Json.Nodes;

namespace Scalpel.Lab.Parity;

/// <summary>
/// One golden case: a folder with a <c>case.json</c> that names the inputs, the expected outputs and the tolerance
/// |ours − expected| ≤ atol + rtol·|expected|.
/// </summary>
public sealed class ParityCase
{
    const int MaxCaseBytes = 4 << 20;

    ParityCase(string folder, JsonObject json)
    {
        Folder = folder;
        Json = json;
    }

    /// <summary>The case's folder.</summary>
    public string Folder { get; }

    /// <summary>The whole of <c>case.json</c>.</summary>
    public JsonObject Json { get; }

    /// <summary>What is computed: decoder, tokenizer, gguf, method, …</summary>
    public string Kind => RequiredString("kind");

    /// <summary>What was called with what, in the reference's own names; empty when absent.</summary>
    public JsonObject Options => Json["options"] as JsonObject ?? [];

    /// <summary>Relative tolerance; 0 when absent.</summary>
    public double RelativeTolerance => Number("rtol");

    /// <summary>Absolute tolerance; 0 when absent.</summary>
    public double AbsoluteTolerance => Number("atol");

    /// <summary>Reads <paramref name="folder"/>/case.json.</summary>
    /// <exception cref="BadInputException">The file is missing, too large or not a JSON object.</exception>
    public static ParityCase Load(string folder)
    {
        string file = System.IO.Path.Combine(folder, "case.json");
        try
        {
            if (new FileInfo(file).Length > MaxCaseBytes)
            {
                throw new BadInputException($"{file} is larger than {MaxCaseBytes} bytes; a case description is a small JSON object.");
            }

            JsonNode? node = JsonNode.Parse(File.ReadAllBytes(file), documentOptions: new JsonDocumentOptions { MaxDepth = 32 });
            return node is JsonObject json
                ? new ParityCase(folder, json)
                : throw new BadInputException($"{file} is not a JSON object; a case description is one.");
        }
        catch (JsonException e)
        {
            throw new BadInputException($"{file} is not valid JSON: {e.Message}", e);
        }
        catch (IOException e)
        {
            throw new BadInputException($"{file} cannot be read: {e.Message}", e);
        }
    }

    /// <summary>The absolute path of a file or folder that the case names under <paramref name="key"/>, relative to the case.</summary>
    /// <exception cref="BadInputException">The key is absent, or nothing is there.</exception>
    public string PathOf(string key)
    {
        string path = System.IO.Path.GetFullPath(System.IO.Path.Combine(Folder, RequiredString(key)));
        return System.IO.Path.Exists(path) ? path : throw new BadInputException($"{Folder}: '{key}' names {path}, which does not exist.");
    }

    /// <summary>Whether the case names something under <paramref name="key"/>.</summary>
    public bool Has(string key) => Json[key] is JsonValue value && value.GetValueKind() == JsonValueKind.String;

    /// <summary>A required option as a string.</summary>
    public string Option(string key) =>
        Options[key] is JsonValue value ? value.ToString() : throw new BadInputException($"{Folder}: options has no '{key}'.");

    string RequiredString(string key) =>
        Has(key) ? Json[key]!.GetValue<string>() : throw new BadInputException($"{Folder}/case.json has no string '{key}'.");

    double Number(string key) => Json["tolerance"] is JsonObject tolerance && tolerance[key] is JsonValue value
        ? double.Parse(value.ToString(), CultureInfo.InvariantCulture)
        : 0;
}
