using Scalpel.Checkpoints;
using Scalpel.Checkpoints.Gguf;
using TorchSharp;

namespace Scalpel.Tests.Checkpoints;

public sealed class GgufTests
{
    [Fact]
    public void TheSmallRealModelIsReadUnderItsHuggingFaceNames()
    {
        using Checkpoint checkpoint = Checkpoint.Open(Repository.SmolLM2);
        checkpoint.Config["model_type"]!.GetValue<string>().ShouldBe("llama");
        checkpoint.Tensors.Values.Sum(entry => entry.Shape.Aggregate(1L, (a, b) => a * b)).ShouldBe(134_515_008);
        TensorEntry down = checkpoint.Entry("model.layers.5.mlp.down_proj.weight");
        down.StoredName.ShouldBe("blk.5.ffn_down.weight");
        down.Shape.ShouldBe([576, 1536]);
        using torch.Tensor weights = checkpoint.Read(down.Name);
        weights.abs().max().ToSingle().ShouldBeInRange(0.1f, 10f);
    }

    [Theory]
    [InlineData(64, 3)]
    [InlineData(8, 2)]
    [InlineData(4, 1)]
    public void PermutedRowsComeBackInTheirOrder(int headSize, int heads)
    {
        foreach (RowOrder order in Enum.GetValues<RowOrder>().Where(order => order != RowOrder.Same))
        {
            // A fused tensor holds query, key and value rows.
            int count = heads * headSize * (order == RowOrder.Fused ? 3 : 1);
            using torch.Tensor original = torch.arange(count * 5).reshape(count, 5);
            using torch.Tensor canonical = GgufLayout.ToCanonical(original, order, heads, heads), stored = GgufLayout.ToStored(canonical, order, heads, heads);
            canonical.eq(original.reshape(canonical.shape)).all().ToBoolean().ShouldBe(heads == 1 && order == RowOrder.Fused, order.ToString());
            stored.eq(original).all().ToBoolean().ShouldBeTrue(order.ToString());
        }

        using torch.Tensor rows = torch.arange(heads * headSize * 5).reshape(heads * headSize, 5);
        using torch.Tensor query = GgufLayout.ToCanonical(rows, RowOrder.PermutedQuery, heads, heads);
        // Stored row 2i + s of a head is row s·e/2 + i of the original.
        query[headSize / 2][0].ToInt64().ShouldBe(rows[1][0].ToInt64());
    }

    [Fact]
    public void AFileCutAnywhereInItsHeaderIsRefused()
    {
        string source = Directory.GetFiles(Repository.SmolLM2, "*.gguf").Single();
        byte[] bytes = new byte[40_000];
        using (FileStream stream = File.OpenRead(source))
        {
            stream.ReadExactly(bytes);
        }

        string path = Path.Combine(Path.GetTempPath(), $"cut {Guid.NewGuid():N}.gguf");
        try
        {
            foreach (int length in Enumerable.Range(0, 60).Concat([100, 1000, 39_999]))
            {
                File.WriteAllBytes(path, bytes[..length]);
                Should.Throw<CheckpointException>(() => GgufFile.Open(path).Dispose()).Problem.ShouldBeOneOf(CheckpointProblem.Truncated, CheckpointProblem.HeaderSize);
            }
        }
        finally
        {
            File.Delete(path);
        }
    }
}
