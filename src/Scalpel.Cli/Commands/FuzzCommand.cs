using System.CommandLine;
using System.Globalization;
using System.Text.Json.Nodes;
using Scalpel.Cli.CommandLine;
using Scalpel.Lab.Fuzzing;

namespace Scalpel.Cli.Commands;

/// <summary>Feeds damaged files to every reader of files that come from others.</summary>
sealed class FuzzCommand : CliCommand
{
    readonly Option<long> inputs = new("--inputs") { Description = "Files for each target.", DefaultValueFactory = _ => 10_000 };
    readonly Option<string[]> targets = new("--target") { Description = "Only these targets: safetensors, index, gguf, tokenizer, patch, recipe.", AllowMultipleArgumentsPerToken = true };
    readonly Option<ulong> seed = new("--seed") { Description = "Seed of the damages; a finding names its seed and number." };

    public FuzzCommand() : base("fuzz", "Reads seeded damaged files; fails when one crashes, hangs or makes a reader allocate.",
        "scalpel fuzz --inputs 100", "scalpel fuzz --target gguf --inputs 1000 --seed 7")
    {
        Add(inputs);
        Add(targets);
        Add(seed);
    }

    public override void Execute(Invocation call)
    {
        if (call.Get(inputs) < 1)
        {
            throw new BadInputException($"--inputs is {call.Get(inputs)}; expected at least 1.");
        }

        string scratch = Path.Combine(Path.GetTempPath(), $"scalpel-fuzz-{Environment.ProcessId.ToString(CultureInfo.InvariantCulture)}");
        try
        {
            int findings = Chosen(FuzzTargets.All(scratch), call.Get(targets) ?? []).Sum(target => Run(target, scratch, call));
            if (findings > 0)
            {
                throw new CheckFailedException($"{findings} findings: each names the seed and the number of the file.");
            }
        }
        finally
        {
            if (Directory.Exists(scratch))
            {
                Directory.Delete(scratch, recursive: true);
            }
        }
    }

    int Run(FuzzTarget target, string scratch, Invocation call)
    {
        FuzzOutcome outcome = FuzzRun.Run(target, call.Get(inputs), scratch, call.Context(call.Get(seed)));
        if (call.Output.Json)
        {
            call.Output.Emit(new JsonObject
            {
                ["target"] = outcome.Target,
                ["inputs"] = outcome.Inputs,
                ["accepted"] = outcome.Accepted,
                ["refused"] = outcome.Refused,
                ["findings"] = new JsonArray([.. outcome.Findings.Select(finding => JsonValue.Create(finding))]),
                ["seconds"] = Math.Round(outcome.Seconds, 2),
            });
        }
        else
        {
            call.Output.Line(string.Create(CultureInfo.InvariantCulture, $"{outcome.Target,-12} {outcome.Inputs} files: {outcome.Accepted} read, {outcome.Refused} refused, {outcome.Findings.Count} findings, {outcome.Seconds:0.0} s"));
            foreach (string finding in outcome.Findings)
            {
                call.Output.Line("  " + finding.ReplaceLineEndings(" "));
            }
        }

        return outcome.Findings.Count;
    }

    static List<FuzzTarget> Chosen(IReadOnlyList<FuzzTarget> all, string[] names)
    {
        foreach (string name in names.Where(name => all.All(target => target.Name != name)))
        {
            throw new BadInputException($"There is no fuzz target '{name}'; known are {string.Join(", ", all.Select(target => target.Name))}.");
        }

        return [.. all.Where(target => names.Length == 0 || names.Contains(target.Name))];
    }
}
