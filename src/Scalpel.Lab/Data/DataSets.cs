using System.Globalization;
using System.Reflection;
using Scalpel.Checkpoints.Hub;

namespace Scalpel.Lab.Data;

/// <summary>One file of a data set.</summary>
/// <param name="Path">Where it lies in the data folder, with slashes.</param>
/// <param name="Bytes">Its size.</param>
/// <param name="Sha256">Hash of its content.</param>
/// <param name="Origin">Repository and path, <c>owner/name:path</c>; null for files that were derived and have no public origin.</param>
public sealed record DataFile(string Path, long Bytes, string Sha256, string? Origin);

/// <summary>A data set of others that evaluations and reproductions read in its original layout.</summary>
/// <param name="Name">Its folder in the data folder.</param>
/// <param name="Description">What it is, in a few words.</param>
/// <param name="Source">Who made it.</param>
/// <param name="Licence">Its licence.</param>
/// <param name="Files">Its files.</param>
public sealed record DataSet(string Name, string Description, string Source, string Licence, IReadOnlyList<DataFile> Files)
{
    /// <summary>Bytes of all files.</summary>
    public long Bytes => Files.Sum(file => file.Bytes);

    /// <summary>The files that are not in a data folder with their right size.</summary>
    public IReadOnlyList<DataFile> Missing(string folder) =>
        [.. Files.Where(file => new FileInfo(System.IO.Path.Combine(folder, file.Path)) is not { Exists: true } found || found.Length != file.Bytes)];
}

/// <summary>
/// The data sets that Scalpel knows, and their download from their public origins. None of them is part of Scalpel: they
/// are other people's files under their own licences.
/// </summary>
public static class DataSets
{
    /// <summary>Where repositories are read from unless told otherwise.</summary>
    public static Uri Origin { get; } = new("https://raw.githubusercontent.com");

    /// <summary>All sets, by name.</summary>
    public static IReadOnlyList<DataSet> All { get; } = Read();

    /// <summary>The data folder: SCALPEL_DATA, else <c>data</c> in the user's cache of Scalpel.</summary>
    public static string Folder(RunContext run) =>
        Environment.GetEnvironmentVariable("SCALPEL_DATA") is { Length: > 0 } folder ? folder : Path.Combine(run.CacheFolder, "data");

    /// <summary>A set by its name.</summary>
    /// <exception cref="BadInputException">There is none; the nearest name is given.</exception>
    public static DataSet Of(string name) => All.FirstOrDefault(set => set.Name == name)
        ?? throw new BadInputException($"There is no data set '{name}'; the nearest is {Nearest.To(name, All.Select(set => set.Name))[0]}, and scalpel data list shows all.");

    /// <summary>Downloads what is missing of a set and checks every file's SHA-256, those that were there too.</summary>
    /// <param name="set">The set.</param>
    /// <param name="folder">The data folder.</param>
    /// <param name="run">Progress and cancellation.</param>
    /// <param name="origin">Where repositories are read from; <see cref="Origin"/> by default.</param>
    /// <param name="patience">When to try again and when to give up.</param>
    /// <returns>How many files were downloaded.</returns>
    /// <exception cref="BadInputException">A file cannot be had, or is not what it should be.</exception>
    public static async Task<int> GetAsync(DataSet set, string folder, RunContext run, Uri? origin = null, DownloaderOptions? patience = null)
    {
        IReadOnlyList<DataFile> missing = set.Missing(folder);
        foreach (DataFile file in set.Files.Except(missing))
        {
            string path = Path.Combine(folder, file.Path);
            ContentHash expected = ContentHash.Sha256(file.Sha256), found = expected.Of(path, run.Cancellation);
            if (found != expected)
            {
                throw new BadInputException($"{path} has the {found}, expected {expected}; delete it and run the command again.");
            }
        }

        if (missing.FirstOrDefault(file => file.Origin is null) is { } derived)
        {
            throw new BadInputException($"{derived.Path} was derived from {set.Source} and has no public origin to download; put it into {folder}.");
        }

        using var downloader = new Downloader(patience);
        for (int i = 0; i < missing.Count; i++)
        {
            run.Report($"downloading {set.Name}", i, missing.Count, missing[i].Path);
            // Progress is by file: most are small.
            await downloader.RunAsync(DownloadOf(missing[i], folder, origin ?? Origin), null, run with { Progress = null }).ConfigureAwait(false);
        }

        return missing.Count;
    }

    static Download DownloadOf(DataFile file, string folder, Uri origin)
    {
        string[] parts = file.Origin!.Split(':', 2);
        string path = string.Join('/', parts[1].Split('/').Select(Uri.EscapeDataString));
        return new Download(new Uri($"{origin.AbsoluteUri.TrimEnd('/')}/{parts[0]}/HEAD/{path}"), Path.Combine(folder, file.Path), ContentHash.Sha256(file.Sha256), file.Bytes) { Name = file.Path };
    }

    static List<DataSet> Read()
    {
        ILookup<string, DataFile> files = Rows("files.tsv").Select(row => new DataFile(row[0], long.Parse(row[1], CultureInfo.InvariantCulture), row[2], row[3].Length == 0 ? null : row[3])).ToLookup(file => file.Path.Split('/')[0]);
        return [.. Rows("sets.tsv").Select(row => new DataSet(row[0], row[1], row[2], row[3], [.. files[row[0]]])).OrderBy(set => set.Name, StringComparer.Ordinal)];
    }

    static IEnumerable<string[]> Rows(string name)
    {
        using Stream stream = Assembly.GetExecutingAssembly().GetManifestResourceStream($"Scalpel.Lab.Data.{name}")!;
        using var reader = new StreamReader(stream);
        return [.. reader.ReadToEnd().Split('\n', StringSplitOptions.RemoveEmptyEntries).Skip(1).Select(line => line.TrimEnd('\r').Split('\t'))];
    }
}
