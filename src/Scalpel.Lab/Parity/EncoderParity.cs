using Scalpel.Checkpoints;
using Scalpel.Networks;
using TorchSharp;
using static TorchSharp.torch;

namespace Scalpel.Lab.Parity;

/// <summary>Text encoders: states, attention, heads, losses with gradients, taps and edits, sentence embeddings.</summary>
public sealed class EncoderParity : IParityKind
{
    /// <inheritdoc/>
    public string Kind => "encoder";

    /// <inheritdoc/>
    public string? Unsupported(ParityCase parityCase) => parityCase.Options["library"]?.GetValue<string>() switch
    {
        "transformers" or "sentence-transformers" => null,
        var library => $"encoders of the library '{library}' are not known here",
    };

    /// <inheritdoc/>
    public void Run(ParityCase parityCase, Comparison comparison)
    {
        using var scope = NewDisposeScope();
        if (parityCase.Option("library") == "sentence-transformers")
        {
            new SentenceCase(parityCase, comparison).Run();
        }
        else
        {
            new EncoderCase(parityCase, comparison).Run();
        }
    }
}

/// <summary>One case of a transformers encoder.</summary>
sealed class EncoderCase(ParityCase parityCase, Comparison comparison)
{
    readonly string model = parityCase.Options["class"]?.GetValue<string>() ?? throw new BadInputException($"{parityCase.Folder}: options has no 'class'.");
    readonly string[] gradients = [.. parityCase.Options["gradients"]?.AsArray().Select(node => node!.GetValue<string>()) ?? []];

    public void Run()
    {
        if (parityCase.Options["dtype"]?.GetValue<string>() is { } dtype and not "float32")
        {
            throw new BadInputException($"{parityCase.Folder}: the dtype '{dtype}' is not known for encoders.");
        }

        using var inputs = SafeTensorsFile.Open(parityCase.PathOf("inputs"));
        using var expected = SafeTensorsFile.Open(parityCase.PathOf("expected"));
        using Encoder encoder = Encoder.Load(parityCase.PathOf("model"));
        bool training = expected.Entries.ContainsKey("loss");
        if (training)
        {
            encoder.RequireGrad(gradients);
        }

        Tensor? Input(string name) => inputs.Entries.ContainsKey(name) ? inputs.Read(name) : null;
        using var taps = new Taps();
        CaseEdits.AddTo(taps, parityCase.Options["edits"], name => inputs.Read(name));
        Tensor? start = null;
        taps.Edit("embedding.output", x =>
        {
            // A leaf of its own when no parameter below it needs a gradient.
            start = training && !x.requires_grad ? x.detach().requires_grad_(true) : x.alias();
            start.DetachFromDisposeScope();
            return start;
        });
        int layers = encoder.Config.Layers;
        foreach (string name in expected.Entries.Keys)
        {
            if (TapOf(name, layers) is { } tap)
            {
                taps.Read(tap);
            }
        }

        Tensor ids = inputs.Read("input_ids");
        Tensor? mask = Input("attention_mask");
        Tensor states = encoder.Forward(ids, mask, Input("token_type_ids"), Input("position_ids"), taps);
        var outputs = new Dictionary<string, Tensor>(StringComparer.Ordinal) { ["last_hidden_state"] = states };
        AddHeads(encoder, states, ids, outputs);
        Tensor? loss = training ? Loss(inputs, outputs) : null;
        Dictionary<string, Tensor> grads = loss is null ? [] : Gradients(encoder, loss, start!);
        foreach (string name in expected.Entries.Keys)
        {
            Tensor? ours = name switch
            {
                "loss" => loss,
                _ when name.StartsWith("grad.", StringComparison.Ordinal) => grads.GetValueOrDefault(name["grad.".Length..]),
                _ when name.StartsWith("clip_skip.", StringComparison.Ordinal) => encoder.FinalNorm(taps[TapOf(name, layers)!]),
                _ when TapOf(name, layers) is { } tap => taps[tap],
                _ => outputs.GetValueOrDefault(name),
            };
            if (ours is null)
            {
                comparison.Mismatch(name, $"{name} is expected, but {model} gives no such output here");
            }
            else
            {
                comparison.Tensors(name, ours, expected.Read(name));
            }
        }

        start?.Dispose();
    }

    // The tap that gives an expected state; null when none does.
    static string? TapOf(string name, int layers) => name.Split('.') switch
    {
        ["hidden", "0"] => "embedding.output",
        ["hidden", "norm"] => "final_norm.output",
        ["hidden", var l] => $"layers.{int.Parse(l) - 1}.output",
        ["attention", var l] => $"layers.{l}.attention.pattern",
        ["clip_skip", var k] => $"layers.{layers - int.Parse(k) - 1}.output",
        ["tap", ..] => name["tap.".Length..],
        _ => null,
    };

    void AddHeads(Encoder encoder, Tensor states, Tensor ids, Dictionary<string, Tensor> outputs)
    {
        if (encoder.CanPool && (model.EndsWith("Model", StringComparison.Ordinal) || model.EndsWith("WithProjection", StringComparison.Ordinal)))
        {
            outputs["pooled"] = encoder.Pool(states, ids);
        }

        if (model.EndsWith("WithProjection", StringComparison.Ordinal))
        {
            outputs["text_embeds"] = encoder.Project(outputs["pooled"]);
        }
        else if (model.EndsWith("Classification", StringComparison.Ordinal))
        {
            outputs["logits"] = encoder.Classify(states);
        }
        else if (model.EndsWith("ForMaskedLM", StringComparison.Ordinal))
        {
            outputs["logits"] = encoder.PredictTokens(states);
        }
    }

    Tensor Loss(SafeTensorsFile inputs, Dictionary<string, Tensor> outputs)
    {
        switch (parityCase.Options["loss"]?.GetValue<string>())
        {
            case null:
                Tensor logits = outputs["logits"], labels = inputs.Read("labels");
                return nn.functional.cross_entropy(logits.flatten(0, (int)logits.dim() - 2), labels.flatten(), ignore_index: -100);
            case "weighted":
                string name = parityCase.Option("loss_output");
                Tensor output = outputs.TryGetValue(name, out Tensor? found) ? found
                    : name == "pooler_output" ? outputs["pooled"]
                    : throw new BadInputException($"{parityCase.Folder}: the loss_output '{name}' is not known.");
                return (output * inputs.Read("loss_weight")).sum();
            case var other:
                throw new BadInputException($"{parityCase.Folder}: the loss '{other}' is not known.");
        }
    }

    Dictionary<string, Tensor> Gradients(Encoder encoder, Tensor loss, Tensor start)
    {
        var result = new Dictionary<string, Tensor>(StringComparer.Ordinal)
        {
            ["embedding_output"] = autograd.grad([loss], [start], retain_graph: true)[0],
        };
        if (gradients.Length > 0)
        {
            loss.backward();
            foreach (string name in gradients)
            {
                result[name] = encoder.Grad(name) ?? zeros_like(encoder.Parameter(name));
            }
        }

        return result;
    }
}
