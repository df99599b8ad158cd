using System.Text.Json.Nodes;
using Scalpel.Checkpoints;
using Scalpel.Generation;

namespace Scalpel.Tests.Generation;

public class SamplingTests
{
    [Fact]
    public void FiltersGiveTheReferencesProbabilities()
    {
        string folder = Repository.Reference("decoders", "sampling-filters");
        JsonNode json = JsonNode.Parse(File.ReadAllText(Path.Combine(folder, "case.json")))!;
        using var inputs = SafeTensorsFile.Open(Path.Combine(folder, "inputs.safetensors"));
        using var expected = SafeTensorsFile.Open(Path.Combine(folder, "expected.safetensors"));
        using TorchSharp.torch.Tensor logits = inputs.Read("logits"), ids = inputs.Read("input_ids");
        int rows = (int)logits.shape[0], width = (int)logits.shape[1], count = (int)ids.shape[1];
        JsonArray filters = json["options"]!["filters"]!.AsArray();
        for (int f = 0; f < filters.Count; f++)
        {
            JsonNode filter = filters[f]!;
            var options = new GenerationOptions
            {
                Temperature = filter["temperature"]?.GetValue<double>() ?? 1,
                TopK = filter["top_k"]?.GetValue<int>(),
                TopP = filter["top_p"]?.GetValue<double>(),
                MinP = filter["min_p"]?.GetValue<double>(),
                RepetitionPenalty = filter["repetition_penalty"]?.GetValue<double>() ?? 1,
            };
            using TorchSharp.torch.Tensor wanted = expected.Read($"probabilities.{f}");
            float[] all = wanted.data<float>().ToArray();
            for (int row = 0; row < rows; row++)
            {
                float[] ours = logits.data<float>().ToArray()[(row * width)..((row + 1) * width)];
                SamplingFilters.Apply(ours, [.. ids.data<long>().ToArray()[(row * count)..((row + 1) * count)].Select(id => (int)id)], options);
                SamplingFilters.Probabilities(ours);
                for (int i = 0; i < width; i++)
                {
                    ((double)ours[i]).ShouldBe(all[row * width + i], 1e-5 + 1e-4 * Math.Abs(all[row * width + i]), $"filter {f}, row {row}, token {i}");
                }
            }
        }
    }

    [Fact]
    public void TopPKeepsTheSmallestSetThatReachesTheMassHoweverLargeTheVocabulary()
    {
        var random = new Random(1);
        foreach (double p in new[] { 0, 0.01, 0.3, 0.9, 0.999 })
        {
            float[] logits = [.. Enumerable.Range(0, 5000).Select(_ => (float)(random.NextDouble() * 12))], probability = [.. logits];
            SamplingFilters.Probabilities(probability);
            SamplingFilters.TopP(logits, p);
            double[] kept = [.. probability.Where((_, i) => float.IsFinite(logits[i])).Select(x => (double)x)];
            kept.Length.ShouldBeGreaterThan(0);
            kept.Min().ShouldBeGreaterThanOrEqualTo(probability.Where((_, i) => !float.IsFinite(logits[i])).DefaultIfEmpty(0).Max());
            kept.Sum().ShouldBeGreaterThanOrEqualTo(p - 1e-6);
            (kept.Sum() - kept.Min()).ShouldBeLessThanOrEqualTo(p + 1e-6);
        }
    }

    [Theory]
    [InlineData("TopK", 0)]
    [InlineData("TopP", 1.5)]
    [InlineData("MinP", -0.1)]
    [InlineData("Temperature", -1)]
    [InlineData("RepetitionPenalty", 0)]
    [InlineData("MaxNewTokens", 0)]
    public void AnOptionOutOfRangeIsNamed(string name, double value)
    {
        GenerationOptions options = name switch
        {
            "TopK" => new() { Temperature = 1, TopK = (int)value },
            "TopP" => new() { Temperature = 1, TopP = value },
            "MinP" => new() { Temperature = 1, MinP = value },
            "Temperature" => new() { Temperature = value },
            "RepetitionPenalty" => new() { RepetitionPenalty = value },
            _ => new() { MaxNewTokens = (int)value },
        };
        Should.Throw<BadInputException>(options.Validate).Message.ShouldStartWith(name);
    }

    [Fact]
    public void AnOptionWithoutEffectIsRefused()
    {
        Should.Throw<BadInputException>(new GenerationOptions { TopK = 5 }.Validate).Message.ShouldContain("no effect");
        new GenerationOptions { TopK = 5, Temperature = 0.7 }.Validate();
    }
}
