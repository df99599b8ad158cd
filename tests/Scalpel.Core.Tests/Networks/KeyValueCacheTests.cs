using Scalpel.Networks;
using TorchSharp;
using static TorchSharp.torch;

namespace Scalpel.Core.Tests.Networks;

public sealed class KeyValueCacheTests
{
    public static TheoryData<string> Models => [.. TinyModels.All.Select(row => row.Data).Where(name => name != "llama-dynamic")];

    [Theory]
    [MemberData(nameof(Models))]
    public void TokenByTokenThroughTheCacheGivesTheLogitsOfTheWholeText(string name)
    {
        using var scope = NewDisposeScope();
        using var noGrad = no_grad();
        using Decoder model = TinyModels.Load(name);
        Tensor ids = TinyModels.Ids(model, 2, 14), mask = ones([2, 14], dtype: ScalarType.Int64);
        mask[1, 0] = 0;
        mask[1, 1] = 0;
        foreach (Tensor? given in (Tensor?[])[null, mask])
        {
            using var cache = new KeyValueCache(model.Config.Layers, 3);
            Tensor whole = model.Forward(ids, given);
            Tensor single = cat([.. Enumerable.Range(0, 14).Select(t => model.Forward(ids.narrow(1, t, 1), given?.narrow(1, t, 1), cache: cache))], 1);
            TinyModels.Difference(whole.narrow(1, 2, 12), single.narrow(1, 2, 12)).ShouldBeLessThan(1e-4);
            cache.Length.ShouldBe(14);
        }
    }

    [Fact]
    public void ATruncatedCacheGoesOnFromThere()
    {
        using var scope = NewDisposeScope();
        using Decoder model = TinyModels.Load("llama");
        Tensor ids = TinyModels.Ids(model, 2, 9), other = TinyModels.Ids(model, 2, 4, seed: 5);
        using var cache = new KeyValueCache(model.Config.Layers);
        model.Forward(ids, cache: cache);
        cache.Truncate(5);
        Tensor expected = model.Forward(cat([ids.narrow(1, 0, 5), other], 1)).narrow(1, 5, 4);
        TinyModels.Difference(model.Forward(other, cache: cache), expected).ShouldBeLessThan(1e-5);
        Should.Throw<ArgumentOutOfRangeException>(() => cache.Truncate(10));
    }

    [Fact]
    public void RowsCanBeReorderedAndRepeatedAndACloneGoesItsOwnWay()
    {
        using var scope = NewDisposeScope();
        using Decoder model = TinyModels.Load("llama");
        Tensor ids = TinyModels.Ids(model, 2, 6), next = TinyModels.Ids(model, 3, 1, seed: 9), mask = ones([2, 6], dtype: ScalarType.Int64);
        mask[0, 0] = 0;
        using var cache = new KeyValueCache(model.Config.Layers);
        model.Forward(ids, mask, cache: cache);
        using KeyValueCache copy = cache.Clone();
        copy.Reorder([1, 0, 1]);
        Tensor rows = tensor(new long[] { 1, 0, 1 });
        Tensor expected = model.Forward(cat([ids[rows], next], 1), cat([mask[rows], ones([3, 1], dtype: ScalarType.Int64)], 1)).narrow(1, 6, 1);
        TinyModels.Difference(model.Forward(next, ones([3, 1], dtype: ScalarType.Int64), cache: copy), expected).ShouldBeLessThan(1e-5);
        (cache.Length, copy.Length, (int)cache.Keys(0).shape[0]).ShouldBe((6, 7, 2));
    }

    [Fact]
    public void AFrozenPrefixOfOneRowServesEveryRowAndKeepsNothing()
    {
        using var scope = NewDisposeScope();
        using Decoder model = TinyModels.Load("llama");
        Tensor prefix = TinyModels.Ids(model, 1, 6), rows = TinyModels.Ids(model, 3, 4, seed: 2);
        using var cache = new KeyValueCache(model.Config.Layers);
        model.Forward(prefix, cache: cache);
        cache.Frozen = true;
        Tensor expected = model.Forward(cat([prefix.expand(3, -1), rows], 1)).narrow(1, 6, 4);
        TinyModels.Difference(model.Forward(rows, cache: cache), expected).ShouldBeLessThan(1e-5);
        TinyModels.Difference(model.Forward(rows, cache: cache), expected).ShouldBeLessThan(1e-5);
        cache.Length.ShouldBe(6);
        Tensor mask = tensor(new long[] { 1, 1, 1, 0, 1, 1, 1, 1, 1, 1, 0, 0 }, [3, 4]);
        Tensor padded = model.Forward(cat([prefix.expand(3, -1), rows], 1), cat([ones([3, 6], dtype: ScalarType.Int64), mask], 1)).narrow(1, 6, 4);
        TinyModels.Difference(model.Forward(rows, mask, cache: cache), padded).ShouldBeLessThan(1e-5);
    }

    [Theory]
    [InlineData("mistral", 8)]
    [InlineData("phi3", 9)]
    [InlineData("starcoder2", 7)]
    public void WhereEveryLayerHasAWindowTheCacheStaysSmallAndTheLogitsTheSame(string name, int window)
    {
        using var scope = NewDisposeScope();
        using var noGrad = no_grad();
        using Decoder model = TinyModels.Load(name);
        Tensor ids = TinyModels.Ids(model, 2, 48), mask = ones([2, 48], dtype: ScalarType.Int64);
        mask[1, 0] = 0;
        mask[1, 1] = 0;
        foreach (Tensor? given in (Tensor?[])[null, mask])
        {
            Tensor whole = model.Forward(ids, given);
            foreach (int step in (int[])[1, 3])
            {
                using KeyValueCache cache = KeyValueCache.For(model.Config, 48);
                Tensor parts = cat([.. Enumerable.Range(0, 48 / step).Select(i => model.Forward(ids.narrow(1, i * step, step), given?.narrow(1, i * step, step), cache: cache))], 1);
                TinyModels.Difference(whole.narrow(1, 2, 46), parts.narrow(1, 2, 46)).ShouldBeLessThan(1e-4);
                (cache.Length, cache.Capacity).ShouldBe((48, 2 * window));
                cache.First.ShouldBeGreaterThan(0);
                ((int)cache.Keys(0).shape[2]).ShouldBe(48 - cache.First);
            }
        }
    }

    [Fact]
    public void AWindowThatHasSlidCanBeClonedAndGoesBackOnlyAsFarAsItKeepsEnough()
    {
        using var scope = NewDisposeScope();
        using var noGrad = no_grad();
        using Decoder model = TinyModels.Load("mistral");
        Tensor ids = TinyModels.Ids(model, 1, 40);
        using KeyValueCache cache = KeyValueCache.For(model.Config);
        for (int t = 0; t < 39; t++)
        {
            model.Forward(ids.narrow(1, t, 1), cache: cache);
        }

        using KeyValueCache copy = cache.Clone();
        Tensor expected = model.Forward(ids).narrow(1, 39, 1);
        TinyModels.Difference(model.Forward(ids.narrow(1, 39, 1), cache: copy), expected).ShouldBeLessThan(1e-4);
        int back = cache.First + 7;
        cache.Truncate(back);
        TinyModels.Difference(model.Forward(ids.narrow(1, back, 40 - back), cache: cache).narrow(1, 39 - back, 1), expected).ShouldBeLessThan(1e-4);
        Should.Throw<BadInputException>(() => copy.Truncate(copy.First + 3)).Message.ShouldContain("sees 7 before it");
    }

    [Fact]
    public void ACacheOfOtherRowsOrOfAnotherModelIsRefusedInOneSentence()
    {
        using var scope = NewDisposeScope();
        using Decoder model = TinyModels.Load("llama");
        using var cache = new KeyValueCache(model.Config.Layers);
        model.Forward(TinyModels.Ids(model, 2, 6), cache: cache);
        Should.Throw<BadInputException>(() => model.Forward(TinyModels.Ids(model, 3, 1), cache: cache)).Message.ShouldBe("The cache holds 2 rows, the pass has 3; bring the cache to them with Reorder, or start an empty one.");
        cache.Frozen = true;
        model.Forward(TinyModels.Ids(model, 4, 1), cache: cache);
        Should.Throw<BadInputException>(() => model.Forward(TinyModels.Ids(model, 3, 1), cache: cache)).Message.ShouldContain("multiples of its rows");
        using var other = new KeyValueCache(model.Config.Layers + 1);
        Should.Throw<BadInputException>(() => model.Forward(TinyModels.Ids(model, 1, 1), cache: other)).Message.ShouldContain("make a cache for this model");
    }

    [Fact]
    public void AFrozenCacheOfPaddedRowsServesMultiplesOfThem()
    {
        using var scope = NewDisposeScope();
        using var noGrad = no_grad();
        using Decoder model = TinyModels.Load("llama");
        Tensor prefix = TinyModels.Ids(model, 2, 6), mask = ones([2, 6], dtype: ScalarType.Int64), rows = TinyModels.Ids(model, 4, 3, seed: 2);
        mask[0, 0] = 0;
        using var cache = new KeyValueCache(model.Config.Layers);
        model.Forward(prefix, mask, cache: cache);
        cache.Frozen = true;
        Tensor expected = model.Forward(cat([prefix.repeat(2, 1), rows], 1), cat([mask.repeat(2, 1), ones([4, 3], dtype: ScalarType.Int64)], 1)).narrow(1, 6, 3);
        TinyModels.Difference(model.Forward(rows, cache: cache), expected).ShouldBeLessThan(1e-5);
    }
}
