using System.Security.Cryptography;

namespace Scalpel.Cli.CommandLine;

/// <summary>Looks at where a result shall go before the work is done that makes it.</summary>
static class Destination
{
    /// <summary>A patch to write.</summary>
    /// <exception cref="BadInputException">The name has another ending, or see <see cref="File"/>.</exception>
    public static string Patch(string path, bool overwrite) => path.EndsWith(Scalpel.Patches.Patch.Suffix, StringComparison.Ordinal)
        ? File(path, overwrite)
        : throw new BadInputException($"--out is {path}; the name of a patch ends with {Scalpel.Patches.Patch.Suffix}.");

    /// <summary>A file to write.</summary>
    /// <exception cref="BadInputException">It exists and may not be replaced, is a folder, or lies where nothing can be written.</exception>
    public static string File(string path, bool overwrite)
    {
        if (Directory.Exists(path))
        {
            throw new BadInputException($"{path} is a folder; name a file.");
        }

        return Checked(path, overwrite, "file");
    }

    /// <summary>A folder to write.</summary>
    /// <exception cref="BadInputException">It exists and may not be replaced, or lies where nothing can be written.</exception>
    public static string Folder(string path, bool overwrite) => Checked(path, overwrite, "folder");

    static string Checked(string path, bool overwrite, string kind)
    {
        if (path.Length == 0)
        {
            throw new BadInputException($"The name of the {kind} to write is empty; give --out a name.");
        }

        if (Path.Exists(path) && !overwrite)
        {
            throw new BadInputException($"{path} exists already; choose another {kind} or add --force to replace it.");
        }

        string parent = Path.GetDirectoryName(Path.TrimEndingDirectorySeparator(Path.GetFullPath(path))) ?? "/";
        while (!Path.Exists(parent))
        {
            parent = Path.GetDirectoryName(parent)!;
        }

        try
        {
            // What the rights say is not what the file system does; so a file is made and deleted.
            using FileStream probe = new(Path.Combine(parent, $".{RandomNumberGenerator.GetHexString(12, lowercase: true)}.tmp"), FileMode.CreateNew, FileAccess.Write, FileShare.None, 1, FileOptions.DeleteOnClose);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            throw new BadInputException($"{path} cannot be written: {(System.IO.File.Exists(parent) ? $"{parent} is a file" : e.Message.TrimEnd('.'))}; choose another place.", e);
        }

        return path;
    }
}
