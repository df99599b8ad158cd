using Scalpel.Checkpoints;
using Scalpel.Checkpoints.Gguf;
using TorchSharp;

namespace Scalpel.Tests.Checkpoints;

public sealed class GgufWriterTests : IDisposable
{
    readonly string folder = Directory.CreateTempSubdirectory("scalpel gguf ").FullName;

    public void Dispose() => Directory.Delete(folder, recursive: true);

    [Fact]
    public void ARewrittenFileWithNothingReplacedHasTheSameBytes()
    {
        foreach (string path in Directory.GetFiles(Repository.Reference("text"), "*.gguf", SearchOption.AllDirectories).Append(Directory.GetFiles(Repository.SmolLM2, "*.gguf").Single()))
        {
            using GgufFile file = GgufFile.Open(path);
            string copy = Path.Combine(folder, "copy.gguf");
            AtomicFile.Write(copy, stream => GgufWriter.Rewrite(file, stream, new Dictionary<string, TensorToWrite?>()));
            File.ReadAllBytes(copy).AsSpan().SequenceEqual(File.ReadAllBytes(path)).ShouldBeTrue(path);
        }
    }

    [Theory]
    [InlineData(StorageType.F32, 0)]
    [InlineData(StorageType.F16, 1e-3)]
    [InlineData(StorageType.BF16, 8e-3)]
    [InlineData(StorageType.Q8_0, 5e-3)]
    public void AReplacedTensorComesBackInItsPlaceAndTheOthersKeepTheirBytes(StorageType type, double tolerance)
    {
        using var source = (GgufCheckpoint)Checkpoint.Open(Repository.SmolLM2);
        string name = "model.layers.3.self_attn.k_proj.weight", copy = Path.Combine(folder, "edited.gguf");
        using torch.Tensor values = torch.randn(source.Entry(name).Shape.ToArray());
        TensorToWrite encoded = source.Encode(name, values, type);
        AtomicFile.Write(copy, stream => GgufWriter.Rewrite(source.File, stream, new Dictionary<string, TensorToWrite?> { [encoded.Name] = encoded }));
        using Checkpoint edited = Checkpoint.Open(copy);
        edited.Entry(name).Type.ShouldBe(type);
        using torch.Tensor back = edited.Read(name, torch.ScalarType.Float32), error = (back - values).abs().max(), scale = values.abs().max();
        error.ToDouble().ShouldBeLessThanOrEqualTo(tolerance * scale.ToDouble());
        edited.ConfigHash.ShouldBe(source.ConfigHash);
        foreach (string other in source.Tensors.Keys.Where(other => other != name))
        {
            edited.Hash(other).ShouldBe(source.Hash(other), other);
        }
    }

    [Fact]
    public void EveryKindOfMetadataIsReadBackAsItWasWritten()
    {
        var metadata = new Dictionary<string, object>
        {
            ["general.architecture"] = "none", ["general.alignment"] = 64u, ["a"] = (byte)250, ["b"] = (sbyte)-100, ["c"] = ushort.MaxValue, ["d"] = short.MinValue,
            ["e"] = int.MinValue, ["f"] = 0.1f, ["g"] = true, ["h"] = "Grüße 😀", ["i"] = ulong.MaxValue, ["j"] = long.MinValue, ["k"] = 1.0 / 3,
            ["l"] = new[] { 1, -2 }, ["m"] = new[] { 1u, 2u }, ["n"] = new[] { "a", "" }, ["o"] = new[] { true, false }, ["p"] = new[] { 0.5f },
            ["q"] = new[] { long.MinValue }, ["r"] = new[] { ulong.MaxValue }, ["s"] = new byte[] { 1 }, ["t"] = new sbyte[] { -1 },
            ["u"] = new object[] { new[] { 1, 2 }, new[] { "a" } },
        };
        string path = Path.Combine(folder, "made.gguf");
        GgufWriter.Write(path, metadata, [new TensorToWrite("t", StorageType.Q8_0, [2, 32], stream => stream.Write(new byte[68])), new TensorToWrite("u", StorageType.I8, [3], stream => stream.Write([1, 2, 3]))]);
        using GgufFile file = GgufFile.Open(path);
        file.Alignment.ShouldBe(64);
        file.Metadata.Keys.ShouldBe(metadata.Keys);
        foreach ((string key, object value) in metadata)
        {
            file.Metadata[key].ShouldBeOfType(value.GetType());
            file.Metadata[key].ShouldBeEquivalentTo(value, key);
        }

        using torch.Tensor u = file.Read("u");
        u.data<sbyte>().ToArray().ShouldBe([1, 2, 3]);
        file.Tensors["u"].Offset.ShouldBe(file.DataStart + 128);
    }

    [Fact]
    public void AFaultAtAnyStepLeavesTheOldFileWhole()
    {
        string path = Path.Combine(folder, "model.gguf");
        var metadata = new Dictionary<string, object> { ["general.architecture"] = "none" };
        GgufWriter.Write(path, metadata, []);
        byte[] before = File.ReadAllBytes(path);
        int n = 1;
        for (; n < 100; n++)
        {
            try
            {
                GgufWriter.Write(path, metadata, [new TensorToWrite("t", StorageType.F32, [8], stream => stream.Write(new byte[32]))], new FaultyFileStore(n));
                break;
            }
            catch (BadInputException)
            {
                File.ReadAllBytes(path).ShouldBe(before);
                Directory.GetFiles(folder).ShouldBe([path]);
            }
        }

        n.ShouldBeInRange(5, 99);
        using GgufFile written = GgufFile.Open(path);
        written.Tensors.Count.ShouldBe(1);
    }
}
