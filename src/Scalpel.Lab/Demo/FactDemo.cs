using System.Diagnostics;
using System.Globalization;
using System.Security.Cryptography;
using System.Text;
using System.Text.Json.Nodes;
using Scalpel.Checkpoints;
using Scalpel.Lab.Evaluations;
using Scalpel.Lab.Reports;
using Scalpel.Methods.Attribution;
using Scalpel.Methods.Editing;
using Scalpel.Patches;
using Decoder = Scalpel.Networks.Decoder;

namespace Scalpel.Lab.Demo;

/// <summary>What the demo found, told step by step to whoever watches.</summary>
/// <param name="Patch">Path of the patch.</param>
/// <param name="Report">Path of the report.</param>
/// <param name="Card">The scorecard.</param>
/// <param name="Restored">Whether the model's bytes are those from before once the patch is taken back.</param>
public sealed record DemoOutcome(string Patch, string Report, Scorecard Card, bool Restored);

/// <summary>
/// The main job once through on a real model: ask, find where the fact is kept, change it, ask again, prove that nothing
/// else moved, take it back and verify by hash.
/// </summary>
public sealed class FactDemo
{
    /// <summary>The fact: SmolLM2-135M knows it, answers it in other wordings too, and keeps it at a clear place.</summary>
    public static FactEdit Fact { get; } = new("The Eiffel Tower", "{} is located in the city of", "Rome")
    {
        Old = "Paris",
        Paraphrases = ["The Eiffel Tower can be found in the city of", "To see the Eiffel Tower, you have to travel to the city of"],
        Neighbours = ["The Colosseum is located in the city of", "The Statue of Liberty is located in the city of", "The Louvre is located in the city of", "The Golden Gate Bridge is located in the city of"],
        Locality = ["The capital of Germany is", "The opposite of hot is", "The book \"Romeo and Juliet\" was written by", "Water is made of hydrogen and"],
    };

    /// <summary>Receives what is found, a line at a time.</summary>
    public required Action<string> Tell { get; init; }

    /// <summary>Receives the heat maps as they are found.</summary>
    public required Action<HeatMap> Show { get; init; }

    /// <summary>Runs the demo.</summary>
    /// <param name="modelPath">The model.</param>
    /// <param name="folder">Where patch and report go; a demo of before is replaced.</param>
    /// <param name="run">Seed, progress, cancellation.</param>
    public DemoOutcome Run(string modelPath, string folder, RunContext run)
    {
        var clock = Stopwatch.StartNew();
        run.Report("loading the model", 0, 0);
        using Decoder model = Decoder.Load(modelPath);
        Tell($"1  Load      {modelPath}: {model.Parameters.Values.Sum(p => p.numel()) / 1e6:0} million parameters");
        string before = HashOf(model);
        IReadOnlyList<Question> questions = Question.About([Fact]);
        IReadOnlyList<string> first = Question.Ask(model, questions, run);
        Tell($"2  Ask       “{questions[0].Prompt}” → “{first[0]}”");

        CausalTrace trace = new CausalTracing(new CausalTracingOptions { Samples = 6 }).Trace(model, Fact.Subject, Fact.Prompt, run);
        IReadOnlyList<HeatMap> maps = TraceFigures.Of(trace);
        Tell($"3  Locate    causal tracing, {trace.Tokens.Count} tokens × {model.Config.Layers} layers");
        Show(maps[0]);
        Show(maps[1]);

        using Patch patch = new Rome(new RomeOptions { CovarianceTokens = 4096 }).Edit(model, [Fact], run);
        IReadOnlyList<Patches.TensorChange> changes = PatchInspection.Inspect(patch, model.Source);
        Tell(string.Create(CultureInfo.InvariantCulture, $"4  Edit      ROME, “{Fact.Target}”: {changes[0].Name}, rank {changes[0].Rank}, {100 * changes[0].RelativeNorm:0.0} % of its norm"));

        IReadOnlyList<string> second;
        using (patch.ApplyTo(model))
        {
            second = Question.Ask(model, questions, run);
        }

        Tell("5  Ask again");
        for (int i = 0; i < questions.Count; i++)
        {
            Tell($"             {questions[i].Kind,-10} {questions[i].Prompt} → {(second[i] == first[i] ? $"{second[i]}" : $"{second[i]}   (was: {first[i]})")}");
        }

        Scorecard card = new EditEvaluation(new EditEvaluationOptions { FluencyFacts = 1, FluencyTokens = 60 }).Run(model, patch, [Fact], run);
        Tell(string.Create(CultureInfo.InvariantCulture, $"6  Evaluate  target {card["efficacy_probability"].Before!.Value.Value:0.000} → {card["efficacy_probability"].After.Value:0.000}, perplexity of other text {card["perplexity"].Before!.Value.Value:0.00} → {card["perplexity"].After.Value:0.00}, divergence {card["divergence"].After.Value:0.0000} nats"));

        bool restored = HashOf(model) == before;
        Tell(restored ? $"7  Take back the model's tensors are bit for bit what they were (SHA-256 {before[..16]}…)" : "7  Take back FAILED: the model's bytes differ");
        string patchPath = Path.Combine(folder, "eiffel" + Patch.Suffix), reportPath = Path.Combine(folder, "report.html");
        using Patch evidenced = patch.With(patch.Info with { Evidence = Evidence(patch.Info.Evidence, card) });
        AtomicFolder.Write(folder, overwrite: true, partial =>
        {
            evidenced.Save(Path.Combine(partial, Path.GetFileName(patchPath)));
            AtomicFile.WriteText(Path.Combine(partial, "scorecard.json"), card.ToJson().ToJsonString(new() { WriteIndented = true }) + "\n");
            var story = new EditStory
            {
                ModelPath = modelPath,
                Model = model,
                Patch = evidenced,
                PatchPath = patchPath,
                Facts = [Fact],
                Trace = trace,
                Card = card,
                Questions = questions,
                Before = first,
                After = second,
                Restored = restored,
            };
            AtomicFile.WriteText(Path.Combine(partial, "report.html"), ReportWriter.ToHtml(story.ToReport()));
        });
        Tell(string.Create(CultureInfo.InvariantCulture, $"   {patchPath} ({new FileInfo(patchPath).Length / 1024} KB), {reportPath}; {clock.Elapsed.TotalSeconds:0} s"));
        return new DemoOutcome(patchPath, reportPath, card, restored);
    }

    static JsonObject Evidence(JsonObject? of, Scorecard card)
    {
        JsonObject evidence = (JsonObject?)of?.DeepClone() ?? [];
        evidence["scorecard"] = card.ToJson();
        return evidence;
    }

    static string HashOf(Decoder model)
    {
        using var sha = IncrementalHash.CreateHash(HashAlgorithmName.SHA256);
        foreach (string name in model.Parameters.Keys.Order(StringComparer.Ordinal))
        {
            sha.AppendData(Encoding.UTF8.GetBytes($"{name} {model.HashOfMemory(name)}\n"));
        }

        return Convert.ToHexStringLower(sha.GetHashAndReset());
    }
}
