using System.Globalization;
using System.Text.Json;
using System.Text.Json.Nodes;
using Scalpel.Checkpoints;
using Scalpel.Checkpoints.Gguf;
using TorchSharp;
using static TorchSharp.torch;

namespace Scalpel.Lab.Parity;

/// <summary>GGUF files and blocks: what they hold, what they expand to, what is written; models in them and what they compute.</summary>
public sealed partial class GgufParity : IParityKind
{
    static readonly Dictionary<string, Action<ParityCase, Comparison>> Known = new(StringComparer.Ordinal)
    {
        ["dequantise"] = Dequantise,
        ["quantise"] = Quantise,
        ["metadata"] = Metadata,
        ["model"] = Model,
        ["logits"] = Logits,
        ["generation"] = Generation,
        ["perplexity"] = Perplexity,
        ["facts"] = Facts,
    };

    /// <inheritdoc/>
    public string Kind => "gguf";

    /// <inheritdoc/>
    public string? Unsupported(ParityCase parityCase) => Known.ContainsKey(parityCase.Option("what")) ? null
        : $"gguf cases of '{parityCase.Option("what")}' are not known here; known are {string.Join(", ", Known.Keys)}";

    /// <inheritdoc/>
    public void Run(ParityCase parityCase, Comparison comparison) => Known[parityCase.Option("what")](parityCase, comparison);

    static void Dequantise(ParityCase parityCase, Comparison comparison)
    {
        using SafeTensorsFile inputs = SafeTensorsFile.Open(parityCase.PathOf("inputs")), expected = SafeTensorsFile.Open(parityCase.PathOf("expected"));
        StorageType type = TypeOf(parityCase.Option("type"));
        using Tensor blocks = inputs.Read("blocks"), values = expected.Read("values");
        long count = blocks.numel() / type.BlockBytes();
        using Tensor ours = empty([count, type.BlockElements()]);
        Dequantiser.Expand(type, blocks, ours);
        comparison.Tensors("values", ours.reshape(values.shape), values);
    }

    static void Quantise(ParityCase parityCase, Comparison comparison)
    {
        using SafeTensorsFile inputs = SafeTensorsFile.Open(parityCase.PathOf("inputs")), expected = SafeTensorsFile.Open(parityCase.PathOf("expected"));
        using Tensor values = inputs.Read("values");
        float[] numbers = values.data<float>().ToArray();
        foreach (string name in expected.Entries.Keys)
        {
            StorageType type = TypeOf(name);
            byte[] bytes = new byte[type.ByteLength(values.shape)];
            Quantiser.Quantise(type, numbers, bytes);
            using Tensor theirs = expected.Read(name), ours = tensor(bytes, theirs.shape);
            comparison.Tensors(name, ours, theirs);
        }
    }

    static void Metadata(ParityCase parityCase, Comparison comparison)
    {
        using GgufFile file = GgufFile.Open(parityCase.PathOf("model"));
        using SafeTensorsFile expected = SafeTensorsFile.Open(parityCase.PathOf("expected"));
        var json = (JsonObject)JsonNode.Parse(File.ReadAllBytes(Path.ChangeExtension(parityCase.PathOf("expected"), ".json")))!;
        foreach ((string key, JsonNode? value) in (JsonObject)json["metadata"]!)
        {
            if (!file.Metadata.TryGetValue(key, out object? ours))
            {
                comparison.Mismatch(key, $"the key {key} is missing");
                continue;
            }

            Compare(comparison, key, ours, value!);
        }

        comparison.Sequences("keys", file.Metadata.Keys.Where(key => !key.StartsWith("general.", StringComparison.Ordinal)).Order(StringComparer.Ordinal),
            ((JsonObject)json["metadata"]!).Select(pair => pair.Key).Where(key => !key.StartsWith("general.", StringComparison.Ordinal)).Order(StringComparer.Ordinal));
        comparison.Sequences("names", file.Tensors.Keys.Order(StringComparer.Ordinal), expected.Entries.Keys.Order(StringComparer.Ordinal));
        foreach ((string name, GgufTensor stored) in file.Tensors)
        {
            if (json["shapes"]?[name] is JsonArray shape)
            {
                comparison.Sequences($"shape of {name}", stored.Shape, shape.Select(size => size!.GetValue<long>()));
            }

            using Tensor ours = file.Read(name), theirs = expected.Read(name);
            comparison.Exact($"type of {name}", ours.dtype, theirs.dtype);
            comparison.Tensors(name, ours, theirs);
        }
    }

    static void Compare(Comparison comparison, string name, object ours, JsonNode expected)
    {
        if (expected is JsonArray list)
        {
            Array values = ours as Array ?? Array.Empty<object>();
            comparison.Exact($"length of {name}", values.Length, list.Count);
            for (int i = 0; i < Math.Min(values.Length, list.Count); i++)
            {
                Compare(comparison, $"{name}[{i}]", values.GetValue(i)!, list[i]!);
            }
        }
        else if (ours is float or double)
        {
            comparison.Exact(name, Convert.ToDouble(ours, CultureInfo.InvariantCulture), expected.GetValueKind() == JsonValueKind.String
                ? double.Parse(expected.GetValue<string>(), CultureInfo.InvariantCulture) : expected.GetValue<double>());
        }
        else
        {
            string text = ours is bool flag ? (flag ? "true" : "false") : Convert.ToString(ours, CultureInfo.InvariantCulture)!;
            comparison.Exact(name, text, expected.ToString());
        }
    }

    static StorageType TypeOf(string name) => Enum.TryParse(name, out StorageType type) && type.ToString() == name ? type
        : throw new BadInputException($"The case asks for the block type {name}, which is unknown; known are {string.Join(", ", Enum.GetNames<StorageType>())}.");
}
