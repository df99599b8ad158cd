using Scalpel.Checkpoints;
using TorchSharp;
using static TorchSharp.torch;

namespace Scalpel.Patches.Adapters;

/// <summary>The tensors of one adapted module, collected from a file, and the deltas that they come to.</summary>
sealed class AdapterModule
{
    public PatchTensor? A { get; set; }

    public PatchTensor? B { get; set; }

    public PatchTensor? BiasOfB { get; set; }

    public PatchTensor? Magnitude { get; set; }

    public PatchTensor? Factors { get; set; }

    public double? Alpha { get; set; }

    public bool IsEmbedding { get; set; }

    public long Rank => A?.Shape[0] ?? 0;

    /// <summary>Adds the deltas of the module's tensors.</summary>
    public void AddTo(Dictionary<string, Delta> deltas, string module, AdapterTarget target, double scale)
    {
        TensorEntry weight = target.Find(module + ".weight") ?? throw NoTensor(target, module + ".weight");
        if (Factors is not null)
        {
            AddFactors(deltas, module, target, weight);
            return;
        }

        if (A is null || B is null)
        {
            throw new BadInputException($"The adapter has only one of the two factors of {module}; both A and B are needed.");
        }

        (PatchTensor down, PatchTensor up, bool transposed) = Oriented(module, target, weight);
        deltas[weight.Name] = Magnitude is null ? new LowRank(down, up, scale) : new Dora(down, up, Flat(Magnitude), transposed ? 1 : 0, scale);
        if (BiasOfB is not null)
        {
            TensorEntry bias = target.Find(module + ".bias") ?? throw NoTensor(target, module + ".bias");
            using Tensor values = BiasOfB.ToTensor(ScalarType.Float32), scaled = values * scale;
            deltas[bias.Name] = new DenseAdd(scaled);
        }
    }

    // In an adapter, A is [r, in] and B [out, r]; a matrix that is stored [in, out], and an embedding, want their transposes.
    (PatchTensor Down, PatchTensor Up, bool Transposed) Oriented(string module, AdapterTarget target, TensorEntry weight)
    {
        using Tensor a = A!.ToTensor(), b = B!.ToTensor();
        using Tensor a2 = a.reshape(a.shape[0], -1), b2 = b.reshape(b.shape[0], -1);
        long rows = weight.Shape[0], columns = weight.Shape.Skip(1).Aggregate(1L, (product, size) => product * size);
        bool straight = b2.shape[0] == rows && a2.shape[1] == columns, turned = a2.shape[1] == rows && b2.shape[0] == columns;
        if (a2.shape[0] != b2.shape[1] || !straight && !turned)
        {
            throw new BadInputException($"The adapter has A [{string.Join(", ", A.Shape)}] and B [{string.Join(", ", B.Shape)}] for {module}, whose weight is [{string.Join(", ", weight.Shape)}]; " +
                (IsEmbedding ? "base and adapter differ in the size of the vocabulary." : "it was made for another base."));
        }

        bool transposed = IsEmbedding || (straight && turned ? target.IsTransposed(module) : turned);
        if (!transposed)
        {
            return (PatchTensor.Of(a2), PatchTensor.Of(b2), false);
        }

        using Tensor down = b2.t(), up = a2.t();
        return (PatchTensor.Of(down), PatchTensor.Of(up), true);
    }

    void AddFactors(Dictionary<string, Delta> deltas, string module, AdapterTarget target, TensorEntry weight)
    {
        if (Factors!.Shape is not [var first, var second] || first != 1 && second != 1)
        {
            throw new BadInputException($"The adapter has ia3_l [{string.Join(", ", Factors.Shape)}] for {module}; [1, in] or [out, 1] was expected.");
        }

        bool inputs = first == 1, transposed = target.IsTransposed(module);
        deltas[weight.Name] = new Scaled(Flat(Factors), inputs != transposed ? 1 : 0);
        if (!inputs && target.Find(module + ".bias") is { } bias)
        {
            deltas[bias.Name] = new Scaled(Flat(Factors), 0);
        }
    }

    static PatchTensor Flat(PatchTensor tensor) => PatchTensor.From(tensor.Type, [tensor.Count], tensor.Bytes);

    public static BadInputException NoTensor(AdapterTarget target, string name)
    {
        bool tied = name == "lm_head.weight" && target.Checkpoint.Tensors.ContainsKey("model.embed_tokens.weight");
        return new BadInputException(tied
            ? $"The adapter changes lm_head, but {target.Checkpoint.Location} uses its embedding as output head; untie the two first (tie_word_embeddings false)."
            : $"The adapter changes {name}, which {target.Checkpoint.Location} does not have; the nearest are {string.Join(", ", Nearest.To(name, target.Checkpoint.Tensors.Keys, 3))}.");
    }
}
