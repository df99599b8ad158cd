using System.Runtime.InteropServices;

namespace Scalpel.Cli.CommandLine;

/// <summary>Finds out why libtorch cannot be loaded: which file was tried, what is missing, what to do.</summary>
static class NativeLibraryDiagnosis
{
    static readonly string[] Files = ["libc10.so", "libtorch_cpu.so", "libtorch.so", "libLibTorchSharp.so"];

    /// <summary>One sentence when a native library is behind the failure; null otherwise.</summary>
    public static string? Explain(Exception failure)
    {
        Exception? cause = failure;
        while (cause is not (null or DllNotFoundException or EntryPointNotFoundException or BadImageFormatException)
            && !(cause is NotSupportedException && cause.Message.Contains("libtorch", StringComparison.OrdinalIgnoreCase)))
        {
            cause = cause.InnerException;
        }

        return cause is null ? null : Diagnose(AppContext.BaseDirectory) ?? $"a native library could not be used: {cause.Message.Split('\n')[0].TrimEnd('.', '\r')}; {Remedy}";
    }

    const string Remedy = "publish again with: dotnet publish src/Scalpel.Cli -c Release -o FOLDER, and keep the folder whole.";

    static string? Diagnose(string folder)
    {
        if (!OperatingSystem.IsLinux())
        {
            return null;
        }

        string[] places = [folder, Path.Combine(folder, "runtimes", "linux-x64", "native")];
        foreach (string name in Files)
        {
            string? path = places.Select(place => Path.Combine(place, name)).FirstOrDefault(File.Exists);
            if (path is null)
            {
                return $"libtorch cannot be loaded: {name} is in none of {string.Join(", ", places)}; {Remedy}";
            }

            if (!NativeLibrary.TryLoad(path, out _))
            {
                // The second attempt throws with the loader's own words: the symbol or the file that is missing.
                try
                {
                    NativeLibrary.Load(path);
                }
                catch (Exception e) when (e is DllNotFoundException or BadImageFormatException)
                {
                    string reason = e.Message.Split('\n').Select(line => line.Trim()).LastOrDefault(line => line.Contains(name, StringComparison.Ordinal) && line.Contains(':', StringComparison.Ordinal)) ?? e.Message.Split('\n')[0];
                    return $"libtorch cannot be loaded: {path} was tried and refused ({reason.TrimEnd('.')}); {Remedy}";
                }
            }
        }

        return null;
    }
}
