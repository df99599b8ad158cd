// Tests count live tensors of the whole process and use both cores each: one after another.
[assembly: Xunit.v3.Parallelization(Mode = Xunit.Sdk.ParallelMode.None)]

namespace Scalpel.Tests;

/// <summary>Where the repository's own files lie, found from the test's output folder.</summary>
static class Repository
{
    /// <summary>The repository.</summary>
    public static string Root { get; } = Find();

    /// <summary>A golden file or folder.</summary>
    public static string Reference(params string[] parts) => Path.Combine([Root, "tests", "Reference", .. parts]);

    /// <summary>The real model of the tests.</summary>
    public static string SmolLM2 => Path.Combine(Root, "assets", "models", "smollm2-135m-instruct");

    static string Find()
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
