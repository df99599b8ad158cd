using System.CommandLine;
using System.Globalization;
using System.Text.Json;
using System.Text.Json.Nodes;
using Scalpel.Cli.CommandLine;
using Scalpel.Lab.Reports;

namespace Scalpel.Cli.Commands;

/// <summary>Puts training runs side by side: what differs in their options, and where their losses went.</summary>
sealed class CompareCommand : CliCommand
{
    readonly Argument<string[]> runs = new("RUN") { Description = "Folders of scalpel tune --run.", Arity = ArgumentArity.OneOrMore };
    readonly Option<string?> output = new("--out") { Description = "Draw the losses of all runs into this file, *.svg.", HelpName = "SVG" };
    readonly Option<bool> force = new("--force") { Description = "Replace an existing picture." };

    public CompareCommand() : base("compare", "Puts training runs side by side: what differs in their options, and where their losses went.",
        "scalpel compare runs/dpo runs/ipo --out losses.svg")
    {
        Add(runs);
        Add(output);
        Add(force);
    }

    public override void Execute(Invocation call)
    {
        string? picture = call.Get(output);
        if (picture is not null)
        {
            Destination.File(picture, call.Get(force));
            if (!picture.EndsWith(".svg", StringComparison.OrdinalIgnoreCase))
            {
                throw new BadInputException($"--out is {picture}; the name of a picture ends with .svg.");
            }
        }

        string[] folders = call.Get(runs);
        TrainingLog[] logs = [.. folders.Select(TrainingLog.Read)];
        JsonObject?[] options = [.. folders.Select(OptionsOf)];
        for (int i = 0; i < folders.Length; i++)
        {
            call.Output.Emit(new JsonObject
            {
                ["run"] = folders[i], ["finished"] = options[i] is not null, ["steps"] = logs[i].Losses[^1].Step, ["first_loss"] = logs[i].Losses[0].Value, ["last_loss"] = logs[i].LastLoss,
                ["best_evaluation"] = logs[i].Best?.Value, ["best_step"] = logs[i].Best?.Step, ["options"] = options[i]?.DeepClone(),
            });
        }

        if (picture is not null)
        {
            LossCurve.Draw([.. folders.Zip(logs)], picture);
        }

        if (!call.Output.Json)
        {
            Table(call, folders, logs, options);
            if (picture is not null)
            {
                call.Output.Line($"{picture} shows the losses.");
            }
        }
    }

    static void Table(Invocation call, string[] folders, TrainingLog[] logs, JsonObject?[] options)
    {
        static string Number(double value) => value.ToString("0.0000", CultureInfo.InvariantCulture);
        List<string[]> rows =
        [
            ["", .. folders],
            ["steps", .. logs.Select((log, i) => log.Losses[^1].Step.ToString(CultureInfo.InvariantCulture) + (options[i] is null ? ", unfinished" : ""))],
            ["first loss", .. logs.Select(log => Number(log.Losses[0].Value))],
            ["last loss (mean of a tenth)", .. logs.Select(log => Number(log.LastLoss))],
        ];
        if (logs.Any(log => log.Best is not null))
        {
            rows.Add(["best evaluation (step)", .. logs.Select(log => log.Best is { } best ? FormattableString.Invariant($"{best.Value:0.0000} ({best.Step})") : "–")]);
        }

        // Of the options what is not the same in all.
        foreach (string key in options.OfType<JsonObject>().SelectMany(own => own.Select(pair => pair.Key)).Distinct())
        {
            string[] values = [.. options.Select(own => own is null ? "?" : own[key] is { } value ? value is JsonValue text && text.GetValueKind() == JsonValueKind.String ? text.GetValue<string>() : value.ToJsonString() : "–")];
            if (values.Where(value => value != "?").Distinct().Skip(1).Any())
            {
                rows.Add([key.Replace('_', ' '), .. values]);
            }
        }

        int[] widths = [.. Enumerable.Range(0, folders.Length + 1).Select(column => rows.Max(row => row[column].Length))];
        foreach (string[] row in rows)
        {
            call.Output.Line(string.Join("  ", row.Select((cell, column) => column == 0 ? cell.PadRight(widths[0]) : cell.PadLeft(widths[column]))).TrimEnd());
        }
    }

    // Written when a run is finished.
    static JsonObject? OptionsOf(string folder)
    {
        string path = Path.Combine(folder, "options.json");
        if (!File.Exists(path))
        {
            return null;
        }

        try
        {
            return JsonNode.Parse(File.ReadAllText(path)) as JsonObject ?? throw new BadInputException($"{path} is not a JSON object.");
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException or JsonException)
        {
            throw new BadInputException($"{path} cannot be read: {e.Message}", e);
        }
    }
}
