using System.CommandLine;
using Scalpel.Checkpoints;
using Scalpel.Cli.CommandLine;
using Scalpel.Cli.Output;
using Scalpel.Lab.Evaluations;
using Scalpel.Lab.Recipes;
using Scalpel.Methods.Editing;
using Scalpel.Networks;
using Scalpel.Patches;

namespace Scalpel.Cli.Commands;

/// <summary>Measures what a patch does: whether the edit holds, and whether anything else moved.</summary>
sealed class EvaluateCommand : CliCommand
{
    readonly Argument<string> model = ModelArgument();
    readonly Option<string> patch = new("--patch") { Description = "The patch.", HelpName = "FILE", Required = true };
    readonly Option<string> requests = new("--requests") { Description = "The facts: Scalpel's own records, CounterFact or zsRE.", HelpName = "FILE", Required = true };
    readonly Option<string?> text = new("--text") { Description = "Text that has nothing to do with the facts; a few paragraphs about other things by default.", HelpName = "FILE" };
    readonly Option<int> fluency = new("--fluency-facts") { Description = "Facts whose continuations are generated to measure fluency.", DefaultValueFactory = _ => new EditEvaluationOptions().FluencyFacts };
    readonly Option<ulong> seed = new("--seed") { Description = "Seed of intervals and continuations.", DefaultValueFactory = _ => 0UL };
    readonly Option<string?> output = new("--out") { Description = "Write the scorecard as JSON.", HelpName = "FILE" };
    readonly Option<bool> force = new("--force") { Description = "Replace an existing file." };

    public EvaluateCommand() : base("evaluate", "Measures a patch: does the edit hold, and did nothing else move.",
        "scalpel evaluate assets/models/smollm2-135m-instruct --patch france.patch.safetensors --requests docs/facts.json")
    {
        Add(model);
        foreach (Option option in (Option[])[patch, requests, text, fluency, seed, output, force])
        {
            Add(option);
        }
    }

    public override void Execute(Invocation call)
    {
        string? path = call.Get(output) is { } given ? Destination.File(given, call.Get(force)) : null;
        IReadOnlyList<FactEdit> facts = FactFile.Read(call.Get(requests));
        using Patch change = Patch.Load(call.Get(patch));
        using Decoder decoder = Decoder.Load(call.Model(model));
        var options = new EditEvaluationOptions { Text = call.Get(text) is { } file ? TextFile.Read(file) : null, FluencyFacts = call.Get(fluency) };
        Scorecard card = new EditEvaluation(options).Run(decoder, change, facts, call.Context(call.Get(seed)));
        if (path is not null)
        {
            AtomicFile.WriteText(path, card.ToJson().ToJsonString(new() { WriteIndented = true }) + "\n");
        }

        call.Output.Emit(card.ToJson());
        if (!call.Output.Json)
        {
            foreach (string line in ScorecardText.Lines(card))
            {
                call.Output.Line(line);
            }
        }
    }
}
