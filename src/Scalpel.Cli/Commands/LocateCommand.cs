using System.CommandLine;
using System.Text.Json.Nodes;
using Scalpel.Checkpoints;
using Scalpel.Cli.CommandLine;
using Scalpel.Cli.Output;
using Scalpel.Lab.Reports;
using Scalpel.Lab.Runs;
using Scalpel.Methods.Attribution;
using Scalpel.Networks;

namespace Scalpel.Cli.Commands;

/// <summary>Finds where a fact is kept, by causal tracing.</summary>
sealed class LocateCommand : CliCommand
{
    readonly Argument<string> model = ModelArgument();
    readonly Option<string> subject = new("--subject") { Description = "What the fact is about.", Required = true };
    readonly Option<string> prompt = new("--prompt") { Description = "Beginning of a sentence with {} where the subject stands.", Required = true };
    readonly Option<string?> target = new("--target") { Description = "What the model is expected to answer; another answer is an error." };
    readonly Option<int> samples = new("--samples") { Description = "Noisy runs that are averaged.", DefaultValueFactory = _ => new CausalTracingOptions().Samples };
    readonly Option<ulong> seed = new("--seed") { Description = "Seed of the noise.", DefaultValueFactory = _ => 0UL };
    readonly Option<string?> output = new("--out") { Description = "Folder for report.html and trace.json.", HelpName = "FOLDER" };
    readonly Option<bool> force = new("--force") { Description = "Replace an existing folder." };

    public LocateCommand() : base("locate", "Finds where a model keeps a fact: causal tracing, layer by token.",
        "scalpel locate assets/models/smollm2-135m-instruct --subject \"France\" --prompt \"The capital of {} is\"")
    {
        Add(model);
        foreach (Option option in (Option[])[subject, prompt, target, samples, seed, output, force])
        {
            Add(option);
        }
    }

    public override void Execute(Invocation call)
    {
        string? folder = call.Get(output) is { } given ? Destination.Folder(given, call.Get(force)) : null;
        using Decoder decoder = Decoder.Load(call.Model(model));
        CausalTrace trace = new CausalTracing(new CausalTracingOptions { Samples = call.Get(samples) })
            .Trace(decoder, call.Get(subject), call.Get(prompt), call.Context(call.Get(seed)), call.Get(target));
        IReadOnlyList<HeatMap> maps = TraceFigures.Of(trace);
        var json = (JsonObject)TraceJson.Write(trace);
        if (folder is not null)
        {
            AtomicFolder.Write(folder, call.Get(force), partial =>
            {
                AtomicFile.WriteText(Path.Combine(partial, "trace.json"), json.ToJsonString(new() { WriteIndented = true }) + "\n");
                AtomicFile.WriteText(Path.Combine(partial, "report.html"), ReportWriter.ToHtml(Report(call, decoder, trace, maps)));
            });
        }

        call.Output.Emit(json);
        if (!call.Output.Json)
        {
            foreach (string line in maps.SelectMany(map => HeatMapText.Lines(map).Append("")))
            {
                call.Output.Line(line);
            }

            call.Output.Line($"Restoring the MLPs at the subject's last token helps most around layer {trace.PeakLayer}.");
        }
    }

    EditReport Report(Invocation call, Decoder decoder, CausalTrace trace, IReadOnlyList<HeatMap> maps) => new()
    {
        Title = $"Where “{call.Get(prompt).Replace("{}", call.Get(subject), StringComparison.Ordinal)} {trace.Answer.Trim()}” is kept",
        Summary = $"The subject's embeddings were drowned in noise and clean states put back one place at a time. Restoring the MLPs at the subject's last token helps most around layer {trace.PeakLayer}.",
        HeatMaps = maps,
        Provenance =
        [
            ("model", decoder.Source!.Location), ("configuration hash", decoder.ConfigHash), ("noisy runs", call.Get(samples).ToString(System.Globalization.CultureInfo.InvariantCulture)),
            ("noise", trace.NoiseLevel.ToString("0.0000", System.Globalization.CultureInfo.InvariantCulture)), ("seed", call.Get(seed).ToString(System.Globalization.CultureInfo.InvariantCulture)),
        ],
    };
}
