using System.Text.RegularExpressions;

namespace Scalpel.EndToEnd;

public sealed partial class DocumentationTests : IDisposable
{
    readonly TemporaryFolder folder = new();

    public void Dispose() => folder.Dispose();

    // What these snippets do takes minutes on the real model: a tiny one stands in for it.
    static readonly string[] OnTheTinyModel = ["recipes.md", "tuning.md"];

    public static TheoryData<string> PagesWithCommands() => [.. Pages.All().Where(page => Pages.Blocks(page, "sh").Any()).Select(page => Path.GetFileName(page)!)];

    [Theory]
    [MemberData(nameof(PagesWithCommands))]
    public void EverySnippetOfThePageRuns(string page)
    {
        Clone.Make(folder, realModel: !OnTheTinyModel.Contains(page));
        ClassifyCommandTests.Write(folder.At("my-classifier"), "bert-classifier-a");
        foreach (string block in Pages.Blocks(Pages.All().Single(file => Path.GetFileName(file) == page), "sh"))
        {
            CommandResult result = ScalpelProcess.Shell(folder.Path, block);
            result.Code.ShouldBe(0, $"{block}\n{result.Error}");
        }
    }

    [Fact]
    public void ABlockWithoutALanguageIsOutputOrStartsTheRepositoryItself()
    {
        // What starts or publishes the repository is run by whoever runs these tests; publishing has its own below.
        string[] starts = ["dotnet run -c Release --project src/Scalpel.Cli -- demo", "./test", "dotnet publish src/Scalpel.Cli -c Release -o scalpel-bin"];
        foreach (string page in Pages.All())
        {
            Pages.Languages(page).ShouldAllBe(language => language == "" || language == "sh" || language == "csharp" || language == "yaml" || language == "json", page);
            foreach (string block in Pages.Blocks(page, ""))
            {
                bool command = block.Split('\n').Any(line => line.StartsWith("scalpel ", StringComparison.Ordinal) || line.StartsWith("dotnet ", StringComparison.Ordinal) || line.StartsWith("./", StringComparison.Ordinal));
                (!command || starts.Any(start => block.StartsWith(start, StringComparison.Ordinal))).ShouldBeTrue($"{Path.GetFileName(page)}: mark the block as sh, so that it is run\n{block}");
            }
        }
    }

    [Fact]
    public void ThePublishedCommandRunsFromAFolderWithASpaceInItsName()
    {
        string bin = folder.At("scalpel bin");
        // As in the README; what is built already is not built again.
        CommandResult published = ScalpelProcess.Shell(ScalpelProcess.Root, $"dotnet publish src/Scalpel.Cli -c Release -o '{bin}' --no-build --nologo -v quiet");
        published.Code.ShouldBe(0, published.Output + published.Error);
        CommandResult result = ScalpelProcess.Shell(folder.Path, $"PATH=\"{bin}:$PATH\" scalpel generate '{ScalpelProcess.TinyModel}' 'The cat' --max-tokens 2 --json");
        result.Code.ShouldBe(0, result.Error);
    }

    [Fact]
    public void EveryLinkOfThePagesLeadsSomewhere()
    {
        foreach (string file in Pages.All())
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

    [GeneratedRegex(@"\]\((?!https?:)([^)#]+)\)")]
    private static partial Regex Link();
}
