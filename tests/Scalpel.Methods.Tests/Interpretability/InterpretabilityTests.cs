using Scalpel.Methods.Interpretability;
using Scalpel.Networks;
using Scalpel.Tests;
using TorchSharp;
using static TorchSharp.torch;

namespace Scalpel.Methods.Tests.Interpretability;

public sealed class InterpretabilityTests
{
    static readonly RunContext Run = new();

    [Theory]
    [InlineData("gpt2")]
    [InlineData("llama")]
    [InlineData("gpt-neox-parallel")]
    [InlineData("gemma2")]
    [InlineData("olmo2")]
    [InlineData("phi")]
    [InlineData("mixtral")]
    public void ThePartsOfALogitAddUpToIt(string name)
    {
        using var scope = NewDisposeScope();
        using Decoder model = Load(name);
        Tensor ids = Ids(model, 2, 9, 1), logits = model.Forward(ids);
        if (model.Config.LogitCap is { } cap)
        {
            // The parts add up to the logit before the cap.
            logits = ((logits / cap) * 0.999999).atanh() * cap;
        }

        using LogitParts parts = DirectLogitAttribution.Run(model, ids, 5, 9), one = DirectLogitAttribution.Run(model, ids, 5);
        Close(parts.Total, logits.select(2, 5) - logits.select(2, 9), 1e-4);
        Close(one.Total, logits.select(2, 5), 1e-4);
        if (parts.Heads.Count > 0)
        {
            Close(parts.Heads[1].sum(-1) + parts.AttentionBias[1], parts.Attention[1], 1e-5);
        }
    }

    [Theory]
    [InlineData("gpt2")]
    [InlineData("gemma2")]
    public void TheLensAfterTheLastLayerIsTheOutput(string name)
    {
        using var scope = NewDisposeScope();
        using Decoder model = Load(name);
        Tensor ids = Ids(model, 2, 9, 1), logits = model.Forward(ids);
        LogitLens.Logits(model, ids)[^1].Equals(logits).ShouldBeTrue();
        IReadOnlyList<LensReading> readings = LogitLens.Run(model, ids, [7, 8]);
        readings.Count.ShouldBe(model.Config.Layers);
        readings[^1].Divergence.ShouldAllBe(kl => Math.Abs(kl) < 1e-6);
        readings[0].Divergence.ShouldAllBe(kl => kl > 0);
        Tensor last = logits[0, 8].softmax(-1);
        readings[^1].Probability[0].ShouldBe(last[7].item<float>(), 1e-5);
        readings[^1].Rank[0].ShouldBe(last.gt(last[7]).sum().item<long>());
        Should.Throw<BadInputException>(() => LogitLens.Run(model, ids, [7]));
    }

    [Theory]
    [InlineData("gpt2")]
    [InlineData("llama")]
    [InlineData("gptj")]
    [InlineData("gemma2")]
    public void PatchingTheWholeStateIsTheSourceAndPatchingNothingNewTheBase(string name)
    {
        using var scope = NewDisposeScope();
        using Decoder model = Load(name);
        Tensor clean = Ids(model, 2, 6, 1), corrupted = clean.clone();
        corrupted[0, 5] = 4;
        corrupted[1, 5] = 3;
        string[] taps = [.. Enumerable.Range(0, model.Config.Layers).Select(l => $"layers.{l}.output"), "embedding.output"];
        var patching = new ActivationPatching(model, ActivationPatching.LogitDifference(5, 9));
        // The texts differ at the last position only, so its state carries everything.
        (PatchingEffects denoise, PatchingEffects noise) = patching.Both(clean, corrupted, taps, [-1, 2], Run);
        using (denoise)
        using (noise)
        {
            Close(denoise.Effects.select(1, 0), ones_like(denoise.Effects.select(1, 0)), 1e-3);
            Close(noise.Effects.select(1, 0), ones_like(noise.Effects.select(1, 0)), 1e-3);
            Close(denoise.Effects.select(1, 1), zeros_like(denoise.Effects.select(1, 1)), 1e-3);
            denoise.Undefined.ShouldBe(0);
        }

        using PatchingEffects same = patching.Run(clean, clean, taps, [-1], Run);
        same.Undefined.ShouldBe(2);
        same.Effects.isnan().all().item<bool>().ShouldBeTrue();
        Should.Throw<BadInputException>(() => patching.Run(clean, clean.narrow(1, 0, 3), taps, [-1], Run));
    }

    [Fact]
    public void ADirectPathToTheOutputWithFrozenMlpsMovesTheStreamByTheHeadsChange()
    {
        using var scope = NewDisposeScope();
        using var noGrad = no_grad();
        using Decoder model = Load("llama");
        Tensor clean = Ids(model, 2, 8, 1), corrupted = Ids(model, 2, 8, 2);
        Func<Tensor, Tensor> metric = ActivationPatching.LogitDifference(5, 9);
        int last = model.Config.Layers - 1;
        using PathEffects effects = new PathPatching(model, metric).Run(clean, corrupted, [new Receiver(ReceiverInput.Residual, last)], Run, freezeMlps: true);
        using Taps a = new Taps().Read($"layers.{last}.output", "layers.0.attention.head_output"), b = new Taps().Read("layers.0.attention.head_output");
        model.Forward(clean, taps: a);
        model.Forward(corrupted, taps: b);
        Tensor moved = a[$"layers.{last}.output"] + (b["layers.0.attention.head_output"] - a["layers.0.attention.head_output"]).select(2, 1);
        Close(effects.Patched[0, 1], metric(model.Unembed(moved).select(1, 7)), 1e-4);
    }

    [Fact]
    public void AHeadThatNoReceiverLiesDownstreamOfCarriesNothing()
    {
        using var scope = NewDisposeScope();
        using Decoder model = Load("llama");
        Tensor clean = Ids(model, 2, 8, 1), corrupted = Ids(model, 2, 8, 2);
        using PathEffects effects = new PathPatching(model, ActivationPatching.LogitDifference(5, 9)).Run(clean, corrupted, [new Receiver(ReceiverInput.Value, 1, 2)], Run);
        Tensor shares = effects.Effects();
        shares[1].abs().max().item<float>().ShouldBe(0);
        shares[0].abs().max().item<float>().ShouldBeGreaterThan(0);
        Should.Throw<BadInputException>(() => new PathPatching(model, logits => logits).Run(clean, corrupted, [], Run));
        Should.Throw<BadInputException>(() => new PathPatching(model, logits => logits).Run(clean, corrupted, [new Receiver(ReceiverInput.Query, 9)], Run));
    }

    [Fact]
    public void AttributionPatchingEstimatesPatching()
    {
        using var scope = NewDisposeScope();
        using Decoder model = Load("llama");
        Tensor clean = Ids(model, 1, 8, 1), corrupted = clean.clone();
        corrupted[0, 3] = 9;
        Func<Tensor, Tensor> metric = ActivationPatching.LogitDifference(5, 9);
        string[] taps = ["layers.0.mlp.output", "layers.1.attention.head_value", "layers.0.output"];
        using PatchingEffects truth = new ActivationPatching(model, metric).Run(clean, corrupted, taps, [.. Enumerable.Range(0, 8)], Run);
        double difference = (truth.Source - truth.Base).item<float>();
        IReadOnlyDictionary<string, Tensor> refined = new AttributionPatching(model, metric).Run(clean, corrupted, taps, Run, steps: 20);
        IReadOnlyDictionary<string, Tensor> quick = new AttributionPatching(model, metric).Run(clean, corrupted, taps, Run);
        for (int i = 0; i < taps.Length; i++)
        {
            // Along the whole way, the positions' shares add up to what patching all of them does.
            using Taps all = new Taps().Read(taps[i]);
            model.Forward(corrupted, taps: all);
            using Taps replaced = new Taps().Replace(taps[i], all[taps[i]].clone());
            double whole = metric(model.Forward(clean, taps: replaced).select(1, 7)).item<float>() - truth.Base.item<float>();
            refined[taps[i]].sum().item<float>().ShouldBe((float)whole, (float)(0.02 * Math.Abs(difference)), taps[i]);
            quick[taps[i]].shape.ShouldBe([1, 8]);
            quick[taps[i]].narrow(1, 0, 3).abs().max().item<float>().ShouldBe(0);
        }
    }

    [Fact]
    public void AnIdealInductionHeadScoresOneAndAUniformOneItsShare()
    {
        using var scope = NewDisposeScope();
        Tensor ids = tensor(new long[] { 4, 8, 1, 6, 4, 8, 1, 6 }, [1, 8]);
        Tensor mask = AttentionPatterns.Induction(ids), uniform = ones(8, 8).tril() / arange(1, 9).to_type(ScalarType.Float32).unsqueeze(1);
        Tensor ideal = zeros(8, 8);
        for (int t = 0; t < 8; t++)
        {
            ideal[t, t < 4 ? 0 : t - 3] = 1;
        }

        PatternFit fit = AttentionPatterns.Fit(stack([ideal, uniform]).unsqueeze(0), mask);
        fit.Rows.ShouldBe(4);
        fit.Product[0].ShouldBe(1, 1e-6);
        fit.Product[1].ShouldBe(Enumerable.Range(4, 4).Sum(t => 1.0 / (t + 1)) / 4, 1e-6);
        fit.Difference[0].ShouldBe(1, 1e-6);
        AttentionPatterns.PreviousToken(3).flatten().data<float>().ToArray().ShouldBe([0, 0, 0, 1, 0, 0, 0, 1, 0]);
        AttentionPatterns.DuplicateToken(ids)[0, 6, 2].item<float>().ShouldBe(1);
        AttentionPatterns.Entropy(uniform.view(1, 1, 8, 8))[0, 0, 7].item<float>().ShouldBe((float)Math.Log(8), 1e-5f);
        AttentionPatterns.Distance(uniform.view(1, 1, 8, 8))[0, 0, 7].item<float>().ShouldBe(3.5f, 1e-5f);
        AttentionPatterns.SinkMass(uniform.view(1, 1, 8, 8))[0, 0, 7].item<float>().ShouldBe(0.125f, 1e-5f);
    }

    static Decoder Load(string name) => Decoder.Load(Repository.Reference("decoders", "_models", name));

    static Tensor Ids(Decoder model, int batch, int count, int seed)
    {
        var random = new Random(seed);
        return tensor(Enumerable.Range(0, batch * count).Select(_ => (long)random.Next(3, model.Config.Vocabulary)).ToArray(), [batch, count]);
    }

    static void Close(Tensor ours, Tensor expected, double tolerance) => (ours - expected).abs().max().item<float>().ShouldBeLessThan((float)tolerance);
}
