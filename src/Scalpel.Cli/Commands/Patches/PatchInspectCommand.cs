using System.CommandLine;
using System.Globalization;
using System.Text.Json.Nodes;
using Scalpel.Checkpoints;
using Scalpel.Cli.CommandLine;
using Scalpel.Patches;

namespace Scalpel.Cli.Commands.Patches;

/// <summary>What a patch changes, tensor by tensor.</summary>
sealed class PatchInspectCommand : CliCommand
{
    readonly Argument<string> path = PatchOptions.PatchArgument();
    readonly Option<string?> model = PatchOptions.Base();

    public PatchInspectCommand() : base("inspect", "Shows what a patch changes: for each tensor kind, norm, rank and share of entries; method, options, evidence, signature.",
        "scalpel patch inspect france.patch.safetensors --base assets/models/smollm2-135m-instruct")
    {
        Add(path);
        Add(model);
    }

    public override void Execute(Invocation call)
    {
        using Patch patch = PatchOptions.Load(call.Get(path));
        using Checkpoint? checkpoint = call.Get(model) is { } location ? Checkpoint.Open(call.Model(location)) : null;
        if (checkpoint is not null && patch.Differences(checkpoint) is { Count: > 0 } other)
        {
            throw new BadInputException($"{call.Get(path)} was made for another base than {checkpoint.Location}: {string.Join(", ", other.Take(8))} differ; give its own base or leave --base out.");
        }

        IReadOnlyList<TensorChange> changes = PatchInspection.Inspect(patch, checkpoint, call.Context());
        if (call.Output.Json)
        {
            call.Output.Emit(Facts(patch, changes));
            return;
        }

        call.Output.Line($"method      {patch.Info.Method}{(patch.Info.Seed is { } seed ? $", seed {seed}" : "")}, made by scalpel {patch.Info.Version}{(patch.Info.Created is { } time ? $" on {time.UtcDateTime:yyyy-MM-dd HH:mm} UTC" : "")}");
        call.Output.Line($"options     {patch.Info.Options.ToJsonString()}");
        call.Output.Line($"signature   {(patch.Signature is { } signature ? $"by the key {signature.Signer}" : "none")}");
        if (patch.Requires.Count > 0)
        {
            call.Output.Line($"requires    {string.Join(", ", patch.Requires)}");
        }

        if (patch.Structure is { } structure)
        {
            call.Output.Line($"structure   config {structure.Config.ToJsonString()}, {structure.Tokens.Count} new tokens");
        }

        call.Output.Line();
        call.Output.Line($"{"tensor",-52} {"kind",-9} {"rank",5} {"changed",9} {"norm",11} {"of base",9}");
        foreach (TensorChange change in changes)
        {
            call.Output.Line($"{change.Name,-52} {change.Kind,-9} {change.Rank,5} {change.Changed?.ToString("P2", CultureInfo.InvariantCulture),9} {change.Norm?.ToString("g5", CultureInfo.InvariantCulture),11} {change.RelativeNorm?.ToString("P2", CultureInfo.InvariantCulture),9}");
        }
    }

    static JsonObject Facts(Patch patch, IReadOnlyList<TensorChange> changes) => new()
    {
        ["method"] = patch.Info.Method,
        ["options"] = patch.Info.Options.DeepClone(),
        ["seed"] = patch.Info.Seed,
        ["version"] = patch.Info.Version,
        ["created"] = patch.Info.Created?.UtcDateTime.ToString("yyyy-MM-ddTHH:mm:ssZ", CultureInfo.InvariantCulture),
        ["content_hash"] = patch.ContentHash,
        ["base_config_hash"] = patch.BaseConfigHash,
        ["signer"] = patch.Signature?.Signer,
        ["requires"] = new JsonArray([.. patch.Requires.Select(name => (JsonNode?)name)]),
        ["evidence"] = patch.Info.Evidence?.DeepClone(),
        ["tensors"] = new JsonArray([.. changes.Select(change => (JsonNode?)new JsonObject
        {
            ["name"] = change.Name,
            ["kind"] = change.Kind,
            ["dtype"] = change.Type?.ToString(),
            ["shape"] = new JsonArray([.. change.Shape.Select(size => (JsonNode?)size)]),
            ["rank"] = change.Rank,
            ["changed"] = change.Changed,
            ["norm"] = Finite(change.Norm),
            ["largest"] = Finite(change.Largest),
            ["base_norm"] = Finite(change.BaseNorm),
            ["not_finite"] = change.NotFinite,
        })]),
    };

    static double? Finite(double? value) => value is { } number && double.IsFinite(number) ? number : null;
}
