using System.Runtime.InteropServices;
using System.Text.Json;
using System.Text.Json.Nodes;
using Scalpel.Checkpoints.Hub;
using Scalpel.Checkpoints;
using Scalpel.Lab.Evaluations;
using Scalpel.Lab.Recipes;
using Scalpel.Lab.Reports;
using Scalpel.Methods;
using Scalpel.Methods.Attribution;
using Scalpel.Patches;
using TorchSharp;
using Decoder = Scalpel.Networks.Decoder;

namespace Scalpel.Lab.Runs;

/// <summary>
/// Executes a recipe into a folder: recipe.yaml, environment.json, edit.patch.safetensors, scorecard.json, report.html,
/// log.jsonl, state/. Every file appears whole or not at all. A run that was killed goes on where it was with the stages
/// that are there, and ends with the same bytes as one that was not: nothing in the folder depends on the clock.
/// </summary>
public sealed class EditRun
{
    const int MostQuestions = 60;
    static readonly JsonSerializerOptions Indented = new() { WriteIndented = true };

    readonly Recipe recipe;
    readonly string folder;
    readonly List<JsonObject> log = [];

    /// <summary>A run of a recipe into a folder.</summary>
    /// <param name="recipe">What to do.</param>
    /// <param name="folder">Where to.</param>
    /// <param name="resume">Whether an interrupted run of the same recipe goes on.</param>
    /// <exception cref="BadInputException">The folder holds another run, or holds one and <paramref name="resume"/> is false.</exception>
    public EditRun(Recipe recipe, string folder, bool resume)
    {
        (this.recipe, this.folder) = (recipe, folder);
        string written = PathOf("recipe.yaml");
        if (!resume && Path.Exists(folder))
        {
            throw new BadInputException($"{folder} exists already; choose another folder with --out, or go on with that run by --resume.");
        }

        if (File.Exists(written) && File.ReadAllText(written) != recipe.Resolved())
        {
            throw new BadInputException($"{folder} holds the run of another recipe; choose another folder with --out.");
        }
    }

    /// <summary>The patch.</summary>
    public string PatchPath => PathOf("edit" + Patch.Suffix);

    /// <summary>The report.</summary>
    public string ReportPath => PathOf("report.html");

    /// <summary>Runs what is not yet there.</summary>
    /// <param name="context">Progress and cancellation; the seed is the recipe's.</param>
    public Scorecard Execute(RunContext context)
    {
        RunContext run = context with { Seed = recipe.Seed };
        AtomicFile.WriteText(PathOf("recipe.yaml"), recipe.Resolved());
        AtomicFile.WriteText(PathOf("environment.json"), Environment().ToJsonString(Indented) + "\n");
        using Decoder model = Decoder.Load(HubClient.ResolveAsync(recipe.Model, run).GetAwaiter().GetResult());
        Note("model", new JsonObject { ["configuration"] = model.ConfigHash, ["tensors"] = model.Parameters.Count });

        CausalTrace? trace = recipe.Locate ? Stage("trace", () => new CausalTracing().Trace(model, recipe.Requests[0].Subject, recipe.Requests[0].Prompt, run), TraceJson.Write, TraceJson.Read) : null;
        if (!File.Exists(PatchPath))
        {
            using Patch made = MethodRegistry.Create<IEditor>(recipe.Method, recipe.Options).Edit(model, recipe.Requests, run);
            made.Save(PatchPath);
        }

        using Patch patch = Patch.Load(PatchPath);
        Note("edit", new JsonObject { ["method"] = recipe.Method, ["content"] = patch.ContentHash, ["mode"] = patch.Info.Evidence?["mode"]?.DeepClone() });

        IReadOnlyList<Question> questions = [.. Question.About(recipe.Requests).Take(MostQuestions)];
        IReadOnlyList<string> before = Stage("answers-before", () => Question.Ask(model, questions, run), Texts, Texts);
        string hash = HashOf(model, patch);
        IReadOnlyList<string> after = Stage("answers-after", () =>
        {
            using (patch.ApplyTo(model))
            {
                return Question.Ask(model, questions, run);
            }
        }, Texts, Texts);
        bool restored = HashOf(model, patch) == hash;
        Scorecard card = Stage("scorecard", () => new EditEvaluation(new EditEvaluationOptions { Text = recipe.Text is null ? null : File.ReadAllText(recipe.Text) })
            .Run(model, patch, recipe.Requests, run), card => card.ToJson(), Scorecard.FromJson, PathOf("scorecard.json"));
        var story = new EditStory
        {
            ModelPath = recipe.Model, Model = model, Patch = patch, PatchPath = PatchPath, Facts = recipe.Requests, Trace = trace, Card = card,
            Questions = questions, Before = before, After = after, Restored = restored,
        };
        AtomicFile.WriteText(ReportPath, ReportWriter.ToHtml(story.ToReport()));
        Note("report", new JsonObject { ["restored"] = restored });
        return restored ? card : throw new CheckFailedException($"{folder}: after the patch was taken back the model's bytes differ from those before.");
    }

    // A stage whose result is there is read, not computed: both ways give the same object.
    T Stage<T>(string name, Func<T> compute, Func<T, JsonNode> write, Func<JsonNode, T> read, string? path = null)
    {
        path ??= PathOf("state", $"{name}.json");
        if (!File.Exists(path))
        {
            AtomicFile.WriteText(path, write(compute()).ToJsonString(Indented) + "\n");
        }

        JsonNode json = JsonNode.Parse(File.ReadAllText(path))!;
        Note(name, null);
        return read(json);
    }

    // The log is written anew with each line: a killed run has no line twice.
    void Note(string stage, JsonObject? facts)
    {
        var line = new JsonObject { ["stage"] = stage };
        foreach ((string key, JsonNode? value) in facts ?? [])
        {
            line[key] = value?.DeepClone();
        }

        log.Add(line);
        AtomicFile.WriteText(PathOf("log.jsonl"), string.Concat(log.Select(entry => entry.ToJsonString() + "\n")));
    }

    static JsonNode Texts(IReadOnlyList<string> texts) => new JsonArray([.. texts.Select(text => (JsonNode)text)]);

    static IReadOnlyList<string> Texts(JsonNode json) => [.. json.AsArray().Select(node => node!.GetValue<string>())];

    static string HashOf(Decoder model, Patch patch) => string.Join(' ', patch.Deltas.Keys.Where(model.Parameters.ContainsKey).Order(StringComparer.Ordinal).Select(model.HashOfMemory));

    static JsonObject Environment() => new()
    {
        ["scalpel"] = typeof(EditRun).Assembly.GetName().Version!.ToString(3),
        ["dotnet"] = System.Environment.Version.ToString(),
        ["torchsharp"] = typeof(torch).Assembly.GetName().Version!.ToString(),
        ["system"] = RuntimeInformation.OSDescription,
        ["architecture"] = RuntimeInformation.ProcessArchitecture.ToString(),
        ["device"] = "cpu",
        ["threads"] = torch.get_num_threads(),
    };

    string PathOf(params string[] parts) => Path.Combine([folder, .. parts]);
}
