using System.CommandLine;
using System.Text;
using System.Text.Json.Nodes;
using Scalpel.Cli.CommandLine;
using Scalpel.Methods;

namespace Scalpel.Cli.Commands;

/// <summary>The methods that Scalpel has, and the options of one.</summary>
sealed class MethodsCommand : CliCommand
{
    readonly Argument<string?> name = new("METHOD") { Description = "Show one method with its options.", Arity = ArgumentArity.ZeroOrOne };

    readonly Option<bool> markdown = new("--markdown") { Description = "The page docs/methods.md." };

    public MethodsCommand() : base("methods", "Lists the methods, or shows one with its options and defaults.",
        "scalpel methods", "scalpel methods rome")
    {
        Add(name);
        Add(markdown);
    }

    public override void Execute(Invocation call)
    {
        string? slug = call.Get(name);
        if (call.Get(markdown))
        {
            call.Output.Write(Page(slug is null ? MethodRegistry.All : [MethodRegistry.Find(slug)]));
            return;
        }

        foreach (MethodDescription method in slug is null ? MethodRegistry.All : [MethodRegistry.Find(slug)])
        {
            call.Output.Emit(Object(method));
            if (!call.Output.Json)
            {
                call.Output.Line($"{method.Slug,-16} {method.Family.ToString().ToLowerInvariant(),-16} arXiv:{method.Paper}  {FirstSentence(method.Documentation)}");
                foreach (MethodOption option in slug is null ? [] : method.Options)
                {
                    call.Output.Line($"  {option.Name,-24} {option.Default?.ToJsonString() ?? "decided by the method",-12} {option.Type}. {option.Documentation}");
                }
            }
        }
    }

    static string Page(IReadOnlyList<MethodDescription> methods)
    {
        var page = new StringBuilder("# Methods\n\nGenerated from the registry by `scalpel methods --markdown`. An option is set by `--set name=value` or under `options:` of a recipe.\n");
        foreach (MethodDescription method in methods)
        {
            page.Append($"\n## {method.Slug}\n\n{Cell(method.Documentation)}\n\nFamily: {method.Family.ToString().ToLowerInvariant()}. Paper: [{method.Paper}](https://arxiv.org/abs/{method.Paper}).\n");
            page.Append(method.Options.Count == 0 ? "" : "\n| option | default | value | what it does |\n|---|---|---|---|\n");
            foreach (MethodOption option in method.Options)
            {
                page.Append($"| `{option.Name}` | {(option.Default is null ? "decided by the method" : $"`{option.Default.ToJsonString()}`")} | {option.Type} | {Cell(option.Documentation)} |\n");
            }
        }

        return page.ToString();
    }

    static string Cell(string text) => text.Replace("|", "\\|", StringComparison.Ordinal).Replace("<", "&lt;", StringComparison.Ordinal);

    static string FirstSentence(string text) => text.IndexOf(". ", StringComparison.Ordinal) is > 0 and int at ? text[..(at + 1)] : text;

    static JsonObject Object(MethodDescription method) => new()
    {
        ["method"] = method.Slug,
        ["family"] = method.Family.ToString().ToLowerInvariant(),
        ["paper"] = method.Paper,
        ["documentation"] = method.Documentation,
        ["options"] = new JsonArray([.. method.Options.Select(option => (JsonNode)new JsonObject
        {
            ["name"] = option.Name,
            ["type"] = option.Type,
            ["default"] = option.Default?.DeepClone(),
            ["documentation"] = option.Documentation,
        })]),
    };
}
