using System.Text.RegularExpressions;

namespace Scalpel.EndToEnd;

public sealed partial class DocumentationTests : IDisposable
{
    readonly TemporaryFolder folder = new();

    public void Dispose() => folder.Dispose();

    public static TheoryData<string> Pages() => [.. Directory.EnumerateFiles(Path.Combine(ScalpelProcess.Root, "docs"), "*.md")
        .Where(file => Blocks(file).Any()).Select(file => Path.GetFileName(file)).Order(StringComparer.Ordinal)];

    [Theory]
    [MemberData(nameof(Pages))]
    public void EverySnippetOfThePageRuns(string page)
    {
        // As in a clone, but what the snippets write stays here.
        foreach (string name in new[] { "assets", "docs", "tests", "LICENSE" })
        {
            File.CreateSymbolicLink(folder.At(name), Path.Combine(ScalpelProcess.Root, name));
        }

        foreach (string block in Blocks(Path.Combine(ScalpelProcess.Root, "docs", page)))
        {
            CommandResult result = ScalpelProcess.Shell(folder.Path, block);
            result.Code.ShouldBe(0, $"{block}\n{result.Error}");
        }
    }

    [Fact]
    public void EveryLinkOfThePagesLeadsSomewhere()
    {
        foreach (string file in Directory.EnumerateFiles(Path.Combine(ScalpelProcess.Root, "docs"), "*.md").Append(Path.Combine(ScalpelProcess.Root, "README.md")))
        {
            foreach (Match link in Link().Matches(File.ReadAllText(file)))
            {
                Path.Exists(Path.Combine(Path.GetDirectoryName(file)!, link.Groups[1].Value)).ShouldBeTrue($"{Path.GetFileName(file)}: {link.Value}");
            }
        }
    }

    [Fact]
    public void ThePageOfMethodsIsThatOfTheRegistry()
    {
        string page = File.ReadAllText(Path.Combine(ScalpelProcess.Root, "docs", "methods.md"));
        ScalpelProcess.Run(folder.Path, "methods", "--markdown").Output.ShouldBe(page, "write it again: scalpel methods --markdown > docs/methods.md");
    }

    static IEnumerable<string> Blocks(string file) => Block().Matches(File.ReadAllText(file)).Select(match => match.Groups[1].Value);

    [GeneratedRegex("^```sh\n(.*?)^```", RegexOptions.Singleline | RegexOptions.Multiline)]
    private static partial Regex Block();

    [GeneratedRegex(@"\]\((?!https?:)([^)#]+)\)")]
    private static partial Regex Link();
}
