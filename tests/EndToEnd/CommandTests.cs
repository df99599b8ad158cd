using System.Diagnostics;
using System.Text.Json.Nodes;

namespace Scalpel.EndToEnd;

public sealed class CommandTests : IDisposable
{
    readonly TemporaryFolder folder = new();

    public void Dispose() => folder.Dispose();

    [Fact]
    public void EveryCommandHasHelpWithAnExample()
    {
        foreach (string[] command in Help.Commands())
        {
            CommandResult help = ScalpelProcess.Run(folder.Path, [.. command, "--help"]);
            help.Code.ShouldBe(0, help.Error);
            help.Output.ShouldContain("\nExample\n  scalpel " + string.Join(' ', command), Case.Sensitive, string.Join(' ', command));
            help.Output.ShouldContain("--json");
        }
    }

    [Fact]
    public void WithJsonStandardOutputHoldsNothingButObjects()
    {
        string[][] lines =
        [
            ["info", ScalpelProcess.TinyModel], ["methods"], ["generate", ScalpelProcess.TinyModel, "The cat", "--max-tokens", "4"],
            ["edit", ScalpelProcess.TinyModel, "--method", "ft", "--subject", "cat", "--prompt", "The {} sat on the", "--target", "mat", "--out", "a.patch.safetensors"],
            ["patch", "inspect", "a.patch.safetensors"], ["generate", ScalpelProcess.TinyModel, "The cat", "--max-tokens", "4", "--patch", "a.patch.safetensors"],
            ["locate", ScalpelProcess.TinyModel, "--subject", "cat", "--prompt", "The {} sat on the"],
        ];
        foreach (string[] line in lines)
        {
            CommandResult result = ScalpelProcess.Run(folder.Path, [.. line, "--json"]);
            result.Code.ShouldBe(0, result.Error);
            result.Output.ShouldNotBeEmpty(string.Join(' ', line));
            foreach (string text in result.Output.TrimEnd('\n').Split('\n'))
            {
                JsonNode.Parse(text).ShouldBeOfType<JsonObject>();
            }
        }
    }

    [Fact]
    public void ApplyAndRevertGiveTheFilesBackByteForByte()
    {
        ScalpelProcess.Run(folder.Path, "edit", ScalpelProcess.TinyModel, "--method", "ft", "--subject", "cat", "--prompt", "The {} sat on the", "--target", "mat", "--out", "a.patch.safetensors").Code.ShouldBe(0);
        ScalpelProcess.Run(folder.Path, "patch", "apply", ScalpelProcess.TinyModel, "a.patch.safetensors", "--out", "edited").Code.ShouldBe(0);
        File.ReadAllBytes(folder.At("edited/model.safetensors")).ShouldNotBe(File.ReadAllBytes(Path.Combine(ScalpelProcess.TinyModel, "model.safetensors")));
        ScalpelProcess.Run(folder.Path, "patch", "revert", "edited", "--out", "original").Code.ShouldBe(0);
        foreach (string file in Directory.EnumerateFiles(ScalpelProcess.TinyModel))
        {
            File.ReadAllBytes(folder.At(Path.Combine("original", Path.GetFileName(file)))).ShouldBe(File.ReadAllBytes(file));
        }
    }

    [Fact]
    public void AClosedPipeIsNoCrash()
    {
        CommandResult result = ScalpelProcess.Shell(folder.Path, $"set +e +o pipefail; scalpel info '{ScalpelProcess.TinyModel}' --tensors | head -n 1; echo ${{PIPESTATUS[0]}}");
        result.Output.TrimEnd().Split('\n')[^1].ShouldBe("0", result.Error);
    }

    [Fact]
    public void AnInterruptedCommandEndsWithThreeAndLeavesNothingHalfWritten()
    {
        foreach (string signal in new[] { "INT", "TERM" })
        {
            using Process process = ScalpelProcess.Start(folder.Path, "edit", ScalpelProcess.TinyModel, "--method", "ft", "--set", "steps=2000000", "--set", "learning_rate=1e-12", "--subject", "cat", "--prompt", "The {} sat on the", "--target", "mat", "--out", "a.patch.safetensors");
            Thread.Sleep(2500);
            process.HasExited.ShouldBeFalse("the edit was to take longer");
            Process.Start("/bin/kill", ["-" + signal, process.Id.ToString()])!.WaitForExit();
            ScalpelProcess.Finish(process).Code.ShouldBe(3);
            Directory.EnumerateFileSystemEntries(folder.Path).ShouldBeEmpty();
        }
    }
}
