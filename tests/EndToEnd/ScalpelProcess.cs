using System.Diagnostics;
using System.Text;

namespace Scalpel.EndToEnd;

/// <summary>What a run of the command came to.</summary>
/// <param name="Code">Exit code.</param>
/// <param name="Output">Standard output.</param>
/// <param name="Error">Standard error.</param>
sealed record CommandResult(int Code, string Output, string Error);

/// <summary>Runs the built command as a user does: a process of its own, without a terminal.</summary>
static class ScalpelProcess
{
    static readonly TimeSpan Patience = TimeSpan.FromMinutes(3);

    /// <summary>Root of the repository.</summary>
    public static string Root { get; } = FindRoot();

    /// <summary>A tiny model with a tokenizer: two layers, seeded weights.</summary>
    public static string TinyModel { get; } = Path.Combine(Root, "tests", "Reference", "methods", "_models", "llama-a");

    /// <summary>The built command.</summary>
    public static string Executable { get; } = FindExecutable();

    /// <summary>Starts the command.</summary>
    public static Process Start(string folder, params string[] args) => Launch(Executable, folder, args);

    /// <summary>Runs the command to its end.</summary>
    public static CommandResult Run(string folder, params string[] args) => Finish(Start(folder, args));

    /// <summary>Runs lines of shell with the command in the path, stopping at the first that fails.</summary>
    public static CommandResult Shell(string folder, string lines) => Finish(Launch("/bin/bash", folder, ["-eo", "pipefail", "-c", lines]));

    /// <summary>Waits for the end and reads both streams.</summary>
    public static CommandResult Finish(Process process)
    {
        using (process)
        {
            Task<string> output = process.StandardOutput.ReadToEndAsync(), error = process.StandardError.ReadToEndAsync();
            if (!process.WaitForExit(Patience))
            {
                process.Kill(entireProcessTree: true);
                throw new TimeoutException($"scalpel did not end within {Patience}.");
            }

            return new CommandResult(process.ExitCode, output.Result, error.Result);
        }
    }

    static Process Launch(string program, string folder, string[] args)
    {
        var start = new ProcessStartInfo(program)
        {
            WorkingDirectory = folder,
            RedirectStandardInput = true,
            RedirectStandardOutput = true,
            RedirectStandardError = true,
            StandardOutputEncoding = Encoding.UTF8,
            StandardErrorEncoding = Encoding.UTF8,
        };
        foreach (string arg in args)
        {
            start.ArgumentList.Add(arg);
        }

        start.Environment["PATH"] = $"{Path.GetDirectoryName(Executable)}:{Environment.GetEnvironmentVariable("PATH")}";
        // A tiny model gains nothing from more threads, and the tests run side by side.
        start.Environment["OMP_NUM_THREADS"] = "1";
        Process process = Process.Start(start)!;
        process.StandardInput.Close();
        return process;
    }

    static string FindExecutable()
    {
        // The build of the command itself: its folder has the native libraries of its platform.
        string bin = Path.Combine(Root, "src", "Scalpel.Cli", "bin");
        string configuration = new DirectoryInfo(AppContext.BaseDirectory).Parent!.Name;
        string file = Path.Combine(bin, configuration, "net10.0", "linux-x64", "scalpel");
        return File.Exists(file) ? file : throw new FileNotFoundException($"{file} is not built.");
    }

    static string FindRoot()
    {
        for (DirectoryInfo? folder = new(AppContext.BaseDirectory); folder is not null; folder = folder.Parent)
        {
            if (File.Exists(Path.Combine(folder.FullName, "scalpel.slnx")))
            {
                return folder.FullName;
            }
        }

        throw new DirectoryNotFoundException("scalpel.slnx lies in no folder above the tests.");
    }
}

/// <summary>A folder with a space in its name that is gone after the test.</summary>
sealed class TemporaryFolder : IDisposable
{
    /// <summary>Its path.</summary>
    public string Path { get; } = Directory.CreateTempSubdirectory("scalpel end to end ").FullName;

    /// <summary>Path of something in it.</summary>
    public string At(string name) => System.IO.Path.Combine(Path, name);

    /// <summary>Writes a text file.</summary>
    public string Write(string name, string text)
    {
        File.WriteAllText(At(name), text);
        return At(name);
    }

    public void Dispose() => Directory.Delete(Path, recursive: true);
}
