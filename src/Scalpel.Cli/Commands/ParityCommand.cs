using System.CommandLine;
using System.Globalization;
using System.Text.Json.Nodes;
using Scalpel.Checkpoints;
using Scalpel.Cli.CommandLine;
using Scalpel.Lab.Parity;

namespace Scalpel.Cli.Commands;

/// <summary>Does Scalpel compute a model as the user's framework does?</summary>
sealed class ParityCommand : CliCommand
{
    readonly Argument<string[]> paths = new("PATH") { Description = "Folders that hold cases (folders with a case.json).", Arity = ArgumentArity.OneOrMore };

    readonly Option<string?> numerics = new("--numerics") { Description = "Also writes a page with the numerical error of each decoder family per type of arithmetic to this file." };

    public ParityCommand() : base("parity", "Computes golden cases and compares them with what another framework computed.",
        "scalpel parity tests/Reference/decoders")
    {
        Add(paths);
        Add(numerics);
    }

    public override void Execute(Invocation call)
    {
        ParityRunner runner = ParityRunner.All();
        IReadOnlyList<string> folders = ParityRunner.Find(call.Get(paths));
        int passed = 0, failed = 0, unsupported = 0;
        for (int i = 0; i < folders.Count; i++)
        {
            call.Context().Report("cases", i, folders.Count, Path.GetFileName(folders[i]));
            ParityOutcome outcome = runner.Run(folders[i]);
            _ = outcome.Verdict switch
            {
                ParityVerdict.Pass => passed++,
                ParityVerdict.Fail => failed++,
                _ => unsupported++,
            };
            if (call.Output.Json)
            {
                call.Output.Emit(Object(outcome));
            }
            else
            {
                call.Output.Line(Sentence(outcome));
            }
        }

        if (call.Get(numerics) is { } page)
        {
            AtomicFile.WriteText(page, NumericsTable.Page(NumericsTable.Measure(call.Get(paths))));
        }

        string summary = $"{passed} passed, {failed} failed, {unsupported} unsupported";
        if (failed > 0)
        {
            throw new CheckFailedException($"{summary}.");
        }

        call.Output.Note(summary);
    }

    static string Sentence(ParityOutcome outcome)
    {
        string head = $"{outcome.Verdict.ToString().ToLowerInvariant(),-11} {Path.GetFileName(outcome.Case),-36} ";
        string error = string.Create(CultureInfo.InvariantCulture, $"{outcome.Error,9:0.####} {outcome.Tensor}");
        return (outcome.Verdict == ParityVerdict.Unsupported ? head + outcome.Reason : head + error + (outcome.Reason is null ? "" : $"  {outcome.Reason}")).ReplaceLineEndings(" ");
    }

    static JsonObject Object(ParityOutcome outcome) => new()
    {
        ["case"] = outcome.Case,
        ["kind"] = outcome.Kind,
        ["verdict"] = outcome.Verdict.ToString().ToLowerInvariant(),
        // JSON has no infinity; the largest double stands for "no number describes it".
        ["error"] = double.IsFinite(outcome.Error) ? outcome.Error : double.MaxValue,
        ["tensor"] = outcome.Tensor,
        ["seconds"] = Math.Round(outcome.Seconds, 4),
        ["reason"] = outcome.Reason,
    };
}
