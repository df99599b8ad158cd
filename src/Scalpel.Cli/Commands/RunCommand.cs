using System.CommandLine;
using System.Text.Json.Nodes;
using Scalpel.Cli.CommandLine;
using Scalpel.Cli.Output;
using Scalpel.Lab.Evaluations;
using Scalpel.Lab.Recipes;
using Scalpel.Lab.Runs;

namespace Scalpel.Cli.Commands;

/// <summary>Executes a recipe into a run folder.</summary>
sealed class RunCommand : CliCommand
{
    readonly Argument<string> recipe = new("RECIPE") { Description = "A YAML file: model, method, options, requests, locate, text, seed." };
    readonly Option<string?> output = new("--out") { Description = "The run's folder; runs/NAME by default, after the recipe's name.", HelpName = "FOLDER" };
    readonly Option<bool> resume = new("--resume") { Description = "Go on with an interrupted run of the same recipe." };

    public RunCommand() : base("run", "Executes a recipe into a folder: patch, scorecard, report, log.", "scalpel run docs/eiffel.yaml --out run")
    {
        Add(recipe);
        Add(output);
        Add(resume);
    }

    public override void Execute(Invocation call)
    {
        string path = call.Get(recipe), folder = call.Get(output) ?? Path.Combine("runs", Path.GetFileNameWithoutExtension(path));
        var run = new EditRun(Recipe.Load(path), folder, call.Get(resume));
        Scorecard card = run.Execute(call.Context());
        call.Output.Emit(new JsonObject { ["folder"] = folder, ["patch"] = run.PatchPath, ["report"] = run.ReportPath, ["scorecard"] = card.ToJson() });
        if (!call.Output.Json)
        {
            foreach (string line in ScorecardText.Lines(card))
            {
                call.Output.Line(line);
            }

            call.Output.Line($"{run.PatchPath}, {run.ReportPath}");
        }
    }
}
