using Scalpel.Networks;

namespace Scalpel.Bench.Works;

/// <summary>SmolLM2-135M from its GGUF file to float32 in memory.</summary>
sealed class SmolLM2Load : IWork
{
    public static string Name => "smollm2_load";

    public void Run() => Decoder.Load(Repository.SmolLM2).Dispose();

    public void Dispose()
    {
    }
}
