using Scalpel.Lab.Parity;
using Scalpel.Tests;

namespace Scalpel.Lab.Tests.Parity;

/// <summary>Every golden case of the repository, whatever its kind. A new case needs no new test: it is copied into tests/Reference.</summary>
public sealed class ReferenceCaseTests
{
    static readonly ParityRunner Runner = ParityRunner.All();

    public static TheoryData<string> Cases => [.. ParityRunner.Find([Repository.Reference()]).Select(folder => Path.GetRelativePath(Repository.Reference(), folder))];

    [Theory]
    [MemberData(nameof(Cases))]
    public void TheReferenceCaseIsReproduced(string name)
    {
        ParityOutcome outcome = Runner.Run(Repository.Reference(name));
        outcome.Reason.ShouldBeNull();
        outcome.Verdict.ShouldBe(ParityVerdict.Pass);
    }
}
