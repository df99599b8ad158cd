using Scalpel.Lab.Parity;

namespace Scalpel.Lab.Tests.Parity;

public sealed class TuningParityTests
{
    static readonly string Root = FindRoot();

    public static TheoryData<string> Cases() => [.. ParityRunner.Find([Root]).Select(folder => Path.GetRelativePath(Root, folder))];

    [Theory]
    [MemberData(nameof(Cases))]
    public void TheReferenceCaseIsReproduced(string name)
    {
        ParityOutcome outcome = ParityRunner.All().Run(Path.Combine(Root, name));
        outcome.Reason.ShouldBeNull();
        outcome.Verdict.ShouldBe(ParityVerdict.Pass);
    }

    static string FindRoot()
    {
        DirectoryInfo folder = new(AppContext.BaseDirectory);
        while (!File.Exists(Path.Combine(folder.FullName, "scalpel.slnx")))
        {
            folder = folder.Parent!;
        }

        return Path.Combine(folder.FullName, "tests", "Reference", "tuning");
    }
}
