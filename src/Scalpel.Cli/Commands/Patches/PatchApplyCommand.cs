using System.CommandLine;
using System.Text.Json.Nodes;
using Scalpel.Checkpoints;
using Scalpel.Checkpoints.Gguf;
using Scalpel.Cli.CommandLine;
using Scalpel.Patches;

namespace Scalpel.Cli.Commands.Patches;

/// <summary>Writes an edited checkpoint.</summary>
sealed class PatchApplyCommand : CliCommand
{
    readonly Argument<string> model = ModelArgument();
    readonly Argument<string> path = PatchOptions.PatchArgument();
    readonly Option<string> output = PatchOptions.Out("Folder to make.");
    readonly Option<double> scale = new("--scale") { Description = "Factor of additive changes.", DefaultValueFactory = _ => 1 };
    readonly Option<string?> type = new("--type") { Description = $"Type in which edited tensors of a quantised GGUF file are written: {string.Join(", ", Quantiser.Types)}. F32 by default, which is exact.", HelpName = "TYPE" };
    readonly Option<string[]> provided = PatchOptions.Provided();
    readonly Option<bool> force = PatchOptions.Force("Replace an existing folder, and let an additive patch go on another base than its own.");

    public PatchApplyCommand() : base("apply", "Writes the edited model in the layout and types of the base, with undo.patch.safetensors beside it.",
        "scalpel patch apply assets/models/smollm2-135m-instruct france.patch.safetensors --out edited")
    {
        Add(model);
        Add(path);
        Add(output);
        Add(scale);
        Add(type);
        Add(provided);
        Add(force);
    }

    public override void Execute(Invocation call)
    {
        using Checkpoint checkpoint = Checkpoint.Open(call.Model(model));
        using Patch patch = PatchOptions.Load(call.Get(path));
        var options = new ApplyOptions { Scale = call.Get(scale), Force = call.Get(force), Overwrite = call.Get(force), BlockType = TypeOf(call), Provided = call.Get(provided) };
        IReadOnlyList<string> other = call.Get(force) ? patch.Differences(checkpoint) : [];
        ApplyReport report = PatchFiles.Apply(checkpoint, patch, call.Get(output), options, call.Context());
        if (other.Count > 0)
        {
            call.Output.Note($"note: forced on another base; {string.Join(", ", other.Take(8))} differ from the one that it was made for.");
        }

        foreach (string left in report.LeftOut)
        {
            call.Output.Note($"note: {left} holds the base's weights in another form and was not copied.");
        }

        call.Output.Emit(new JsonObject
        {
            ["folder"] = report.Folder,
            ["changed"] = Names(report.Changed),
            ["unchanged"] = Names(report.Unchanged),
            ["left_out"] = Names(report.LeftOut),
            ["bytes"] = report.Bytes,
            ["undo"] = Path.Combine(report.Folder, "undo.patch.safetensors"),
        });
        call.Output.Line($"{report.Folder}: {report.Changed.Count} tensors changed{(report.Unchanged.Count > 0 ? $", {report.Unchanged.Count} round to what was there" : "")}. Take it back with: scalpel patch revert {Quote(report.Folder)} --out FOLDER");
    }

    StorageType? TypeOf(Invocation call) => call.Get(type) is not { } name ? null
        : Quantiser.Types.Any(known => known.ToString().Equals(name, StringComparison.OrdinalIgnoreCase)) ? Enum.Parse<StorageType>(name, ignoreCase: true)
        : throw new BadInputException($"--type is {name}; it must be one of {string.Join(", ", Quantiser.Types)}.");

    internal static JsonArray Names(IEnumerable<string> names) => [.. names.Select(name => (JsonNode?)name)];

    internal static string Quote(string path) => path.Contains(' ', StringComparison.Ordinal) ? $"\"{path}\"" : path;
}

/// <summary>Takes a patch back.</summary>
sealed class PatchRevertCommand : CliCommand
{
    readonly Argument<string> folder = new("FOLDER") { Description = "A folder that scalpel patch apply made." };
    readonly Option<string> output = PatchOptions.Out("Folder to make.");
    readonly Option<bool> force = PatchOptions.Force("Replace an existing folder.");

    public PatchRevertCommand() : base("revert", "Gives back the base's files byte for byte, each verified by its hash.",
        "scalpel patch revert edited --out base")
    {
        Add(folder);
        Add(output);
        Add(force);
    }

    public override void Execute(Invocation call)
    {
        IReadOnlyDictionary<string, string> files = PatchFiles.Revert(call.Get(folder), call.Get(output), call.Get(force), call.Context());
        call.Output.Emit(new JsonObject { ["folder"] = call.Get(output), ["files"] = new JsonObject(files.Select(pair => KeyValuePair.Create<string, JsonNode?>(pair.Key, pair.Value))) });
        call.Output.Line($"{call.Get(output)}: {files.Count} files, every hash is the base's.");
    }
}
