using TorchSharp;
using static TorchSharp.torch;

namespace Scalpel.Networks;

/// <summary>
/// Keys (after rotary) and values of the tokens read so far, per layer [batch, K, tokens, e], in memory that grows by
/// doubling and is written in place. With a window it keeps the tokens that a later one can see, and its memory stays
/// bounded however long the text is.
/// </summary>
public sealed class KeyValueCache : IDisposable
{
    readonly Tensor?[] keys, values;
    readonly int? window;
    Tensor? mask;

    /// <summary>An empty cache.</summary>
    /// <param name="layers">Number of layers of the network: <see cref="DecoderConfig.CacheLayers"/>.</param>
    /// <param name="capacity">Tokens to make room for at once; it grows when they are exceeded. Default 64.</param>
    /// <param name="window">Largest window of the layers, the token itself included: what lies before it is forgotten when room is needed; null keeps everything.</param>
    public KeyValueCache(int layers, int capacity = 64, int? window = null)
    {
        this.window = window;
        keys = new Tensor?[layers];
        values = new Tensor?[layers];
        Capacity = Math.Max(1, capacity);
    }

    /// <summary>A cache for a network: with a window where every layer has one, for then no token sees what lies before the largest.</summary>
    /// <param name="config">The network's configuration.</param>
    /// <param name="capacity">Tokens to make room for at once.</param>
    public static KeyValueCache For(DecoderConfig config, int capacity = 64)
    {
        int? window = config.Window.All(size => size is not null) && config.Causal.All(causal => causal) ? config.Window.Max() : null;
        return new KeyValueCache(config.CacheLayers, window is { } size ? Math.Min(capacity, 2 * size) : capacity, window);
    }

    /// <summary>Tokens read so far, padding included.</summary>
    public int Length { get; private set; }

    /// <summary>The first token that is still kept; those before it lie outside of every window.</summary>
    public int First { get; private set; }

    int Held => Length - First;

    /// <summary>Tokens for which there is room.</summary>
    public int Capacity { get; private set; }

    /// <summary>
    /// When set, passes see what is cached and their own tokens but leave nothing behind, gradients flow through their own
    /// tokens, and a cached batch serves any multiple of its rows, one repetition after the other: the way to run many variants
    /// of texts after their prefixes.
    /// </summary>
    public bool Frozen { get; set; }

    /// <summary>1 for valid tokens, 0 for padding, int64 [batch, <see cref="Length"/>]; null when all are valid.</summary>
    internal Tensor? Mask => mask;

    /// <summary>The cached keys of a layer from <see cref="First"/> on, [batch, K, Length − First, e], a view that is valid until the next pass.</summary>
    public Tensor Keys(int layer) => Filled(keys[layer]);

    /// <summary>The cached values of a layer from <see cref="First"/> on, [batch, K, Length − First, e], a view that is valid until the next pass.</summary>
    public Tensor Values(int layer) => Filled(values[layer]);

    /// <summary>The whole memory of a layer's keys and values, [batch, K, Capacity, e]; null before the first pass.</summary>
    internal (Tensor? Keys, Tensor? Values) Memory(int layer) => (keys[layer], values[layer]);

    /// <summary>Forgets all tokens from the given one on.</summary>
    /// <exception cref="BadInputException">A window has forgotten tokens that the next one would see.</exception>
    public void Truncate(int length)
    {
        ArgumentOutOfRangeException.ThrowIfNegative(length);
        ArgumentOutOfRangeException.ThrowIfGreaterThan(length, Length);
        if (First > 0 && length - First < window - 1)
        {
            throw new BadInputException($"The cache cannot go back to {length} tokens: it keeps those from {First} on, and the next one sees {window - 1} before it; read the text again.");
        }

        Length = length;
        Replace(ref mask, mask?.narrow(1, 0, length).clone());
    }

    /// <summary>Keeps the given rows of the batch, in the given order; a row may come more than once.</summary>
    public void Reorder(IReadOnlyList<int> rows)
    {
        using var scope = NewDisposeScope();
        Tensor index = tensor(rows.Select(row => (long)row).ToArray());
        for (int l = 0; l < keys.Length; l++)
        {
            Replace(ref keys[l], keys[l]?.index_select(0, index));
            Replace(ref values[l], values[l]?.index_select(0, index));
        }

        Replace(ref mask, mask?.index_select(0, index));
    }

    /// <summary>The first tokens of this cache, frozen, over the same memory: valid while this cache is and stays as it is.</summary>
    public KeyValueCache View(int length)
    {
        ArgumentOutOfRangeException.ThrowIfNegative(length);
        ArgumentOutOfRangeException.ThrowIfGreaterThan(length, Length);
        if (First > 0)
        {
            throw new InvalidOperationException("The cache has forgotten the first tokens.");
        }

        var view = new KeyValueCache(keys.Length, Capacity) { Length = length, Frozen = true };
        for (int l = 0; l < keys.Length; l++)
        {
            view.keys[l] = keys[l]?.alias().DetachFromDisposeScope();
            view.values[l] = values[l]?.alias().DetachFromDisposeScope();
        }

        view.mask = mask?.narrow(1, 0, length).DetachFromDisposeScope();
        return view;
    }

    /// <summary>A copy that goes its own way.</summary>
    public KeyValueCache Clone()
    {
        var copy = new KeyValueCache(keys.Length, Capacity, window) { Length = Length, First = First, Frozen = Frozen };
        for (int l = 0; l < keys.Length; l++)
        {
            copy.keys[l] = keys[l]?.clone().DetachFromDisposeScope();
            copy.values[l] = values[l]?.clone().DetachFromDisposeScope();
        }

        copy.mask = mask?.clone().DetachFromDisposeScope();
        return copy;
    }

    /// <summary>Frees the memory.</summary>
    public void Dispose()
    {
        for (int l = 0; l < keys.Length; l++)
        {
            Replace(ref keys[l], null);
            Replace(ref values[l], null);
        }

        Replace(ref mask, null);
    }

    /// <summary>Prepares for a pass: refuses one that does not fit, and lets a window slide when there is no room for its tokens.</summary>
    /// <exception cref="BadInputException">The cache is that of another network or of other rows.</exception>
    internal void Begin(DecoderConfig config, int batch, int count)
    {
        if (keys.Length != config.CacheLayers)
        {
            throw new BadInputException($"The cache is for {keys.Length} layers, the model has {config.CacheLayers}; make a cache for this model.");
        }

        if (keys[0] is not { } held || Length == 0)
        {
            return;
        }

        // After a frozen cache without padding the rows may still become more, layer by layer.
        if (!Frozen || mask is not null)
        {
            RequireRows(held, batch);
        }

        if (held.shape[1] != config.KeyValueHeads || held.shape[3] != config.HeadSize)
        {
            throw new BadInputException($"The cache holds {held.shape[1]} heads of {held.shape[3]}, the model has {config.KeyValueHeads} of {config.HeadSize}; make a cache for this model.");
        }

        MakeRoom(count);
    }

    void RequireRows(Tensor cached, long batch)
    {
        long rows = cached.shape[0];
        if (Frozen ? batch % rows != 0 : batch != rows)
        {
            throw new BadInputException($"The cache holds {rows} {(rows == 1 ? "row" : "rows")}, the pass has {batch}; {(Frozen ? "a frozen cache serves multiples of its rows" : "bring the cache to them with Reorder, or start an empty one")}.");
        }
    }

    /// <summary>Lets the window slide when there is no room for more tokens.</summary>
    internal void MakeRoom(int count)
    {
        int drop = window is { } size ? Held - (size - 1) : 0;
        if (Frozen || drop <= 0 || Held + count <= Capacity)
        {
            return;
        }

        foreach (Tensor? memory in keys.Concat(values).Where(memory => memory is not null))
        {
            // Parts that overlap: through a copy.
            using Tensor kept = memory!.narrow(2, drop, Held - drop), copy = kept.clone(), to = memory.narrow(2, 0, Held - drop);
            to.copy_(copy);
        }

        First += drop;
    }

    /// <summary>Adds a pass's keys and values [batch, K, T, e] and gives back all that the pass may attend to.</summary>
    internal (Tensor Keys, Tensor Values) Append(int layer, Tensor key, Tensor value)
    {
        if (Frozen)
        {
            if (Length > 0)
            {
                RequireRows(keys[layer]!, key.shape[0]);
            }

            return Length == 0 ? (key, value) : (cat([Spread(Keys(layer), key), key], 2), cat([Spread(Values(layer), value), value], 2));
        }

        int end = Held + (int)key.shape[2];
        Reserve(ref keys[layer], key, end);
        Reserve(ref values[layer], value, end);
        using (no_grad())
        {
            using Tensor k = keys[layer]!.narrow(2, Held, key.shape[2]), v = values[layer]!.narrow(2, Held, value.shape[2]);
            k.copy_(key);
            v.copy_(value);
        }

        return (keys[layer]!.narrow(2, 0, end), values[layer]!.narrow(2, 0, end));
    }

    /// <summary>Ends a pass over <paramref name="count"/> tokens.</summary>
    internal void Advance(int count, Tensor? joinedMask)
    {
        if (Frozen)
        {
            return;
        }

        Length += count;
        Replace(ref mask, joinedMask?.clone());
    }

    /// <summary>Makes room for one more token in a layer that holds some, for a step that writes into the memory itself.</summary>
    internal void Reserve(int layer, int end)
    {
        Reserve(ref keys[layer], keys[layer]!, end);
        Reserve(ref values[layer], values[layer]!, end);
    }

    /// <summary>Counts a token in each row that a step has written; none of them is padding.</summary>
    internal void Advance(int count)
    {
        using var scope = NewDisposeScope();
        Advance(count, mask is null ? null : cat([mask, ones([mask.shape[0], count], dtype: ScalarType.Int64)], 1));
    }

    void Reserve(ref Tensor? memory, Tensor like, int end)
    {
        if (memory is not null && memory.shape[2] >= end)
        {
            return;
        }

        while (Capacity < end)
        {
            Capacity *= 2;
        }

        Tensor larger = zeros([like.shape[0], like.shape[1], Capacity, like.shape[3]], dtype: like.dtype);
        if (memory is not null)
        {
            using Tensor from = memory.narrow(2, 0, Held), to = larger.narrow(2, 0, Held);
            to.copy_(from);
        }

        Replace(ref memory, larger);
    }

    Tensor Filled(Tensor? memory) => (memory ?? throw new InvalidOperationException("The cache is empty.")).narrow(2, 0, Held);

    static Tensor Spread(Tensor cached, Tensor like) => cached.shape[0] == like.shape[0] ? cached
        : cached.shape[0] == 1 ? cached.expand(like.shape[0], -1, -1, -1)
        : cached.unsqueeze(0).expand(like.shape[0] / cached.shape[0], -1, -1, -1, -1).flatten(0, 1);

    static void Replace(ref Tensor? slot, Tensor? with)
    {
        slot?.Dispose();
        slot = with?.DetachFromDisposeScope();
    }
}
