using System.CommandLine;
using System.Security.Cryptography;
using Scalpel.Patches;

namespace Scalpel.Cli.Commands.Patches;

/// <summary>Arguments and options that the patch commands share.</summary>
static class PatchOptions
{
    public static Argument<string> PatchArgument(string name = "PATCH") => new(name) { Description = "A .patch.safetensors file." };

    public static Option<string> Out(string what) => new("--out") { Description = what, Required = true };

    public static Option<bool> Force(string what) => new("--force") { Description = what };

    public static Option<string?> Base() => new("--base") { Description = "The model that the patch was made for." };

    public static Option<string[]> Provided() => new("--provided") { Description = "What you provide of the patch's requirements, such as a sampler; may be given several times." };

    /// <summary>Opens a patch; a missing file is one sentence.</summary>
    public static Patch Load(string path) => Directory.Exists(path)
        ? throw new BadInputException($"{path} is a folder; name the .patch.safetensors file.")
        : Patch.Load(path);

    public static ECDsa Key(string path)
    {
        try
        {
            var key = ECDsa.Create();
            key.ImportFromPem(File.ReadAllText(path));
            return key;
        }
        catch (Exception e) when (e is ArgumentException or CryptographicException)
        {
            throw new BadInputException($"{path} is no unencrypted ECDSA key in PEM form; make one with openssl ecparam -name prime256v1 -genkey -noout -out key.pem, and its public part with openssl ec -in key.pem -pubout.", e);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            throw new BadInputException($"{path} cannot be read: {e.Message.TrimEnd('.')}; name a key in PEM form.", e);
        }
    }
}
