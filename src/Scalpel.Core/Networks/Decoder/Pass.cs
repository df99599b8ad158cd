using TorchSharp;
using static TorchSharp.torch;

namespace Scalpel.Networks;

/// <summary>
/// What all layers of one forward pass share: positions, rotary angles, masks, cache and taps. Made by
/// <see cref="Decoder.Prepare"/>; owns its tensors.
/// </summary>
public sealed class Pass : IPositions, IDisposable
{
    readonly DecoderConfig config;
    readonly ScalarType type;
    readonly Tensor? joinedMask;
    readonly (Tensor Cos, Tensor Sin)?[] angles;
    readonly Dictionary<(int? Window, bool Causal), (Tensor Allowed, Tensor Additive)> masks = [];
    readonly bool packed;
    readonly int first;
    long[][]? validColumns;

    internal Pass(DecoderConfig config, ScalarType type, int batch, int count, Tensor? mask, Tensor? positions, KeyValueCache? cache, Taps? taps, Tensor? ids)
    {
        this.config = config;
        this.type = type;
        Batch = batch;
        Count = count;
        Cache = cache;
        Taps = taps;
        Past = cache?.Length ?? 0;
        first = cache?.First ?? 0;
        using var scope = NewDisposeScope();
        joinedMask = Join(mask);
        packed = joinedMask is not null && joinedMask.max().item<long>() > 1;
        Ids = ids?.alias().DetachFromDisposeScope();
        Positions = (positions?.alias() ?? DefaultPositions()).DetachFromDisposeScope();
        joinedMask = joinedMask?.DetachFromDisposeScope();
        angles = new (Tensor, Tensor)?[config.Rotary.Count];
    }

    /// <summary>Rows of the batch.</summary>
    public int Batch { get; }

    /// <summary>T, tokens of this pass.</summary>
    public int Count { get; }

    /// <summary>Tokens read before.</summary>
    public int Past { get; }

    /// <summary>Positions of the tokens, int64 [B or 1, T].</summary>
    public Tensor Positions { get; }

    /// <summary>The tokens, where more than the first layer needs them; null otherwise.</summary>
    internal Tensor? Ids { get; }

    /// <summary>The cache, if there is one.</summary>
    public KeyValueCache? Cache { get; }

    /// <summary>The taps, if there are any.</summary>
    public Taps? Taps { get; }

    internal bool Padded => joinedMask is not null;

    /// <summary>Whether a row of the batch begins with padding.</summary>
    internal bool BeginsWithPadding => beginsWithPadding ??= joinedMask is not null && !AllFirst(joinedMask);

    bool? beginsWithPadding;

    /// <summary>Set to collect the router logits of a mixture's layers, which the pass then owns.</summary>
    internal List<Tensor>? RouterLogits { get; set; }

    internal void KeepRouterLogits(Tensor logits) => RouterLogits?.Add(logits.alias().DetachFromDisposeScope());

    /// <summary>Which columns of this pass are tokens, bool [B, T]; null when all are.</summary>
    internal Tensor? MaskOfPass => joinedMask?.narrow(1, Past, Count).ne(0);

    /// <summary>Ends the pass: the cache counts its tokens, and every tap must have been reached.</summary>
    public void End()
    {
        Cache?.Advance(Count, joinedMask);
        Taps?.End();
    }

    /// <summary>The same pass for one more user, who disposes it too.</summary>
    internal Pass Share()
    {
        users++;
        return this;
    }

    int users = 1;

    /// <summary>Frees masks and angles.</summary>
    public void Dispose()
    {
        if (--users > 0)
        {
            return;
        }

        Positions.Dispose();
        Ids?.Dispose();
        RouterLogits?.ForEach(logits => logits.Dispose());
        joinedMask?.Dispose();
        foreach ((Tensor Cos, Tensor Sin)? pair in angles)
        {
            pair?.Cos.Dispose();
            pair?.Sin.Dispose();
        }

        foreach ((Tensor allowed, Tensor additive) in masks.Values)
        {
            allowed.Dispose();
            additive.Dispose();
        }
    }

    internal Tensor At(string name, Tensor value, int headAxis = -1, Tensor? allowed = null) => Taps is null ? value : Taps.At(name, value, this, headAxis, allowed);

    internal Tensor At(int layer, string leaf, Tensor value, int headAxis = -1, Tensor? allowed = null) =>
        Taps is null ? value : Taps.At($"layers.{layer}.{leaf}", value, this, headAxis, allowed);

    internal bool Wants(int layer, string leaf) => Taps is not null && Taps.Wants($"layers.{layer}.{leaf}");

    internal Tensor Turn(int layer, Tensor x) =>
        AnglesOf(layer) is { } turn ? config.Rotary[config.RotaryOfLayer[layer]].Turn(x, turn.Cos, turn.Sin) : x;

    /// <summary>cos and sin of the layer's rotation, [B or 1, T, 1, r/2]; null for a model without.</summary>
    internal (Tensor Cos, Tensor Sin)? AnglesOf(int layer)
    {
        if (angles.Length == 0)
        {
            return null;
        }

        int which = config.RotaryOfLayer[layer];
        if (angles[which] is null)
        {
            (Tensor cos, Tensor sin) = config.Rotary[which].Angles(Positions, type);
            angles[which] = (cos.DetachFromDisposeScope(), sin.DetachFromDisposeScope());
        }

        return angles[which];
    }

    /// <summary>Whether plain causal attention within the pass is all that the layer's mask says.</summary>
    internal bool IsPlainCausal(int layer) =>
        joinedMask is null && config.Causal[layer] && Past == 0 && (config.Window[layer] is not { } window || window >= Count);

    /// <summary>Whether the layer's tokens may attend to everything: one token after a cache, without padding or a window that bites.</summary>
    internal bool IsFree(int layer) =>
        joinedMask is null && (Count == 1 || !config.Causal[layer]) && (config.Window[layer] is not { } window || window >= Past + Count);

    /// <summary>Allowed keys, bool [B or 1, 1, T, S], and the same as a summand of the scores (0, or the type's minimum).</summary>
    internal (Tensor Allowed, Tensor Additive) Mask(int layer) => Mask(config.Window[layer], config.Causal[layer]);

    /// <summary>The same of attention to all earlier tokens, whatever the layers see.</summary>
    internal (Tensor Allowed, Tensor Additive) CausalMask() => Mask(null, causal: true);

    (Tensor Allowed, Tensor Additive) Mask(int? window, bool causal)
    {
        (int?, bool) key = (window, causal);
        if (!masks.TryGetValue(key, out (Tensor Allowed, Tensor Additive) pair))
        {
            using var scope = NewDisposeScope();
            Tensor allowed = Allowed(window, causal);
            Tensor additive = zeros(allowed.shape, dtype: type).masked_fill(allowed.logical_not(), Minimum(type));
            pair = (allowed.DetachFromDisposeScope(), additive.DetachFromDisposeScope());
            masks.Add(key, pair);
        }

        return pair;
    }

    // Not −∞: a row without any allowed key then gives a uniform pattern and no NaN.
    internal static double Minimum(ScalarType type) => type switch
    {
        ScalarType.Float64 => double.MinValue,
        ScalarType.BFloat16 => -3.3895313892515355e38,
        ScalarType.Float16 => -65504,
        _ => float.MinValue,
    };

    static bool AllFirst(Tensor mask)
    {
        using var scope = NewDisposeScope();
        return mask.select(1, 0).ne(0).all().item<bool>();
    }

    int? IPositions.Column(int row, int position, long width)
    {
        validColumns ??= ValidColumns();
        long[] columns = validColumns[validColumns.Length == 1 ? 0 : row];
        int index = position < 0 ? columns.Length + position : position;
        if (index < 0 || index >= columns.Length)
        {
            throw new BadInputException($"Row {row} has {columns.Length} tokens; there is no position {position}.");
        }

        // An axis over the queries begins after the cached tokens, one over the keys with them.
        long column = columns[index] - (Past + Count - width);
        return column < 0 ? null : (int)column;
    }

    long[][] ValidColumns()
    {
        if (joinedMask is null)
        {
            return [[.. Enumerable.Range(0, Past + Count).Select(i => (long)i)]];
        }

        long[] flat = joinedMask.contiguous().data<long>().ToArray();
        int width = Past + Count;
        return [.. Enumerable.Range(0, Batch).Select(b => Enumerable.Range(0, width).Where(c => flat[b * width + c] != 0).Select(c => (long)c).ToArray())];
    }

    Tensor Allowed(int? window, bool causal)
    {
        Tensor query = arange(Past, Past + Count, dtype: ScalarType.Int64).view(1, 1, -1, 1), key = arange(first, Past + Count, dtype: ScalarType.Int64).view(1, 1, 1, -1);
        Tensor allowed = causal ? key <= query : ones([1, 1, Count, Past + Count - first], dtype: ScalarType.Bool);
        if (window is { } w)
        {
            allowed = allowed.logical_and(query - key < w);
        }

        if (joinedMask is null)
        {
            return allowed;
        }

        Tensor keys = joinedMask.narrow(1, first, Past + Count - first).view(Batch, 1, 1, -1);
        allowed = allowed.logical_and(keys.ne(0));
        return packed ? allowed.logical_and(keys.eq(joinedMask.narrow(1, Past, Count).reshape(Batch, 1, Count, 1))) : allowed;
    }

    Tensor? Join(Tensor? mask)
    {
        Tensor? now = mask?.to_type(ScalarType.Int64);
        if (now is not null && (now.dim() != 2 || now.shape[0] != Batch || now.shape[1] != Count))
        {
            throw new ArgumentException($"The mask has shape [{string.Join(", ", now.shape)}], the ids [{Batch}, {Count}].", nameof(mask));
        }

        Tensor? before = Cache?.Mask;
        if (now is null && before is null || before is null && now!.eq(1).all().item<bool>())
        {
            return null;
        }

        now ??= ones([Batch, Count], dtype: ScalarType.Int64);
        if (Past == 0)
        {
            return now.clone();
        }

        before = before is null ? ones([Batch, Past], dtype: ScalarType.Int64) : before.shape[0] == Batch ? before : before.repeat(Batch / before.shape[0], 1);
        return cat([before, now], 1);
    }

    Tensor DefaultPositions() => joinedMask is null
        ? arange(Past, Past + Count, dtype: ScalarType.Int64).unsqueeze(0)
        : joinedMask.ne(0).to_type(ScalarType.Int64).cumsum(1).sub(1).clamp(min: 0).narrow(1, Past, Count);
}
