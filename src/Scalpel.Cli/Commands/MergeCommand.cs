using System.CommandLine;
using System.Text.Json.Nodes;
using Scalpel.Checkpoints;
using Scalpel.Cli.CommandLine;
using Scalpel.Patches;
using Scalpel.Training;
using TorchSharp;
using static TorchSharp.torch;

namespace Scalpel.Cli.Commands;

/// <summary>Merges patches of one model, or models that were tuned from it; the result is a patch. One tensor is in memory at a time.</summary>
sealed class MergeCommand : CliCommand
{
    readonly Argument<string> model = ModelArgument();
    readonly Argument<string[]> parts = new("PART") { Description = "Patches of the model, or models tuned from it.", Arity = ArgumentArity.OneOrMore };
    readonly Option<string> method = new("--method") { Description = "task-arithmetic, ties (as its authors wrote it), ties-mergekit, dare, dare-ties, linear, or slerp (two models).", DefaultValueFactory = _ => "task-arithmetic" };
    readonly Option<double[]> weights = new("--weight") { Description = "Weight of a part, one for each in order; 1 by default.", AllowMultipleArgumentsPerToken = true, DefaultValueFactory = _ => [] };
    readonly Option<double> density = new("--density") { Description = "Share of each change's entries that stay, for ties and dare.", DefaultValueFactory = _ => 0.5 };
    readonly Option<double?> lambda = new("--lambda") { Description = "Factor on the merged change, 1 by default; for slerp the place between the two, 0.5 by default." };
    readonly Option<ulong> seed = new("--seed") { Description = "Seed of what dare drops.", DefaultValueFactory = _ => 0UL };
    readonly Option<string> output = new("--out") { Description = $"The patch to write, *{Patch.Suffix}.", HelpName = "PATCH", Required = true };
    readonly Option<bool> force = new("--force") { Description = "Replace an existing patch." };

    public MergeCommand() : base("merge", "Merges patches or tuned models into one patch.",
        "scalpel merge assets/models/smollm2-135m-instruct a.patch.safetensors b.patch.safetensors --method ties --out both.patch.safetensors")
    {
        Add(model);
        Add(parts);
        foreach (Option option in (Option[])[method, weights, density, lambda, seed, output, force])
        {
            Add(option);
        }
    }

    public override void Execute(Invocation call)
    {
        string path = Destination.Patch(call.Get(output), call.Get(force)), kind = call.Get(method);
        string[] given = call.Get(parts);
        double[] w = call.Get(weights) is { Length: > 0 } own ? own : [.. given.Select(_ => 1.0)];
        MergeMethod merge = kind switch
        {
            "task-arithmetic" => MergeMethod.TaskArithmetic,
            "ties" or "ties-mergekit" => MergeMethod.Ties,
            "dare" => MergeMethod.DareLinear,
            "dare-ties" => MergeMethod.DareTies,
            "linear" => MergeMethod.Linear,
            "slerp" => MergeMethod.Slerp,
            _ => throw new BadInputException($"The method '{kind}' is not known; known are task-arithmetic, ties, ties-mergekit, dare, dare-ties, linear, slerp."),
        };
        if (w.Length != given.Length)
        {
            throw new BadInputException($"There are {given.Length} parts and {w.Length} weights; give one weight for each part.");
        }

        if (w.Any(value => !double.IsFinite(value)) || merge == MergeMethod.Linear && w.Sum() == 0)
        {
            throw new BadInputException($"The weights are {string.Join(", ", w)}; they must be finite, and for linear their sum must not be 0.");
        }

        string chosen = $"the method {kind}";
        if (merge is not (MergeMethod.Ties or MergeMethod.DareLinear or MergeMethod.DareTies))
        {
            call.Refuse(density, chosen);
        }

        if (merge is not (MergeMethod.DareLinear or MergeMethod.DareTies))
        {
            call.Refuse(seed, chosen);
        }

        if (merge == MergeMethod.Linear)
        {
            call.Refuse(lambda, chosen);
        }

        if (merge == MergeMethod.Slerp || kind == "ties")
        {
            call.Refuse(weights, chosen);
        }

        if (merge == MergeMethod.Slerp && given.Length != 2)
        {
            throw new BadInputException($"slerp goes from one part to another; {given.Length} are given.");
        }

        if (call.Get(density) is not (> 0 and <= 1))
        {
            throw new BadInputException($"--density is {call.Get(density)}; it must lie above 0 and at most at 1.");
        }

        using Checkpoint checkpoint = Checkpoint.Open(call.Model(model));
        MergedPart[] open = [.. given.Select(part => MergedPart.Open(part.EndsWith(Patch.Suffix, StringComparison.Ordinal) ? part : call.Model(part), checkpoint))];
        try
        {
            using Patch patch = Merge(call, checkpoint, open, w, merge);
            patch.Save(path, call.Get(force));
            call.Output.Emit(new JsonObject { ["patch"] = path, ["method"] = kind, ["parts"] = given.Length, ["tensors"] = patch.Deltas.Count });
            if (!call.Output.Json)
            {
                call.Output.Line($"{path}: {kind} of {given.Length} parts, {patch.Deltas.Count} tensors");
            }
        }
        finally
        {
            foreach (MergedPart part in open)
            {
                part.Dispose();
            }
        }
    }

    Patch Merge(Invocation call, Checkpoint checkpoint, MergedPart[] open, double[] w, MergeMethod merge)
    {
        RunContext run = call.Context(call.Get(seed));
        double factor = merge == MergeMethod.Slerp ? call.Get(lambda) ?? 0.5 : call.Get(lambda) ?? 1;
        var info = new PatchInfo
        {
            Method = $"merge-{call.Get(method)}",
            Seed = run.Seed,
            Options = new JsonObject { ["weights"] = new JsonArray([.. w.Select(value => (JsonNode)value)]), ["density"] = call.Get(density), ["lambda"] = factor },
        };
        if (merge is MergeMethod.TaskArithmetic or MergeMethod.Linear && open.All(part => part.Patch is { IsAdditive: true }))
        {
            // A weighted sum of changes: low rank stays low rank.
            double scale = merge == MergeMethod.Linear ? 1 / w.Sum() : factor;
            return PatchAlgebra.Compose([.. open.Select(part => part.Patch!)], [.. w.Select(value => value * scale)]).Patch.With(info);
        }

        if (call.Get(method) == "ties")
        {
            return Patch.Of(checkpoint, info, WholeTies(checkpoint, open, factor, call.Get(density), run));
        }

        using var generator = new Generator(run.Seed, CPU);
        return Patch.Of(checkpoint, info, Merged(checkpoint, open, w, merge, factor, call.Get(density), generator, run));
    }

    static IEnumerable<(string Name, Tensor After)> Merged(Checkpoint checkpoint, MergedPart[] open, double[] w, MergeMethod merge, double factor, double density, Generator generator, RunContext run)
    {
        var options = new ModelMergeOptions { Method = merge, Lambda = factor, Rescale = false };
        bool drops = merge is MergeMethod.DareLinear or MergeMethod.DareTies;
        string[] names = [.. checkpoint.Tensors.Keys.Where(name => open.Any(part => part.Touches(name))).Order(StringComparer.Ordinal)];
        for (int i = 0; i < names.Length; i++)
        {
            run.Cancellation.ThrowIfCancellationRequested();
            run.Report("merging", i, names.Length);
            Tensor merged;
            using (var scope = NewDisposeScope())
            {
                Tensor from = checkpoint.Read(names[i], ScalarType.Float32);
                Tensor[] tensors = [.. open.Select(part => part.Read(names[i], from))];
                // Divided by the density, as DARE's paper does.
                merged = (merge == MergeMethod.Slerp ? ModelMerge.Slerp(tensors[0], tensors[1], factor)
                    : ModelMerge.Merge([.. tensors.Select((tensor, p) => new MergePart(tensor, drops ? w[p] / density : w[p], density,
                        drops ? rand(from.shape, generator: generator).lt(density) : null))], from, options)).DetachFromDisposeScope();
            }

            yield return (names[i], merged);
        }
    }

    // Trimmed over the whole model, as the authors do, but read tensor by tensor.
    static IEnumerable<(string Name, Tensor After)> WholeTies(Checkpoint checkpoint, MergedPart[] open, double factor, double density, RunContext run)
    {
        string[] names = [.. checkpoint.Tensors.Values.Where(entry => StoredTensor.NaturalType(entry.Type) is ScalarType.Float64 or ScalarType.Float32 or ScalarType.Float16 or ScalarType.BFloat16)
            .Select(entry => entry.Name).Order(StringComparer.Ordinal)];
        Tensor? Change(int index, int part)
        {
            if (!open[part].Touches(names[index]))
            {
                return null;
            }

            using Tensor from = checkpoint.Read(names[index], ScalarType.Float32), tensor = open[part].Read(names[index], from);
            return tensor - from;
        }

        WholeModelTies ties = WholeModelTies.Prepare(names.Length, open.Length, Change, [.. names.Select(name => checkpoint.Entry(name).Shape.Aggregate(1L, (a, b) => a * b))], density, run);
        for (int i = 0; i < names.Length; i++)
        {
            if (!open.Any(part => part.Touches(names[i])))
            {
                continue;
            }

            run.Report("merging", i, names.Length);
            Tensor after;
            using (var scope = NewDisposeScope())
            {
                after = (checkpoint.Read(names[i], ScalarType.Float32) + ties.Merge([.. open.Select((_, part) => Change(i, part))]) * factor).DetachFromDisposeScope();
            }

            yield return (names[i], after);
        }
    }

    /// <summary>A patch, or a tuned model, seen as tensors of the base after the change.</summary>
    sealed class MergedPart : IDisposable
    {
        readonly Checkpoint checkpoint;
        readonly Checkpoint? tuned;

        MergedPart(Checkpoint checkpoint, Patch? patch, Checkpoint? tuned) => (this.checkpoint, Patch, this.tuned) = (checkpoint, patch, tuned);

        /// <summary>The patch; null for a tuned model.</summary>
        public Patch? Patch { get; }

        public static MergedPart Open(string path, Checkpoint checkpoint)
        {
            if (!path.EndsWith(Patch.Suffix, StringComparison.Ordinal))
            {
                return new MergedPart(checkpoint, null, Checkpoint.Open(path));
            }

            Patch patch = Patch.Load(path);
            if (patch.Structure is not null)
            {
                patch.Dispose();
                throw new BadInputException($"{path} changes the configuration or vocabulary, so it cannot be merged as it is; apply it to the model and give the resulting folder.");
            }

            IReadOnlyList<string> other = patch.Differences(checkpoint);
            if (other.Count > 0)
            {
                patch.Dispose();
                throw new BadInputException($"{path} is for another base: {string.Join(", ", other.Take(5))} differ.");
            }

            return new MergedPart(checkpoint, patch, null);
        }

        public bool Touches(string name) => Patch is not null ? Patch.Deltas.ContainsKey(name) : tuned!.Tensors.ContainsKey(name);

        public Tensor Read(string name, Tensor from)
        {
            if (!Touches(name))
            {
                return from;
            }

            Tensor tensor = Patch is null ? tuned!.Read(name, ScalarType.Float32)
                : Patch.Deltas[name] is AdditiveDelta additive ? from + additive.ToTensor(from.shape) : Patch.Edited(checkpoint, name).to_type(ScalarType.Float32);
            return tensor.shape.SequenceEqual(from.shape) ? tensor
                : throw new BadInputException($"{tuned!.Location} has {name} in the shape [{string.Join(", ", tensor.shape)}], the base in [{string.Join(", ", from.shape)}]; it was not tuned from this base.");
        }

        public void Dispose()
        {
            Patch?.Dispose();
            tuned?.Dispose();
        }
    }
}
