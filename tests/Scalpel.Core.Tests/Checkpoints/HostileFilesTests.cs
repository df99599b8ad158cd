using System.Buffers.Binary;
using System.Text;
using Scalpel.Checkpoints;
using Scalpel.Checkpoints.Gguf;

namespace Scalpel.Tests.Checkpoints;

/// <summary>Files made to mislead a reader: each is one clear error that names the file and what is wrong with it.</summary>
public sealed class HostileFilesTests : IDisposable
{
    readonly string folder = Directory.CreateTempSubdirectory("scalpel hostile ").FullName;

    public void Dispose() => Directory.Delete(folder, recursive: true);

    public static TheoryData<string, byte[], CheckpointProblem> GgufAttacks => new()
    {
        { "another magic", [.. "GGML"u8, .. new byte[40]], CheckpointProblem.Format },
        { "version 1", File(version: 1), CheckpointProblem.Format },
        { "version 4", File(version: 4), CheckpointProblem.Format },
        { "big-endian", File(version: 0x03000000), CheckpointProblem.Format },
        { "more tensors than bytes", File(tensors: ulong.MaxValue), CheckpointProblem.HeaderSize },
        { "more pairs than bytes", File(pairs: 1UL << 60), CheckpointProblem.HeaderSize },
        { "a key longer than the file", File(pairs: 1, body: [.. U64(1UL << 40), .. new byte[32]]), CheckpointProblem.HeaderSize },
        { "a string longer than the file", File(pairs: 1, body: [.. Text("a"), .. U32(8), .. U64(ulong.MaxValue), .. new byte[32]]), CheckpointProblem.HeaderSize },
        { "a list longer than the file", File(pairs: 1, body: [.. Text("a"), .. U32(9), .. U32(0), .. U64(1UL << 50), .. new byte[32]]), CheckpointProblem.HeaderSize },
        { "a list of unknown type", File(pairs: 1, body: [.. Text("a"), .. U32(9), .. U32(77), .. U64(1), .. new byte[32]]), CheckpointProblem.HeaderSyntax },
        { "lists in lists without end", File(pairs: 1, body: [.. Text("a"), .. U32(9), .. Enumerable.Repeat<byte[]>([.. U32(9), .. U64(1)], 100).SelectMany(x => x)]), CheckpointProblem.HeaderSyntax },
        { "a value of unknown type", File(pairs: 1, body: [.. Text("a"), .. U32(13), .. new byte[32]]), CheckpointProblem.HeaderSyntax },
        { "a truth value of 2", File(pairs: 1, body: [.. Text("a"), .. U32(7), 2, .. new byte[32]]), CheckpointProblem.HeaderSyntax },
        { "a key twice", File(pairs: 2, body: [.. Text("a"), .. U32(0), 1, .. Text("a"), .. U32(0), 1, .. new byte[32]]), CheckpointProblem.Duplicate },
        { "an alignment of 3", File(pairs: 1, body: [.. Text("general.alignment"), .. U32(4), .. U32(3), .. new byte[32]]), CheckpointProblem.HeaderSyntax },
        { "an alignment of 0", File(pairs: 1, body: [.. Text("general.alignment"), .. U32(4), .. U32(0), .. new byte[32]]), CheckpointProblem.HeaderSyntax },
        { "an alignment of a gigabyte", File(pairs: 1, body: [.. Text("general.alignment"), .. U32(4), .. U32(1 << 30), .. new byte[32]]), CheckpointProblem.HeaderSyntax },
        { "a name of 64 bytes", File(tensors: 1, body: [.. Text(new string('n', 64)), .. U32(1), .. U64(8), .. U32(0), .. U64(0), .. new byte[64]]), CheckpointProblem.HeaderSyntax },
        { "five axes", File(tensors: 1, body: [.. Text("t"), .. U32(5), .. new byte[64]]), CheckpointProblem.Shape },
        { "a shape that overflows", File(tensors: 1, body: [.. Text("t"), .. U32(2), .. U64(1UL << 40), .. U64(1UL << 40), .. U32(0), .. U64(0), .. new byte[64]]), CheckpointProblem.Shape },
        { "an axis above 63 bits", File(tensors: 1, body: [.. Text("t"), .. U32(1), .. U64(ulong.MaxValue), .. U32(0), .. U64(0), .. new byte[64]]), CheckpointProblem.Shape },
        { "a row that is no multiple of the block", File(tensors: 1, body: [.. Text("t"), .. U32(1), .. U64(31), .. U32(8), .. U64(0), .. new byte[64]]), CheckpointProblem.Shape },
        { "an unknown block type", File(tensors: 1, body: [.. Text("t"), .. U32(1), .. U64(8), .. U32(999), .. U64(0), .. new byte[64]]), CheckpointProblem.Type },
        { "an offset that is not aligned", File(tensors: 1, body: [.. Text("t"), .. U32(1), .. U64(8), .. U32(0), .. U64(7), .. new byte[64]]), CheckpointProblem.Layout },
        { "an offset beyond the file", File(tensors: 1, body: [.. Text("t"), .. U32(1), .. U64(8), .. U32(0), .. U64(1UL << 62), .. new byte[64]]), CheckpointProblem.Layout },
        { "a hole before the first tensor", File(tensors: 1, body: [.. Text("t"), .. U32(1), .. U64(8), .. U32(0), .. U64(32), .. new byte[128]]), CheckpointProblem.Layout },
        { "tensors that overlap", File(tensors: 2, body: [.. Info("t", 8, 0), .. Info("u", 8, 0), .. new byte[128]]), CheckpointProblem.Layout },
        { "a tensor twice", File(tensors: 2, body: [.. Info("t", 8, 0), .. Info("t", 8, 32), .. new byte[128]]), CheckpointProblem.Duplicate },
        { "data that is cut", File(tensors: 1, body: [.. Info("t", 800, 0), .. new byte[128]]), CheckpointProblem.Truncated },
    };

    [Theory]
    [MemberData(nameof(GgufAttacks))]
    public void AHostileGgufFileIsOneClearError(string name, byte[] bytes, CheckpointProblem problem)
    {
        string path = Path.Combine(folder, name + ".gguf");
        System.IO.File.WriteAllBytes(path, bytes);
        long before = GC.GetAllocatedBytesForCurrentThread();
        CheckpointException error = Should.Throw<CheckpointException>(() => GgufFile.Open(path).Dispose());
        (GC.GetAllocatedBytesForCurrentThread() - before).ShouldBeLessThan(1 << 20);
        error.Problem.ShouldBe(problem, error.Message);
        error.Message.ShouldStartWith(path);
        error.Message.ShouldNotContain("\n");
    }

    [Theory]
    [InlineData("unknown", "is of the architecture unknown")]
    [InlineData(null, "has no general.architecture")]
    [InlineData("llama", "has no llama.embedding_length")]
    public void AModelWithoutWhatItNeedsSaysWhatIsMissing(string? architecture, string words)
    {
        string path = Path.Combine(folder, "model.gguf");
        GgufWriter.Write(path, architecture is null ? new Dictionary<string, object>() : new Dictionary<string, object> { ["general.architecture"] = architecture }, []);
        Should.Throw<CheckpointException>(() => Checkpoint.Open(path)).Message.ShouldContain(words);
    }

    [Fact]
    public void ATensorInTwoShardsIsRefused()
    {
        Shard("one.safetensors", "a", "b");
        Shard("two.safetensors", "b");
        Index("""{"weight_map":{"a":"one.safetensors","b":"two.safetensors"}}""");
        CheckpointException error = Should.Throw<CheckpointException>(() => Checkpoint.Open(folder));
        error.Problem.ShouldBe(CheckpointProblem.Duplicate);
        error.Tensor.ShouldBe("b");
    }

    [Fact]
    public void AWrongTotalSizeIsAWarning()
    {
        Shard("one.safetensors", "a");
        Index("""{"metadata":{"total_size":5},"weight_map":{"a":"one.safetensors"}}""");
        using Checkpoint checkpoint = Checkpoint.Open(folder);
        checkpoint.Warnings.ShouldHaveSingleItem().ShouldContain("total_size is 5, but the tensors have 4 bytes");
    }

    [Fact]
    public void AnIndexInPlaceOfAShardDoesNotLeadInCircles()
    {
        Index("""{"weight_map":{"a":"model.safetensors.index.json"}}""");
        Should.Throw<CheckpointException>(() => Checkpoint.Open(folder)).Message.ShouldContain("not the plain name of a safetensors file");
        System.IO.File.CreateSymbolicLink(Path.Combine(folder, "loop.safetensors"), "loop.safetensors");
        Index("""{"weight_map":{"a":"loop.safetensors"}}""");
        Should.Throw<CheckpointException>(() => Checkpoint.Open(folder)).Problem.ShouldBe(CheckpointProblem.Missing);
    }

    void Shard(string file, params string[] names) =>
        SafeTensorsWriter.Write(Path.Combine(folder, file), [.. names.Select(name => new TensorToWrite(name, StorageType.F32, [1], stream => stream.Write(new byte[4])))]);

    void Index(string json) => System.IO.File.WriteAllText(Path.Combine(folder, "model.safetensors.index.json"), json);

    static byte[] File(uint version = 3, ulong tensors = 0, ulong pairs = 0, byte[]? body = null) => [.. "GGUF"u8, .. U32(version), .. U64(tensors), .. U64(pairs), .. body ?? new byte[64]];

    static byte[] Info(string name, ulong size, ulong offset) => [.. Text(name), .. U32(1), .. U64(size), .. U32(0), .. U64(offset)];

    static byte[] Text(string text) => [.. U64((ulong)Encoding.UTF8.GetByteCount(text)), .. Encoding.UTF8.GetBytes(text)];

    static byte[] U32(uint value)
    {
        byte[] bytes = new byte[4];
        BinaryPrimitives.WriteUInt32LittleEndian(bytes, value);
        return bytes;
    }

    static byte[] U64(ulong value)
    {
        byte[] bytes = new byte[8];
        BinaryPrimitives.WriteUInt64LittleEndian(bytes, value);
        return bytes;
    }
}
