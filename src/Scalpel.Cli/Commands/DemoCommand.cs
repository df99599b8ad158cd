using System.CommandLine;
using System.Text.Json.Nodes;
using Scalpel.Cli.CommandLine;
using Scalpel.Cli.Output;
using Scalpel.Lab.Demo;
using Scalpel.Patches;

namespace Scalpel.Cli.Commands;

/// <summary>The main job once through on the model that comes with Scalpel.</summary>
sealed class DemoCommand : CliCommand
{
    readonly Option<string?> model = new("--model") { Description = "The model; SmolLM2-135M-Instruct in assets/models by default.", HelpName = "MODEL" };
    readonly Option<string> output = new("--out") { Description = "Folder for patch and report; one of before is replaced.", HelpName = "FOLDER", DefaultValueFactory = _ => "demo" };
    readonly Option<ulong> seed = new("--seed") { Description = "Seed of the run.", DefaultValueFactory = _ => 0UL };

    public DemoCommand() : base("demo", "Changes a fact in a real language model, proves it, and takes it back.", "scalpel demo")
    {
        Add(model);
        Add(output);
        Add(seed);
    }

    public override void Execute(Invocation call)
    {
        string folder = call.Get(output), location = call.Get(model) ?? OwnModel();
        if (Path.Exists(folder) && !IsDemo(folder))
        {
            throw new BadInputException($"{folder} exists and is not a demo of before; choose another folder with --out.");
        }

        var demo = new FactDemo
        {
            Tell = line => call.Output.Line(line),
            Show = map =>
            {
                foreach (string line in HeatMapText.Lines(map))
                {
                    call.Output.Line("             " + line);
                }
            },
        };
        DemoOutcome outcome = demo.Run(location, folder, call.Context(call.Get(seed)));
        call.Output.Emit(new JsonObject
        {
            ["patch"] = outcome.Patch,
            ["report"] = outcome.Report,
            ["restored"] = outcome.Restored,
            ["scorecard"] = outcome.Card.ToJson(),
        });
        if (!outcome.Restored)
        {
            throw new CheckFailedException("After the patch was taken back the model's bytes differ from those before.");
        }
    }

    // In a clone, from the folder that the user is in or from that of the command upwards.
    static string OwnModel()
    {
        string relative = Path.Combine("assets", "models", "smollm2-135m-instruct");
        for (DirectoryInfo? at = new(AppContext.BaseDirectory); !Directory.Exists(relative) && at is not null; at = at.Parent)
        {
            if (Directory.Exists(Path.Combine(at.FullName, relative)))
            {
                return Path.Combine(at.FullName, relative);
            }
        }

        return Directory.Exists(relative)
            ? relative
            : throw new BadInputException($"{relative} is not here and not above the command; run the demo in a clone of the repository, or name the model with --model.");
    }

    static bool IsDemo(string folder) => Directory.Exists(folder)
        && Directory.EnumerateFileSystemEntries(folder).All(entry => Path.GetFileName(entry) is "report.html" or "scorecard.json" || entry.EndsWith(Patch.Suffix, StringComparison.Ordinal));
}
