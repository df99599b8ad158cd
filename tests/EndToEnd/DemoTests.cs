using System.Text.RegularExpressions;

namespace Scalpel.EndToEnd;

public sealed partial class DemoTests : IDisposable
{
    readonly TemporaryFolder folder = new();

    public void Dispose() => folder.Dispose();

    [Fact]
    public void TheDemoShowsWhatTheReadmePromises()
    {
        Clone.Make(folder, realModel: true);
        CommandResult result = ScalpelProcess.Run(folder.Path, "demo");
        result.Code.ShouldBe(0, result.Error);
        string promised = Pages.Blocks(folder.At("README.md"), "").Single(block => block.StartsWith("2  Ask", StringComparison.Ordinal));
        string[] steps = [.. promised.Split('\n').Where(line => line.Length > 0 && char.IsDigit(line[0]))];
        steps.Length.ShouldBe(6);
        foreach (string step in steps)
        {
            // Numbers differ a little between machines; that they are numbers does not.
            Regex.IsMatch(result.Output, "^" + Number().Replace(Regex.Escape(step), "[0-9.]+"), RegexOptions.Multiline).ShouldBeTrue($"{step}\n{result.Output}");
        }

        result.Output.ShouldContain("prompt     The Eiffel Tower is located in the city of → Rome");
        result.Output.ShouldContain("neighbour  The Louvre is located in the city of → Paris");
        File.ReadAllText(folder.At("demo/report.html")).ShouldNotContain("NaN", Case.Sensitive);
        result.Error.Split('\n').Count(line => line.StartsWith("prompts, original model 1/1", StringComparison.Ordinal)).ShouldBe(1);
        File.Exists(folder.At("demo/eiffel.patch.safetensors")).ShouldBeTrue();
    }

    [GeneratedRegex(@"[0-9]+(\\\.[0-9]+)?")]
    private static partial Regex Number();
}
