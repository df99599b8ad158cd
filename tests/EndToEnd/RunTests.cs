using System.Diagnostics;

namespace Scalpel.EndToEnd;

public sealed class RunTests : IDisposable
{
    // What says when, where or how far is no result.
    static readonly string[] NotResults = ["environment.json", "log.jsonl"];

    readonly TemporaryFolder folder = new();

    public void Dispose() => folder.Dispose();

    [Fact]
    public void AKilledRunResumesToTheBytesOfAnUndisturbedOne()
    {
        string recipe = folder.Write("recipe.yaml", $$"""
            model: {{ScalpelProcess.TinyModel}}
            method: rome
            options: {covariance_tokens: 512}
            requests:
              - {subject: cat, prompt: "The {} sat on the", target: mat, old: rug, paraphrases: ["A cat sat on the"], neighbours: ["The dog sat on the"]}
            seed: 3
            """);
        CommandResult whole = ScalpelProcess.Run(Made("whole"), "run", recipe, "--out", "run");
        whole.Code.ShouldBe(0, whole.Error);
        int killed = 0;
        for (int wait = 300; wait <= 2700; wait += 300)
        {
            using Process process = ScalpelProcess.Start(Made("killed"), "run", recipe, "--out", "run", "--resume");
            if (!process.WaitForExit(wait))
            {
                process.Kill();
                process.WaitForExit();
                killed++;
            }
        }

        killed.ShouldBeGreaterThan(0);
        CommandResult resumed = ScalpelProcess.Run(Made("killed"), "run", recipe, "--out", "run", "--resume");
        resumed.Code.ShouldBe(0, resumed.Error);
        Results("killed").Keys.ShouldBe(Results("whole").Keys);
        foreach ((string name, byte[] bytes) in Results("whole"))
        {
            bytes.AsSpan().SequenceEqual(Results("killed")[name]).ShouldBeTrue($"{name} differs");
        }
    }

    // The report names the folder as the user gave it, so both runs are called "run", in folders of their own.
    string Made(string name) => Directory.CreateDirectory(folder.At(name)).FullName;

    SortedDictionary<string, byte[]> Results(string name) => new(
        Directory.EnumerateFiles(folder.At(name), "*", SearchOption.AllDirectories)
            .Where(file => !NotResults.Contains(Path.GetFileName(file)) && !file.EndsWith(".tmp", StringComparison.Ordinal))
            .ToDictionary(file => Path.GetRelativePath(folder.At(name), file), File.ReadAllBytes), StringComparer.Ordinal);
}
