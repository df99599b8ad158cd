using Scalpel.Networks;
using TorchSharp;
using static TorchSharp.torch;

namespace Scalpel.Core.Tests.Networks;

public sealed class TapsTests
{
    public static TheoryData<string> Models => TinyModels.All;

    [Theory]
    [MemberData(nameof(Models))]
    public void ReadingEveryTapChangesNoBitOfTheLogits(string name)
    {
        using var scope = NewDisposeScope();
        using var noGrad = no_grad();
        using Decoder model = TinyModels.Load(name);
        Tensor ids = TinyModels.Ids(model, 2, 9), plain = model.Forward(ids);
        using Taps taps = new Taps().Read(TapsOf(model));
        model.Forward(ids, taps: taps).Equals(plain).ShouldBeTrue();
    }

    [Theory]
    [MemberData(nameof(Models))]
    public void AnIdentityEditAtAnyTapLeavesTheLogitsBitIdentical(string name)
    {
        using var scope = NewDisposeScope();
        using var noGrad = no_grad();
        using Decoder model = TinyModels.Load(name);
        Tensor ids = TinyModels.Ids(model, 2, 9), plain = model.Forward(ids);
        foreach (string tap in TapsOf(model))
        {
            using Taps whole = new Taps().Edit(tap, value => value.clone()), part = new Taps().Edit(tap, value => value * 1, TapSelector.At(0, -1));
            model.Forward(ids, taps: whole).Equals(plain).ShouldBeTrue(tap);
            model.Forward(ids, taps: part).Equals(plain).ShouldBeTrue(tap);
        }

        model.Forward(ids).Equals(plain).ShouldBeTrue("after the edits are gone");
    }

    [Theory]
    [MemberData(nameof(Models))]
    public void EveryTapIsReachedWithACacheAndPaddingToo(string name)
    {
        using var scope = NewDisposeScope();
        using var noGrad = no_grad();
        using Decoder model = TinyModels.Load(name);
        Tensor ids = TinyModels.Ids(model, 2, 8), mask = ones([2, 8], dtype: ScalarType.Int64);
        mask[0, 0] = 0;
        using var cache = new KeyValueCache(model.Config.Layers);
        model.Forward(ids.narrow(1, 0, 5), mask.narrow(1, 0, 5), cache: cache);
        using Taps taps = new Taps().Read(TapsOf(model));
        foreach (string tap in TapsOf(model))
        {
            taps.Read(tap, TapSelector.Last);
        }

        model.Forward(ids.narrow(1, 5, 3), mask.narrow(1, 5, 3), cache: cache, taps: taps);
        taps["layers.0.attention.query"].shape[1].ShouldBe(1);
    }

    [Theory]
    [MemberData(nameof(Models))]
    public void HeadsAndBranchesAddUpToTheResidualStream(string name)
    {
        using var scope = NewDisposeScope();
        using var noGrad = no_grad();
        using Decoder model = TinyModels.Load(name);
        using Taps taps = new Taps().Read(TapsOf(model));
        model.Forward(TinyModels.Ids(model, 2, 9), taps: taps);
        Tensor sum = taps["layers.0.input"];
        for (int l = 0; l < model.Config.Layers; l++)
        {
            sum = sum + taps[$"layers.{l}.attention.output"] + taps[$"layers.{l}.mlp.output"];
            TinyModels.Difference(sum, taps[$"layers.{l}.output"]).ShouldBeLessThan(1e-5 * Largest(sum));
        }

        // Where a norm follows attention, its heads do not add up to what enters the stream.
        if (model.Config.Block is not (BlockKind.NormAfter or BlockKind.Sandwich))
        {
            Tensor bias = taps["layers.0.attention.output"] - taps["layers.0.attention.head_output"].sum(2);
            TinyModels.Difference(bias, bias[0, 0].expand(bias.shape)).ShouldBeLessThan(1e-5 * Largest(sum));
        }
    }

    [Theory]
    [MemberData(nameof(Models))]
    public void EditsActAlikeWithAndWithoutTheCache(string name)
    {
        using var scope = NewDisposeScope();
        using var noGrad = no_grad();
        using Decoder model = TinyModels.Load(name);
        if (model.Config.Rotary.Any(rotary => rotary.Scaling == RotaryScaling.Dynamic))
        {
            return; // Keys in the cache keep the angles of the shorter text.
        }

        Tensor ids = TinyModels.Ids(model, 2, 7);
        foreach (string tap in (string[])["layers.0.attention.key", "layers.1.attention.head_value", "layers.0.attention.value_ungrouped", "layers.0.attention.key_ungrouped", "layers.1.mlp.output", "layers.0.attention.pattern"])
        {
            using Taps taps = new Taps().Scale(tap, 0.5);
            Tensor whole = model.Forward(ids, taps: taps);
            using var cache = new KeyValueCache(model.Config.Layers);
            Tensor cached = cat([.. Enumerable.Range(0, 7).Select(t => model.Forward(ids.narrow(1, t, 1), cache: cache, taps: taps))], 1);
            TinyModels.Difference(whole, cached).ShouldBeLessThan(1e-4, tap);
            using Taps one = new Taps().Scale(tap, 0.5, TapSelector.At(2));
            Tensor at = model.Forward(ids, taps: one);
            using var second = new KeyValueCache(model.Config.Layers);
            Tensor pieces = cat([model.Forward(ids.narrow(1, 0, 4), cache: second, taps: one), model.Forward(ids.narrow(1, 4, 3), cache: second, taps: one)], 1);
            TinyModels.Difference(at, pieces).ShouldBeLessThan(1e-4, $"{tap} at one position");
        }
    }

    [Fact]
    public void AWriteToAKeyValueHeadReachesItsGroupAndAnUngroupedOneASingleHead()
    {
        using var scope = NewDisposeScope();
        using var noGrad = no_grad();
        using Decoder model = TinyModels.Load("llama");
        Tensor ids = TinyModels.Ids(model, 1, 9);
        Tensor Heads(string? tap, int head)
        {
            using Taps taps = new Taps().Read("layers.0.attention.head_value");
            if (tap is not null)
            {
                taps.Set(tap, 3, new TapSelector { Heads = [head] });
            }

            model.Forward(ids, taps: taps);
            return taps["layers.0.attention.head_value"].clone();
        }

        Tensor plain = Heads(null, 0);
        bool[] Changed(Tensor heads) => [.. Enumerable.Range(0, 4).Select(h => TinyModels.Difference(heads.select(2, h), plain.select(2, h)) > 1e-6)];
        Changed(Heads("layers.0.attention.value", 1)).ShouldBe([false, false, true, true]);
        Changed(Heads("layers.0.attention.key", 0)).ShouldBe([true, true, false, false]);
        Changed(Heads("layers.0.attention.value_ungrouped", 1)).ShouldBe([false, true, false, false]);
        Changed(Heads("layers.0.attention.key_ungrouped", 2)).ShouldBe([false, false, true, false]);
    }

    [Fact]
    public void AReadSeesTheEditsMadeBeforeItAndNotThoseAfter()
    {
        using var scope = NewDisposeScope();
        using Decoder model = TinyModels.Load("llama");
        Tensor ids = TinyModels.Ids(model, 1, 5);
        using Taps before = new Taps().Read("layers.0.output").Set("layers.0.output", 2), after = new Taps().Set("layers.0.output", 2).Read("layers.0.output");
        model.Forward(ids, taps: before);
        model.Forward(ids, taps: after);
        before["layers.0.output"].eq(2).any().item<bool>().ShouldBeFalse();
        after["layers.0.output"].eq(2).all().item<bool>().ShouldBeTrue();
    }

    [Fact]
    public void PositionsCountOnTheUnpaddedSequenceOnEitherSide()
    {
        using var scope = NewDisposeScope();
        using Decoder model = TinyModels.Load("llama");
        Tensor ids = TinyModels.Ids(model, 2, 5);
        Tensor mask = tensor(new long[] { 0, 0, 1, 1, 1, 1, 1, 1, 1, 0 }).view(2, 5);
        using Taps taps = new Taps().Read("layers.0.output").Read("layers.0.input", TapSelector.At(0, -1)).Read("layers.0.mlp.output", new TapSelector { Batch = [1], Positions = [3] });
        using Taps whole = new Taps().Read("layers.0.input", "layers.0.mlp.output");
        model.Forward(ids, mask, taps: taps);
        model.Forward(ids, mask, taps: whole);
        Tensor all = whole["layers.0.input"];
        taps["layers.0.input"].Equals(stack([stack([all[0, 2], all[0, 4]]), stack([all[1, 0], all[1, 3]])])).ShouldBeTrue();
        taps["layers.0.mlp.output"][0, 0].Equals(whole["layers.0.mlp.output"][1, 3]).ShouldBeTrue();
        Should.Throw<BadInputException>(() => model.Forward(ids, mask, taps: new Taps().Read("layers.0.input", TapSelector.At(3)))).Message.ShouldContain("Row 0 has 3 tokens");
    }

    [Fact]
    public void AUniformPatternSpreadsOverTheAllowedKeysOnly()
    {
        using var scope = NewDisposeScope();
        using Decoder model = TinyModels.Load("mistral");
        Tensor ids = TinyModels.Ids(model, 1, 12);
        using Taps taps = new Taps().Uniform("layers.0.attention.pattern", new TapSelector { Heads = [1] }).Read("layers.0.attention.pattern");
        model.Forward(ids, taps: taps);
        float[] row = taps["layers.0.attention.pattern"][0, 1, 10].data<float>().ToArray();
        row.ShouldBe([.. Enumerable.Range(0, 12).Select(s => s is >= 3 and <= 10 ? 1f / 8 : 0)]);
    }

    [Theory]
    [InlineData("gptj", "layers.0.middle", "has no tap")]
    [InlineData("gpt2", "layers.0.mlp.gate", "has no tap")]
    [InlineData("olmo2", "layers.0.attention_norm.output", "has no tap")]
    [InlineData("llama", "layers.7.output", "layers 0 to 1")]
    [InlineData("llama", "layers.0.moe.router_logits", "has no tap")]
    [InlineData("mixtral", "layers.0.moe.experts.9.up", "has no tap")]
    public void ATapThatTheFamilyLacksIsRefusedByName(string name, string tap, string message)
    {
        using var scope = NewDisposeScope();
        using Decoder model = TinyModels.Load(name);
        using Taps taps = new Taps().Read(tap);
        BadInputException error = Should.Throw<BadInputException>(() => model.Forward(TinyModels.Ids(model, 1, 3), taps: taps));
        error.Message.ShouldContain(tap);
        error.Message.ShouldContain(message);
    }

    [Fact]
    public void ASelectorOutsideTheValueIsRefused()
    {
        using var scope = NewDisposeScope();
        using Decoder model = TinyModels.Load("llama");
        Tensor ids = TinyModels.Ids(model, 1, 3);
        void Refused(string tap, TapSelector selector, string message) =>
            Should.Throw<BadInputException>(() => model.Forward(ids, taps: new Taps().Set(tap, 0, selector))).Message.ShouldContain(message);
        Refused("layers.0.attention.key", new TapSelector { Heads = [2] }, "2 heads");
        Refused("layers.0.output", new TapSelector { Heads = [0] }, "no heads");
        Refused("layers.0.output", new TapSelector { Features = [32] }, "32 features");
        Refused("layers.0.output", new TapSelector { Batch = [1] }, "1 rows");
        Refused("layers.0.output", TapSelector.At(-4), "no position -4");
    }

    [Fact]
    public void GradientsFlowToAndThroughTaps()
    {
        using var scope = NewDisposeScope();
        using Decoder model = TinyModels.Load("llama");
        Tensor ids = TinyModels.Ids(model, 1, 5);
        foreach (string tap in (string[])["layers.0.output", "layers.1.attention.pattern", "layers.0.attention.head_output", "layers.0.mlp.activation"])
        {
            Tensor? leaf = null;
            using Taps taps = new Taps().Edit(tap, value => leaf = value.detach().requires_grad_(true).DetachFromDisposeScope());
            model.Forward(ids, taps: taps).sum().backward();
            leaf!.grad!.abs().max().item<float>().ShouldBeGreaterThan(0, tap);
            leaf.Dispose();
        }
    }

    internal static string[] TapsOf(Decoder model) =>
    [
        .. from name in model.TapNames
           from l in name.Contains("{l}", StringComparison.Ordinal) ? Enumerable.Range(0, model.Config.Layers) : [0]
           from j in name.Contains("{j}", StringComparison.Ordinal) ? Enumerable.Range(0, model.Config.Experts) : [0]
           select name.Replace("{l}", $"{l}", StringComparison.Ordinal).Replace("{j}", $"{j}", StringComparison.Ordinal),
    ];

    static double Largest(Tensor x) => Math.Max(1, x.abs().max().item<float>());

    [Fact]
    public void TheLastTokenOfASpanIsSelectedRowByRow()
    {
        using var scope = NewDisposeScope();
        using Decoder model = TinyModels.Load("llama");
        Tensor ids = TinyModels.Ids(model, 2, 6), mask = ones([2, 6], dtype: ScalarType.Int64);
        mask[0, 0] = 0;
        using Taps whole = new Taps().Read("layers.0.output"), each = new Taps().Read("layers.0.output", TapSelector.LastOf((1, 3), (0, 5))), same = new Taps().Read("layers.0.output", TapSelector.LastOf((1, 3)));
        foreach (Taps taps in (Taps[])[whole, each, same])
        {
            model.Forward(ids, mask, taps: taps);
        }

        // Row 0 begins with padding: its token 2 stands in column 3.
        Tensor all = whole["layers.0.output"];
        TinyModels.Difference(each["layers.0.output"], stack([all[0, 3], all[1, 4]]).unsqueeze(1)).ShouldBe(0);
        TinyModels.Difference(same["layers.0.output"], stack([all[0, 3], all[1, 2]]).unsqueeze(1)).ShouldBe(0);
        Should.Throw<BadInputException>(() => TapSelector.LastOf((2, 2))).Message.ShouldContain("holds no token");
        Should.Throw<BadInputException>(() => TapSelector.LastOf()).Message.ShouldContain("no span");
        Should.Throw<BadInputException>(() => model.Forward(ids, mask, taps: new Taps().Read("layers.0.output", TapSelector.LastOf((0, 1), (0, 1), (0, 1))))).Message.ShouldContain("3 spans");
    }
}
