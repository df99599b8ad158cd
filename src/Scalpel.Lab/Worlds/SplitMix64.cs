namespace Scalpel.Lab.Worlds;

/// <summary>
/// The generator of the worlds: SplitMix64. The same numbers on every machine; every item of a world draws from its own,
/// so that no item depends on the order or the number of others.
/// </summary>
/// <param name="seed">State before the first draw.</param>
public sealed class SplitMix64(ulong seed)
{
    const ulong Step = 0x9E3779B97F4A7C15;
    ulong state = seed;

    /// <summary>The generator of item <paramref name="item"/> of a named stream of a world.</summary>
    /// <param name="seed">Seed of the world.</param>
    /// <param name="stream">Name of the stream: world, module and split.</param>
    /// <param name="item">Number of the item.</param>
    public static SplitMix64 Of(ulong seed, string stream, long item) => new(Mix(seed ^ Mix(unchecked(Hash(stream) + (ulong)item))));

    /// <summary>The mixing function: the first draw of a generator with this state.</summary>
    public static ulong Mix(ulong z)
    {
        unchecked
        {
            z += Step;
            z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9;
            z = (z ^ (z >> 27)) * 0x94D049BB133111EB;
            return z ^ (z >> 31);
        }
    }

    /// <summary>64 random bits.</summary>
    public ulong Next()
    {
        ulong value = Mix(state);
        state = unchecked(state + Step);
        return value;
    }

    /// <summary>Uniform in [0, 1), a multiple of 2⁻⁵³.</summary>
    public double Unit() => (Next() >> 11) * (1.0 / (1UL << 53));

    /// <summary>Uniform in 0 … count − 1.</summary>
    public int Below(int count) => (int)(Unit() * count);

    /// <summary>Uniform in low … high, both included.</summary>
    public int Between(int low, int high) => low + Below(high - low + 1);

    /// <summary>True with the given probability.</summary>
    public bool Chance(double probability) => Unit() < probability;

    /// <summary>One of the items, uniformly.</summary>
    public T Pick<T>(IReadOnlyList<T> items) => items[Below(items.Count)];

    /// <summary>Some of the items, all different, in random order.</summary>
    public T[] Pick<T>(IReadOnlyList<T> items, int count)
    {
        T[] all = [.. items];
        for (int i = 0; i < count; i++)
        {
            int j = i + Below(all.Length - i);
            (all[i], all[j]) = (all[j], all[i]);
        }

        return all[..count];
    }

    /// <summary>0 … count − 1 in random order.</summary>
    public int[] Permutation(int count) => Pick([.. Enumerable.Range(0, count)], count);

    // FNV-1a over the UTF-16 code units.
    static ulong Hash(string text)
    {
        ulong hash = 0xCBF29CE484222325;
        foreach (char unit in text)
        {
            hash = unchecked((hash ^ unit) * 0x100000001B3);
        }

        return hash;
    }
}
