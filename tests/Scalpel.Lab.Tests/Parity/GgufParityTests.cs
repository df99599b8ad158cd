using Scalpel.Lab.Parity;

namespace Scalpel.Lab.Tests.Parity;

public sealed class GgufParityTests
{
    public static TheoryData<string> Cases => [.. Directory.GetDirectories(Path.Combine(Root(), "tests", "Reference", "text"), "gguf-*").Select(folder => Path.GetFileName(folder)!).Order(StringComparer.Ordinal)];

    [Theory]
    [MemberData(nameof(Cases))]
    public void EveryBlockTypeAndValueIsReadAndWrittenAsTheReferenceDoes(string name)
    {
        ParityOutcome outcome = ParityRunner.All().Run(Path.Combine(Root(), "tests", "Reference", "text", name));
        outcome.Verdict.ShouldBe(ParityVerdict.Pass, outcome.Reason);
    }

    static string Root()
    {
        DirectoryInfo folder = new(AppContext.BaseDirectory);
        while (!File.Exists(Path.Combine(folder.FullName, "scalpel.slnx")))
        {
            folder = folder.Parent!;
        }

        return folder.FullName;
    }
}
