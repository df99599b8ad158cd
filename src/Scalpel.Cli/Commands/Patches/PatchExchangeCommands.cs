using System.CommandLine;
using System.Globalization;
using System.Text.Json.Nodes;
using Scalpel.Checkpoints;
using Scalpel.Cli.CommandLine;
using Scalpel.Patches;
using Scalpel.Patches.Adapters;

namespace Scalpel.Cli.Commands.Patches;

/// <summary>A patch as another tool's adapter.</summary>
sealed class PatchExportCommand : CliCommand
{
    readonly Argument<string> path = PatchOptions.PatchArgument();
    readonly Option<string> model = new("--base") { Description = "The model that the patch was made for.", Required = true };
    readonly Option<string> format = new Option<string>("--format") { Description = "peft, diffusers or kohya.", DefaultValueFactory = _ => "peft" }.AcceptOnlyFromAmong("peft", "diffusers", "kohya");
    readonly Option<int?> rank = new("--rank") { Description = "Rank for changes that are not of low rank; by default the smallest within --error." };
    readonly Option<double> error = new("--error") { Description = "Relative error allowed for those.", DefaultValueFactory = _ => 0.01 };
    readonly Option<string> output = PatchOptions.Out("Folder to make.");
    readonly Option<bool> force = PatchOptions.Force("Replace an existing folder.");

    public PatchExportCommand() : base("export", "Writes a patch as a LoRA adapter: exact for low-rank changes, by singular values with the reported error for others.",
        "scalpel patch export france.patch.safetensors --base assets/models/smollm2-135m-instruct --format peft --out adapter")
    {
        Add(path);
        Add(model);
        Add(format);
        Add(rank);
        Add(error);
        Add(output);
        Add(force);
    }

    public override void Execute(Invocation call)
    {
        using Checkpoint checkpoint = Checkpoint.Open(call.Get(model));
        using Patch patch = PatchOptions.Load(call.Get(path));
        AdapterFormat kind = Enum.Parse<AdapterFormat>(call.Get(format), ignoreCase: true);
        ExportReport report = LoraExport.Write(patch, checkpoint, kind, call.Get(output), call.Get(rank), call.Get(error), call.Get(force));
        call.Output.Emit(new JsonObject
        {
            ["folder"] = call.Get(output),
            ["files"] = PatchApplyCommand.Names(report.Files),
            ["errors"] = new JsonObject(report.Errors.Select(pair => KeyValuePair.Create<string, JsonNode?>(pair.Key, pair.Value))),
        });
        call.Output.Line($"{call.Get(output)}: {string.Join(", ", report.Files)}; {patch.Deltas.Count - report.Errors.Count} changes exact, {report.Errors.Count} approximated.");
        foreach ((string name, double lost) in report.Errors)
        {
            call.Output.Line($"  {name,-52} relative error {lost.ToString("g3", CultureInfo.InvariantCulture)}");
        }
    }
}

/// <summary>Another tool's adapter as a patch.</summary>
sealed class PatchImportCommand : CliCommand
{
    readonly Argument<string> path = new("ADAPTER") { Description = "A PEFT folder, or a LoRA file of diffusers or kohya." };
    readonly Option<string> model = new("--base") { Description = "The model that the adapter was made for.", Required = true };
    readonly Option<string> output = PatchOptions.Out("The patch to write; ends with .patch.safetensors.");
    readonly Option<bool> force = PatchOptions.Force("Replace an existing file.");

    public PatchImportCommand() : base("import", "Reads an adapter of PEFT, diffusers or kohya as a patch; every tensor must be used and every target be there.",
        "scalpel patch import adapter --base assets/models/smollm2-135m-instruct --out adapter.patch.safetensors")
    {
        Add(path);
        Add(model);
        Add(output);
        Add(force);
    }

    public override void Execute(Invocation call)
    {
        using Checkpoint checkpoint = Checkpoint.Open(call.Get(model));
        ImportedAdapter imported = LoraImport.Read(call.Get(path), checkpoint);
        using Patch patch = imported.Patch;
        foreach (string warning in imported.Warnings)
        {
            call.Output.Note($"note: {warning}");
        }

        patch.Save(call.Get(output), call.Get(force));
        call.Output.Emit(new JsonObject { ["patch"] = call.Get(output), ["dialect"] = imported.Dialect, ["method"] = patch.Info.Method, ["tensors"] = patch.Deltas.Count, ["warnings"] = PatchApplyCommand.Names(imported.Warnings) });
        call.Output.Line($"{call.Get(output)}: {patch.Deltas.Count} tensors, read as {imported.Dialect}.");
    }
}
