using Scalpel.Generation;
using Scalpel.Networks;
using TorchSharp;
using static TorchSharp.torch;

namespace Scalpel.Tests.Generation;

public sealed class DecodeStepTests
{
    static readonly int[][] Prompts = [[3, 17, 5, 9, 22, 4], [7, 11]];

    public static TheoryData<string> Models => [.. Directory.GetDirectories(Repository.Reference("decoders", "_models")).Select(folder => Path.GetFileName(folder)!)
        .Where(name => name is not ("gpt2-tagger" or "llama-classifier")).Order(StringComparer.Ordinal)];

    [Theory]
    [MemberData(nameof(Models))]
    public void DecodingOverMemoryGivesTheLogitsOfThePlainPassForEveryFamily(string name)
    {
        using Decoder model = Decoder.Load(Repository.Reference("decoders", "_models", name));
        Compare(model, tolerance: 1e-4);
    }

    [Theory]
    [InlineData("llama-bf16")]
    [InlineData("gpt2")]
    [InlineData("gpt-neox-parallel")]
    [InlineData("qwen3")]
    [InlineData("gemma")]
    public void InBFloat16ItRoundsWhereTensorsRound(string name)
    {
        using Decoder model = Decoder.Load(Repository.Reference("decoders", "_models", name), ScalarType.BFloat16);
        Compare(model, tolerance: 0.1);
    }

    [Theory]
    [InlineData("mistral")]
    [InlineData("phi3")]
    [InlineData("starcoder2")]
    public void AWindowSlidesUnderTheDecoding(string name)
    {
        using Decoder model = Decoder.Load(Repository.Reference("decoders", "_models", name));
        Compare(model, tolerance: 1e-4, count: 50);
    }

    [Fact]
    public void LongContextsAttendOverAllThreads()
    {
        using Decoder model = Decoder.Load(Repository.SmolLM2);
        int[] prompt = [.. Enumerable.Range(0, 300).Select(i => (i * 37 + 11) % 40000)];
        Compare(model, 2e-3, [prompt], 4);
    }

    static void Compare(Decoder model, double tolerance, int[][]? prompts = null, int count = 12)
    {
        var options = new GenerationOptions { MaxNewTokens = count, EndIds = [], Temperature = 1, Seed = 5 };
        // Both read the same tokens: those that the plain pass samples.
        List<(int?[] Tokens, float[] Logits)> plain = Run(new TextGenerator(model, options) { UseDecodeStep = false });
        var forced = new Forced(plain.Select(step => step.Tokens.Select(t => t!.Value).ToArray()).ToArray());
        List<(int?[] Tokens, float[] Logits)> fast = Run(new TextGenerator(model, options with { Processors = [forced] }));
        fast.Count.ShouldBe(plain.Count);
        double largest = plain.SelectMany(step => step.Logits).Max(Math.Abs);
        for (int i = 0; i < plain.Count; i++)
        {
            fast[i].Tokens.ShouldBe(plain[i].Tokens);
            fast[i].Logits.Zip(plain[i].Logits, (a, b) => Math.Abs(a - b)).Max().ShouldBeLessThan((float)(tolerance * Math.Max(1, largest)));
        }

        List<(int?[], float[])> Run(TextGenerator generator) =>
            [.. generator.Steps(prompts ?? Prompts).Select(step => (step.Tokens.ToArray(), step.Logits.contiguous().data<float>().ToArray()))];
    }

    sealed class Forced(int[][] tokens) : ILogitsProcessor
    {
        public void Process(LogitsContext context, Span<float> logits)
        {
            logits.Fill(float.NegativeInfinity);
            logits[tokens[context.Step][context.Row]] = 0;
        }
    }
}
