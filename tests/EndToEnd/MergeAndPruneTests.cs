using System.Text.Json.Nodes;

namespace Scalpel.EndToEnd;

public sealed class MergeAndPruneTests : IDisposable
{
    readonly TemporaryFolder folder = new();

    public void Dispose() => folder.Dispose();

    CommandResult Run(params string[] args) => ScalpelProcess.Run(folder.Path, args);

    string Tuned(string name, string text, params string[] more)
    {
        File.WriteAllText(Path.Combine(folder.Path, $"{name}.jsonl"), $"{{\"text\": \"{text}\"}}\n");
        CommandResult result = Run(["tune", ScalpelProcess.TinyModel, "--data", $"{name}.jsonl", "--steps", "2", "--batch-size", "1", "--learning-rate", "0.01", "--out", $"{name}.patch.safetensors", .. more]);
        result.Code.ShouldBe(0, result.Error);
        return $"{name}.patch.safetensors";
    }

    [Fact]
    public void EveryMergeOfTwoTunedPatchesIsAPatchThatAppliesAndReverts()
    {
        string a = Tuned("a", "the cat sat on the mat"), b = Tuned("b", "a dog ran home", "--method", "full");
        foreach (string method in (string[])["task-arithmetic", "linear", "ties", "ties-mergekit", "dare", "dare-ties", "slerp"])
        {
            string merged = $"{method}.patch.safetensors";
            CommandResult result = Run("merge", ScalpelProcess.TinyModel, a, b, "--method", method, "--out", merged);
            result.Code.ShouldBe(0, result.Error);
            Run("patch", "apply", ScalpelProcess.TinyModel, merged, "--out", $"{method}-model").Code.ShouldBe(0);
            Run("patch", "revert", $"{method}-model", "--out", $"{method}-back").Code.ShouldBe(0);
            File.ReadAllBytes(Path.Combine(folder.Path, $"{method}-back", "model.safetensors")).ShouldBe(File.ReadAllBytes(Path.Combine(ScalpelProcess.TinyModel, "model.safetensors")));
        }
    }

    [Fact]
    public void ASumOfLowRankPatchesStaysOfLowRank()
    {
        CommandResult merged = Run("merge", ScalpelProcess.TinyModel, Tuned("a", "the cat sat"), Tuned("b", "a dog ran"), "--weight", "0.5", "0.5", "--out", "ab.patch.safetensors");
        merged.Code.ShouldBe(0, merged.Error);
        CommandResult inspected = Run("patch", "inspect", "ab.patch.safetensors", "--json");
        inspected.Output.ShouldContain("\"low-rank\"");
        inspected.Output.ShouldNotContain("\"xor\"");
    }

    [Theory]
    [InlineData("--density has no effect", "--method", "linear", "--density", "0.5")]
    [InlineData("--lambda has no effect", "--method", "linear", "--lambda", "2")]
    [InlineData("is not known", "--method", "mean")]
    [InlineData("1 parts and 2 weights", "--weight", "1", "2")]
    [InlineData("slerp goes from one part to another", "--method", "slerp")]
    public void AMergeThatCannotBeIsOneSentence(string part, params string[] options)
    {
        CommandResult result = Run(["merge", ScalpelProcess.TinyModel, Tuned("a", "the cat sat"), "--out", "m.patch.safetensors", .. options]);
        result.Code.ShouldBe(2, result.Error);
        result.Error.ShouldContain(part);
    }

    [Theory]
    [InlineData("magnitude", "0.5", 0.5)]
    [InlineData("magnitude", "2:4", 0.5)]
    [InlineData("wanda", "0.25", 0.25)]
    [InlineData("wanda", "2:4", 0.5)]
    public void PruningSetsTheAskedShareToZeroForOneBitAWeight(string method, string sparsity, double share)
    {
        File.WriteAllText(Path.Combine(folder.Path, "text.txt"), string.Join(' ', Enumerable.Repeat("the cat sat on the mat and looked at the dog", 20)));
        string[] data = method == "wanda" ? ["--data", "text.txt", "--length", "16", "--rows", "4"] : [];
        CommandResult result = Run(["prune", ScalpelProcess.TinyModel, "--method", method, "--sparsity", sparsity, "--out", "p.patch.safetensors", "--json", .. data]);
        result.Code.ShouldBe(0, result.Error);
        JsonNode report = JsonNode.Parse(result.Output)!;
        long zeros = report["zeros"]!.GetValue<long>(), all = report["of"]!.GetValue<long>();
        ((double)zeros / all).ShouldBe(share, 0.01);
        new FileInfo(Path.Combine(folder.Path, "p.patch.safetensors")).Length.ShouldBeLessThan(all / 8 + 20_000);
        Run("patch", "apply", ScalpelProcess.TinyModel, "p.patch.safetensors", "--out", "sparse").Code.ShouldBe(0);
        Run("patch", "revert", "sparse", "--out", "back").Code.ShouldBe(0);
        File.ReadAllBytes(Path.Combine(folder.Path, "back", "model.safetensors")).ShouldBe(File.ReadAllBytes(Path.Combine(ScalpelProcess.TinyModel, "model.safetensors")));
    }

    [Theory]
    [InlineData("give a text with --data", "--method", "wanda")]
    [InlineData("--data has no effect", "--data", "text.txt")]
    [InlineData("at least 0 and below 1", "--sparsity", "1.5")]
    [InlineData("give a share such as 0.5, or n:m", "--sparsity", "half")]
    [InlineData("2 of 2 cannot go", "--sparsity", "2:2")]
    [InlineData("of the last 1, 3 cannot go", "--sparsity", "3:7")]
    public void APruningThatCannotBeIsOneSentence(string part, params string[] options)
    {
        CommandResult result = Run(["prune", ScalpelProcess.TinyModel, "--out", "p.patch.safetensors", .. options]);
        result.Code.ShouldBe(2, result.Error);
        result.Error.ShouldContain(part);
    }
}
