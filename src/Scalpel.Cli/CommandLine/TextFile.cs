namespace Scalpel.Cli.CommandLine;

/// <summary>A text that the user names.</summary>
static class TextFile
{
    /// <summary>The whole text; - is standard input.</summary>
    /// <exception cref="BadInputException">It cannot be read.</exception>
    public static string Read(string path)
    {
        try
        {
            return path == "-" ? Console.In.ReadToEnd() : File.ReadAllText(path);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            throw new BadInputException($"{path} cannot be read: {e.Message.TrimEnd('.')}; give a text file.", e);
        }
    }
}
