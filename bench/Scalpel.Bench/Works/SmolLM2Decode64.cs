using Scalpel.Generation;
using Scalpel.Networks;
using TorchSharp;
using static TorchSharp.torch;

namespace Scalpel.Bench.Works;

/// <summary>64 tokens greedily after a prompt of 16.</summary>
class SmolLM2Decode64(ScalarType type) : IWork
{
    readonly Decoder model = Decoder.Load(Repository.SmolLM2, type);
    readonly int[] prompt = [.. Enumerable.Range(0, 16).Select(i => i * 7919 % 49152)];

    public SmolLM2Decode64() : this(ScalarType.Float32) { }

    public static string Name => "smollm2_decode_64";

    public void Run() => new TextGenerator(model, new() { MaxNewTokens = 64, EndIds = [] }).Generate([prompt]);

    public void Dispose() => model.Dispose();
}

/// <summary>The same in bfloat16.</summary>
sealed class SmolLM2Decode64BFloat16() : SmolLM2Decode64(ScalarType.BFloat16), IWork
{
    public static new string Name => "smollm2_decode_64_bf16";
}
