using System.Buffers.Binary;
using System.Text;
using Scalpel.Checkpoints;
using TorchSharp;

namespace Scalpel.Tests.Checkpoints;

public sealed class SafeTensorsTests : IDisposable
{
    readonly string folder = Directory.CreateTempSubdirectory("scalpel tensors ").FullName;

    public void Dispose() => Directory.Delete(folder, recursive: true);

    [Theory]
    [InlineData("llama")]
    [InlineData("llama-sharded")]
    [InlineData("llama-bf16")]
    [InlineData("qwen2-f16")]
    [InlineData("gpt2")]
    public void WhatIsReadAndWrittenAgainHasTheSameBytes(string model)
    {
        using Checkpoint original = Checkpoint.Open(Repository.Reference("decoders", "_models", model));
        var tensors = original.Tensors.Keys.ToDictionary(name => name, name => original.Read(name));
        string copy = Path.Combine(folder, "copy.safetensors");
        SafeTensorsWriter.Write(copy, tensors, new Dictionary<string, string> { ["format"] = "pt" });
        foreach (torch.Tensor tensor in tensors.Values)
        {
            tensor.Dispose();
        }

        using Checkpoint written = Checkpoint.Open(copy);
        written.Tensors.Keys.Order().ShouldBe(original.Tensors.Keys.Order());
        foreach (string name in original.Tensors.Keys)
        {
            written.Hash(name).ShouldBe(original.Hash(name), name);
            written.Entry(name).Shape.ShouldBe(original.Entry(name).Shape);
        }
    }

    [Theory]
    [InlineData(ScalarKind.Bf16)]
    [InlineData(ScalarKind.F16)]
    public void HalfTypesWidenToFloatAsTorchWidensThem(ScalarKind kind)
    {
        using Checkpoint checkpoint = Checkpoint.Open(Repository.Reference("decoders", "_models", kind == ScalarKind.Bf16 ? "llama-bf16" : "qwen2-f16"));
        foreach (string name in checkpoint.Tensors.Keys)
        {
            using torch.Tensor wide = checkpoint.Read(name, torch.ScalarType.Float32), stored = checkpoint.Read(name), expected = stored.to_type(torch.ScalarType.Float32);
            StoredTensor.Bytes(wide, 0, (int)wide.numel() * 4).SequenceEqual(StoredTensor.Bytes(expected, 0, (int)wide.numel() * 4)).ShouldBeTrue(name);
        }
    }

    public enum ScalarKind { Bf16, F16 }

    public static TheoryData<string, string, CheckpointProblem> Malformed => new()
    {
        { "empty header", "", CheckpointProblem.HeaderSyntax },
        { "array", "[]", CheckpointProblem.HeaderSyntax },
        { "leading space", " {}", CheckpointProblem.HeaderSyntax },
        { "broken", "{\"a\":", CheckpointProblem.HeaderSyntax },
        { "trailing", "{}x", CheckpointProblem.HeaderSyntax },
        { "duplicate", Two("a", 0, 4, "a", 4, 8), CheckpointProblem.Duplicate },
        { "overlap", Two("a", 0, 4, "b", 0, 4), CheckpointProblem.Layout },
        { "hole", Two("a", 0, 4, "b", 8, 12), CheckpointProblem.Layout },
        { "beyond", Two("a", 0, 4, "b", 4, 400), CheckpointProblem.Layout },
        { "backwards", """{"a":{"dtype":"F32","shape":[1],"data_offsets":[4,0]}}""", CheckpointProblem.Layout },
        { "negative", """{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}""", CheckpointProblem.HeaderSyntax },
        { "fraction", """{"a":{"dtype":"F32","shape":[1.5],"data_offsets":[0,4]}}""", CheckpointProblem.HeaderSyntax },
        { "overflow", """{"a":{"dtype":"F32","shape":[4611686018427387904,4],"data_offsets":[0,4]}}""", CheckpointProblem.Shape },
        { "size", """{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}}""", CheckpointProblem.Shape },
        { "type", """{"a":{"dtype":"F31","shape":[1],"data_offsets":[0,4]}}""", CheckpointProblem.Type },
        { "missing", """{"a":{"dtype":"F32","shape":[1]}}""", CheckpointProblem.HeaderSyntax },
        { "metadata number", """{"__metadata__":{"a":1}}""", CheckpointProblem.HeaderSyntax },
        { "deep", """{"a":{"dtype":"F32","shape":[[[[[1]]]]],"data_offsets":[0,4]}}""", CheckpointProblem.HeaderSyntax },
    };

    [Theory]
    [MemberData(nameof(Malformed))]
    public void AMalformedHeaderIsOneClearError(string name, string header, CheckpointProblem problem)
    {
        CheckpointException error = Should.Throw<CheckpointException>(() => SafeTensorsFile.Open(WriteFile(name, header, 12)));
        error.Problem.ShouldBe(problem);
        error.Message.ShouldContain(name + ".safetensors");
    }

    [Fact]
    public void LengthsThatLieAreRefusedBeforeAnythingIsAllocated()
    {
        foreach (ulong length in new ulong[] { 9, 1_000, 100_000_001, ulong.MaxValue, long.MaxValue })
        {
            byte[] bytes = new byte[16];
            BinaryPrimitives.WriteUInt64LittleEndian(bytes, length);
            string path = Path.Combine(folder, "lie.safetensors");
            File.WriteAllBytes(path, bytes);
            Should.Throw<CheckpointException>(() => SafeTensorsFile.Open(path)).Problem.ShouldBeOneOf(CheckpointProblem.HeaderSize, CheckpointProblem.Truncated);
        }

        string tiny = Path.Combine(folder, "tiny.safetensors");
        File.WriteAllBytes(tiny, [1, 2, 3]);
        Should.Throw<CheckpointException>(() => SafeTensorsFile.Open(tiny)).Problem.ShouldBe(CheckpointProblem.Truncated);
        File.WriteAllBytes(tiny, []);
        Should.Throw<CheckpointException>(() => SafeTensorsFile.Open(tiny)).Problem.ShouldBe(CheckpointProblem.Truncated);
    }

    [Fact]
    public void APickleIsRefusedWithTheWayOut()
    {
        string path = Path.Combine(folder, "pytorch_model.bin");
        File.WriteAllBytes(path, [0x80, 2]);
        Should.Throw<CheckpointException>(() => Checkpoint.Open(path)).Message.ShouldContain("safe_serialization=True");
        Should.Throw<CheckpointException>(() => Checkpoint.Open(folder)).Message.ShouldContain("pickle");
    }

    [Theory]
    [InlineData("""{"weight_map":{"a":"../x.safetensors"}}""")]
    [InlineData("""{"weight_map":{"a":"missing.safetensors"}}""")]
    [InlineData("""{"weight_map":{"b":"one.safetensors"}}""")]
    [InlineData("""{"weight_map":{"a":"model.safetensors.index.json"}}""")]
    [InlineData("""{"weight_map":{}}""")]
    [InlineData("""{"weight_map":{"a":"one.safetensors","a":"one.safetensors"}}""")]
    public void AnIndexThatContradictsItsShardsIsRefused(string index)
    {
        File.Move(WriteFile("one", """{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}""", 4), Path.Combine(folder, "one.safetensors"), overwrite: true);
        File.WriteAllText(Path.Combine(folder, "model.safetensors.index.json"), index);
        Should.Throw<CheckpointException>(() => Checkpoint.Open(folder));
    }

    [Fact]
    public void AFaultAtAnyStepLeavesTheOldFileWhole()
    {
        string path = Path.Combine(folder, "model.safetensors");
        using torch.Tensor old = torch.zeros(3), fresh = torch.ones(5000);
        SafeTensorsWriter.Write(path, new Dictionary<string, torch.Tensor> { ["a"] = old });
        byte[] before = File.ReadAllBytes(path);
        int n = 1;
        for (; n < 100; n++)
        {
            var store = new FaultyFileStore(n);
            try
            {
                SafeTensorsWriter.Write(path, new Dictionary<string, torch.Tensor> { ["a"] = fresh }, store: store);
                break;
            }
            catch (BadInputException)
            {
                File.ReadAllBytes(path).ShouldBe(before);
                Directory.GetFiles(folder).ShouldBe([path]);
            }
        }

        n.ShouldBeInRange(5, 99);
        using SafeTensorsFile written = SafeTensorsFile.Open(path);
        written.Entry("a").Shape.ShouldBe([5000]);
    }

    static string Two(string a, int a0, int a1, string b, int b0, int b1) =>
        $$$"""{"{{{a}}}":{"dtype":"F32","shape":[1],"data_offsets":[{{{a0}}},{{{a1}}}]},"{{{b}}}":{"dtype":"F32","shape":[1],"data_offsets":[{{{b0}}},{{{b1}}}]}}""";

    string WriteFile(string name, string header, int data)
    {
        byte[] json = Encoding.UTF8.GetBytes(header), bytes = new byte[8 + json.Length + data];
        BinaryPrimitives.WriteUInt64LittleEndian(bytes, (ulong)json.Length);
        json.CopyTo(bytes, 8);
        string path = Path.Combine(folder, name + ".safetensors");
        File.WriteAllBytes(path, bytes);
        return path;
    }
}

/// <summary>A disk whose n-th operation fails, and every one after it.</summary>
sealed class FaultyFileStore(int failAt) : FileStore
{
    int operations;

    public override Stream Create(string path)
    {
        Count();
        return new FaultyStream(base.Create(path), Count);
    }

    public override Stream Update(string path)
    {
        Count();
        return new FaultyStream(base.Update(path), Count);
    }

    public override void Flush(Stream stream)
    {
        Count();
        base.Flush(stream);
    }

    public override void Rename(string from, string to)
    {
        Count();
        base.Rename(from, to);
    }

    public override void Copy(string from, string to)
    {
        Count();
        base.Copy(from, to);
    }

    public override void CreateFolder(string path)
    {
        Count();
        base.CreateFolder(path);
    }

    void Count()
    {
        if (++operations >= failAt)
        {
            throw new IOException("No space left on device");
        }
    }

    sealed class FaultyStream(Stream inner, Action count) : Stream
    {
        public override bool CanRead => false;
        public override bool CanSeek => true;
        public override bool CanWrite => true;
        public override long Length => inner.Length;
        public override long Position { get => inner.Position; set => throw new NotSupportedException(); }
        public override void Flush() => inner.Flush();
        public override int Read(byte[] buffer, int offset, int length) => throw new NotSupportedException();
        public override long Seek(long offset, SeekOrigin origin) => inner.Seek(offset, origin);
        public override void SetLength(long value) => throw new NotSupportedException();

        public override void Write(byte[] buffer, int offset, int length) => Write(buffer.AsSpan(offset, length));

        public override void Write(ReadOnlySpan<byte> buffer)
        {
            count();
            inner.Write(buffer);
        }

        protected override void Dispose(bool disposing) => inner.Dispose();
    }
}
