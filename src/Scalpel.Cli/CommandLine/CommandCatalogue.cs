using System.CommandLine;
using Scalpel.Cli.Commands;
using Scalpel.Cli.Commands.Data;
using Scalpel.Cli.Commands.Patches;
using Scalpel.Cli.Commands.Worlds;

namespace Scalpel.Cli.CommandLine;

/// <summary>
/// The one place where commands are listed, in the order of the help. To add a command:
/// <list type="number">
/// <item>one file in Commands/ with a sealed class that derives from <see cref="CliCommand"/>: name, one sentence, an
/// example that runs; arguments and options as fields, added in the constructor; the work in <c>Execute</c>;</item>
/// <item>one line below.</item>
/// </list>
/// In <c>Execute</c>: <c>call.Get(option)</c> reads a value; <c>call.Output.Line</c> writes for people,
/// <c>call.Output.Emit</c> writes a JSON object for <c>--json</c>, <c>call.Output.Note</c> writes a sentence to standard
/// error; <c>call.Context(seed)</c> is the run context with live progress and cancellation. Throw
/// <see cref="BadInputException"/> for exit code 2 and <see cref="CheckFailedException"/> for 1. <c>--json</c>,
/// <c>--help</c>, exit codes, Ctrl-C and errors are the frame's. A command with sub-commands is a
/// <see cref="CommandGroup"/>.
/// </summary>
static class CommandCatalogue
{
    /// <summary>The whole command tree.</summary>
    public static RootCommand Create()
    {
        var root = new RootCommand("Model surgery: locate where a trained model keeps something, change just that, prove it, take it back bit for bit.")
        {
            new DemoCommand(),
            new InfoCommand(),
            new GenerateCommand(),
            new ScoreCommand(),
            new EmbedCommand(),
            new ClassifyCommand(),
            new LocateCommand(),
            new EditCommand(),
            new TuneCommand(),
            new CompareCommand(),
            new MergeCommand(),
            new PruneCommand(),
            new EvaluateCommand(),
            new RunCommand(),
            new CommandGroup("patch", "Patches: look into them, check, sign, apply to files, take back, compare, add, exchange with other tools.",
                new PatchInspectCommand(), new PatchVerifyCommand(), new PatchSignCommand(), new PatchApplyCommand(), new PatchRevertCommand(), new PatchDiffCommand(), new PatchComposeCommand(), new PatchExportCommand(), new PatchImportCommand()),
            new ParityCommand(),
            new FuzzCommand(),
            new CommandGroup("data", "Data sets of others: list them, download them from their origins.", new DataListCommand(), new DataGetCommand()),
            new CommandGroup("world", "Worlds with known truth: look at their texts, write them to files, train base models, measure them.", new WorldShowCommand(), new WorldExportCommand(), new WorldBuildCommand(), new WorldMeasureCommand()),
            new MethodsCommand(),
        };
        root.Add(CliCommand.Json);
        return root;
    }
}
