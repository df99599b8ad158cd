using System.CommandLine;
using System.Security.Cryptography;
using System.Text.Json.Nodes;
using Scalpel.Checkpoints;
using Scalpel.Cli.CommandLine;
using Scalpel.Patches;

namespace Scalpel.Cli.Commands.Patches;

/// <summary>Checks a patch offline.</summary>
sealed class PatchVerifyCommand : CliCommand
{
    readonly Argument<string> path = PatchOptions.PatchArgument();
    readonly Option<string?> model = PatchOptions.Base();
    readonly Option<string?> publicKey = new("--public-key") { Description = "ECDSA P-256 public key in PEM form; the patch must be signed by it." };

    public PatchVerifyCommand() : base("verify", "Checks a patch offline: format, shapes, finite values, signature, and that it fits its base. Exit code 1 when something does not hold.",
        "scalpel patch verify france.patch.safetensors --base assets/models/smollm2-135m-instruct")
    {
        Add(path);
        Add(model);
        Add(publicKey);
    }

    public override void Execute(Invocation call)
    {
        // Format, shapes and ranges are checked by reading.
        using Patch patch = PatchOptions.Load(call.Get(path));
        var failures = new List<string>();
        if (call.Get(publicKey) is { } keyPath)
        {
            using ECDsa key = PatchOptions.Key(keyPath);
            try
            {
                patch.VerifySignature(key);
            }
            catch (CheckFailedException e)
            {
                failures.Add(e.Message);
            }
        }

        using Checkpoint? checkpoint = call.Get(model) is { } location ? Checkpoint.Open(call.Model(location)) : null;
        IReadOnlyList<string> other = checkpoint is null ? [] : patch.Differences(checkpoint);
        if (other.Count > 0)
        {
            failures.Add($"The patch was made for another base than {checkpoint!.Location}: {string.Join(", ", other.Take(8))} differ.");
        }

        IReadOnlyList<TensorChange> changes = PatchInspection.Inspect(patch, other.Count == 0 ? checkpoint : null, call.Context());
        failures.AddRange(changes.Where(change => change.NotFinite > 0).Select(change => $"{change.Name} has {change.NotFinite} values that are NaN or infinite."));
        if (checkpoint is not null && other.Count == 0 && patch.Structure is null && changes.Count > 0 && changes.All(change => change.Changed == 0))
        {
            failures.Add("The patch changes no tensor of its base.");
        }

        call.Output.Emit(new JsonObject
        {
            ["patch"] = call.Get(path),
            ["verdict"] = failures.Count == 0 ? "pass" : "fail",
            ["content_hash"] = patch.ContentHash,
            ["signed_by"] = patch.Signature?.Signer,
            ["signature_checked"] = call.Get(publicKey) is not null,
            ["base_checked"] = checkpoint is not null,
            ["failures"] = new JsonArray([.. failures.Select(text => (JsonNode?)text)]),
        });
        if (failures.Count > 0)
        {
            throw new CheckFailedException(string.Join(" ", failures));
        }

        call.Output.Line($"{call.Get(path)} holds: {changes.Count} tensors, all values finite, content {patch.ContentHash}");
        call.Output.Line(patch.Signature is null ? "It is not signed." : $"It is signed by the key {patch.Signature.Signer}{(call.Get(publicKey) is null ? ", which was not checked (give --public-key)" : ", and the signature holds")}.");
        call.Output.Line(checkpoint is null ? "The base was not checked (give --base)." : $"It fits {checkpoint.Location} by hash.");
    }
}
