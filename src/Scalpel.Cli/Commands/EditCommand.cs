using System.CommandLine;
using System.Text.Json.Nodes;
using Scalpel.Cli.CommandLine;
using Scalpel.Lab.Recipes;
using Scalpel.Methods;
using Scalpel.Methods.Editing;
using Scalpel.Networks;
using Scalpel.Patches;

namespace Scalpel.Cli.Commands;

/// <summary>Changes facts in a model; the result is a patch.</summary>
sealed class EditCommand : CliCommand
{
    readonly Argument<string> model = ModelArgument();
    readonly Option<string> method = new("--method") { Description = "The editor; scalpel methods lists them.", DefaultValueFactory = _ => "rome" };
    readonly Option<string?> subject = new("--subject") { Description = "What the fact is about." };
    readonly Option<string?> prompt = new("--prompt") { Description = "Beginning of a sentence with {} where the subject stands." };
    readonly Option<string?> target = new("--target") { Description = "What the model shall answer." };
    readonly Option<string?> requests = new("--requests") { Description = "Facts in a JSON file instead: Scalpel's own records, CounterFact or zsRE.", HelpName = "FILE" };
    readonly Option<string[]> set = new("--set") { Description = "An option of the method, key=value; may be given more than once.", HelpName = "KEY=VALUE", DefaultValueFactory = _ => [] };
    readonly Option<ulong> seed = new("--seed") { Description = "Seed of the run.", DefaultValueFactory = _ => 0UL };
    readonly Option<string> output = new("--out") { Description = $"The patch to write, *{Patch.Suffix}.", HelpName = "PATCH", Required = true };
    readonly Option<bool> force = new("--force") { Description = "Replace an existing patch." };

    public EditCommand() : base("edit", "Changes facts in a model and writes the change as a patch.",
        "scalpel edit assets/models/smollm2-135m-instruct --method rome --subject France --prompt \"The capital of {} is\" --target Rome --out france.patch.safetensors")
    {
        Add(model);
        foreach (Option option in (Option[])[method, subject, prompt, target, requests, set, seed, output, force])
        {
            Add(option);
        }
    }

    public override void Execute(Invocation call)
    {
        string path = Destination.Patch(call.Get(output), call.Get(force));
        IReadOnlyList<FactEdit> facts = Facts(call);
        IEditor editor = MethodRegistry.Create<IEditor>(call.Get(method), OptionBinder.FromPairs(call.Get(set)));
        using Decoder decoder = Decoder.Load(call.Model(model));
        using Patch patch = editor.Edit(decoder, facts, call.Context(call.Get(seed)));
        patch.Save(path, call.Get(force));
        IReadOnlyList<TensorChange> changes = PatchInspection.Inspect(patch, decoder.Source);
        call.Output.Emit(new JsonObject
        {
            ["patch"] = path,
            ["method"] = patch.Info.Method,
            ["facts"] = facts.Count,
            ["mode"] = patch.Info.Evidence?["mode"]?.DeepClone(),
            ["tensors"] = new JsonArray([.. changes.Select(change => (JsonNode)new JsonObject
            {
                ["name"] = change.Name, ["kind"] = change.Kind, ["rank"] = change.Rank, ["norm"] = change.Norm, ["base_norm"] = change.BaseNorm, ["changed"] = change.Changed,
            })]),
        });
        if (!call.Output.Json)
        {
            call.Output.Line($"{path}: {patch.Info.Method}, {facts.Count} {(facts.Count == 1 ? "fact" : "facts")}{(patch.Info.Evidence?["mode"] is { } mode ? $" ({mode})" : "")}, {changes.Count} {(changes.Count == 1 ? "tensor" : "tensors")}");
            foreach (TensorChange change in changes)
            {
                call.Output.Line(FormattableString.Invariant($"  {change.Name}  {change.Kind}{(change.Rank is { } rank ? $" {rank}" : "")}  norm {change.Norm:0.000} of {change.BaseNorm:0.000}"));
            }

            call.Output.Line($"try it: scalpel generate {call.Get(model)} \"{facts[0].FilledPrompt}\" --patch {path} --max-tokens 16");
        }
    }

    IReadOnlyList<FactEdit> Facts(Invocation call)
    {
        bool one = call.Get(subject) is not null || call.Get(prompt) is not null || call.Get(target) is not null;
        if (call.Get(requests) is { } file)
        {
            return one ? throw new BadInputException("--requests and --subject, --prompt, --target exclude each other; give the facts in one way.") : FactFile.Read(file);
        }

        string Required(Option<string?> option) => call.Get(option)
            ?? throw new BadInputException($"{option.Name} is missing; give --subject, --prompt and --target, or --requests with a file.");
        string given = Required(prompt), about = Required(subject), answer = Required(target);
        // A whole sentence that holds the subject is understood as well.
        if (!given.Contains("{}", StringComparison.Ordinal))
        {
            int at = about.Length == 0 ? -1 : given.IndexOf(about, StringComparison.Ordinal);
            given = at < 0
                ? throw new BadInputException($"The prompt \"{given}\" has neither {{}} nor the subject \"{about}\"; write {{}} where the subject stands.")
                : string.Concat(given.AsSpan(0, at), "{}", given.AsSpan(at + about.Length));
        }

        return [new FactEdit(about, given, answer).Validated()];
    }
}
