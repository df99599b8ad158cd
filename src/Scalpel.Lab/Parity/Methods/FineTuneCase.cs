using System.Text.Json.Nodes;
using Scalpel.Methods.Editing;
using TorchSharp;
using static TorchSharp.torch;

namespace Scalpel.Lab.Parity.Methods;

/// <summary>
/// FT and FT-L with both objectives of the official codes: all target tokens scored at the last prompt position
/// (<c>prompt_last</c>), or the target teacher-forced (<c>target_new</c>).
/// </summary>
sealed class FineTuneCase : IMethodCase
{
    public IReadOnlyList<string> Names => ["ft"];

    public void Run(MethodCase c)
    {
        string objective = c.Case.Option("objective");
        Func<int, int, Tensor> loss = objective switch
        {
            "prompt_last" => (start, count) => PromptLast(c, start, count),
            "target_new" => (start, count) => TargetNew(c, start, count),
            _ => throw new BadInputException($"{c.Case.Folder}: the objective '{objective}' is not known; prompt_last and target_new are."),
        };
        int texts = (int)c.Inputs.Entries["prompt.input_ids"].Shape[0], size = (int)c.Number("batch_size");
        string[] names = [.. c.Layers.SelectMany(l => ConstrainedTraining.Module(c.Model, l))];
        double? bound = c.Hparams["norm_constraint"] is JsonValue value && value.TryGetValue(out double number) ? number : null;
        using var before = new Snapshot(c.Model, names);
        IReadOnlyList<double> losses = ConstrainedTraining.Run(
            c.Model,
            names,
            [.. Enumerable.Range(0, (texts + size - 1) / size).Select(b => (b * size, Math.Min(size, texts - (b * size)))).Select(part => ((Func<Tensor>)(() => loss(part.Item1, part.Item2)), part.Item2))],
            (int)c.Number("num_steps"), c.Number("lr"), c.Number("weight_decay"), bound, new RunContext());
        c.Compare("losses", tensor(losses.ToArray()));
        foreach (string name in names)
        {
            c.Compare($"delta.{name}", before.Change(name));
        }
    }

    static Tensor PromptLast(MethodCase c, int start, int count)
    {
        (Tensor ids, Tensor mask) = Batch(c, "prompt", start, count);
        (Tensor target, Tensor targetMask) = Batch(c, "target", start, count);
        Tensor last = mask.sum(1) - 1;
        Tensor log = Forward(c, ids, mask).index(arange(count, dtype: ScalarType.Int64), last).log_softmax(-1);
        Tensor valid = targetMask.to_type(ScalarType.Float32);
        return (-(log.gather(1, target) * valid).sum(1) / valid.sum(1)).mean();
    }

    static Tensor TargetNew(MethodCase c, int start, int count)
    {
        (Tensor ids, Tensor mask) = Batch(c, "full", start, count);
        (_, Tensor promptMask) = Batch(c, "prompt", start, count);
        long width = ids.shape[1];
        Tensor columns = arange(width, dtype: ScalarType.Int64).unsqueeze(0);
        // The official code takes the prompt to begin after as many columns as there is padding: right with left padding only.
        Tensor padding = (1 - mask).sum(1, keepdim: true), prompt = promptMask.sum(1, keepdim: true);
        Tensor counts = mask.to_type(ScalarType.Bool).logical_and(columns.ge(padding).logical_and(columns.lt(padding + prompt)).logical_not());
        counts = counts.narrow(1, 1, width - 1);
        Tensor log = Forward(c, ids, mask).narrow(1, 0, width - 1).log_softmax(-1);
        Tensor chosen = log.gather(2, ids.narrow(1, 1, width - 1).unsqueeze(2)).squeeze(2);
        return -(chosen * counts.to_type(ScalarType.Float32)).sum() / counts.sum();
    }

    // Positions count from the first column, padding or not, as the official code's calls do.
    static Tensor Forward(MethodCase c, Tensor ids, Tensor mask) =>
        c.Model.Forward(ids, mask, arange(ids.shape[1], dtype: ScalarType.Int64).unsqueeze(0)).to_type(ScalarType.Float32);

    // The rows of a batch without the columns that are padding in all of them: the batch was padded by itself.
    static (Tensor Ids, Tensor Mask) Batch(MethodCase c, string name, int start, int count)
    {
        Tensor ids = c.Input($"{name}.input_ids").narrow(0, start, count), mask = c.Input($"{name}.attention_mask").narrow(0, start, count);
        Tensor used = mask.sum([0]).nonzero().squeeze(-1);
        long from = used[0].item<long>(), width = used[-1].item<long>() - from + 1;
        return (ids.narrow(1, from, width), mask.narrow(1, from, width));
    }
}
