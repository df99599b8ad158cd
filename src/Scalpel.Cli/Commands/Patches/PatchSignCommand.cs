using System.CommandLine;
using System.Security.Cryptography;
using System.Text.Json.Nodes;
using Scalpel.Cli.CommandLine;
using Scalpel.Patches;

namespace Scalpel.Cli.Commands.Patches;

/// <summary>Signs a patch.</summary>
sealed class PatchSignCommand : CliCommand
{
    readonly Argument<string> path = PatchOptions.PatchArgument();
    readonly Option<string> key = new("--key") { Description = "ECDSA P-256 private key in PEM form.", Required = true };
    readonly Option<string> output = PatchOptions.Out("The signed patch to write; ends with .patch.safetensors.");
    readonly Option<bool> force = PatchOptions.Force("Replace an existing file.");

    public PatchSignCommand() : base("sign", "Signs a patch with a private key, so that others can check with the public one that it is yours and unchanged.",
        "scalpel patch sign france.patch.safetensors --key key.pem --out france.signed.patch.safetensors")
    {
        Add(path);
        Add(key);
        Add(output);
        Add(force);
    }

    public override void Execute(Invocation call)
    {
        using ECDsa pair = PatchOptions.Key(call.Get(key));
        using Patch patch = PatchOptions.Load(call.Get(path));
        Patch signed;
        try
        {
            signed = patch.Sign(pair);
        }
        catch (CryptographicException e)
        {
            throw new BadInputException($"{call.Get(key)} holds no private key; signing takes the private one, verifying the public one.", e);
        }

        signed.Save(call.Get(output), call.Get(force));
        call.Output.Emit(new JsonObject { ["patch"] = call.Get(output), ["signer"] = signed.Signature!.Signer, ["content_hash"] = signed.ContentHash });
        call.Output.Line($"{call.Get(output)} is signed by the key {signed.Signature.Signer}.");
    }
}
