using Scalpel.Networks;
using TorchSharp;
using static TorchSharp.torch;

namespace Scalpel.Bench.Works;

/// <summary>One pass over 512 tokens, with the logits of all positions.</summary>
class SmolLM2Prefill512(ScalarType type) : IWork
{
    const int Tokens = 512;
    readonly Decoder model = Decoder.Load(Repository.SmolLM2, type);
    readonly Tensor ids = (arange(Tokens, dtype: ScalarType.Int64) * 7919 % 49152).unsqueeze(0);

    public SmolLM2Prefill512() : this(ScalarType.Float32) { }

    public static string Name => "smollm2_prefill_512";

    public void Run()
    {
        using var inference = inference_mode();
        using Tensor logits = model.Forward(ids);
    }

    public void Dispose()
    {
        ids.Dispose();
        model.Dispose();
    }
}

/// <summary>The same in bfloat16.</summary>
sealed class SmolLM2Prefill512BFloat16() : SmolLM2Prefill512(ScalarType.BFloat16), IWork
{
    public static new string Name => "smollm2_prefill_512_bf16";
}
