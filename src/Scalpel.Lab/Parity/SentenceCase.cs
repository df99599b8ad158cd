using System.Text.Json.Nodes;
using Scalpel.Checkpoints;
using Scalpel.Networks;
using Scalpel.Text;
using TorchSharp;
using static TorchSharp.torch;

namespace Scalpel.Lab.Parity;

/// <summary>One case of a sentence encoder: tokens, pooled states, unit vectors, cosines, one sentence in full, a gradient.</summary>
sealed class SentenceCase(ParityCase parityCase, Comparison comparison)
{
    public void Run()
    {
        if (parityCase.Options["dtype"]?.GetValue<string>() is { } dtype and not "float32")
        {
            throw new BadInputException($"{parityCase.Folder}: the dtype '{dtype}' is not known for encoders.");
        }

        JsonNode inputs = JsonNode.Parse(File.ReadAllText(parityCase.PathOf("inputs")))!;
        string[] sentences = [.. inputs["sentences"]!.AsArray().Select(node => node!.GetValue<string>())];
        using var expected = SafeTensorsFile.Open(parityCase.PathOf("expected"));
        using SentenceEncoder encoder = SentenceEncoder.Load(parityCase.PathOf("model"), pooling: parityCase.Options["pooling"]?.GetValue<string>());
        if (parityCase.Options["max_length"]?.GetValue<int>() is { } longest)
        {
            comparison.Exact("max_length", encoder.MaxTokens, longest);
        }

        IReadOnlyList<TokenizedText> texts = encoder.Tokenize(sentences);
        (Tensor ids, Tensor mask, Tensor types) = encoder.Batch(texts);
        Tensor pooled = NoGrad(() => encoder.Pool(encoder.Encoder.Forward(ids, mask, types), mask));
        // The vectors come the way that users take: in batches, sorted by length.
        Tensor embeddings = parityCase.Options["normalize"]?.GetValue<bool>() ?? encoder.Normalizes ? encoder.EncodeTokens(texts) : pooled;
        foreach (string name in expected.Entries.Keys)
        {
            Tensor? ours = name.Split('.') switch
            {
                ["input_ids"] => ids,
                ["lengths"] => tensor([.. texts.Select(text => (long)text.Count)], [texts.Count]),
                ["pooled"] => pooled,
                ["embeddings"] => embeddings,
                ["cosine"] => Unit(embeddings).matmul(Unit(embeddings).t()),
                ["sentence", var index, .. var rest] => Detail(encoder, texts[int.Parse(index)], rest),
                ["pair", ..] => Pair(encoder, [.. inputs["pair"]!.AsArray().Select(node => texts[node!.GetValue<int>()])], name),
                _ => null,
            };
            if (ours is null)
            {
                comparison.Mismatch(name, $"{name} is expected, but a sentence encoder gives no such output here");
            }
            else
            {
                comparison.Tensors(name, ours, expected.Read(name));
            }
        }
    }

    // A state or a pattern of one sentence by itself.
    static Tensor? Detail(SentenceEncoder encoder, TokenizedText text, string[] path)
    {
        string? tap = path switch
        {
            ["hidden", "0"] => "embedding.output",
            ["hidden", var l] => $"layers.{int.Parse(l) - 1}.output",
            ["attention", var l] => $"layers.{l}.attention.pattern",
            _ => null,
        };
        if (tap is null)
        {
            return null;
        }

        (Tensor ids, Tensor mask, Tensor types) = encoder.Batch([text]);
        using Taps taps = new Taps().Read(tap);
        return NoGrad(() =>
        {
            encoder.Encoder.Forward(ids, mask, types, taps: taps);
            return taps[tap][0];
        });
    }

    static Tensor? Pair(SentenceEncoder encoder, TokenizedText[] pair, string name)
    {
        (Tensor ids, Tensor mask, Tensor types) = encoder.Batch(pair);
        Tensor? start = null;
        using var taps = new Taps();
        taps.Edit("embedding.output", x =>
        {
            start = x.detach().requires_grad_(true);
            start.DetachFromDisposeScope();
            return start;
        });
        Tensor vectors = Unit(encoder.Finish(encoder.Pool(encoder.Encoder.Forward(ids, mask, types, taps: taps), mask)));
        Tensor cosine = (vectors[0] * vectors[1]).sum();
        start!.MoveToOuterDisposeScope();
        return name switch
        {
            "pair.cosine" => cosine,
            "pair.grad.embedding_output" => autograd.grad([cosine], [start!])[0],
            _ => null,
        };
    }

    static Tensor Unit(Tensor x) => x / x.norm(1, keepdim: true, p: 2);

    static Tensor NoGrad(Func<Tensor> compute)
    {
        using var noGrad = no_grad();
        return compute();
    }
}
