using System.Text.Json.Nodes;
using Scalpel.Checkpoints;
using Scalpel.Networks;
using Scalpel.Training;
using TorchSharp;
using static TorchSharp.torch;

namespace Scalpel.Lab.Parity;

/// <summary>Merges of whole models (mergekit), of changes of one tensor (PEFT), and the authors' own TIES.</summary>
public sealed class MergeParity : IParityKind
{
    /// <inheritdoc/>
    public string Kind => "merge";

    /// <inheritdoc/>
    public void Run(ParityCase parityCase, Comparison comparison)
    {
        using var scope = NewDisposeScope();
        using var noGrad = no_grad();
        using SafeTensorsFile inputs = SafeTensorsFile.Open(parityCase.PathOf("inputs")), expected = SafeTensorsFile.Open(parityCase.PathOf("expected"));
        var options = new CaseOptions(parityCase.Options, parityCase.Folder);
        string algorithm = options.Text("algorithm");
        switch (algorithm)
        {
            case "mergekit":
                RunModels(parityCase, inputs, expected, comparison);
                return;
            case "peft-merge":
                comparison.Tensors("merged", Changes(options, inputs), expected.Read("merged"));
                break;
            case "ties-official":
                Tensor trimmed = OfficialTies.Trim(inputs.Read("task_vectors"), options.Number("reset_thresh", 0.2));
                string resolve = options.Text("resolve_method", "mass");
                if (resolve != "mass")
                {
                    throw new BadInputException($"{parityCase.Folder}: the resolve_method '{resolve}' is not known here.");
                }

                comparison.Tensors("trimmed", trimmed, expected.Read("trimmed"));
                comparison.Tensors("merged", OfficialTies.Merge(trimmed, options.Text("merge_func", "dis-mean")), expected.Read("merged"));
                break;
            default:
                throw new BadInputException($"{parityCase.Folder}: the algorithm '{algorithm}' is not known here.");
        }

        options.Finish();
    }

    static Tensor Changes(CaseOptions options, SafeTensorsFile inputs)
    {
        Tensor[] All(string prefix) => [.. Enumerable.Range(0, inputs.Entries.Count).Select(i => $"{prefix}.{i}").TakeWhile(inputs.Entries.ContainsKey).Select(name => inputs.Read(name))];
        Tensor[] tasks = All("task"), masks = All("mask");
        double[] weights = options.Numbers("weights")!;
        double density = options.Number("density", 1);
        SignElection election = Election(options);
        string function = options.Text("function");
        return function switch
        {
            "task_arithmetic" => TaskVectors.Linear(tasks, weights),
            "magnitude_prune" => TaskVectors.MagnitudePrune(tasks, weights, density),
            "ties" => TaskVectors.Ties(tasks, weights, density, election),
            "dare_linear" => TaskVectors.DareLinear(tasks, weights, masks, density),
            "dare_ties" => TaskVectors.DareTies(tasks, weights, masks, density, election),
            _ => throw new BadInputException($"The function '{function}' is not known here."),
        };
    }

    /// <summary>PEFT's majority_sign_method.</summary>
    internal static SignElection Election(CaseOptions options) => options.Text("majority_sign_method", "total") switch
    {
        "total" => SignElection.Total,
        "frequency" => SignElection.Frequency,
        var other => throw new BadInputException($"The majority_sign_method '{other}' is not known here."),
    };

    // What would be passed over in silence.
    static void Refuse(string folder, JsonObject json, string what, params string[] known)
    {
        if (json.FirstOrDefault(pair => pair.Value is not null && !known.Contains(pair.Key)) is { Key: { } unknown })
        {
            throw new BadInputException($"{folder}: {what} '{unknown}' is not known here.");
        }
    }

    static void RunModels(ParityCase parityCase, SafeTensorsFile inputs, SafeTensorsFile expected, Comparison comparison)
    {
        JsonObject config = parityCase.Options["config"]!.AsObject(), paths = parityCase.Options["models"]!.AsObject();
        string Resolve(string name) => Path.Combine(parityCase.Folder, paths[name[1..]]!.GetValue<string>());
        string method = config["merge_method"]!.GetValue<string>();
        JsonObject whole = config["parameters"] as JsonObject ?? [];
        (string Name, JsonObject Parameters)[] models = [.. config["models"]!.AsArray().Select(m => (m!["model"]!.GetValue<string>(), m["parameters"] as JsonObject ?? []))];
        string? baseName = config["base_model"]?.GetValue<string>();
        Refuse(parityCase.Folder, parityCase.Options, "the option", "algorithm", "config", "models");
        Refuse(parityCase.Folder, config, "the key", "merge_method", "base_model", "dtype", "out_dtype", "models", "parameters");
        Refuse(parityCase.Folder, whole, "the parameter", "weight", "density", "normalize", "rescale", "lambda", "t", "int8_mask");
        foreach ((string name, JsonObject parameters) in models)
        {
            Refuse(parityCase.Folder, parameters, $"{name}: the parameter", "weight", "density");
        }

        if (config["dtype"]?.GetValue<string>() is not (null or "float32") || config["out_dtype"]?.GetValue<string>() is not (null or "float32"))
        {
            throw new BadInputException($"{parityCase.Folder}: merges are in float32 here.");
        }

        Dictionary<string, Checkpoint> open = models.Select(m => m.Name).Append(baseName).OfType<string>().Distinct().ToDictionary(name => name, name => Checkpoint.Open(Resolve(name)));
        try
        {
            using Decoder result = Decoder.Load(Resolve(baseName ?? models[0].Name));
            int layers = result.Config.Layers;
            foreach (string tensor in open[baseName ?? models[0].Name].Tensors.Keys)
            {
                double? Value(string key, JsonObject own) => (own[key] ?? whole[key]) is { } node ? At(node, tensor, layers) : null;
                Tensor Of(string model) => open[model].Read(tensor, ScalarType.Float32);
                Tensor merged;
                if (method == "slerp")
                {
                    string other = models.First(m => m.Name != baseName).Name;
                    merged = ModelMerge.Slerp(Of(baseName!), Of(other), Value("t", []) ?? 0.5);
                }
                else
                {
                    string MaskName(string model) => $"mask.{model[1..]}.{tensor}";
                    MergePart[] parts = [.. models.Where(m => method == "linear" || m.Name != baseName).Select(m => new MergePart(Of(m.Name), Value("weight", m.Parameters) ?? 1, Value("density", m.Parameters) ?? 1,
                        inputs.Entries.ContainsKey(MaskName(m.Name)) ? inputs.Read(MaskName(m.Name)) : null))];
                    merged = ModelMerge.Merge(parts, baseName is null ? null : Of(baseName), new ModelMergeOptions
                    {
                        Method = method switch
                        {
                            "linear" => MergeMethod.Linear,
                            "task_arithmetic" => MergeMethod.TaskArithmetic,
                            "ties" => MergeMethod.Ties,
                            "dare_linear" => MergeMethod.DareLinear,
                            "dare_ties" => MergeMethod.DareTies,
                            _ => throw new BadInputException($"{parityCase.Folder}: the merge method '{method}' is not known here."),
                        },
                        Lambda = Value("lambda", []) ?? 1,
                        Normalise = whole["normalize"]?.GetValue<bool>(),
                        Rescale = whole["rescale"]?.GetValue<bool>(),
                    });
                }

                result.Parameter(tensor).copy_(merged);
                if (expected.Entries.ContainsKey($"merged.{tensor}"))
                {
                    comparison.Tensors($"merged.{tensor}", merged, expected.Read($"merged.{tensor}"));
                }
            }

            comparison.Tensors("logits", result.Forward(inputs.Read("input_ids")), expected.Read("logits"));
        }
        finally
        {
            foreach (Checkpoint checkpoint in open.Values)
            {
                checkpoint.Dispose();
            }
        }
    }

    // A number, numbers over the layers, or a list of these with filters, of which the first that fits a tensor's name counts.
    static double? At(JsonNode node, string tensor, int layers)
    {
        switch (node)
        {
            case JsonArray { Count: > 0 } array when array[0] is JsonObject:
                JsonObject? chosen = array.Select(item => item!.AsObject()).FirstOrDefault(item => item["filter"] is not { } filter || filter.GetValue<string>() == "*" || tensor.Contains(filter.GetValue<string>(), StringComparison.Ordinal));
                return chosen is null ? null : At(chosen["value"]!, tensor, layers);
            case JsonArray gradient:
                double[] values = [.. gradient.Select(item => item!.GetValue<double>())];
                string? layer = tensor.Split('.').FirstOrDefault(part => int.TryParse(part, out _));
                double place = layer is null || layers < 2 ? 0 : int.Parse(layer) / (double)(layers - 1) * (values.Length - 1);
                int below = Math.Min((int)place, values.Length - 1), above = Math.Min(below + 1, values.Length - 1);
                return values[below] + (values[above] - values[below]) * (place - below);
            default:
                return node.GetValue<double>();
        }
    }
}
