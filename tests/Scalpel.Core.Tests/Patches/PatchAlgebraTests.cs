using System.Security.Cryptography;
using Scalpel.Checkpoints;
using Scalpel.Patches;
using TorchSharp;
using static TorchSharp.torch;

namespace Scalpel.Tests.Patches;

public sealed class PatchAlgebraTests : IDisposable
{
    readonly DisposeScope scope = NewDisposeScope();
    readonly TensorBag bag = new(("w", randn([20, 12], generator: new Generator(1))), ("v", ones([6])));

    public void Dispose()
    {
        bag.Dispose();
        scope.Dispose();
    }

    [Fact]
    public void RanksJoinExactlyWhateverTheOrder()
    {
        LowRank a = Low(2, 0.5, 1), b = Low(3, 2, 2);
        using Patch first = Make("w", a), second = Make("w", b);
        Composition ab = PatchAlgebra.Compose([first, second]);
        var joined = ab.Patch.Deltas["w"].ShouldBeOfType<LowRank>();
        joined.Rank.ShouldBe(5);
        ab.Overlaps.ShouldHaveSingleItem().Patches.ShouldBe([0, 1]);
        // Exact: the terms are those of the two, bit for bit.
        Terms(joined).ShouldBe([.. Terms(a), .. Terms(b)]);
    }

    [Fact]
    public void SparseAndRowChangesMerge()
    {
        using Patch s = Make("v", new Sparse(tensor(new long[] { 0, 3 }), tensor(new[] { 1f, 2f }))), t = Make("v", new Sparse(tensor(new[] { 3, 5 }), tensor(new[] { 4f, 8f })));
        var sum = (Sparse)PatchAlgebra.Compose([s, t], [1, 0.5]).Patch.Deltas["v"];
        sum.ToTensor([6]).data<float>().ToArray().ShouldBe([1f, 0, 0, 4f, 0, 4f]);
        using Patch r = Make("w", new Rows(tensor(new long[] { 1, 4 }), ones([2, 12]))), q = Make("w", new Rows(tensor(new long[] { 0, 4 }), full([2, 12], 3f)));
        using Tensor rows = ((Rows)PatchAlgebra.Compose([r, q]).Patch.Deltas["w"]).ToTensor([20, 12]);
        rows.sum(1).data<float>().ToArray().Take(6).ShouldBe([36f, 12, 0, 0, 48, 0]);
    }

    [Fact]
    public void ComposingIsAppliedAsTheSum()
    {
        using Patch low = Make("w", Low(2, 1, 5)), dense = Make("w", new DenseAdd(randn([20, 12], generator: new Generator(6)))), other = Make("v", new DenseAdd(ones([6])));
        Composition sum = PatchAlgebra.Compose([low, dense, other]);
        sum.Overlaps.Select(overlap => overlap.Name).ShouldBe(["w"]);
        Tensor expected = bag.Parameter("w") + ((AdditiveDelta)low.Deltas["w"]).ToTensor([20, 12]) + ((AdditiveDelta)dense.Deltas["w"]).ToTensor([20, 12]);
        using (sum.Patch.ApplyTo(bag))
        {
            (bag.Parameter("w") - expected).abs().max().ToSingle().ShouldBeLessThan(1e-5f);
            bag.Parameter("v").sum().ToSingle().ShouldBe(12);
        }
    }

    [Fact]
    public void XorsChainAndOtherwiseDoNotAdd()
    {
        Tensor b = randn([20, 12]), c = randn([20, 12]);
        using Patch ab = Make("w", DenseXor.Between(bag.Parameter("w"), b));
        using var onB = new TensorBag(("w", b.clone()), ("v", ones([6])));
        using Patch bc = Patch.For(onB, new PatchInfo { Method = "test" }, new Dictionary<string, Delta> { ["w"] = DenseXor.Between(b, c) });
        using Patch chain = PatchAlgebra.Compose([ab, bc]).Patch;
        using (chain.ApplyTo(bag))
        {
            bag.Parameter("w").equal(c).all().ToBoolean().ShouldBeTrue();
        }

        Should.Throw<BadInputException>(() => PatchAlgebra.Compose([bc, ab])).Message.ShouldContain("another base");
        using Patch low = Make("w", Low(1, 1, 9));
        Should.Throw<BadInputException>(() => PatchAlgebra.Compose([low, ab])).Message.ShouldContain("do not add");
    }

    [Fact]
    public void ALowRankChangeIsFoundAgainAndItsErrorIsTrue()
    {
        Tensor change = Low(3, 1, 4).ToTensor([20, 12]);
        PatchConvert.ToLowRank(change, 3).Error.ShouldBeLessThan(1e-6);
        Converted two = PatchConvert.ToLowRank(change, 2);
        ((change - two.Delta.ToTensor([20, 12])).norm() / change.norm()).ToDouble().ShouldBe(two.Error, 1e-5);
        var byError = (LowRank)PatchConvert.ToLowRank(change, error: two.Error * 1.001).Delta;
        byError.Rank.ShouldBe(2);
        ((LowRank)PatchConvert.ToLowRank(change, error: 1e-6).Delta).Rank.ShouldBe(3);
        Should.Throw<BadInputException>(() => PatchConvert.ToLowRank(change, 13)).Message.ShouldContain("from 1 to 12");
    }

    [Fact]
    public void TheLargestEntriesStay()
    {
        Converted sparse = PatchConvert.ToSparse(tensor(new[] { 1f, -5f, 5f, 0.5f }), 2);
        sparse.Delta.ToTensor([4]).data<float>().ToArray().ShouldBe([0, -5f, 5f, 0]);
        sparse.Error.ShouldBe(Math.Sqrt(1.25 / 51.25), 1e-9);
    }

    [Fact]
    public void InspectionCountsWhatChanges()
    {
        using Patch patch = Make("v", new Sparse(tensor(new long[] { 0, 3 }), tensor(new[] { 3f, float.NaN })));
        TensorChange change = PatchInspection.Inspect(patch).ShouldHaveSingleItem();
        change.NotFinite.ShouldBe(1);
        using Patch low = Make("w", Low(2, 1, 5));
        TensorChange seen = PatchInspection.Inspect(low).ShouldHaveSingleItem();
        seen.Rank.ShouldBe(2);
        seen.Norm!.Value.ShouldBe(((AdditiveDelta)low.Deltas["w"]).ToTensor([20, 12]).norm().ToDouble(), 1e-4);
    }

    [Fact]
    public void ASignatureHoldsUntilAnythingChanges()
    {
        using ECDsa key = ECDsa.Create(ECCurve.NamedCurves.nistP256), other = ECDsa.Create(ECCurve.NamedCurves.nistP256);
        using Patch patch = Make("w", Low(2, 1, 5));
        Should.Throw<CheckFailedException>(() => patch.VerifySignature(key)).Message.ShouldContain("not signed");
        using Patch signed = patch.Sign(key);
        string path = Path.Combine(Path.GetTempPath(), $"signed {Guid.NewGuid():N}{Patch.Suffix}");
        try
        {
            signed.Save(path);
            using Patch loaded = Patch.Load(path);
            loaded.VerifySignature(key);
            Should.Throw<CheckFailedException>(() => loaded.VerifySignature(other)).Message.ShouldContain("not by");
            byte[] bytes = File.ReadAllBytes(path);
            bytes[^1] ^= 1;
            File.WriteAllBytes(path, bytes);
            using Patch tampered = Patch.Load(path);
            Should.Throw<CheckFailedException>(() => tampered.VerifySignature(key)).Message.ShouldContain("changed after");
        }
        finally
        {
            File.Delete(path);
        }
    }

    static LowRank Low(int rank, double scale, ulong seed)
    {
        using var generator = new Generator(seed);
        return new LowRank(randn([rank, 12], generator: generator), randn([20, rank], generator: generator), scale);
    }

    static IEnumerable<float> Terms(LowRank low)
    {
        using Tensor up = low.Up.ToTensor() * low.Scale, down = low.Down.ToTensor();
        for (int k = 0; k < low.Rank; k++)
        {
            foreach (float value in (up[.., k].unsqueeze(1) * down[k].unsqueeze(0)).data<float>().ToArray())
            {
                yield return value;
            }
        }
    }

    Patch Make(string name, Delta delta) => Patch.For(bag, new PatchInfo { Method = "test" }, new Dictionary<string, Delta> { [name] = delta });
}
