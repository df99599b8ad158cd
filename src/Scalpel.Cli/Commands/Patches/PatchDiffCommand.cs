using System.CommandLine;
using System.Globalization;
using System.Text.Json.Nodes;
using Scalpel.Checkpoints;
using Scalpel.Cli.CommandLine;
using Scalpel.Patches;

namespace Scalpel.Cli.Commands.Patches;

/// <summary>The patch between two checkpoints.</summary>
sealed class PatchDiffCommand : CliCommand
{
    readonly Argument<string> from = ModelArgument("BASE");
    readonly Argument<string> to = ModelArgument("EDITED");
    readonly Option<string> output = PatchOptions.Out("The patch to write; ends with .patch.safetensors.");
    readonly Option<bool> force = PatchOptions.Force("Replace an existing file.");

    public PatchDiffCommand() : base("diff", "Writes the patch that turns one model into another, exact to the bit.",
        "scalpel patch diff base edited --out change.patch.safetensors")
    {
        Add(from);
        Add(to);
        Add(output);
        Add(force);
    }

    public override void Execute(Invocation call)
    {
        using Checkpoint a = Checkpoint.Open(call.Model(from)), b = Checkpoint.Open(call.Model(to));
        IReadOnlyList<string> names = PatchFiles.Diff(a, b, call.Get(output), overwrite: call.Get(force), run: call.Context());
        call.Output.Emit(new JsonObject { ["patch"] = call.Get(output), ["tensors"] = PatchApplyCommand.Names(names), ["bytes"] = new FileInfo(call.Get(output)).Length });
        call.Output.Line($"{call.Get(output)}: {names.Count} of {a.Tensors.Count} tensors differ.");
    }
}

/// <summary>Several patches as one.</summary>
sealed class PatchComposeCommand : CliCommand
{
    readonly Argument<string[]> paths = new("PATCH") { Description = "The patches.", Arity = ArgumentArity.OneOrMore };
    readonly Option<double[]> scales = new("--scale") { Description = "A factor for each patch, in their order." };
    readonly Option<string> output = PatchOptions.Out("The patch to write; ends with .patch.safetensors.");
    readonly Option<bool> force = PatchOptions.Force("Replace an existing file.");

    public PatchComposeCommand() : base("compose", "Adds patches for one base to a single one and lists the tensors that more than one of them changes.",
        "scalpel patch compose first.patch.safetensors second.patch.safetensors --scale 1 --scale 0.5 --out sum.patch.safetensors")
    {
        Add(paths);
        Add(scales);
        Add(output);
        Add(force);
    }

    public override void Execute(Invocation call)
    {
        var patches = new List<Patch>();
        try
        {
            patches.AddRange(call.Get(paths).Select(PatchOptions.Load));
            Composition sum = PatchAlgebra.Compose(patches, call.Get(scales) is { Length: > 0 } given ? given : null);
            sum.Patch.Save(call.Get(output), call.Get(force));
            call.Output.Emit(new JsonObject
            {
                ["patch"] = call.Get(output),
                ["tensors"] = sum.Patch.Deltas.Count,
                ["overlaps"] = new JsonArray([.. sum.Overlaps.Select(overlap => (JsonNode?)new JsonObject
                {
                    ["tensor"] = overlap.Name,
                    ["patches"] = PatchApplyCommand.Names(overlap.Patches.Select(i => call.Get(paths)[i])),
                    ["how"] = overlap.How,
                })]),
            });
            call.Output.Line($"{call.Get(output)}: {sum.Patch.Deltas.Count} tensors, {sum.Overlaps.Count} of them changed by more than one patch.");
            foreach (Overlap overlap in sum.Overlaps)
            {
                call.Output.Line($"  {overlap.Name,-52} {string.Join(" + ", overlap.Patches.Select(i => (i + 1).ToString(CultureInfo.InvariantCulture)))}, {overlap.How}");
            }
        }
        finally
        {
            patches.ForEach(patch => patch.Dispose());
        }
    }
}
