using Scalpel.Lab.Parity;
using TorchSharp;

namespace Scalpel.Lab.Tests.Parity;

public sealed class ParityRunnerTests : IDisposable
{
    readonly string root = Directory.CreateTempSubdirectory("scalpel parity ").FullName;

    public void Dispose() => Directory.Delete(root, recursive: true);

    [Fact]
    public void AValueOutsideItsToleranceFailsAndIsNamed()
    {
        WriteCase("a", """{"kind": "fake", "tolerance": {"rtol": 0.1, "atol": 0.5}}""");
        ParityOutcome outcome = Runner(c => c.Tensors("x", torch.tensor(new[] { 1f, 10f }), torch.tensor(new[] { 1f, 12f }))).Run(At("a"));
        outcome.Verdict.ShouldBe(ParityVerdict.Fail);
        outcome.Tensor.ShouldBe("x");
        outcome.Error.ShouldBe(2 / (0.5 + 1.2), 1e-6);
    }

    [Fact]
    public void AValueWithinItsTolerancePasses()
    {
        WriteCase("a", """{"kind": "fake", "tolerance": {"rtol": 0.1, "atol": 0.5}}""");
        Runner(c => c.Tensors("x", torch.tensor(new[] { 1f, 11f }), torch.tensor(new[] { 1f, 12f }))).Run(At("a")).Verdict.ShouldBe(ParityVerdict.Pass);
    }

    [Fact]
    public void IntegersAndStringsMustBeEqualWhateverTheTolerance()
    {
        WriteCase("a", """{"kind": "fake", "tolerance": {"rtol": 10, "atol": 10}}""");
        Runner(c => c.Tensors("ids", torch.tensor(new[] { 1L }), torch.tensor(new[] { 2L }))).Run(At("a")).Verdict.ShouldBe(ParityVerdict.Fail);
        Runner(c => c.Exact("text", "a", "b")).Run(At("a")).Reason!.ShouldContain("expected \"b\"");
        Runner(c => c.Sequences("ids", [1, 2], [1, 2, 3])).Run(At("a")).Verdict.ShouldBe(ParityVerdict.Fail);
    }

    [Fact]
    public void NotANumberIsNeverWithinTolerance()
    {
        WriteCase("a", """{"kind": "fake", "tolerance": {"rtol": 1, "atol": 1}}""");
        Runner(c => c.Tensors("x", torch.tensor(new[] { float.NaN }), torch.tensor(new[] { 1f }))).Run(At("a")).Verdict.ShouldBe(ParityVerdict.Fail);
        Runner(c => c.Numbers("x", double.NaN, 1)).Run(At("a")).Verdict.ShouldBe(ParityVerdict.Fail);
    }

    [Fact]
    public void ACaseThatComparesNothingFails()
    {
        WriteCase("a", """{"kind": "fake"}""");
        Runner(_ => { }).Run(At("a")).Verdict.ShouldBe(ParityVerdict.Fail);
    }

    [Fact]
    public void AnUnknownKindIsUnsupportedAndAnUnreadableCaseFails()
    {
        WriteCase("a", """{"kind": "dance"}""");
        WriteCase("b", "{");
        Runner(_ => { }).Run(At("a")).Verdict.ShouldBe(ParityVerdict.Unsupported);
        Runner(_ => { }).Run(At("b")).Verdict.ShouldBe(ParityVerdict.Fail);
    }

    [Fact]
    public void CasesAreFoundInFoldersBelowAndNoCaseIsAnError()
    {
        WriteCase("deep/b", """{"kind": "fake"}""");
        WriteCase("a", """{"kind": "fake"}""");
        ParityRunner.Find([root]).Select(Path.GetFileName).ShouldBe(["a", "b"]);
        Directory.CreateDirectory(At("empty"));
        Should.Throw<BadInputException>(() => ParityRunner.Find([At("empty")]));
        Should.Throw<BadInputException>(() => ParityRunner.Find([At("absent")]));
    }

    static ParityRunner Runner(Action<Comparison> compare) => new([new FakeKind(compare)]);

    string At(string name) => Path.Combine(root, name);

    void WriteCase(string name, string json)
    {
        Directory.CreateDirectory(At(name));
        File.WriteAllText(Path.Combine(At(name), "case.json"), json);
    }

    sealed class FakeKind(Action<Comparison> compare) : IParityKind
    {
        public string Kind => "fake";

        public void Run(ParityCase parityCase, Comparison comparison) => compare(comparison);
    }
}
