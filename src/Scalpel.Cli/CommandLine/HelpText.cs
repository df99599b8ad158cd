using System.CommandLine;
using System.Text;

namespace Scalpel.Cli.CommandLine;

/// <summary>The help of a command: what it does, how it is called, an example that runs, its arguments and options.</summary>
static class HelpText
{
    const int Left = 30;

    /// <summary>The whole text.</summary>
    public static string Of(Command command)
    {
        var text = new StringBuilder();
        text.Append(command.Description).Append("\n\n");
        string path = PathOf(command);
        text.Append("Usage\n  ").Append(path);
        foreach (Argument argument in command.Arguments)
        {
            bool many = argument.Arity.MaximumNumberOfValues > 1, optional = argument.Arity.MinimumNumberOfValues == 0;
            text.Append(' ').Append(optional ? $"[{argument.Name}{(many ? "…" : "")}]" : argument.Name + (many ? "…" : ""));
        }

        text.Append(command.Subcommands.Count > 0 ? " COMMAND" : "").Append(" [options]\n");
        if (command is CliCommand { Examples.Count: > 0 } runnable)
        {
            text.Append("\nExample\n");
            foreach (string example in runnable.Examples)
            {
                text.Append("  ").Append(example).Append('\n');
            }
        }

        Section(text, "Commands", command.Subcommands.Where(c => !c.Hidden).Select(c => (c.Name, c.Description)));
        Section(text, "Arguments", command.Arguments.Select(a => (a.Name, a.Description)));
        Section(text, "Options", OptionsOf(command).Select(o => (Label(o), Description(o))));
        if (command is RootCommand)
        {
            text.Append("\nA model is a folder, a .safetensors or a .gguf file.\n")
                .Append("Exit codes: 0 done, 1 a check did not hold, 2 bad input, 3 interrupted, 4 internal error.\n");
        }

        return text.ToString();
    }

    /// <summary>The words that call a command: "scalpel patch apply".</summary>
    public static string PathOf(Command command) => ParentOf(command) is { } parent ? $"{PathOf(parent)} {command.Name}" : "scalpel";

    /// <summary>The command above, or null for the root.</summary>
    public static Command? ParentOf(Command command) => command.Parents.OfType<Command>().FirstOrDefault();

    static IEnumerable<Option> OptionsOf(Command command)
    {
        IEnumerable<Option> own = command.Options.Where(o => !o.Hidden && !o.Recursive);
        var recursive = new List<Option>();
        for (Command? at = command; at is not null; at = ParentOf(at))
        {
            recursive.AddRange(at.Options.Where(o => o.Recursive && !o.Hidden));
        }

        return own.Concat(recursive);
    }

    static string Label(Option option) =>
        (option.Aliases.FirstOrDefault(a => a.Length == 2) is { } brief ? $"{brief}, " : "") + option.Name
        + (option.Arity.MaximumNumberOfValues == 0 || option.ValueType == typeof(bool) ? "" : $" {option.HelpName ?? option.Name.TrimStart('-').ToUpperInvariant()}");

    static string? Description(Option option)
    {
        if (option.Required)
        {
            return option.Description + " Required.";
        }

        string? value = option.HasDefaultValue && option.ValueType != typeof(bool) ? option.GetDefaultValue() is { } given
            ? given is System.Collections.IEnumerable and not string ? null : Convert.ToString(given, System.Globalization.CultureInfo.InvariantCulture)
            : null : null;
        return string.IsNullOrEmpty(value) ? option.Description : $"{option.Description} Default {value}.";
    }

    static void Section(StringBuilder text, string title, IEnumerable<(string Name, string? Description)> rows)
    {
        (string Name, string? Description)[] all = [.. rows];
        if (all.Length == 0)
        {
            return;
        }

        text.Append('\n').Append(title).Append('\n');
        int left = Math.Min(Left, all.Max(row => row.Name.Length) + 2);
        foreach ((string name, string? description) in all)
        {
            text.Append("  ").Append(name.PadRight(left));
            if (name.Length + 2 > left)
            {
                text.Append('\n').Append(' ', left + 2);
            }

            int column = 0;
            foreach (string word in (description ?? "").Split(' '))
            {
                if (column > 0 && column + word.Length > 100 - left)
                {
                    text.Append('\n').Append(' ', left + 2);
                    column = 0;
                }

                text.Append(column > 0 ? " " : "").Append(word);
                column += word.Length + 1;
            }

            text.Append('\n');
        }
    }
}
