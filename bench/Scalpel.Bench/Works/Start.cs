using System.Diagnostics;

namespace Scalpel.Bench.Works;

/// <summary>The command line's <c>--help</c> as a process of its own. <c>SCALPEL_CLI</c> names a published one.</summary>
sealed class Start : IWork
{
    readonly string file = Environment.GetEnvironmentVariable("SCALPEL_CLI") is { Length: > 0 } given ? given
        : Path.Combine(Repository.Root, "src", "Scalpel.Cli", "bin", "Release", "net10.0", "linux-x64", "scalpel");

    public static string Name => "start";

    public Start()
    {
        if (!File.Exists(file))
        {
            throw new BadInputException($"{file} does not exist; build src/Scalpel.Cli in Release, or set SCALPEL_CLI to a published scalpel.");
        }
    }

    public void Run()
    {
        using var process = Process.Start(new ProcessStartInfo(file, ["--help"]) { RedirectStandardOutput = true, RedirectStandardError = true })!;
        process.StandardOutput.ReadToEnd();
        process.WaitForExit();
        if (process.ExitCode != 0)
        {
            throw new InvalidOperationException($"{file} --help ended with {process.ExitCode}: {process.StandardError.ReadToEnd()}");
        }
    }

    public void Dispose()
    {
    }
}
