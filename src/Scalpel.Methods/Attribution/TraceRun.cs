using Scalpel.Networks;
using TorchSharp;
using static TorchSharp.torch;

namespace Scalpel.Methods.Attribution;

/// <summary>
/// The passes of causal tracing for one text: a clean one, noisy ones, and noisy ones in which a clean state is put back.
/// The positions before a restored one keep their noisy keys and values, the layers below it their noisy states; variants
/// that restore different layers of one position run as one batch, each joining at its first restored layer.
/// </summary>
sealed class TraceRun : IDisposable
{
    readonly Decoder model;
    readonly Tensor ids;
    readonly int begin, samples;
    readonly KeyValueCache cache;
    readonly Taps clean, noisy;

    /// <summary>Runs the clean and the noisy passes.</summary>
    /// <param name="ids">Token ids [1, T].</param>
    /// <param name="subject">First token of the subject, and the one after its last.</param>
    /// <param name="noise">What is added to the token embeddings of the subject, [samples, span, d].</param>
    /// <param name="leaves">What will be restored: <c>output</c>, <c>mlp.output</c>, <c>attention.output</c>.</param>
    public TraceRun(Decoder model, Tensor ids, (int Begin, int End) subject, Tensor noise, params string[] leaves)
    {
        this.model = model;
        this.ids = ids.alias().DetachFromDisposeScope();
        begin = subject.Begin;
        samples = (int)noise.shape[0];
        cache = new KeyValueCache(model.Config.CacheLayers, (int)ids.shape[1]);
        using var noGrad = no_grad();
        using var scope = NewDisposeScope();
        clean = new Taps().Read([.. from l in Enumerable.Range(0, model.Config.Layers) from leaf in leaves select $"layers.{l}.{leaf}"]);
        Tensor probability = model.Forward(ids, taps: clean, logits: LogitsAt.Last).to_type(ScalarType.Float32).softmax(-1)[0, 0];
        Answer = probability.argmax().item<long>();
        High = probability[Answer].ToDouble();
        int[] span = [.. Enumerable.Range(subject.Begin, subject.End - subject.Begin)];
        Tensor scaled = noise.to_type(ScalarType.Float64) * model.Config.EmbeddingScale;
        noisy = new Taps().Edit("embedding.output", x => (x.to_type(ScalarType.Float64) + scaled).to_type(x.dtype), TapSelector.At(span))
            .Read([.. Enumerable.Range(0, model.Config.Layers).Select(l => $"layers.{l}.input")]);
        Low = Probability(model.Forward(ids.expand(samples, -1), cache: cache, taps: noisy, logits: LogitsAt.Last), 1)[0];
        cache.Frozen = true;
    }

    /// <summary>The clean pass's most likely next token.</summary>
    public long Answer { get; }

    /// <summary>Its probability in the clean pass.</summary>
    public double High { get; }

    /// <summary>Its mean probability in the noisy passes.</summary>
    public double Low { get; }

    /// <summary>
    /// Mean probability of the answer when the clean states of a token in a window of layers centred at l are put back,
    /// [tokens, layers]. The window covers layers l − ⌊w/2⌋ up to, not including, l + ⌈w/2⌉.
    /// </summary>
    public double[,] Restore(string leaf, int window, RunContext run)
    {
        int tokens = (int)ids.shape[1], layers = model.Config.Layers;
        var scores = new double[tokens, layers];
        for (int t = tokens - 1; t >= 0; t--)
        {
            run.Report($"tracing {leaf}", tokens - 1 - t, tokens);
            // What precedes the subject is not touched by the noise: putting it back changes nothing.
            double[] row = t < begin ? [.. Enumerable.Repeat(Low, layers)] : Position(leaf, window, t);
            for (int l = 0; l < layers; l++)
            {
                scores[t, l] = row[l];
            }
        }

        return scores;
    }

    double[] Position(string leaf, int window, int t)
    {
        using var noGrad = no_grad();
        using var scope = NewDisposeScope();
        int layers = model.Config.Layers, below = window / 2, above = window - below, count = (int)ids.shape[1] - t;
        using KeyValueCache before = cache.View(t);
        using var taps = new Taps();
        for (int l = 0; l < layers; l++)
        {
            int layer = l, first = Math.Max(0, l - above + 1);
            Tensor restored = clean[$"layers.{l}.{leaf}"][0, t];
            // Variants centred at first … l + ⌊w/2⌋ restore this layer: the last ones of those that have joined.
            taps.Edit($"layers.{l}.{leaf}", x => Put(x, first * samples, restored));
        }

        using Pass pass = model.Prepare(ids.narrow(1, t, count), positions: arange(t, t + count, dtype: ScalarType.Int64).unsqueeze(0), cache: before, taps: taps);
        Tensor? x = null;
        for (int l = 0, joined = 0; l < layers; l++)
        {
            int until = Math.Min(layers, l + below + 1);
            if (until > joined)
            {
                Tensor input = noisy[$"layers.{l}.input"].narrow(1, t, count);
                Tensor joining = until - joined == 1 ? input : input.repeat(until - joined, 1, 1);
                x = x is null ? joining : cat([x, joining]);
                joined = until;
            }

            Tensor next = model.RunLayers(x!, l, l + 1, pass);
            x!.Dispose();
            x = next;
        }

        return Probability(model.Logits(x!, pass, LogitsAt.Last), layers);
    }

    static Tensor Put(Tensor x, int from, Tensor restored)
    {
        Tensor copy = x.clone();
        copy[TensorIndex.Slice(from), 0] = restored;
        return copy;
    }

    // Logits [variants · samples, 1, V] to the answer's probability, averaged over the samples.
    double[] Probability(Tensor logits, int variants)
    {
        Tensor probability = logits.select(1, 0).to_type(ScalarType.Float32).softmax(-1).select(1, Answer);
        return [.. probability.view(variants, samples).mean([1]).to_type(ScalarType.Float64).data<double>()];
    }

    public void Dispose()
    {
        ids.Dispose();
        cache.Dispose();
        clean.Dispose();
        noisy.Dispose();
    }
}
