using System.Diagnostics;

namespace Scalpel.EndToEnd;

public sealed class HelpExampleTests : IDisposable
{
    // Why an example is not run here.
    static readonly Dictionary<string, string> Elsewhere = new()
    {
        ["data get"] = "needs the network; DataSetsTests downloads from a server of its own",
        ["world build"] = "trains for minutes; WorldTests builds small ones",
    };

    readonly TemporaryFolder folder = new();

    public void Dispose() => folder.Dispose();

    [Fact]
    public void EveryExampleOfEveryHelpRuns()
    {
        Clone.Make(folder, realModel: false);
        WriteFilesOfTheUser();
        int run = 0;
        foreach (string[] command in Help.Commands())
        {
            string name = string.Join(' ', command);
            string[] examples = [.. Help.Section(command, "Example")];
            examples.ShouldNotBeEmpty(name);
            foreach (string example in examples.Where(_ => !Elsewhere.ContainsKey(name)))
            {
                example.ShouldStartWith($"scalpel {name}");
                CommandResult result = ScalpelProcess.Shell(folder.Path, example);
                result.Code.ShouldBe(0, $"{example}\n{result.Error}");
                run++;
                if (name == "edit")
                {
                    // Patches that other examples call by other names.
                    foreach (string copy in (string[])["first", "second", "a", "b", "eiffel"])
                    {
                        File.Copy(folder.At("france.patch.safetensors"), folder.At($"{copy}.patch.safetensors"));
                    }
                }
            }
        }

        run.ShouldBeGreaterThan(30);
    }

    [Fact]
    public void EveryOptionThatAPageNamesExists()
    {
        HashSet<string> known = [.. Help.Commands().SelectMany(command => Help.OptionsOf(command))];
        foreach (string page in Pages.All())
        {
            foreach (string code in Pages.InlineCode(page))
            {
                foreach (string word in code.Split(' ').Where(word => word.StartsWith("--", StringComparison.Ordinal)))
                {
                    known.ShouldContain(word.TrimStart('[').TrimEnd(']').Split('=')[0], $"{Path.GetFileName(page)}: {code}");
                }
            }
        }
    }

    [Fact]
    public void EveryCommandThatAPageNamesExists()
    {
        HashSet<string> commands = [.. Help.Commands().SelectMany(command => (string[])[command[0], string.Join(' ', command)])];
        foreach (string page in Pages.All())
        {
            foreach (string code in Pages.InlineCode(page).Where(code => code.StartsWith("scalpel ", StringComparison.Ordinal)))
            {
                string[] words = code.Split(' ');
                commands.ShouldContain(words[1], $"{Path.GetFileName(page)}: {code}");
                if (words[1] is "patch" or "data" or "world" && words.Length > 2)
                {
                    // "scalpel patch inspect, verify, sign" names several.
                    int last = Array.FindIndex(words, 2, word => !word.EndsWith(','));
                    foreach (string inner in words[2..(last < 0 ? words.Length : last + 1)].Where(word => char.IsLower(word[0])))
                    {
                        commands.ShouldContain($"{words[1]} {inner.TrimEnd(',')}", $"{Path.GetFileName(page)}: {code}");
                    }
                }
            }
        }
    }

    void WriteFilesOfTheUser()
    {
        ClassifyCommandTests.Write(folder.At("my-classifier"), "bert-classifier-a");
        folder.Write("train.jsonl", string.Concat(Enumerable.Range(0, 8).Select(i => $$"""{"prompt": "The cat sat on", "completion": " the mat {{i}}."}""" + "\n")));
        folder.Write("pairs.jsonl", string.Concat(Enumerable.Range(0, 8).Select(i => $$"""{"prompt": "The cat sat on", "chosen": " the mat {{i}}.", "rejected": " the dog {{i}}."}""" + "\n")));
        folder.Write("prompts.jsonl", string.Concat(Enumerable.Range(0, 4).Select(i => $$"""{"prompt": "The cat sat on mat {{i}} and"}""" + "\n")));
        folder.Write("text.txt", string.Join('\n', Enumerable.Repeat("The cat sat on the mat and looked at the dog.", 40)));
        Directory.CreateDirectory(folder.At("runs/ipo"));
        folder.Write("runs/ipo/log.jsonl", """{"step":1,"loss":25}""" + "\n" + """{"step":2,"loss":24.5}""" + "\n");
        using Process key = Process.Start("openssl", ["ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", folder.At("key.pem")]);
        key.WaitForExit();
        key.ExitCode.ShouldBe(0);
    }
}

/// <summary>What the command's own help says.</summary>
static class Help
{
    /// <summary>All commands, those of groups with the group before them, in the order of the help.</summary>
    public static IEnumerable<string[]> Commands()
    {
        foreach (string name in Names("--help"))
        {
            string[] inner = [.. Names(name, "--help")];
            foreach (string[] command in inner.Length == 0 ? [[name]] : inner.Select(sub => (string[])[name, sub]))
            {
                yield return command;
            }
        }
    }

    /// <summary>The lines below a heading of a command's help.</summary>
    public static IEnumerable<string> Section(string[] command, string heading) => Lines(heading, [.. command, "--help"]).Select(line => line.Trim());

    /// <summary>The options of a command, --json and --help among them.</summary>
    public static IEnumerable<string> OptionsOf(string[] command) => Lines("Options", [.. command, "--help"])
        .SelectMany(line => line.Split([' ', ','], StringSplitOptions.RemoveEmptyEntries)).Where(word => word.StartsWith("--", StringComparison.Ordinal)).Append("--help");

    static IEnumerable<string> Names(params string[] args) =>
        Lines("Commands", args).Where(line => line.Length > 2 && line[2] != ' ').Select(line => line.Trim().Split(' ')[0]);

    static IEnumerable<string> Lines(string heading, string[] args)
    {
        string text = ScalpelProcess.Run(Path.GetTempPath(), args).Output;
        int at = text.IndexOf($"\n{heading}\n", StringComparison.Ordinal);
        return at < 0 ? [] : text[(at + heading.Length + 2)..].Split("\n\n")[0].Split('\n').Where(line => line.StartsWith("  ", StringComparison.Ordinal));
    }
}
