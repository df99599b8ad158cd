using System.Text.Json.Nodes;
using Scalpel.Networks;
using Scalpel.Tests;
using TorchSharp;
using static TorchSharp.torch;

namespace Scalpel.Core.Tests.Networks;

/// <summary>The small models of the golden cases, one a family at least, and inputs for them.</summary>
static class TinyModels
{
    static readonly string Folder = Repository.Reference("decoders", "_models");

    /// <summary>Every model with a head for next tokens.</summary>
    public static TheoryData<string> All => [.. Directory.EnumerateDirectories(Folder).Select(Path.GetFileName).Where(name => name is not ("gpt2-tagger" or "llama-classifier")).Order().Select(name => name!)];

    public static Decoder Load(string name, ScalarType dtype = ScalarType.Float32) => Decoder.Load(Path.Combine(Folder, name), dtype);

    public static string PathOf(string name) => Path.Combine(Folder, name);

    public static Tensor Ids(Decoder model, int batch, int count, int seed = 0)
    {
        var random = new Random(seed);
        return tensor(Enumerable.Range(0, batch * count).Select(_ => (long)random.Next(3, model.Config.Vocabulary)).ToArray(), [batch, count]);
    }

    public static DecoderConfig Config(string json) => DecoderConfig.Parse(JsonNode.Parse(json)!.AsObject(), "test");

    public static DecoderConfig Llama(int layers = 2, int heads = 4, int keyHeads = 2, string more = "") => Config($$"""
        {"model_type": "llama", "hidden_size": 32, "num_hidden_layers": {{layers}}, "num_attention_heads": {{heads}}, "num_key_value_heads": {{keyHeads}},
         "intermediate_size": 48, "vocab_size": 50, "max_position_embeddings": 64{{more}}}
        """);

    public static double Difference(Tensor a, Tensor b) => (a - b).abs().max().to_type(ScalarType.Float64).item<double>();
}
