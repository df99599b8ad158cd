using System.CommandLine;
using System.CommandLine.Parsing;

namespace Scalpel.Cli.CommandLine;

/// <summary>Says in one sentence what is wrong with a command line, with the nearest word that is known.</summary>
static class ParseErrors
{
    /// <summary>The sentence; null when nothing is wrong.</summary>
    public static string? Explain(ParseResult parsed)
    {
        Command command = parsed.CommandResult.Command;
        string path = HelpText.PathOf(command), help = $"see {path} --help.";
        if (MisspeltOption(parsed, command) is { } misspelt)
        {
            return $"{path} has no option {misspelt}; the nearest is {Nearest.To(misspelt, OptionNames(command))[0]}; {help}";
        }

        if (parsed.Errors.Count == 0)
        {
            return null;
        }

        foreach (string token in parsed.UnmatchedTokens)
        {
            if (command.Subcommands.Count > 0 && command is not CliCommand)
            {
                return $"there is no command '{path} {token}'; the nearest is {Nearest.To(token, command.Subcommands.Select(c => c.Name))[0]}; {help}";
            }

            return $"{path} does not know what to do with '{token}'; {help}";
        }

        ParseError error = parsed.Errors[0];
        SymbolResult? at = error.SymbolResult;
        if (at is CommandResult && MissingOf(parsed, command) is { } missing)
        {
            return $"{path} needs {missing}; {help}";
        }

        return at switch
        {
            ArgumentResult argument when argument.Tokens.Count == 0 => $"{path} needs {Named(argument)}; {help}",
            OptionResult option when option.Tokens.Count == 0 => $"{option.Option.Name} needs a value; {help}",
            _ => $"{error.Message.TrimEnd('.')}; {help}",
        };
    }

    // The parser takes an unknown option for the value of an argument where one is free.
    static string? MisspeltOption(ParseResult parsed, Command command)
    {
        IEnumerable<string> values = command.Arguments.Select(parsed.GetResult).Where(result => result is not null).SelectMany(result => result!.Tokens.Select(token => token.Value));
        bool escaped = parsed.Tokens.Any(token => token.Type == TokenType.DoubleDash);
        string? found = parsed.UnmatchedTokens.Concat(escaped ? [] : values).FirstOrDefault(token => token.StartsWith("--", StringComparison.Ordinal) && token.Length > 2);
        return found?.Split('=', 2)[0];
    }

    static string? MissingOf(ParseResult parsed, Command command)
    {
        Option? option = command.Options.FirstOrDefault(o => o.Required && parsed.GetResult(o) is null);
        return option is null ? null : $"{option.Name} ({option.Description?.TrimEnd('.')})";
    }

    static string Named(ArgumentResult argument) => argument.Parent is OptionResult option
        ? $"a value for {option.Option.Name}"
        : $"{argument.Argument.Name} ({argument.Argument.Description?.TrimEnd('.')})";

    static IEnumerable<string> OptionNames(Command command)
    {
        IEnumerable<string> names = command.Options.Where(o => !o.Hidden).SelectMany(o => o.Aliases.Prepend(o.Name));
        for (Command? above = HelpText.ParentOf(command); above is not null; above = HelpText.ParentOf(above))
        {
            names = names.Concat(above.Options.Where(o => o.Recursive).Select(o => o.Name));
        }

        return names.Where(name => name.StartsWith("--", StringComparison.Ordinal));
    }
}
