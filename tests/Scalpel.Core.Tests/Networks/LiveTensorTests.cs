using Scalpel.Networks;
using TorchSharp;
using static TorchSharp.torch;

namespace Scalpel.Core.Tests.Networks;

/// <summary>Tests that count all live tensors of the process, so they run alone.</summary>
[CollectionDefinition("alone", DisableParallelization = true)]
public sealed class Alone;

[Collection("alone")]
public sealed class LiveTensorTests
{
    [Theory]
    [InlineData("llama")]
    [InlineData("mixtral")]
    [InlineData("gemma2")]
    public void APassWithTapsCacheAndGradientsLeavesNoTensorBehind(string name)
    {
        using Decoder model = TinyModels.Load(name);
        using Tensor ids = TinyModels.Ids(model, 2, 9);
        Passes();
        GC.Collect();
        GC.WaitForPendingFinalizers();
        long before = Tensor.TotalCount;
        Passes();
        Passes();
        Tensor.TotalCount.ShouldBe(before);

        void Passes()
        {
            model.Forward(ids).Dispose();
            using Taps taps = new Taps().Read(TapsTests.TapsOf(model)).Set("layers.0.mlp.output", 0, TapSelector.Last);
            using var cache = new KeyValueCache(model.Config.Layers);
            model.Forward(ids, cache: cache, taps: taps).Dispose();
            using KeyValueCache copy = cache.Clone();
            copy.Reorder([1, 0]);
            copy.Truncate(3);
            model.Forward(ids, cache: copy).Dispose();
            model.RequireGrad(["model.layers.0.self_attn.q_proj.weight"]);
            using (LanguageModelLoss loss = model.Loss(ids, ids))
            using (Tensor mean = loss.Mean())
            {
                mean.backward();
            }

            model.StopGrad();
        }
    }
}
