using System.CommandLine;
using System.Globalization;
using System.Text.Json.Nodes;
using System.Text.RegularExpressions;
using Scalpel.Cli.CommandLine;
using Scalpel.Networks;
using Scalpel.Patches;
using Scalpel.Training;
using TorchSharp;
using static TorchSharp.torch;

namespace Scalpel.Cli.Commands;

/// <summary>Sets the least important weights of a model's blocks to 0; the result is a patch.</summary>
sealed class PruneCommand : CliCommand
{
    readonly Argument<string> model = ModelArgument();
    readonly Option<string> method = new("--method") { Description = "magnitude, or wanda, which needs --data.", DefaultValueFactory = _ => "magnitude" };
    readonly Option<string> sparsity = new("--sparsity") { Description = "Share of the weights that go, or n:m, such as 2:4.", DefaultValueFactory = _ => "0.5" };
    readonly Option<string?> data = new("--data") { Description = "Text that shows what inputs are like, for wanda.", HelpName = "FILE" };
    readonly Option<int> rows = new("--rows") { Description = "Most rows of the text that are used.", DefaultValueFactory = _ => 32 };
    readonly Option<int> length = new("--length") { Description = "Tokens of a row.", DefaultValueFactory = _ => 128 };
    readonly Option<string> output = new("--out") { Description = $"The patch to write, *{Patch.Suffix}.", HelpName = "PATCH", Required = true };
    readonly Option<bool> force = new("--force") { Description = "Replace an existing patch." };

    public PruneCommand() : base("prune", "Sets the least important weights to 0 and writes the change as a patch.",
        "scalpel prune assets/models/smollm2-135m-instruct --method wanda --data text.txt --sparsity 2:4 --out sparse.patch.safetensors")
    {
        Add(model);
        foreach (Option option in (Option[])[method, sparsity, data, rows, length, output, force])
        {
            Add(option);
        }
    }

    public override void Execute(Invocation call)
    {
        string path = Destination.Patch(call.Get(output), call.Get(force)), kind = call.Get(method);
        if (kind == "magnitude")
        {
            foreach (Option option in (Option[])[data, rows, length])
            {
                call.Refuse(option, "the method magnitude");
            }
        }

        PruningOptions options = Share(call.Get(sparsity));
        if (options is { Drop: 0, Sparsity: 0 })
        {
            throw new BadInputException($"--sparsity is {call.Get(sparsity)}, which prunes nothing; give a share such as 0.5, or n:m such as 2:4.");
        }

        using Decoder decoder = Decoder.Load(call.Model(model));
        using var scope = NewDisposeScope();
        IReadOnlyDictionary<string, Tensor> masks = kind switch
        {
            "magnitude" => Pruner.ByMagnitude(decoder, options),
            "wanda" => Pruner.Wanda(decoder, Calibration(call, decoder), options).ToDictionary(pair => pair.Key, pair => pair.Value.Pruned),
            _ => throw new BadInputException($"The method '{kind}' is not known; known are magnitude and wanda."),
        };
        var deltas = new Dictionary<string, Delta>(StringComparer.Ordinal);
        long zeros = 0, all = 0;
        foreach ((string name, Tensor mask) in masks)
        {
            using Tensor count = mask.sum();
            // One bit a weight, whatever the model's storage.
            deltas[name] = Zeroed.Where(mask);
            zeros += count.item<long>();
            all += mask.numel();
        }

        var info = new PatchInfo { Method = kind == "wanda" ? "wanda" : "magnitude-pruning", Options = new JsonObject { ["sparsity"] = call.Get(sparsity) }, Evidence = new JsonObject { ["zeros"] = zeros, ["of"] = all } };
        using Patch patch = Patch.For(decoder.Source!, info, deltas);
        patch.Save(path, call.Get(force));
        call.Output.Emit(new JsonObject { ["patch"] = path, ["method"] = info.Method, ["zeros"] = zeros, ["of"] = all, ["tensors"] = deltas.Count });
        if (!call.Output.Json)
        {
            call.Output.Line(FormattableString.Invariant($"{path}: {info.Method}, {zeros:#,0} of {all:#,0} weights of {deltas.Count} matrices set to 0"));
        }
    }

    Tensor Calibration(Invocation call, Decoder decoder)
    {
        string text = TextFile.Read(call.Get(data) ?? throw new BadInputException("wanda judges weights by their inputs; give a text with --data."));
        int width = call.Get(length);
        if (width < 1 || width > decoder.Config.MaxPositions)
        {
            throw new BadInputException($"--length is {width}; it must lie between 1 and the {decoder.Config.MaxPositions} tokens that the model takes.");
        }

        long[] ids = [.. decoder.Tokenizer.Encode(text).Ids.Select(id => (long)id)];
        int count = Math.Min(call.Get(rows), ids.Length / width);
        return count > 0 ? tensor(ids[..(count * width)], [count, width])
            : throw new BadInputException($"{call.Get(data)} has {ids.Length} tokens, fewer than one row of {width}; give a longer text or a smaller --length.");
    }

    static PruningOptions Share(string sparsity)
    {
        Match groups = Regex.Match(sparsity, "^([0-9]{1,4}):([0-9]{1,4})$");
        return groups.Success ? new PruningOptions { Drop = int.Parse(groups.Groups[1].Value, CultureInfo.InvariantCulture), Among = int.Parse(groups.Groups[2].Value, CultureInfo.InvariantCulture), Sparsity = 0 }
            : double.TryParse(sparsity, CultureInfo.InvariantCulture, out double share) ? new PruningOptions { Sparsity = share }
            : throw new BadInputException($"--sparsity is '{sparsity}'; give a share such as 0.5, or n:m such as 2:4.");
    }
}
