using System.Diagnostics;
using System.Security.Cryptography;
using System.Text.Json.Nodes;

namespace Scalpel.EndToEnd;

/// <summary>scalpel patch … through the built command, with files whose names have spaces.</summary>
public sealed class PatchCommandTests : IDisposable
{
    static readonly string Root = Find();
    readonly string folder = Directory.CreateTempSubdirectory("scalpel patch command ").FullName;

    public void Dispose() => Directory.Delete(folder, recursive: true);

    [Fact]
    public void APatchIsImportedAppliedTakenBackAndExported()
    {
        string tuning = Path.Combine(Root, "tests", "Reference", "tuning"), model = Path.Combine(tuning, "_models", "tiny-llama"), adapter = Path.Combine(tuning, "lora-patterns", "adapter");
        string patch = In("the adapter.patch.safetensors"), edited = In("edited model"), back = In("base again"), diff = In("diff.patch.safetensors"), sum = In("sum.patch.safetensors");

        JsonObject imported = Run(0, "import", adapter, "--base", model, "--out", patch);
        imported["dialect"]!.GetValue<string>().ShouldBe("peft");
        Run(2, "import", adapter, "--base", model, "--out", patch);
        Run(0, "verify", patch, "--base", model)["verdict"]!.GetValue<string>().ShouldBe("pass");
        Run(1, "verify", patch, "--base", Path.Combine(tuning, "_models", "tiny-gpt2"))["verdict"]!.GetValue<string>().ShouldBe("fail");
        Run(0, "inspect", patch, "--base", model)["tensors"]!.AsArray().Count.ShouldBe(6);

        Run(0, "apply", model, patch, "--out", edited)["changed"]!.AsArray().Count.ShouldBe(6);
        Run(2, "apply", model, patch, "--out", edited);
        Run(0, "apply", model, patch, "--out", edited, "--force");
        Run(0, "revert", edited, "--out", back);
        Hashes(back).ShouldBe(Hashes(model));

        Run(0, "diff", model, edited, "--out", diff)["tensors"]!.AsArray().Count.ShouldBe(6);
        Run(2, "compose", patch, diff, "--out", sum);
        Run(0, "compose", patch, patch, "--scale", "1", "--scale", "0.5", "--out", sum)["overlaps"]!.AsArray().Count.ShouldBe(6);
        foreach (string format in (string[])["peft", "diffusers", "kohya"])
        {
            Run(0, "export", patch, "--base", model, "--format", format, "--out", In(format));
            Run(0, "import", In(format), "--base", model, "--out", In(format + ".patch.safetensors"));
        }
    }

    [Fact]
    public void ASignatureIsCheckedOffline()
    {
        string tuning = Path.Combine(Root, "tests", "Reference", "tuning"), model = Path.Combine(tuning, "_models", "tiny-llama"), patch = In("a.patch.safetensors"), signed = In("signed.patch.safetensors");
        using ECDsa key = ECDsa.Create(ECCurve.NamedCurves.nistP256);
        File.WriteAllText(In("key.pem"), key.ExportECPrivateKeyPem());
        File.WriteAllText(In("public.pem"), key.ExportSubjectPublicKeyInfoPem());
        Run(0, "import", Path.Combine(tuning, "lora-qv-rslora", "adapter"), "--base", model, "--out", patch);
        Run(0, "sign", patch, "--key", In("key.pem"), "--out", signed);
        Run(2, "sign", patch, "--key", In("public.pem"), "--out", In("b.patch.safetensors"));
        Run(0, "verify", signed, "--public-key", In("public.pem"))["signature_checked"]!.GetValue<bool>().ShouldBeTrue();
        Run(1, "verify", patch, "--public-key", In("public.pem"));
        Run(2, "verify", In("nowhere.patch.safetensors"));
    }

    string In(string name) => Path.Combine(folder, name);

    // The last JSON line of standard output; nothing else may stand there.
    static JsonObject Run(int exitCode, params string[] arguments)
    {
        string command = Path.Combine(Root, "src", "Scalpel.Cli", "bin", "Release", "net10.0", "linux-x64", "scalpel");
        var start = new ProcessStartInfo(command, ["patch", .. arguments, "--json"]) { RedirectStandardOutput = true, RedirectStandardError = true };
        using Process process = Process.Start(start)!;
        Task<string> errors = process.StandardError.ReadToEndAsync();
        string output = process.StandardOutput.ReadToEnd();
        process.WaitForExit();
        string said = errors.GetAwaiter().GetResult();
        process.ExitCode.ShouldBe(exitCode, $"{string.Join(' ', arguments)}\n{output}\n{said}");
        said.ShouldNotContain("   at ");
        return output.Split('\n', StringSplitOptions.RemoveEmptyEntries).Select(line => JsonNode.Parse(line)!.AsObject()).LastOrDefault() ?? [];
    }

    static Dictionary<string, string> Hashes(string path) => Directory.GetFiles(path).ToDictionary(file => Path.GetFileName(file)!, file => Convert.ToHexString(SHA256.HashData(File.ReadAllBytes(file))));

    static string Find()
    {
        DirectoryInfo? folder = new(AppContext.BaseDirectory);
        while (folder is not null && !File.Exists(Path.Combine(folder.FullName, "scalpel.slnx")))
        {
            folder = folder.Parent;
        }

        return folder?.FullName ?? throw new DirectoryNotFoundException("scalpel.slnx lies in no folder above the tests.");
    }
}
