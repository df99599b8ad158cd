namespace Scalpel.Bench;

/// <summary>Where the repository's own files lie, found from the program's folder.</summary>
static class Repository
{
    public static string Root { get; } = Find();

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

        throw new BadInputException($"No scalpel.slnx lies in a folder above {AppContext.BaseDirectory}; run the benchmarks from a clone of the repository.");
    }
}
