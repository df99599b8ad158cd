namespace Scalpel.Cli.CommandLine;

/// <summary>A text that the user names.</summary>
static class TextFile
{
    /// <summary>
    /// Texts that are given as arguments, or the lines of a file. Every line counts, also an empty one, so that line n is text n.
    /// </summary>
    /// <param name="given">The arguments.</param>
    /// <param name="path">The file of --text; null when it is not given.</param>
    /// <param name="kind">What each is, in lower case: "sentence".</param>
    /// <exception cref="BadInputException">There is none, or both are given, or the file cannot be read or is empty.</exception>
    public static string[] GivenOrLines(string[] given, string? path, string kind)
    {
        if (path is null)
        {
            return given.Length > 0 ? given : throw new BadInputException($"There is no {kind}; give some in quotes, or --text FILE with one a line.");
        }

        if (given.Length > 0)
        {
            throw new BadInputException($"{char.ToUpperInvariant(kind[0])}{kind[1..]}s and --text are given; take one of them.");
        }

        string[] lines = Read(path).ReplaceLineEndings("\n").TrimEnd('\n').Split('\n');
        return lines is [""] ? throw new BadInputException($"{path} is empty; a file with one {kind} a line is expected.") : lines;
    }

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
