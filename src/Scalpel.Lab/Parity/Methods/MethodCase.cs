using System.Text.Json.Nodes;
using Scalpel.Checkpoints;
using Scalpel.Methods.Editing;
using Scalpel.Networks;
using TorchSharp;
using static TorchSharp.torch;

namespace Scalpel.Lab.Parity.Methods;

/// <summary>One case of a method: its model, inputs, options, and the comparison with what is expected.</summary>
sealed class MethodCase : IDisposable
{
    readonly Comparison comparison;
    readonly DisposeScope scope = NewDisposeScope();
    readonly HashSet<string> compared = new(StringComparer.Ordinal);

    public MethodCase(ParityCase parityCase, Comparison comparison)
    {
        this.comparison = comparison;
        Case = parityCase;
        Inputs = SafeTensorsFile.Open(parityCase.PathOf("inputs"));
        Expected = SafeTensorsFile.Open(parityCase.PathOf("expected"));
        Model = Decoder.Load(parityCase.PathOf("model"));
    }

    public ParityCase Case { get; }

    public Decoder Model { get; }

    public SafeTensorsFile Inputs { get; }

    public SafeTensorsFile Expected { get; }

    /// <summary>The official code's hyper-parameters.</summary>
    public JsonObject Hparams => Case.Options["hparams"] as JsonObject ?? throw Missing("hparams");

    public IReadOnlyList<int> Layers => [.. (Hparams["layers"] as JsonArray ?? throw Missing("layers")).Select(l => l!.GetValue<int>())];

    public int Requests => Inputs.Entries.Keys.Where(name => name.StartsWith("request.", StringComparison.Ordinal)).Select(name => name.Split('.')[1]).Distinct().Count();

    public double Number(string key) => Hparams[key] is JsonValue value && value.TryGetValue(out double number) ? number : throw Missing(key);

    public bool Flag(string key, bool otherwise) => Hparams[key] is JsonValue value && value.TryGetValue(out bool flag) ? flag : otherwise;

    public bool Has(string input) => Inputs.Entries.ContainsKey(input);

    public Tensor Input(string name) => Inputs.Read(name);

    public long[] Longs(string name)
    {
        using Tensor tensor = Inputs.Read(name).to_type(ScalarType.Int64);
        return [.. tensor.data<long>()];
    }

    /// <summary>Compares a computed tensor with the expected one of that name, if the case has one.</summary>
    public void Compare(string name, Tensor ours, Tensor? where = null)
    {
        if (Expected.Entries.ContainsKey(name))
        {
            compared.Add(name);
            using Tensor expected = Expected.Read(name);
            comparison.Tensors(name, ours, expected, where);
        }
    }

    public void Compare(string name, long ours) => Compare(name, tensor(ours));

    /// <summary>What is expected but was not computed fails the case.</summary>
    public void Finish()
    {
        foreach (string name in Expected.Entries.Keys.Where(name => !compared.Contains(name)))
        {
            comparison.Mismatch(name, $"{name} is expected but not computed here");
        }
    }

    /// <summary>The search's settings out of the official hyper-parameters.</summary>
    public VectorSearch Search(int layer, VectorSite site) => new()
    {
        Layer = layer,
        Site = site,
        Steps = (int)Number("v_num_grad_steps"),
        LearningRate = Number("v_lr"),
        WeightDecay = Number("v_weight_decay"),
        ClampNormFactor = Number("clamp_norm_factor"),
        DriftFactor = Number("kl_factor"),
        LossLayer = site == VectorSite.BlockOutput ? (int)Number("v_loss_layer") : null,
    };

    /// <summary>The rows of a request: contexts with the target, the drift prompt, and contexts for the key.</summary>
    /// <param name="types">Number of contexts of each type.</param>
    public EditTokens Tokens(int request, IReadOnlyList<int> types)
    {
        EditRow[] values = Rows($"request.{request}.value"), keys = Rows($"request.{request}.key");
        var grouped = new List<IReadOnlyList<EditRow>>();
        int start = 0;
        foreach (int count in types)
        {
            grouped.Add(keys[start..(start + count)]);
            start += count;
        }

        if (start != keys.Length || values.Length < 2)
        {
            throw new BadInputException($"{Case.Folder}: the request {request} has {keys.Length} key rows and {values.Length} value rows, its context templates ask for {start} and {start + 1}.");
        }

        EditRow bare = keys[0] with { Ids = [.. keys[0].Ids.Take(keys[0].Valid)] };
        int lookup = (int)Longs($"request.{request}.key.lookup")[0];
        return new EditTokens { Values = values[..^1], Drift = values[^1], Keys = grouped, Bare = bare with { Lookup = lookup < 0 ? lookup + bare.Valid : lookup } };
    }

    /// <summary>Logits of the evaluation prompts under a name; padding does not count.</summary>
    public void CompareLogits(string name)
    {
        using var noGrad = no_grad();
        Tensor mask = Input("evaluation.attention_mask");
        Compare(name, Model.Forward(Input("evaluation.input_ids"), mask), mask.unsqueeze(-1).to_type(ScalarType.Bool));
    }

    // Rows padded at the right. A negative lookup index counts from the end of the padded row, as in the official code.
    EditRow[] Rows(string name)
    {
        long[] ids = Longs($"{name}.input_ids"), mask = Longs($"{name}.attention_mask"), lookups = Longs($"{name}.lookup");
        long[]? labels = Has($"{name}.labels") ? Longs($"{name}.labels") : null;
        int width = ids.Length / lookups.Length;
        return [.. Enumerable.Range(0, lookups.Length).Select(r =>
        {
            int valid = (int)mask.Skip(r * width).Take(width).Sum(), lookup = (int)(lookups[r] < 0 ? lookups[r] + width : lookups[r]);
            EditTarget[] targets = labels is null ? [] : [.. Enumerable.Range(0, width).Where(c => labels[(r * width) + c] != -100).Select(c => new EditTarget(c, labels[(r * width) + c]))];
            int count = Math.Max(lookup + 1, valid);
            return new EditRow([.. ids.Skip(r * width).Take(count)], lookup, targets) { Valid = valid };
        })];
    }

    public BadInputException Missing(string key) => new($"{Case.Folder}/case.json: the options have no usable '{key}'.");

    public void Dispose()
    {
        scope.Dispose();
        Model.Dispose();
        Inputs.Dispose();
        Expected.Dispose();
    }
}
