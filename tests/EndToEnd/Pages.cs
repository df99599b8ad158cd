using System.Text.RegularExpressions;

namespace Scalpel.EndToEnd;

/// <summary>The pages that users read, and the snippets in them.</summary>
static partial class Pages
{
    /// <summary>The README and the pages of docs/.</summary>
    public static IEnumerable<string> All() => Directory.EnumerateFiles(Path.Combine(ScalpelProcess.Root, "docs"), "*.md").Order(StringComparer.Ordinal)
        .Prepend(Path.Combine(ScalpelProcess.Root, "README.md"));

    /// <summary>The fenced blocks of a page in a language; "" for blocks without one.</summary>
    public static IEnumerable<string> Blocks(string file, string language) =>
        Block().Matches(File.ReadAllText(file)).Where(match => match.Groups[1].Value == language).Select(match => match.Groups[2].Value);

    /// <summary>The languages of a page's blocks.</summary>
    public static IEnumerable<string> Languages(string file) => Block().Matches(File.ReadAllText(file)).Select(match => match.Groups[1].Value);

    /// <summary>What stands between single backticks.</summary>
    public static IEnumerable<string> InlineCode(string file) => Inline().Matches(Block().Replace(File.ReadAllText(file), "")).Select(match => match.Groups[1].Value);

    [GeneratedRegex("^```([a-z]*)\n(.*?)^```", RegexOptions.Singleline | RegexOptions.Multiline)]
    private static partial Regex Block();

    [GeneratedRegex("`([^`\n]+)`")]
    private static partial Regex Inline();
}

/// <summary>A folder like a clone of the repository, in which snippets may write.</summary>
static class Clone
{
    /// <summary>Links what a clone holds.</summary>
    /// <param name="folder">Where.</param>
    /// <param name="realModel">Whether the language model is the real one; otherwise a tiny one with a chat template stands in for it.</param>
    public static void Make(TemporaryFolder folder, bool realModel)
    {
        foreach (string name in new[] { "docs", "tests", "LICENSE", "README.md" })
        {
            File.CreateSymbolicLink(folder.At(name), Path.Combine(ScalpelProcess.Root, name));
        }

        if (realModel)
        {
            File.CreateSymbolicLink(folder.At("assets"), Path.Combine(ScalpelProcess.Root, "assets"));
            return;
        }

        string models = Directory.CreateDirectory(folder.At(Path.Combine("assets", "models"))).FullName;
        foreach (string model in Directory.EnumerateDirectories(Path.Combine(ScalpelProcess.Root, "assets", "models")))
        {
            string target = Path.Combine(models, Path.GetFileName(model));
            if (Path.GetFileName(model) != "smollm2-135m-instruct")
            {
                File.CreateSymbolicLink(target, model);
                continue;
            }

            Directory.CreateDirectory(target);
            foreach (string file in Directory.EnumerateFiles(ScalpelProcess.TinyModel))
            {
                File.Copy(file, Path.Combine(target, Path.GetFileName(file)));
            }

            string config = Path.Combine(target, "config.json");
            File.WriteAllText(config, File.ReadAllText(config).Replace("\"max_position_embeddings\": 128", "\"max_position_embeddings\": 2048", StringComparison.Ordinal));
            File.WriteAllText(Path.Combine(target, "chat_template.jinja"), "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}");
        }
    }
}
