using Scalpel.Checkpoints;
using Scalpel.Generation;
using Scalpel.Networks;
using Scalpel.Patches;
using Scalpel.Training;
using TorchSharp;
using static TorchSharp.torch;

namespace Scalpel.Tests.Training;

public sealed class AdapterTests
{
    static string Case(string name) => Path.Combine(Repository.Root, "tests", "Reference", "tuning", name);

    static (Decoder Model, Adapter Adapter, Tensor Ids) Load(string name)
    {
        using SafeTensorsFile inputs = SafeTensorsFile.Open(Path.Combine(Case(name), "inputs.safetensors"));
        string json = File.ReadAllText(Path.Combine(Case(name), "case.json"));
        string model = System.Text.Json.Nodes.JsonNode.Parse(json)!["model"]!.GetValue<string>();
        Decoder decoder = Decoder.Load(Path.GetFullPath(Path.Combine(Case(name), model)));
        return (decoder, PeftFolder.Read(Path.Combine(Case(name), "adapter"), decoder), inputs.Read("input_ids"));
    }

    [Theory]
    [InlineData("lora-qv-rslora")]
    [InlineData("lora-all-linear")]
    [InlineData("lora-lora-bias")]
    [InlineData("lora-embedding")]
    [InlineData("dora-all-linear")]
    [InlineData("dora-conv1d")]
    [InlineData("ia3")]
    public void EverySampleOfABatchHasItsOwnScale(string name)
    {
        using var scope = NewDisposeScope();
        using var noGrad = no_grad();
        (Decoder model, Adapter adapter, Tensor ids) = Load(name);
        using (model)
        using (adapter)
        {
            Tensor one = ids.narrow(0, 0, 1), three = one.repeat(3, 1);
            float[] scales = [0, 0.5f, 1];
            Tensor[] apart = [.. scales.Select(scale =>
            {
                using IDisposable attached = adapter.AttachTo(model, scale);
                return model.Forward(one);
            })];
            Tensor bare = model.Forward(one), together;
            adapter.SampleScales = tensor(scales);
            using (adapter.AttachTo(model))
            {
                together = model.Forward(three);
            }

            for (int i = 0; i < 3; i++)
            {
                (together.narrow(0, i, 1) - apart[i]).abs().max().item<float>().ShouldBeLessThan(1e-5f, $"sample {i}");
            }

            (apart[2] - bare).abs().max().item<float>().ShouldBeGreaterThan(1e-3f);
            using IDisposable again = adapter.AttachTo(model);
            Should.Throw<BadInputException>(() => model.Forward(one)).Message.ShouldContain("give one a sample");
        }
    }

    [Fact]
    public void StackedWeightedAdaptersAddUpAndComeOffInAnyOrder()
    {
        using var scope = NewDisposeScope();
        using var noGrad = no_grad();
        (Decoder model, Adapter a, Tensor ids) = Load("lora-all-linear");
        using (model)
        using (a)
        using (Adapter b = Adapter.CreateLora(model, new LoraOptions { Rank = 3, Targets = ["q_proj", "down_proj"] }, 5))
        {
            foreach ((string name, Tensor tensor) in b.Tensors)
            {
                tensor.copy_(randn(tensor.shape) * 0.1);
            }

            using Adapter joined = AdapterMerge.Combine([a, b], [0.7, -0.4]);
            Tensor bare = model.Forward(ids), wanted, stacked;
            using (joined.AttachTo(model))
            {
                wanted = model.Forward(ids);
            }

            IDisposable first = a.AttachTo(model, 0.7), second = b.AttachTo(model, -0.4);
            stacked = model.Forward(ids);
            using (a.Suspend())
            using (b.Suspend())
            {
                (model.Forward(ids) - bare).abs().max().item<float>().ShouldBeLessThan(1e-6f);
            }

            first.Dispose();
            second.Dispose();
            (stacked - wanted).abs().max().item<float>().ShouldBeLessThan(1e-4f);
            model.Forward(ids).ShouldBe(bare);
        }
    }

    [Fact]
    public void CombinationsAgreeWhereTheyMust()
    {
        using var scope = NewDisposeScope();
        using var noGrad = no_grad();
        (Decoder model, Adapter a, Tensor _) = Load("lora-all-linear");
        using (model)
        using (a)
        using (Adapter b = Adapter.CreateLora(model, new LoraOptions { Rank = 4, Targets = ["q_proj"] }, 5))
        {
            foreach ((string name, Tensor tensor) in b.Tensors)
            {
                tensor.copy_(randn(tensor.shape) * 0.1);
            }

            Tensor Change(Adapter adapter)
            {
                const string Path = "base_model.model.model.layers.0.self_attn.q_proj.lora_";
                return adapter.Tensors[$"{Path}B.weight"].matmul(adapter.Tensors[$"{Path}A.weight"]);
            }

            Tensor Combined(AdapterCombination kind, double[] weights, AdapterCombinationOptions? options = null)
            {
                using Adapter both = AdapterMerge.Combine([a, b], weights, kind, options);
                return Change(both);
            }

            double Far(Tensor x, Tensor y) => ((x - y).norm() / y.norm()).ToDouble();
            var whole = new AdapterCombinationOptions { Rank = 8 };
            Far(Combined(AdapterCombination.Svd, [0.7, -0.4], whole), Combined(AdapterCombination.Cat, [0.7, -0.4])).ShouldBeLessThan(1e-5);
            Far(Combined(AdapterCombination.MagnitudePruneSvd, [0.7, -0.4], whole), Combined(AdapterCombination.Svd, [0.7, -0.4], whole)).ShouldBeLessThan(1e-5);
            // An adapter against itself.
            using Adapter none = AdapterMerge.Combine([b, b], [1, -1], AdapterCombination.Linear);
            using Adapter lone = AdapterMerge.Combine([b], [-1], AdapterCombination.Linear);
            using Adapter twice = AdapterMerge.Combine([b, b], [1, 1], AdapterCombination.TiesSvd);
            Change(none).abs().max().ToDouble().ShouldBeLessThan(1e-6);
            Far(Change(lone), Change(b) * -b.Modules.OfType<LoraModule>().First().Scale).ShouldBeLessThan(1e-5);
            Far(Change(twice), Change(b) * b.Modules.OfType<LoraModule>().First().Scale).ShouldBeLessThan(1e-4);
            Combined(AdapterCombination.Svd, [1, 1], new AdapterCombinationOptions { Clamp = 0.9 }).norm().ToDouble().ShouldBeLessThan(Combined(AdapterCombination.Svd, [1, 1]).norm().ToDouble());
            Should.Throw<BadInputException>(() => AdapterMerge.Combine([a, b], [1])).Message.ShouldContain("2 adapters and 1 weights");
            Should.Throw<BadInputException>(() => AdapterMerge.Combine([b], [1], AdapterCombination.Svd, new AdapterCombinationOptions { Rank = 400 })).Message.ShouldContain("rank of the combined adapter is 400");
        }
    }

    [Fact]
    public void GenerationWithAnAdapterIsThatOfTheMergedModel()
    {
        using var scope = NewDisposeScope();
        (Decoder model, Adapter adapter, Tensor ids) = Load("lora-all-linear");
        using (model)
        using (adapter)
        {
            int[] prompt = [.. ids[0].to_type(ScalarType.Int64).data<long>().Take(4).Select(id => (int)id)];
            var options = new GenerationOptions { MaxNewTokens = 12, EndIds = [] };
            IReadOnlyList<int> beside, merged;
            using (adapter.AttachTo(model))
            {
                beside = new TextGenerator(model, options).Generate([prompt])[0].Tokens;
            }

            using Patch patch = adapter.ToPatch(model, new PatchInfo { Method = "lora" });
            using (patch.ApplyTo(model))
            {
                merged = new TextGenerator(model, options).Generate([prompt])[0].Tokens;
            }

            beside.ShouldBe(merged);
            new TextGenerator(model, options).Generate([prompt])[0].Tokens.ShouldNotBe(beside);
        }
    }
}
