using CsCheck;
using Scalpel.Checkpoints;
using Scalpel.Checkpoints.Gguf;
using Scalpel.Networks;
using Scalpel.Patches;
using TorchSharp;
using static TorchSharp.torch;

namespace Scalpel.Tests.Patches;

public sealed class PatchScopeTests : IDisposable
{
    static readonly ScalarType[] Types =
    [
        ScalarType.Float64, ScalarType.Float32, ScalarType.Float16, ScalarType.BFloat16,
        ScalarType.Int64, ScalarType.Int32, ScalarType.Int16, ScalarType.Int8, ScalarType.Byte, ScalarType.Bool,
    ];

    readonly string folder = Directory.CreateTempSubdirectory("scalpel patches ").FullName;

    public void Dispose() => Directory.Delete(folder, recursive: true);

    [Theory]
    [InlineData(StorageType.F16)]
    [InlineData(StorageType.F32)]
    public void ExactPatchesOfAGgufFileWithReorderedRowsGiveTheSameInMemoryAsOnDisk(StorageType type)
    {
        string name = "model.layers.3.self_attn.k_proj.weight";
        using var original = (GgufCheckpoint)Checkpoint.Open(Repository.SmolLM2);
        string[] paths = [Path.Combine(folder, "base.gguf"), Path.Combine(folder, "other.gguf")];
        foreach (string path in paths)
        {
            using Tensor values = randn([.. original.Entry(name).Shape]);
            TensorToWrite encoded = original.Encode(name, values, type);
            AtomicFile.Write(path, stream => GgufWriter.Rewrite(original.File, stream, new Dictionary<string, TensorToWrite?> { [encoded.Name] = encoded }));
        }

        using Decoder network = Decoder.Load(paths[0]);
        using Checkpoint other = Checkpoint.Open(paths[1]);
        using Tensor wanted = other.Read(name, ScalarType.Float32), before = network.Parameter(name).clone(), stored = other.ToFileOrder(name, wanted).to_type(StoredTensor.NaturalType(type));
        string diff = Path.Combine(folder, "diff" + Patch.Suffix);
        PatchFiles.Diff(network.Source!, other, diff).ShouldBe([name]);
        using Patch xor = Patch.Load(diff);
        using Patch replace = Patch.For(network, new PatchInfo { Method = "test" }, new Dictionary<string, Delta> { [name] = new Replace(stored) });
        using Patch made = Patch.Of(network.Source!, new PatchInfo { Method = "test" }, [(name, wanted.clone())]);
        xor.Deltas[name].ShouldBeOfType<DenseXor>().EditedHash.ShouldBe(made.Deltas[name].ShouldBeOfType<DenseXor>().EditedHash);
        foreach (Patch patch in (Patch[])[xor, replace, made])
        {
            using (patch.ApplyTo(network))
            {
                network.Parameter(name).Equals(wanted).ShouldBeTrue(patch.Deltas[name].Kind);
            }

            network.Parameter(name).Equals(before).ShouldBeTrue(patch.Deltas[name].Kind);
        }
    }

    [Fact]
    public void AChangeOfAQuantisedTensorIsMeasuredAgainstItsExpandedValues()
    {
        string name = "model.layers.3.self_attn.k_proj.weight";
        using Decoder network = Decoder.Load(Repository.SmolLM2);
        using Tensor before = network.Parameter(name).clone(), change = 0.01 * before;
        using Patch patch = Patch.For(network, new PatchInfo { Method = "test" }, new Dictionary<string, Delta> { [name] = new DenseAdd(change.clone()) });
        TensorChange seen = PatchInspection.Inspect(patch, network.Source).ShouldHaveSingleItem();
        seen.BaseNorm!.Value.ShouldBe(before.norm().ToDouble(), 1e-4);
        seen.RelativeNorm!.Value.ShouldBe(0.01, 1e-6);
    }

    [Fact]
    public void TenThousandRandomPatchesRevertToTheSameBits()
    {
        int applied = 0;
        Gen.Select(Gen.Int[0, Types.Length - 1], Gen.Int[0, 9], Gen.Int[1, 9], Gen.Int[1, 40], Gen.UInt).Sample((type, kind, rows, columns, seed) =>
        {
            using var scope = NewDisposeScope();
            var random = new Random((int)(seed & 0x7fffffff));
            using var bag = new TensorBag(("w", RandomBits(Types[type], [rows, columns], random)));
            string before = bag.HashOfMemory("w");
            Delta delta = RandomDelta(kind, bag.Parameter("w"), random);
            using Patch patch = Patch.For(bag, new PatchInfo { Method = "test" }, new Dictionary<string, Delta> { ["w"] = delta });
            try
            {
                using IDisposable edit = patch.ApplyTo(bag);
                bag.HashOfMemory("w").ShouldNotBe(before);
                if (delta is DenseXor xor)
                {
                    bag.HashOfMemory("w").ShouldBe(xor.EditedHash);
                }

                Interlocked.Increment(ref applied);
            }
            catch (BadInputException e) when (e.Message.Contains("changes no tensor", StringComparison.Ordinal))
            {
            }

            bag.HashOfMemory("w").ShouldBe(before);
        }, iter: 10_000, threads: 2);
        applied.ShouldBeGreaterThan(9_000);
    }

    [Fact]
    public void WhatIsSavedAndLoadedEditsToTheSameBits()
    {
        Gen.Select(Gen.Int[0, Types.Length - 1], Gen.Int[0, 9], Gen.Int[1, 9], Gen.Int[1, 40], Gen.UInt).Sample((type, kind, rows, columns, seed) =>
        {
            using var scope = NewDisposeScope();
            var random = new Random((int)(seed & 0x7fffffff));
            using var bag = new TensorBag(("w", RandomBits(Types[type], [rows, columns], random)));
            using Patch patch = Patch.For(bag, new PatchInfo { Method = "test", Seed = seed }, new Dictionary<string, Delta> { ["w"] = RandomDelta(kind, bag.Parameter("w"), random) });
            string path = Path.Combine(folder, $"{seed}.{type}.{kind}.{rows}.{columns}{Patch.Suffix}"), again = path.Replace(Patch.Suffix, ".2" + Patch.Suffix, StringComparison.Ordinal);
            patch.Save(path, overwrite: true);
            using Patch loaded = Patch.Load(path);
            loaded.Save(again, overwrite: true);
            File.ReadAllBytes(again).ShouldBe(File.ReadAllBytes(path));
            HashWith(bag, loaded).ShouldBe(HashWith(bag, patch));
        }, iter: 300, threads: 1);
    }

    [Fact]
    public void TheEditIsTheSumRoundedOnceToTheStoredType()
    {
        using var scope = NewDisposeScope();
        foreach (ScalarType type in Types.Take(4))
        {
            var generator = new Generator(7);
            Tensor w = randn([130, 70], dtype: ScalarType.Float32, generator: generator).to_type(type);
            Tensor down = randn([3, 70], generator: generator), up = randn([130, 3], generator: generator);
            using var bag = new TensorBag(("w", w.clone()));
            using Patch patch = Patch.For(bag, new PatchInfo { Method = "test" }, new Dictionary<string, Delta> { ["w"] = new LowRank(down, up, 0.5) });
            ScalarType wide = type == ScalarType.Float64 ? ScalarType.Float64 : ScalarType.Float32;
            Tensor u = up.to_type(wide) * 0.5, d = down.to_type(wide), change = zeros_like(w, dtype: wide);
            for (int k = 0; k < 3; k++)
            {
                change += u.narrow(1, k, 1) * d.narrow(0, k, 1);
            }

            using (patch.ApplyTo(bag))
            {
                bag.Parameter("w").equal(where(change.eq(0), w.to_type(wide), w.to_type(wide) + change).to_type(type)).all().ToBoolean().ShouldBeTrue(type.ToString());
            }
        }
    }

    [Fact]
    public void NewValuesOfStoredTensorsGiveExactBitsOrSumsOnBlocksAndWhatRoundsAwayIsLeftOut()
    {
        using var scope = NewDisposeScope();
        using Checkpoint model = Checkpoint.Open(Repository.SmolLM2);
        string[] names = ["model.norm.weight", "model.layers.0.self_attn.k_proj.weight", "model.layers.1.input_layernorm.weight"];
        using Patch patch = Patch.Of(model, new PatchInfo { Method = "test" }, names.Select((name, i) => (name, model.Read(name) + (i == 2 ? 0 : 1))));
        patch.Deltas.Count.ShouldBe(2);
        patch.Deltas[names[0]].ShouldBeOfType<DenseXor>();
        patch.Deltas[names[1]].ShouldBeOfType<DenseAdd>();
        patch.Edited(model, names[0]).ShouldBe(model.Read(names[0]) + 1);
        Should.Throw<CheckFailedException>(() => Patch.Of(model, new PatchInfo { Method = "test" }, [(names[0], model.Read(names[0]))])).Message.ShouldContain("no stored bit");
    }

    [Fact]
    public void ScopesMayEndInAnyOrder()
    {
        using var scope = NewDisposeScope();
        using var bag = new TensorBag(("w", randn([20, 30])), ("v", randn([5])));
        string before = bag.HashOfMemory("w");
        using Patch first = Patch.For(bag, new PatchInfo { Method = "first" }, new Dictionary<string, Delta> { ["w"] = new DenseAdd(randn([20, 30])) });
        using Patch second = Patch.For(bag, new PatchInfo { Method = "second" }, new Dictionary<string, Delta> { ["w"] = new LowRank(randn([2, 30]), randn([20, 2])), ["v"] = new DenseAdd(ones([5])) });
        string onlySecond = HashWith(bag, second);
        IDisposable a = first.ApplyTo(bag), b = second.ApplyTo(bag, scale: 1);
        a.Dispose();
        bag.HashOfMemory("w").ShouldBe(onlySecond);
        b.Dispose();
        a.Dispose();
        bag.HashOfMemory("w").ShouldBe(before);
    }

    [Fact]
    public void APatchForAnotherBaseIsRefusedByName()
    {
        using var scope = NewDisposeScope();
        using var bag = new TensorBag(("w", randn([4, 4])), ("v", randn([4])));
        using var other = new TensorBag(("w", randn([4, 4])), ("v", bag.Parameter("v").clone()));
        using Patch exact = Patch.For(bag, new PatchInfo { Method = "test" }, new Dictionary<string, Delta> { ["w"] = DenseXor.Between(bag.Parameter("w"), randn([4, 4])) });
        using Patch additive = Patch.For(bag, new PatchInfo { Method = "test" }, new Dictionary<string, Delta> { ["w"] = new DenseAdd(ones([4, 4])), ["v"] = new DenseAdd(ones([4])) });
        Should.Throw<BadInputException>(() => exact.ApplyTo(other)).Message.ShouldContain("w differ");
        Should.Throw<BadInputException>(() => exact.ApplyTo(other, force: true)).Message.ShouldContain("cannot be forced");
        BadInputException refused = Should.Throw<BadInputException>(() => additive.ApplyTo(other));
        refused.Message.ShouldContain(": w differ");
        additive.ApplyTo(other, force: true).Dispose();
    }

    [Fact]
    public void WhatCannotBeIsRefused()
    {
        using var scope = NewDisposeScope();
        using var bag = new TensorBag(("w", ones([4, 4])), ("i", ones([4], dtype: ScalarType.Int32)));
        Patch Make(string name, Delta delta) => Patch.For(bag, new PatchInfo { Method = "test" }, new Dictionary<string, Delta> { [name] = delta });
        Should.Throw<BadInputException>(() => Make("i", new DenseAdd(ones([4])))).Message.ShouldContain("I32");
        Should.Throw<BadInputException>(() => Make("w", new DenseAdd(ones([4])))).Message.ShouldContain("[4, 4]");
        Should.Throw<BadInputException>(() => Make("w", new LowRank(ones([2, 3]), ones([4, 2])))).Message.ShouldContain("down [2, 3]");
        Should.Throw<BadInputException>(() => Make("w", new Sparse(tensor(new long[] { 3, 3 }), ones([2])))).Message.ShouldContain("must rise");
        Should.Throw<BadInputException>(() => Make("w", new Sparse(tensor(new long[] { 16 }), ones([1])))).Message.ShouldContain("below 16");
        Should.Throw<BadInputException>(() => Make("w", new Rows(tensor(new long[] { 4 }), ones([1, 4])))).Message.ShouldContain("below 4");
        Should.Throw<BadInputException>(() => Make("w", new DenseAdd(zeros([4, 4]))).ApplyTo(bag)).Message.ShouldContain("changes no tensor");
        Should.Throw<BadInputException>(() => Make("w", new Scaled(full([4], 2f), 0)).ApplyTo(bag, scale: 0.5)).Message.ShouldContain("cannot be scaled");
        Should.Throw<BadInputException>(() => new Patch(new PatchInfo { Method = "t" }, new string('0', 64), new Dictionary<string, BaseTensor>(), new Dictionary<string, Delta> { ["w"] = new Replace(ones([4, 4])) }).ApplyTo(bag));
        Patch hook = new(new PatchInfo { Method = "t" }, bag.ConfigHash, new Dictionary<string, BaseTensor> { ["w"] = new(StorageType.F32, [4, 4], bag.Hash("w")) }, new Dictionary<string, Delta> { ["w"] = new DenseAdd(ones([4, 4])) }) { Requires = ["sampler:transport"] };
        Should.Throw<BadInputException>(() => hook.ApplyTo(bag)).Message.ShouldContain("sampler:transport");
        hook.ApplyTo(bag, provided: ["sampler:transport"]).Dispose();
    }

    [Fact]
    public void NoTensorOutlivesItsScope()
    {
        using var bag = new TensorBag(("w", ones([64, 64])));
        using Tensor down = ones([1, 64]), up = ones([64, 1]);
        using Patch patch = Patch.For(bag, new PatchInfo { Method = "test" }, new Dictionary<string, Delta> { ["w"] = new LowRank(down, up) });
        patch.ApplyTo(bag).Dispose();
        // This thread's own count: other tests run beside this one.
        long live = DisposeScopeManager.Statistics.ThreadTotalLiveCount;
        for (int i = 0; i < 100; i++)
        {
            patch.ApplyTo(bag).Dispose();
        }

        DisposeScopeManager.Statistics.ThreadTotalLiveCount.ShouldBe(live);
    }

    static string HashWith(TensorBag bag, Patch patch)
    {
        try
        {
            using (patch.ApplyTo(bag))
            {
                return bag.HashOfMemory("w");
            }
        }
        catch (BadInputException e) when (e.Message.Contains("changes no tensor", StringComparison.Ordinal))
        {
            return "unchanged";
        }
    }

    // Any bits at all, signalling NaNs and negative zeros among them.
    static Tensor RandomBits(ScalarType type, long[] shape, Random random)
    {
        Tensor result = empty(shape, dtype: type);
        Span<byte> bytes = StoredTensor.Bytes(result, 0, (int)(result.numel() * result.element_size()));
        random.NextBytes(bytes);
        if (type == ScalarType.Bool)
        {
            foreach (ref byte value in bytes)
            {
                value &= 1;
            }
        }

        return result;
    }

    static Tensor Numbers(Random random, params long[] shape)
    {
        float[] values = new float[shape.Aggregate(1L, (a, b) => a * b)];
        foreach (ref float value in values.AsSpan())
        {
            value = (float)Math.Exp(random.NextDouble() * 20 - 5) * (random.Next(2) * 2 - 1);
        }

        return tensor(values).reshape(shape);
    }

    static long[] Some(Random random, long limit) => [.. Enumerable.Range(0, (int)limit).Where(_ => random.Next(3) == 0).DefaultIfEmpty(random.Next((int)limit)).Select(i => (long)i)];

    static Delta RandomDelta(int kind, Tensor w, Random random)
    {
        long rows = w.shape[0], columns = w.shape[1];
        int rank = random.Next(1, 4);
        bool exact = !w.is_floating_point() || kind == 0;
        if (exact)
        {
            Tensor edited = RandomBits(w.dtype, w.shape, random);
            return kind % 2 == 0 ? DenseXor.Between(w, edited) : new Replace(edited);
        }

        long[] indices = Some(random, rows * columns), some = Some(random, rows);
        return kind switch
        {
            1 => new Replace(RandomBits(w.dtype, w.shape, random)),
            2 => new DenseAdd(Numbers(random, rows, columns)),
            3 => new Sparse(tensor(indices), Numbers(random, indices.Length)),
            4 => new Rows(tensor(some), Numbers(random, some.Length, columns)),
            5 => new LowRank(Numbers(random, rank, columns), Numbers(random, rows, rank), random.NextDouble() * 3),
            6 => new Dora(PatchTensor.Of(Numbers(random, rank, columns)), PatchTensor.Of(Numbers(random, rows, rank)), PatchTensor.Of(Numbers(random, rows)), 0),
            7 => new Scaled(Numbers(random, columns), 1),
            8 => Zeroed.Where(tensor(Enumerable.Range(0, (int)(rows * columns)).Select(_ => random.Next(2) == 0).ToArray(), [rows, columns])),
            _ => new SetRows(tensor(some), Numbers(random, some.Length, columns)),
        };
    }
}
