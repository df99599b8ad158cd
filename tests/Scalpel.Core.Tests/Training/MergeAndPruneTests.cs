using Scalpel.Core.Tests.Networks;
using Scalpel.Networks;
using Scalpel.Training;
using TorchSharp;
using static TorchSharp.torch;

namespace Scalpel.Tests.Training;

public sealed class MergeAndPruneTests
{
    [Theory]
    [InlineData(MergeMethod.Ties, null, 7)]
    [InlineData(MergeMethod.Ties, true, 10)]
    [InlineData(MergeMethod.DareLinear, null, 10)]
    [InlineData(MergeMethod.DareLinear, false, 7)]
    public void ThinnedChangesKeepTheirSizeWhenAsked(MergeMethod method, bool? rescale, double expected)
    {
        using var scope = NewDisposeScope();
        Tensor from = zeros(4), change = tensor([1f, 2f, 3f, 4f]), mask = tensor(new[] { 0f, 0f, 1f, 1f });
        Tensor merged = ModelMerge.Merge([new MergePart(change, 1, 0.5, method == MergeMethod.Ties ? null : mask)], from, new ModelMergeOptions { Method = method, Rescale = rescale });
        merged.abs().sum().ToDouble().ShouldBe(expected, 1e-5);
    }

    [Fact]
    public void AnArcBetweenNearlyParallelOppositeAndEmptyTensorsStaysFinite()
    {
        using var scope = NewDisposeScope();
        Tensor a = tensor([1f, 2f]), zero = zeros(2);
        ModelMerge.Slerp(a, a * 3, 0.5).ShouldBe(a * 2);
        ModelMerge.Slerp(a, -a, 0.25).ShouldBe(a * 0.5);
        ModelMerge.Slerp(zero, zero, 0.5).ShouldBe(zero);
        ModelMerge.Slerp(a, zero, 0).ShouldBe(a);
        ModelMerge.Slerp(a, tensor([2f, -1f]), 1).ShouldBe(tensor([2f, -1f]));
    }

    [Fact]
    public void InputsThatFillNoWholeGroupAreAGroupOfTheirOwn()
    {
        using var scope = NewDisposeScope();
        using Decoder model = TinyModels.Load("llama");                                       // 32 and 48 inputs
        IReadOnlyDictionary<string, Tensor> masks = Pruner.ByMagnitude(model, new PruningOptions { Drop = 2, Among = 5 });
        Tensor mask = masks["model.layers.0.self_attn.q_proj.weight"].to_type(ScalarType.Int64);
        mask.narrow(1, 0, 30).reshape(-1, 5).sum(1).eq(2).all().item<bool>().ShouldBeTrue();
        mask.narrow(1, 30, 2).eq(1).all().item<bool>().ShouldBeTrue();
        Should.Throw<BadInputException>(() => Pruner.ByMagnitude(model, new PruningOptions { Drop = 4, Among = 5 })).Message.ShouldContain("of the last 2");
    }
}
