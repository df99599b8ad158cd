using System.CommandLine;
using System.Text.Json.Nodes;
using Scalpel.Cli.CommandLine;
using Scalpel.Cli.Output;
using Scalpel.Lab.Demo;

namespace Scalpel.Cli.Commands;

/// <summary>The main job once through on the model that comes with Scalpel.</summary>
sealed class DemoCommand : CliCommand
{
    readonly Option<string> model = new("--model") { Description = "The model; the one in assets/models by default.", HelpName = "MODEL", DefaultValueFactory = _ => Path.Combine("assets", "models", "smollm2-135m-instruct") };
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
        DemoOutcome outcome = demo.Run(call.Get(model), call.Get(output), call.Context(call.Get(seed)));
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
}
