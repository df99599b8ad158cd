using Scalpel.Lab.Fuzzing;

namespace Scalpel.Lab.Tests.Fuzzing;

public sealed class FuzzTests : IDisposable
{
    readonly string folder = Directory.CreateTempSubdirectory("scalpel fuzz ").FullName;

    public void Dispose() => Directory.Delete(folder, recursive: true);

    [Theory]
    [InlineData("safetensors")]
    [InlineData("index")]
    [InlineData("gguf")]
    [InlineData("tokenizer")]
    [InlineData("patch")]
    public void DamagedFilesAreRefusedWithAClearErrorAndLittleMemory(string name)
    {
        FuzzTarget target = FuzzTargets.All(folder).Single(target => target.Name == name);
        FuzzOutcome outcome = FuzzRun.Run(target, 2_000, folder, RunContext.WithSeed(1));
        outcome.Findings.ShouldBeEmpty();
        outcome.Inputs.ShouldBe(2_000);
        outcome.Refused.ShouldBeGreaterThan(1_000);
    }

    [Fact]
    public void AReaderThatThrowsSomethingElseIsAFinding()
    {
        var target = new FuzzTarget("crash", Text: false, [[1, 2, 3]], path =>
        {
            if (File.ReadAllBytes(path) is not [1, 2, 3])
            {
                throw new IndexOutOfRangeException("beyond");
            }
        });
        FuzzRun.Run(target, 1_000, folder, RunContext.WithSeed(1)).Findings.ShouldContain(finding => finding.Contains("beyond"));
    }

    [Fact]
    public void AFileThatIsSlowOnlyOnceIsNoFinding()
    {
        int read = 0;
        var target = new FuzzTarget("slow once", Text: false, [[1, 2, 3]], _ => Thread.Sleep(read++ == 5 ? 2_100 : 0));
        FuzzRun.Run(target, 20, folder, RunContext.WithSeed(1)).Findings.ShouldBeEmpty();
        read.ShouldBe(1 + 20 + 3);
    }
}
