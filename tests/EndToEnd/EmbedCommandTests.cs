using System.Text;
using System.Text.Json.Nodes;

namespace Scalpel.EndToEnd;

public sealed class EmbedCommandTests : IDisposable
{
    static readonly string Model = Path.Combine(ScalpelProcess.Root, "assets", "models", "all-MiniLM-L6-v2");
    readonly TemporaryFolder folder = new();

    public void Dispose() => folder.Dispose();

    [Fact]
    public void TheVectorsOfJsonNumpyAndSafetensorsAreTheSame()
    {
        string text = folder.Write("lines.txt", "A man is eating food.\n\nCafé Zürich déjà vu\n");
        CommandResult json = ScalpelProcess.Run(folder.Path, "embed", Model, "--text", text, "--json");
        json.Code.ShouldBe(0, json.Error);
        JsonNode[] lines = [.. json.Output.TrimEnd('\n').Split('\n').Select(line => JsonNode.Parse(line)!)];
        lines.Length.ShouldBe(4);
        lines[3]["sentences"]!.GetValue<int>().ShouldBe(3);
        float[] numbers = [.. lines.Take(3).SelectMany(line => line["embedding"]!.AsArray()).Select(node => node!.GetValue<float>())];
        numbers.Length.ShouldBe(3 * 384);
        ScalpelProcess.Run(folder.Path, "embed", Model, "--text", text, "--out", "v.npy").Code.ShouldBe(0);
        ScalpelProcess.Run(folder.Path, "embed", Model, "--text", text, "--out", "v.safetensors").Code.ShouldBe(0);
        byte[] numpy = File.ReadAllBytes(folder.At("v.npy")), safe = File.ReadAllBytes(folder.At("v.safetensors"));
        int header = 10 + BitConverter.ToUInt16(numpy, 8);
        Encoding.ASCII.GetString(numpy, 10, header - 10).ShouldStartWith("{'descr': '<f4', 'fortran_order': False, 'shape': (3, 384), }");
        (header % 64).ShouldBe(0);
        Floats(numpy.AsSpan(header)).ShouldBe(numbers);
        Floats(safe.AsSpan(8 + (int)BitConverter.ToUInt64(safe))).ShouldBe(numbers);
    }

    [Fact]
    public void TheMatrixOfCosinesIsForPeople()
    {
        CommandResult result = ScalpelProcess.Run(folder.Path, "embed", Model, "A man is eating food.", "Someone has lunch.", "--compare");
        result.Code.ShouldBe(0, result.Error);
        string[] lines = result.Output.Split('\n');
        lines[1].ShouldBe("   1  1.000  0.512  A man is eating food.");
        lines[3].ShouldBe("2 × 384 numbers, pooling mean, of length 1");
    }

    [Fact]
    public void ALongTextIsCutAndItIsSaid()
    {
        CommandResult result = ScalpelProcess.Run(folder.Path, "embed", Model, string.Join(' ', Enumerable.Repeat("word", 300)), "short");
        result.Code.ShouldBe(0, result.Error);
        result.Error.ShouldContain("1 of 2 sentences fill the model's 256 tokens");
    }

    [Theory]
    [InlineData("There is no sentence")]
    [InlineData("take one of them", "a", "--text", "x.txt")]
    [InlineData("cannot be read", "--text", "nothing.txt")]
    [InlineData("is empty", "--text", "/dev/null")]
    [InlineData("'median' is not known", "a", "--pooling", "median")]
    [InlineData("has no prompts", "a", "--prompt", "query")]
    [InlineData("must end in .npy or .safetensors", "a", "--out", "v.txt")]
    [InlineData("at least 1", "a", "--batch-size", "0")]
    public void BadInputIsOneSentence(string finding, params string[] args)
    {
        if (args.Contains("x.txt"))
        {
            folder.Write("x.txt", "a");
        }

        CommandResult result = ScalpelProcess.Run(folder.Path, ["embed", Model, .. args]);
        result.Code.ShouldBe(2, result.Error);
        result.Error.ShouldContain(finding);
        result.Output.ShouldBeEmpty();
    }

    [Fact]
    public void ADecoderIsNoSentenceEncoder()
    {
        CommandResult result = ScalpelProcess.Run(folder.Path, "embed", ScalpelProcess.TinyModel, "a");
        result.Code.ShouldBe(2);
        result.Error.ShouldContain("no text encoder");
    }

    static float[] Floats(ReadOnlySpan<byte> bytes) => System.Runtime.InteropServices.MemoryMarshal.Cast<byte, float>(bytes).ToArray();
}
