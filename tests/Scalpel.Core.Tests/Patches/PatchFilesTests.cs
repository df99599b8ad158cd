using System.Security.Cryptography;
using System.Text.Json.Nodes;
using Scalpel.Checkpoints;
using Scalpel.Patches;
using Scalpel.Tests.Checkpoints;
using TorchSharp;
using static TorchSharp.torch;

namespace Scalpel.Tests.Patches;

public sealed class PatchFilesTests : IDisposable
{
    readonly string folder = Directory.CreateTempSubdirectory("scalpel patch files ").FullName;

    public void Dispose() => Directory.Delete(folder, recursive: true);

    [Theory]
    [InlineData("llama")]
    [InlineData("llama-sharded")]
    [InlineData("llama-bf16")]
    [InlineData("qwen2-f16")]
    [InlineData("gpt2")]
    public void RevertGivesTheBaseByteForByte(string model)
    {
        string source = Repository.Reference("decoders", "_models", model);
        using Checkpoint checkpoint = Checkpoint.Open(source);
        using Patch patch = Patch.For(checkpoint, new PatchInfo { Method = "test" }, checkpoint.Tensors.Keys.Order(StringComparer.Ordinal).Take(5).ToDictionary(name => name, name => SomeChange(checkpoint.Entry(name))));
        string edited = Path.Combine(folder, "edited model"), back = Path.Combine(folder, "base again");
        ApplyReport report = PatchFiles.Apply(checkpoint, patch, edited);
        report.Changed.Count.ShouldBe(5);
        using (Checkpoint written = Checkpoint.Open(edited))
        {
            foreach (string name in checkpoint.Tensors.Keys)
            {
                (written.Hash(name) == checkpoint.Hash(name)).ShouldBe(!patch.Deltas.ContainsKey(name), name);
                written.Entry(name).Type.ShouldBe(checkpoint.Entry(name).Type);
            }
        }

        PatchFiles.Revert(edited, back);
        Contents(back).ShouldBe(Contents(source));
    }

    [Theory]
    [InlineData("model.layers.3.self_attn.k_proj.weight", null, StorageType.F32, 0)]
    [InlineData("model.layers.3.self_attn.k_proj.weight", StorageType.F16, StorageType.F16, 1e-3)]
    [InlineData("model.layers.3.self_attn.k_proj.weight", StorageType.BF16, StorageType.BF16, 1e-2)]
    [InlineData("model.layers.3.self_attn.k_proj.weight", StorageType.Q8_0, StorageType.Q8_0, 1e-2)]
    [InlineData("model.embed_tokens.weight", StorageType.Q8_0, StorageType.Q8_0, 1e-2)]
    public void EditedBlocksOfAGgufFileAreWrittenInTheTypeThatIsAskedForAndRevertGivesTheBaseByteForByte(string name, StorageType? asked, StorageType type, double error)
    {
        using var scope = NewDisposeScope();
        using Checkpoint checkpoint = Checkpoint.Open(Repository.SmolLM2);
        Tensor expected = checkpoint.Read(name), up = randn(expected.shape[0], 1) * 0.1, down = randn(1, expected.shape[1]) * 0.1;
        using Patch patch = Patch.For(checkpoint, new PatchInfo { Method = "test" }, new Dictionary<string, Delta> { [name] = new LowRank(PatchTensor.Of(down), PatchTensor.Of(up)) });
        string edited = Path.Combine(folder, "edited model"), back = Path.Combine(folder, "base again");
        PatchFiles.Apply(checkpoint, patch, edited, new ApplyOptions { BlockType = asked }).Changed.ShouldBe([name]);
        using (Checkpoint written = Checkpoint.Open(edited))
        {
            written.Entry(name).Type.ShouldBe(type);
            expected.add_(up.matmul(down));
            Tensor difference = (written.Read(name, ScalarType.Float32) - expected).abs();
            difference.max().item<float>().ShouldBeLessThanOrEqualTo((float)(error * expected.abs().max().item<float>() + 1e-6));
            foreach (string other in checkpoint.Tensors.Keys.Where(other => other != name))
            {
                written.Hash(other).ShouldBe(checkpoint.Hash(other));
            }
        }

        PatchFiles.Revert(edited, back);
        foreach (string file in Directory.EnumerateFiles(Repository.SmolLM2))
        {
            File.ReadAllBytes(Path.Combine(back, Path.GetFileName(file))).AsSpan().SequenceEqual(File.ReadAllBytes(file)).ShouldBeTrue(file);
        }
    }

    [Fact]
    public void ATypeForBlocksIsRefusedWhereNoneAreEditedOrItCannotBeWritten()
    {
        using Checkpoint plain = Checkpoint.Open(Repository.Reference("decoders", "_models", "llama")), blocks = Checkpoint.Open(Repository.SmolLM2);
        string name = "model.layers.0.mlp.down_proj.weight";
        foreach ((Checkpoint checkpoint, StorageType type, string finding) in new[] { (plain, StorageType.F16, "leave the type F16 out"), (blocks, StorageType.Q4_K, "choose one of F32") })
        {
            using Patch patch = Patch.For(checkpoint, new PatchInfo { Method = "test" }, new Dictionary<string, Delta> { [name] = new Sparse(PatchTensor.Of(new long[] { 3 }), PatchTensor.Of(new float[] { 1 }, 1)) });
            Should.Throw<BadInputException>(() => PatchFiles.Apply(checkpoint, patch, Path.Combine(folder, "edited"), new ApplyOptions { BlockType = type })).Message.ShouldContain(finding);
            Directory.Exists(Path.Combine(folder, "edited")).ShouldBeFalse();
        }
    }

    [Fact]
    public void TheFileHoldsWhatTheNetworkInMemoryHolds()
    {
        using var scope = NewDisposeScope();
        using Checkpoint checkpoint = Checkpoint.Open(Repository.Reference("decoders", "_models", "llama-bf16"));
        string name = checkpoint.Tensors.Values.First(entry => entry.Shape.Count == 2).Name;
        using var bag = new TensorBag((name, checkpoint.Read(name)));
        using Patch patch = Patch.For(checkpoint, new PatchInfo { Method = "test" }, new Dictionary<string, Delta> { [name] = SomeChange(checkpoint.Entry(name)) });
        PatchFiles.Apply(checkpoint, patch, Path.Combine(folder, "edited"), new ApplyOptions { Scale = 0.75 });
        using Checkpoint written = Checkpoint.Open(Path.Combine(folder, "edited"));
        using (patch.ApplyTo(bag, 0.75))
        {
            bag.HashOfMemory(name).ShouldBe(written.Hash(name));
        }
    }

    [Fact]
    public void NewTokensRemovedUnitsAndUntiedHeadsComeAndGo()
    {
        string source = Path.Combine(folder, "base");
        Directory.CreateDirectory(source);
        foreach (string file in Directory.GetFiles(Repository.Reference("decoders", "_models", "llama-sharded")))
        {
            File.Copy(file, Path.Combine(source, Path.GetFileName(file)));
        }

        File.WriteAllText(Path.Combine(source, "tokenizer.json"), """{"version":"1.0","added_tokens":[{"id":0,"content":"<s>"}],"model":{}}""");
        using Checkpoint checkpoint = Checkpoint.Open(source);
        TensorEntry embedding = checkpoint.Entry("model.embed_tokens.weight"), gate = checkpoint.Entry("model.layers.0.mlp.gate_proj.weight"), down = checkpoint.Entry("model.layers.0.mlp.down_proj.weight");
        long[] kept = [.. Enumerable.Range(0, (int)gate.Shape[0]).Where(i => i % 3 != 0).Select(i => (long)i)];
        using var scope = NewDisposeScope();
        var deltas = new Dictionary<string, Delta>
        {
            [embedding.Name] = new Append(ones([2, embedding.Shape[1]])),
            [gate.Name] = new Keep(tensor(kept), 0),
            [down.Name] = new Keep(tensor(kept), 1),
            ["model.layers.0.mlp.up_proj.weight"] = SomeChange(checkpoint.Entry("model.layers.0.mlp.up_proj.weight")),
            ["model.norm.weight"] = new Remove(),
            ["model.extra.weight"] = new Replace(ones([3, 4], dtype: ScalarType.Float16)),
        };
        using Patch plain = Patch.For(checkpoint, new PatchInfo { Method = "test" }, deltas);
        using Patch patch = new(plain.Info, plain.BaseConfigHash, plain.BaseTensors, plain.Deltas)
        {
            Structure = new PatchStructure { Config = new JsonObject { ["vocab_size"] = embedding.Shape[0] + 2 }, Tokens = [new NewToken("<gold>", (int)embedding.Shape[0], true)] },
        };
        string saved = Path.Combine(folder, "structure" + Patch.Suffix), edited = Path.Combine(folder, "edited"), back = Path.Combine(folder, "back");
        patch.Save(saved);
        using Patch loaded = Patch.Load(saved);
        PatchFiles.Apply(checkpoint, loaded, edited);
        using (Checkpoint written = Checkpoint.Open(edited))
        {
            written.Warnings.ShouldBeEmpty();
            written.Config["vocab_size"]!.GetValue<long>().ShouldBe(embedding.Shape[0] + 2);
            written.Entry(embedding.Name).Shape.ShouldBe([embedding.Shape[0] + 2, embedding.Shape[1]]);
            written.Tensors.ShouldNotContainKey("model.norm.weight");
            written.Entry("model.extra.weight").Type.ShouldBe(StorageType.F16);
            written.Read(down.Name).equal(checkpoint.Read(down.Name).index_select(1, tensor(kept))).all().ToBoolean().ShouldBeTrue();
            written.Read(gate.Name).equal(checkpoint.Read(gate.Name).index_select(0, tensor(kept))).all().ToBoolean().ShouldBeTrue();
            JsonNode.Parse(File.ReadAllText(Path.Combine(edited, "tokenizer.json")))!["added_tokens"]!.AsArray()[1]!["content"]!.GetValue<string>().ShouldBe("<gold>");
        }

        PatchFiles.Revert(edited, back);
        Contents(back).ShouldBe(Contents(source));
    }

    [Fact]
    public void AQuantisedModelTakesAnEditAndGivesItBack()
    {
        using var scope = NewDisposeScope();
        using Checkpoint checkpoint = Checkpoint.Open(Repository.SmolLM2);
        string down = "model.layers.5.mlp.down_proj.weight", query = "model.layers.2.self_attn.q_proj.weight", norm = "model.norm.weight";
        string edited = Path.Combine(folder, "edited"), back = Path.Combine(folder, "back");
        using Patch patch = Patch.For(checkpoint, new PatchInfo { Method = "test" }, new[] { down, query, norm }.ToDictionary(name => name, name => SomeChange(checkpoint.Entry(name))));
        using var bag = new TensorBag((down, checkpoint.Read(down)), (query, checkpoint.Read(query)), (norm, checkpoint.Read(norm)));
        PatchFiles.Apply(checkpoint, patch, edited).Changed.Order(StringComparer.Ordinal).ShouldBe(patch.Deltas.Keys.Order(StringComparer.Ordinal));
        using (Checkpoint written = Checkpoint.Open(edited))
        {
            using (patch.ApplyTo(bag, force: true))
            {
                foreach (string name in patch.Deltas.Keys)
                {
                    written.Entry(name).Type.ShouldBe(StorageType.F32);
                    written.Read(name).equal(bag.Parameter(name)).all().ToBoolean().ShouldBeTrue(name);
                }
            }

            foreach (string name in checkpoint.Tensors.Keys.Except(patch.Deltas.Keys))
            {
                written.Hash(name).ShouldBe(checkpoint.Hash(name), name);
            }
        }

        PatchFiles.Revert(edited, back);
        Contents(back).ShouldBe(Contents(Repository.SmolLM2));
    }

    [Fact]
    public void PatchesStackOnFilesAndComeOffOneByOne()
    {
        string source = Repository.Reference("decoders", "_models", "llama"), one = Path.Combine(folder, "one"), two = Path.Combine(folder, "two");
        string name;
        using (Checkpoint checkpoint = Checkpoint.Open(source))
        {
            name = checkpoint.Tensors.Keys.First();
            using Patch patch = Patch.For(checkpoint, new PatchInfo { Method = "test" }, new Dictionary<string, Delta> { [name] = SomeChange(checkpoint.Entry(name)) });
            PatchFiles.Apply(checkpoint, patch, one);
        }

        using (Checkpoint checkpoint = Checkpoint.Open(one))
        {
            using Patch patch = Patch.For(checkpoint, new PatchInfo { Method = "test" }, new Dictionary<string, Delta> { [name] = SomeChange(checkpoint.Entry(name)) });
            PatchFiles.Apply(checkpoint, patch, two);
        }

        PatchFiles.Revert(two, Path.Combine(folder, "back to one"));
        Contents(Path.Combine(folder, "back to one")).ShouldBe(Contents(one));
        PatchFiles.Revert(Path.Combine(folder, "back to one"), Path.Combine(folder, "back to base"));
        Contents(Path.Combine(folder, "back to base")).ShouldBe(Contents(source));
    }

    [Fact]
    public void ADiffGivesTheOtherModel()
    {
        string source = Repository.Reference("decoders", "_models", "llama-sharded"), edited = Path.Combine(folder, "edited"), again = Path.Combine(folder, "again"), path = Path.Combine(folder, "a to b" + Patch.Suffix);
        using Checkpoint checkpoint = Checkpoint.Open(source);
        using Patch patch = Patch.For(checkpoint, new PatchInfo { Method = "test" }, checkpoint.Tensors.Keys.Where((_, i) => i % 2 == 0).ToDictionary(name => name, name => SomeChange(checkpoint.Entry(name))));
        PatchFiles.Apply(checkpoint, patch, edited);
        using Checkpoint target = Checkpoint.Open(edited);
        PatchFiles.Diff(checkpoint, target, path).ShouldBe(patch.Deltas.Keys.Order(StringComparer.Ordinal));
        using Patch diff = Patch.Load(path);
        PatchFiles.Apply(checkpoint, diff, again);
        using Checkpoint made = Checkpoint.Open(again);
        foreach (string name in target.Tensors.Keys)
        {
            made.Hash(name).ShouldBe(target.Hash(name), name);
        }

        Should.Throw<BadInputException>(() => PatchFiles.Diff(checkpoint, checkpoint, path, overwrite: true)).Message.ShouldContain("no patch between them");
        Directory.GetFiles(folder).ShouldBe([path]);
    }

    [Fact]
    public void AFullDiskAtAnyMomentLeavesWhatWasThere()
    {
        using Checkpoint checkpoint = Checkpoint.Open(Repository.Reference("decoders", "_models", "llama-sharded"));
        using Patch patch = Patch.For(checkpoint, new PatchInfo { Method = "test" }, checkpoint.Tensors.Keys.Take(3).ToDictionary(name => name, name => SomeChange(checkpoint.Entry(name))));
        string edited = Path.Combine(folder, "edited"), back = Path.Combine(folder, "back");
        int applied = 1, reverted = 1;
        for (; !Try(() => PatchFiles.Apply(checkpoint, patch, edited, store: new FaultyFileStore(applied))); applied++)
        {
            Directory.GetFileSystemEntries(folder).ShouldBeEmpty();
        }

        for (; !Try(() => PatchFiles.Revert(edited, back, store: new FaultyFileStore(reverted))); reverted++)
        {
            Directory.GetFileSystemEntries(folder).ShouldBe([edited]);
        }

        applied.ShouldBeInRange(10, 1000);
        reverted.ShouldBeInRange(8, 1000);
        Contents(back).ShouldBe(Contents(checkpoint.Folder));
    }

    [Fact]
    public void WhatCannotBeAppliedOrRevertedLeavesNothing()
    {
        using Checkpoint checkpoint = Checkpoint.Open(Repository.Reference("decoders", "_models", "llama")), other = Checkpoint.Open(Repository.Reference("decoders", "_models", "llama-bf16"));
        string name = checkpoint.Tensors.Keys.First(), edited = Path.Combine(folder, "edited");
        using Patch patch = Patch.For(checkpoint, new PatchInfo { Method = "test" }, new Dictionary<string, Delta> { [name] = SomeChange(checkpoint.Entry(name)) });
        Should.Throw<BadInputException>(() => PatchFiles.Apply(other, patch, edited)).Message.ShouldContain(name);
        using Patch nothing = Patch.For(checkpoint, new PatchInfo { Method = "test" }, new Dictionary<string, Delta> { [name] = new DenseAdd(zeros(checkpoint.Entry(name).Shape.ToArray())) });
        Should.Throw<BadInputException>(() => PatchFiles.Apply(checkpoint, nothing, edited)).Message.ShouldContain("changes no tensor");
        Should.Throw<BadInputException>(() => PatchFiles.Revert(checkpoint.Folder, edited)).Message.ShouldContain("undo.patch.safetensors");
        Directory.GetFileSystemEntries(folder).ShouldBeEmpty();

        PatchFiles.Apply(checkpoint, patch, edited);
        Should.Throw<BadInputException>(() => PatchFiles.Apply(checkpoint, patch, edited)).Message.ShouldContain("--force");
        File.AppendAllText(Path.Combine(edited, "config.json"), " ");
        Should.Throw<CheckFailedException>(() => PatchFiles.Revert(edited, Path.Combine(folder, "back"))).Message.ShouldContain("config.json");
        Directory.GetFileSystemEntries(folder).ShouldBe([edited]);
    }

    static bool Try(Action action)
    {
        try
        {
            action();
            return true;
        }
        catch (BadInputException e)
        {
            e.Message.ShouldContain("No space left");
            return false;
        }
    }

    static Delta SomeChange(TensorEntry entry)
    {
        using var scope = NewDisposeScope();
        var generator = new Generator(3);
        return entry.Shape.Count == 2
            ? new LowRank(randn([2, entry.Shape[1]], generator: generator), randn([entry.Shape[0], 2], generator: generator), 0.1)
            : new DenseAdd(randn(entry.Shape.ToArray(), generator: generator));
    }

    static Dictionary<string, string> Contents(string path) => Directory.GetFiles(path, "*", SearchOption.AllDirectories)
        .ToDictionary(file => Path.GetRelativePath(path, file), file => Convert.ToHexString(SHA256.HashData(File.ReadAllBytes(file))));
}
