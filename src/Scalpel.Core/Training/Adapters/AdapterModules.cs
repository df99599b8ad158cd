using Scalpel.Networks.Layers;
using TorchSharp;
using static TorchSharp.torch;

namespace Scalpel.Training;

/// <summary>What an adapter does to one matrix of the network.</summary>
/// <param name="path">Path of the module: the tensor's name without <c>.weight</c>.</param>
abstract class AdapterModule(string path) : IDisposable
{
    public string Path => path;

    /// <summary>Its tensors by the end of their name in an adapter file: <c>lora_A.weight</c>.</summary>
    public abstract IEnumerable<(string Suffix, Tensor Tensor)> Tensors { get; }

    /// <summary>Whether it certainly leaves its matrix as it is, as a new one does.</summary>
    public abstract bool IsIdle { get; }

    /// <summary>The matrix after merging.</summary>
    /// <param name="weight">The matrix, [out, in].</param>
    public abstract Tensor Merge(Tensor weight);

    protected static bool IsAll(Tensor tensor, double value)
    {
        using Tensor equal = tensor.eq(value), all = equal.all();
        return all.item<bool>();
    }

    /// <summary>The bias after merging; null when it does not change.</summary>
    public virtual Tensor? MergeBias(Tensor bias) => null;

    public void Dispose()
    {
        foreach ((_, Tensor tensor) in Tensors)
        {
            tensor.Dispose();
        }
    }
}

/// <summary>LoRA and DoRA: W' = W + s·B A, or m ⊙ (W + s·B A)/‖W + s·B A‖ by rows, the norm without gradient.</summary>
sealed class LoraModule(string path, Tensor down, Tensor up, double scale, Tensor? magnitude = null, Tensor? bias = null) : AdapterModule(path)
{
    /// <summary>A, [r, in].</summary>
    public Tensor Down => down;

    /// <summary>B, [out, r].</summary>
    public Tensor Up => up;

    public double Scale => scale;

    /// <summary>DoRA's m, [out].</summary>
    public Tensor? Magnitude => magnitude;

    /// <summary>Bias of B, [out]; scaled as B is.</summary>
    public Tensor? Bias => bias;

    public override IEnumerable<(string Suffix, Tensor Tensor)> Tensors
    {
        get
        {
            yield return ("lora_A.weight", down);
            yield return ("lora_B.weight", up);
            if (bias is not null)
            {
                yield return ("lora_B.bias", bias);
            }

            if (magnitude is not null)
            {
                yield return ("lora_magnitude_vector", magnitude);
            }
        }
    }

    // DoRA's magnitudes begin with what only the matrix tells.
    public override bool IsIdle => magnitude is null && bias is null && IsAll(up, 0);

    public override Tensor Merge(Tensor weight)
    {
        Tensor sum = weight + up.matmul(down) * scale;
        return magnitude is null ? sum : sum * (magnitude / sum.norm(1)).unsqueeze(1);
    }

    public override Tensor? MergeBias(Tensor current) => bias is null ? null : current + bias * scale;

    /// <summary>DoRA's factor of each output, [out].</summary>
    public Tensor Factor(Tensor weight)
    {
        Tensor norm;
        using (no_grad())
        {
            norm = (weight + up.matmul(down).to_type(weight.dtype) * scale).norm(1);
        }

        return magnitude! / norm;
    }
}

/// <summary>(IA)³: outputs, or inputs, times a learned vector.</summary>
sealed class Ia3Module(string path, Tensor factors, bool onInput) : AdapterModule(path)
{
    /// <summary>[out, 1] or [1, in].</summary>
    public Tensor Factors => factors;

    public bool OnInput => onInput;

    public override IEnumerable<(string Suffix, Tensor Tensor)> Tensors => [("ia3_l", factors)];

    public override bool IsIdle => IsAll(factors, 1);

    public override Tensor Merge(Tensor weight) => weight * (onInput ? factors.view(1, -1) : factors.view(-1, 1));

    public override Tensor? MergeBias(Tensor bias) => onInput ? null : bias * factors.view(-1);
}

/// <summary>LoRA of an embedding: E' = E + s·(B A)ᵀ.</summary>
sealed class EmbeddingLoraModule(string path, Tensor down, Tensor up, double scale) : AdapterModule(path), IEmbeddingAdapter
{
    /// <summary>A, [r, vocabulary].</summary>
    public Tensor Down => down;

    /// <summary>B, [d, r].</summary>
    public Tensor Up => up;

    public double Scale => scale;

    /// <summary>The adapter that it belongs to.</summary>
    public Adapter? Owner { get; set; }

    public override IEnumerable<(string Suffix, Tensor Tensor)> Tensors => [("lora_embedding_A", down), ("lora_embedding_B", up)];

    public override bool IsIdle => IsAll(down, 0) || IsAll(up, 0);

    public override Tensor Merge(Tensor weight) => weight + up.matmul(down).t() * scale;

    public Tensor Apply(Tensor ids, Tensor embedded)
    {
        Tensor low = down.index_select(1, ids.flatten()).t().matmul(up.t()).unflatten(0, ids.shape) * (scale * Owner!.Weight);
        return embedded + (Owner.Strength(embedded) is { } strength ? low * strength : low).to_type(embedded.dtype);
    }
}

/// <summary>All modules of one adapter that share one product; each acts on its rows of the outputs.</summary>
sealed class AdaptedProduct(Adapter adapter, IReadOnlyList<(AdapterModule Module, long Start, long Length)> parts) : ILinearAdapter
{
    public Tensor Apply(Tensor x, Tensor y, Linear linear) =>
        parts.All(part => part.Module is LoraModule { Magnitude: null }) ? AddLowRank(x, y) : ByRows(x, y, linear);

    public LowRankTerm? LowRank(ScalarType type, long outputs)
    {
        if (adapter.SampleScales is not null || !parts.All(part => part.Module is LoraModule { Magnitude: null, Bias: null }))
        {
            return null;
        }

        LoraModule[] modules = [.. parts.Select(part => (LoraModule)part.Module)];
        long rank = modules.Sum(m => m.Down.shape[0]);
        Tensor down = empty([rank, modules[0].Down.shape[1]], dtype: type), up = zeros([outputs, rank], dtype: type);
        ForEach((m, start, before) =>
        {
            Down(down, m, before).copy_(m.Down.detach());
            Up(up, m, start, before).copy_(m.Up.detach() * (m.Scale * adapter.Weight));
        });
        return new LowRankTerm(down, up, (downGradient, upGradient) => ForEach((m, start, before) =>
        {
            ExplicitGradient.Add(m.Down, Down(downGradient, m, before));
            ExplicitGradient.Add(m.Up, Up(upGradient, m, start, before) * (m.Scale * adapter.Weight));
        }));

        static Tensor Down(Tensor whole, LoraModule m, long before) => whole.narrow(0, before, m.Down.shape[0]);

        static Tensor Up(Tensor whole, LoraModule m, long start, long before) => whole.narrow(0, start, m.Up.shape[0]).narrow(1, before, m.Up.shape[1]);

        void ForEach(Action<LoraModule, long, long> action)
        {
            long before = 0;
            for (int i = 0; i < modules.Length; i++)
            {
                action(modules[i], parts[i].Start, before);
                before += modules[i].Down.shape[0];
            }
        }
    }

    // One thin product serves all of A, one all of B, whose blocks see their own rank only.
    Tensor AddLowRank(Tensor x, Tensor y)
    {
        LoraModule[] modules = [.. parts.Select(part => (LoraModule)part.Module)];
        Tensor? strength = adapter.Strength(x);
        Tensor hidden = nn.functional.linear(x, Joined([.. modules.Select(m => m.Down)], 0).to_type(x.dtype));
        hidden = strength is null ? hidden : hidden * strength;
        Tensor[] blocks = new Tensor[modules.Length];
        long rank = modules.Sum(m => m.Down.shape[0]), before = 0, outputs = y.shape[^1];
        for (int i = 0; i < modules.Length; i++)
        {
            LoraModule m = modules[i];
            long own = m.Down.shape[0], start = parts[i].Start, length = parts[i].Length;
            Tensor scaled = m.Scale * adapter.Weight == 1 ? m.Up : m.Up * (m.Scale * adapter.Weight);
            blocks[i] = own == rank && length == outputs ? scaled : nn.functional.pad(scaled, [before, rank - before - own, start, outputs - start - length]);
            before += own;
        }

        Tensor up = blocks.Length == 1 ? blocks[0] : Sum(blocks);
        Tensor result = y + nn.functional.linear(hidden, up.to_type(x.dtype));
        for (int i = 0; i < modules.Length; i++)
        {
            if (modules[i].Bias is { } bias)
            {
                Tensor added = nn.functional.pad(bias * (modules[i].Scale * adapter.Weight), [parts[i].Start, outputs - parts[i].Start - parts[i].Length]).to_type(x.dtype);
                result = result + (strength is null ? added : added * strength);
            }
        }

        return result;
    }

    Tensor ByRows(Tensor x, Tensor y, Linear linear)
    {
        Tensor matrix = linear.Transposed ? linear.Weight.t() : linear.Weight;
        List<Tensor> pieces = [];
        long at = 0;
        foreach ((AdapterModule module, long start, long length) in parts.OrderBy(part => part.Start))
        {
            if (start > at)
            {
                pieces.Add(y.narrow(-1, at, start - at));
            }

            pieces.Add(Piece(module, x, y.narrow(-1, start, length), matrix.narrow(0, start, length), linear.Bias?.narrow(0, start, length)));
            at = start + length;
        }

        if (at < y.shape[^1])
        {
            pieces.Add(y.narrow(-1, at, y.shape[^1] - at));
        }

        return pieces.Count == 1 ? pieces[0] : cat(pieces, -1);
    }

    Tensor Piece(AdapterModule module, Tensor x, Tensor y, Tensor weight, Tensor? bias)
    {
        switch (module)
        {
            case Ia3Module { OnInput: true } ia3:
                return Towards(x, y, nn.functional.linear(x * ia3.Factors.view(-1).to_type(x.dtype), weight, bias));
            case Ia3Module ia3:
                return Towards(x, y, y * ia3.Factors.view(-1).to_type(y.dtype));
            case LoraModule lora:
                Tensor low = nn.functional.linear(nn.functional.linear(x, lora.Down.to_type(x.dtype)), (lora.Up * lora.Scale).to_type(x.dtype), lora.Bias is null ? null : (lora.Bias * lora.Scale).to_type(x.dtype));
                if (lora.Magnitude is null)
                {
                    return Towards(x, y, y + low);
                }

                Tensor factor = lora.Factor(weight).to_type(y.dtype), bare = bias is null ? y : y - bias;
                Tensor changed = (bare + low) * factor;
                return Towards(x, y, bias is null ? changed : changed + bias);
            default:
                throw new BadInputException($"The adapter module at {module.Path} cannot act on a linear product.");
        }
    }

    // From the outputs without the adapter to those with it, as far as weight and samples' scales say.
    Tensor Towards(Tensor x, Tensor without, Tensor with)
    {
        Tensor? strength = adapter.Strength(x);
        return strength is not null ? without + (with - without) * (strength * adapter.Weight) : adapter.Weight == 1 ? with : without + (with - without) * adapter.Weight;
    }

    static Tensor Joined(Tensor[] tensors, long axis) => tensors.Length == 1 ? tensors[0] : cat(tensors, axis);

    static Tensor Sum(Tensor[] blocks)
    {
        Tensor sum = blocks[0];
        for (int i = 1; i < blocks.Length; i++)
        {
            sum = sum + blocks[i];
        }

        return sum;
    }
}
