using System.Text.Json;
using System.Text.Json.Nodes;
using Scalpel.Checkpoints;
using Scalpel.Networks;
using Scalpel.Training;
using TorchSharp;
using static TorchSharp.torch;

namespace Scalpel.Lab.Worlds;

/// <summary>How a base model is built.</summary>
public sealed record BaseBuildOptions
{
    /// <summary>A set of people that it never hears of; null for none.</summary>
    public string? Exclude { get; init; }

    /// <summary>Whether a build that was interrupted is gone on with; else it starts anew. Default true.</summary>
    public bool Resume { get; init; } = true;

    /// <summary>Receives the steps taken and the gates each time they are looked at.</summary>
    public Action<long, IReadOnlyList<GateResult>>? OnGates { get; init; }

    /// <summary>Whether the base is refused when a gate fails at the last step. Default true.</summary>
    public bool RequireGates { get; init; } = true;
}

/// <summary>Finds base models of a text world, or trains them.</summary>
static class BaseBuild
{
    /// <summary>File beside the weights that says how they came to be.</summary>
    public const string CardName = "world.json";

    const long SaveEvery = 200;
    static readonly JsonSerializerOptions Indented = new() { WriteIndented = true };

    /// <summary>Folder of a base: one that comes with Scalpel, one of the cache, else a new one of the cache.</summary>
    public static string Folder(TextWorld world, BaseRecipe recipe, BaseBuildOptions options, RunContext run)
    {
        string hash = recipe.Hash(world, options.Exclude);
        string name = recipe.Name.ToLowerInvariant() + (options.Exclude is null ? "" : $"-without-{options.Exclude}");
        for (DirectoryInfo? folder = new(AppContext.BaseDirectory); folder is not null; folder = folder.Parent)
        {
            string shipped = Path.Combine(folder.FullName, "assets", "models", name), card = Path.Combine(shipped, CardName);
            if (File.Exists(card) && JsonNode.Parse(File.ReadAllText(card)) is JsonObject json && json["recipe"]?.GetValue<string>() == hash)
            {
                return shipped;
            }
        }

        string cached = Path.Combine(run.CacheFolder, "worlds", $"{name}-{hash[..16]}");
        if (!Directory.Exists(cached))
        {
            Train(world, recipe, options, cached, hash, run);
        }

        return cached;
    }

    static void Train(TextWorld world, BaseRecipe recipe, BaseBuildOptions options, string folder, string hash, RunContext run)
    {
        string state = folder + ".training";
        if (!options.Resume && Directory.Exists(state))
        {
            Directory.Delete(state, recursive: true);
        }

        (long[] tokens, long[] labels) = recipe.Stream(world, options.Exclude, run);
        var gates = new BaseGates(world, options.Exclude);
        using Decoder model = recipe.NewModel(world);
        using var task = new BaseTask(model, recipe, tokens, labels, gates, options);
        TrainingResult result;
        using (var trainer = new Trainer(TrainableTensor.Of(model, model.Parameters.Keys), new TrainerOptions
        {
            Steps = recipe.MaximumSteps,
            LearningRate = recipe.LearningRate,
            Schedule = recipe.Schedule,
            Optimizer = groups => new AdamW(groups, new AdamWOptions { Beta2 = 0.98, WeightDecay = 0.05 }),
            Folder = state,
            Resume = true,
            SaveEvery = SaveEvery,
            EvaluateEvery = recipe.GatesEvery,
            Fingerprint = hash,
        }))
        {
            result = trainer.Run(task, run);
        }

        AtomicFolder.Write(folder, overwrite: false, partial =>
        {
            Write(world, model, recipe, partial);
            // What counts is what is stored: measured again after rounding, on all facts.
            IReadOnlyList<GateResult> final;
            using (Decoder stored = Decoder.Load(partial))
            {
                final = gates.Measure(stored, recipe.Gates);
            }

            options.OnGates?.Invoke(result.Steps, final);
            if (options.RequireGates && final.Any(gate => !gate.Holds))
            {
                throw new CheckFailedException($"{recipe.Name} does not reach its gates after {result.Steps} steps: {string.Join("; ", final.Where(gate => !gate.Holds))}. All: {string.Join("; ", final)}.");
            }

            var card = new JsonObject
            {
                ["world"] = "text", ["version"] = TextWorld.Version, ["seed"] = world.Seed, ["base"] = recipe.Name, ["exclude"] = options.Exclude, ["recipe"] = hash,
                ["mixture"] = new JsonObject(recipe.Mixture.Parts.Select(part => KeyValuePair.Create(part.Module, (JsonNode?)Math.Round(part.Share, 6)))),
                ["steps"] = result.Steps, ["tokens"] = result.Steps * BaseRecipe.TokensPerStep,
                ["gates"] = new JsonArray([.. final.Select(gate => (JsonNode)new JsonObject
                {
                    ["measure"] = gate.Gate.Measure, ["value"] = Math.Round(gate.Value, 4), ["atLeast"] = gate.Gate.AtLeast, ["atMost"] = gate.Gate.AtMost, ["holds"] = gate.Holds,
                })]),
            };
            AtomicFile.WriteText(Path.Combine(partial, CardName), card.ToJsonString(Indented) + "\n");
        });
        Directory.Delete(state, recursive: true);
    }

    static void Write(TextWorld world, Decoder model, BaseRecipe recipe, string folder)
    {
        AtomicFile.WriteText(Path.Combine(folder, "config.json"), recipe.Config.ToJsonString(Indented) + "\n");
        WorldTokenizer.Write(world, recipe.Config["vocab_size"]!.GetValue<int>() > Lexicon.PaddedSize ? TokenizerKind.Extended : TokenizerKind.Words, folder);
        using var scope = NewDisposeScope();
        SafeTensorsWriter.Write(Path.Combine(folder, "model.safetensors"), model.Parameters.ToDictionary(pair => pair.Key, pair => pair.Value.to_type(ScalarType.Float16)), new Dictionary<string, string> { ["format"] = "pt" });
    }
}

/// <summary>The training of a base: rows of the stream one after the other, done when all gates hold.</summary>
sealed class BaseTask(Decoder model, BaseRecipe recipe, long[] tokens, long[] labels, BaseGates gates, BaseBuildOptions options) : ITrainingTask, IDisposable
{
    const int EveryFact = 4;
    readonly Tensor stream = tensor(tokens, [tokens.Length]);
    readonly Tensor learned = tensor(labels, [labels.Length]);

    public Objective Loss(long step, int part)
    {
        int length = recipe.LengthAt(step);
        Tensor Rows(Tensor of) => of.narrow(0, step * BaseRecipe.TokensPerStep, BaseRecipe.TokensPerStep / length * length).view(-1, length);
        using Tensor ids = Rows(stream), targets = Rows(learned);
        using LanguageModelLoss loss = model.Loss(ids, targets);
        return new Objective(loss.RouterBalance is { } balance ? loss.Mean() + balance * model.Config.BalanceLossWeight : loss.Mean(), new Dictionary<string, double>());
    }

    public bool IsLearned(long steps)
    {
        // A look at the gates costs as much as a few steps, so it takes a part of the facts.
        IReadOnlyList<GateResult> results = gates.Measure(model, recipe.Gates, EveryFact);
        options.OnGates?.Invoke(steps, results);
        return steps >= recipe.MinimumSteps && results.All(gate => gate.Holds);
    }

    public void Dispose()
    {
        stream.Dispose();
        learned.Dispose();
    }
}
