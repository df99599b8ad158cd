using System.Globalization;
using Scalpel.Lab.Evaluations;
using Scalpel.Methods.Attribution;
using Scalpel.Methods.Editing;
using Scalpel.Networks;
using Scalpel.Patches;

namespace Scalpel.Lab.Reports;

/// <summary>All that came of an edit, and how a report tells it.</summary>
public sealed record EditStory
{
    /// <summary>The model as the user named it.</summary>
    public required string ModelPath { get; init; }

    /// <summary>The original model.</summary>
    public required Decoder Model { get; init; }

    /// <summary>The change.</summary>
    public required Patch Patch { get; init; }

    /// <summary>Where the change lies.</summary>
    public required string PatchPath { get; init; }

    /// <summary>What was edited.</summary>
    public required IReadOnlyList<FactEdit> Facts { get; init; }

    /// <summary>Where the first fact was found; null when nobody looked.</summary>
    public CausalTrace? Trace { get; init; }

    /// <summary>The measures.</summary>
    public required Scorecard Card { get; init; }

    /// <summary>What was asked.</summary>
    public required IReadOnlyList<Question> Questions { get; init; }

    /// <summary>The original model's answers.</summary>
    public required IReadOnlyList<string> Before { get; init; }

    /// <summary>The edited model's answers.</summary>
    public required IReadOnlyList<string> After { get; init; }

    /// <summary>Whether the model was bit for bit the old one after the patch was taken back.</summary>
    public required bool Restored { get; init; }

    /// <summary>The report.</summary>
    public EditReport ToReport()
    {
        string first = $"{Facts[0].FilledPrompt} {Facts[0].Target.Trim()}", method = Patch.Info.Method;
        Metric efficacy = Card["efficacy_exact"];
        string prompts = Facts.Count == 1 ? "the prompt" : $"{Facts.Count} prompts";
        return new EditReport
        {
            Title = Facts.Count == 1 ? first : $"{Facts.Count} facts, the first: {first}",
            Summary = string.Create(CultureInfo.InvariantCulture, $"The method {method} changed {Patch.Deltas.Count} {(Patch.Deltas.Count == 1 ? "tensor" : "tensors")}. The new answer comes first for {efficacy.After.Value * 100:0} % of {prompts} (before: {efficacy.Before!.Value.Value * 100:0} %); on text never edited the distribution moved by {Card["divergence"].After.Value:0.0000} nats. The change is a file that can be taken back."),
            Holds = Restored && efficacy.After.Value == 1,
            Facts = [.. Facts.Take(20).Select(fact => new EditedFact(fact.FilledPrompt, fact.Old, fact.Target.Trim()))],
            HeatMaps = Trace is null ? [] : TraceFigures.Of(Trace),
            Answers = [.. Questions.Select((question, i) => new AnswerPair(question.Kind, question.Prompt, Before[i], After[i], AsWanted(question, i)))],
            Scores = ScorecardRows.Of(Card),
            Tensors = ScorecardRows.Of(PatchInspection.Inspect(Patch, Model.Source)),
            Commands =
            [
                ("Ask with the patch", $"scalpel generate {Quoted(ModelPath)} \"{Facts[0].FilledPrompt}\" --patch {Quoted(PatchPath)} --max-tokens 16"),
                ("Write the edited model", $"scalpel patch apply {Quoted(ModelPath)} {Quoted(PatchPath)} --out edited"),
                ("Take it back", "scalpel patch revert edited --out original"),
                ("Check the patch", $"scalpel patch verify {Quoted(PatchPath)} --base {Quoted(ModelPath)}"),
            ],
            Provenance = [.. Origins()],
            Caveats = Facts.Count < 30 ? [$"{(Facts.Count == 1 ? "One fact" : $"{Facts.Count} facts")}: the intervals of the shares are wide, and a benchmark of many facts says more about the method."] : [],
        };
    }

    bool? AsWanted(Question question, int i)
    {
        if (question.Kind is not ("prompt" or "paraphrase"))
        {
            return FirstWord(After[i]) == FirstWord(Before[i]);
        }

        FactEdit? fact = Facts.FirstOrDefault(fact => fact.FilledPrompt == question.Prompt || fact.Paraphrases.Contains(question.Prompt));
        return fact is null ? null : After[i].StartsWith(fact.Target.Trim(), StringComparison.OrdinalIgnoreCase);
    }

    IEnumerable<(string, string)> Origins()
    {
        yield return ("model", ModelPath);
        yield return ("configuration", Model.ConfigHash);
        yield return ("patch content", Patch.ContentHash);
        yield return ("method", $"{Patch.Info.Method} {Patch.Info.Options.ToJsonString()}");
        yield return ("seed", (Patch.Info.Seed ?? 0).ToString(CultureInfo.InvariantCulture));
        yield return ("Scalpel", Patch.Info.Version);
        yield return ("scorecard fingerprint", Card.Fingerprint);
        if (Trace is not null)
        {
            yield return ("traced answer", string.Create(CultureInfo.InvariantCulture, $"“{Trace.Answer.Trim()}”, probability {Trace.High:0.000}, with noise {Trace.Low:0.000}"));
        }

        yield return ("taken back", Restored ? "bit for bit, verified by SHA-256" : "FAILED");
    }

    static string Quoted(string path) => path.Contains(' ', StringComparison.Ordinal) ? $"\"{path}\"" : path;

    static string FirstWord(string text) => text.Split(' ', ',', '.', '\n')[0];
}
