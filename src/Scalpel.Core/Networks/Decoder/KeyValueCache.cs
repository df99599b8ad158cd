using TorchSharp;
using static TorchSharp.torch;

namespace Scalpel.Networks;

/// <summary>
/// Keys (after rotary) and values of the tokens read so far, per layer [batch, K, tokens, e], in memory that grows by
/// doubling and is written in place.
/// </summary>
public sealed class KeyValueCache : IDisposable
{
    readonly Tensor?[] keys, values;
    Tensor? mask;

    /// <summary>An empty cache.</summary>
    /// <param name="layers">Number of layers of the network.</param>
    /// <param name="capacity">Tokens to make room for at once; it grows when they are exceeded. Default 64.</param>
    public KeyValueCache(int layers, int capacity = 64)
    {
        keys = new Tensor?[layers];
        values = new Tensor?[layers];
        Capacity = Math.Max(1, capacity);
    }

    /// <summary>Tokens read so far, padding included.</summary>
    public int Length { get; private set; }

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

    /// <summary>The cached keys of a layer, [batch, K, Length, e], a view that is valid until the next pass.</summary>
    public Tensor Keys(int layer) => Filled(keys[layer]);

    /// <summary>The cached values of a layer, [batch, K, Length, e], a view that is valid until the next pass.</summary>
    public Tensor Values(int layer) => Filled(values[layer]);

    /// <summary>The whole memory of a layer's keys and values, [batch, K, Capacity, e]; null before the first pass.</summary>
    internal (Tensor? Keys, Tensor? Values) Memory(int layer) => (keys[layer], values[layer]);

    /// <summary>Forgets all tokens from the given one on.</summary>
    public void Truncate(int length)
    {
        ArgumentOutOfRangeException.ThrowIfNegative(length);
        ArgumentOutOfRangeException.ThrowIfGreaterThan(length, Length);
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
        var copy = new KeyValueCache(keys.Length, Capacity) { Length = Length, Frozen = Frozen };
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

    /// <summary>Adds a pass's keys and values [batch, K, T, e] and gives back all that the pass may attend to.</summary>
    internal (Tensor Keys, Tensor Values) Append(int layer, Tensor key, Tensor value)
    {
        if (Frozen)
        {
            return Length == 0 ? (key, value) : (cat([Spread(Keys(layer), key), key], 2), cat([Spread(Values(layer), value), value], 2));
        }

        int end = Length + (int)key.shape[2];
        Reserve(ref keys[layer], key, end);
        Reserve(ref values[layer], value, end);
        using (no_grad())
        {
            using Tensor k = keys[layer]!.narrow(2, Length, key.shape[2]), v = values[layer]!.narrow(2, Length, value.shape[2]);
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
            using Tensor from = memory.narrow(2, 0, Length), to = larger.narrow(2, 0, Length);
            to.copy_(from);
        }

        Replace(ref memory, larger);
    }

    Tensor Filled(Tensor? memory) => (memory ?? throw new InvalidOperationException("The cache is empty.")).narrow(2, 0, Length);

    static Tensor Spread(Tensor cached, Tensor like) => cached.shape[0] == like.shape[0] ? cached
        : cached.shape[0] == 1 ? cached.expand(like.shape[0], -1, -1, -1)
        : cached.unsqueeze(0).expand(like.shape[0] / cached.shape[0], -1, -1, -1, -1).flatten(0, 1);

    static void Replace(ref Tensor? slot, Tensor? with)
    {
        slot?.Dispose();
        slot = with?.DetachFromDisposeScope();
    }
}
