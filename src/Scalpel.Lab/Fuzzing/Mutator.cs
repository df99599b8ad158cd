using System.Buffers.Binary;

namespace Scalpel.Lab.Fuzzing;

/// <summary>
/// Makes damaged variants of a file: flipped bits, hostile integers, cut, doubled, moved and spliced ranges. The same
/// seed gives the same variants, so a finding is reproduced from its number alone.
/// </summary>
public sealed class Mutator
{
    static readonly ulong[] HostileIntegers =
    [
        0, 1, 7, 8, 0x7f, 0x80, 0xff, 0x7fff, 0x8000, 0xffff, 0x7fffffff, 0x80000000, 0xffffffff, 0x100000000,
        0x7fffffffffffffff, 0x8000000000000000, 0xffffffffffffffff, 100_000_000, 100_000_001, 1UL << 40, 1UL << 62,
    ];

    static readonly string[] HostileText =
    [
        "-1", "1e400", "18446744073709551616", "9223372036854775807", "null", "true", "{}", "[]", "[[[[[[[[", "{\"a\":{\"a\":{\"a\":{",
        "\"\\u0000\"", "\"\\ud800\"", "../", "\"", ",", ":", "NaN", "0", "99999999", "\0", "\ufeff", "((((a+)+)+)+)+$", "&a [*a, *a]", "!!str",
    ];

    readonly byte[][] corpus;
    readonly bool text;
    ulong state;

    /// <summary>A mutator over whole sample files.</summary>
    /// <param name="corpus">Valid samples; at least one.</param>
    /// <param name="seed">Seed of all choices.</param>
    /// <param name="text">Whether hostile words as well as hostile integers are put in.</param>
    public Mutator(IReadOnlyList<byte[]> corpus, ulong seed, bool text)
    {
        this.corpus = [.. corpus];
        this.text = text;
        state = seed;
    }

    /// <summary>The next variant: one sample with one to four damages.</summary>
    public byte[] Next()
    {
        byte[] data = (byte[])corpus[Below(corpus.Length)].Clone();
        for (int damages = 1 + Below(4); damages > 0; damages--)
        {
            data = Damage(data);
        }

        return data;
    }

    byte[] Damage(byte[] data)
    {
        if (data.Length == 0)
        {
            return [(byte)Below(256)];
        }

        // Headers are where the structure is: half of all damages land in the first 256 bytes.
        int at = Below(Below(2) == 0 ? Math.Min(data.Length, 256) : data.Length);
        int length = Math.Min(1 + Below(16), data.Length - at);
        switch (Below(text ? 9 : 7))
        {
            case 0:
                data[at] ^= (byte)(1 << Below(8));
                return data;
            case 1:
                data[at] = (byte)Below(256);
                return data;
            case 2:
                Span<byte> integer = stackalloc byte[8];
                BinaryPrimitives.WriteUInt64LittleEndian(integer, HostileIntegers[Below(HostileIntegers.Length)]);
                int width = Math.Min(1 << Below(4), data.Length - at);
                integer[..width].CopyTo(data.AsSpan(at));
                return data;
            case 3:
                return data[..at];
            case 4:
                return [.. data.AsSpan(0, at), .. data.AsSpan(at + length)];
            case 5:
                return [.. data.AsSpan(0, at + length), .. data.AsSpan(at, length), .. data.AsSpan(at + length)];
            case 6:
                byte[] other = corpus[Below(corpus.Length)];
                int from = Below(other.Length + 1);
                return [.. data.AsSpan(0, at), .. other.AsSpan(from, Math.Min(64, other.Length - from)), .. data.AsSpan(at + length)];
            case 7:
                return [.. data.AsSpan(0, at), .. Word(), .. data.AsSpan(at)];
            default:
                return [.. data.AsSpan(0, at), .. Word(), .. data.AsSpan(at + length)];
        }
    }

    byte[] Word() => System.Text.Encoding.UTF8.GetBytes(HostileText[Below(HostileText.Length)]);

    // SplitMix64: a stated generator, so that a seed means the same variants on every runtime.
    int Below(int limit)
    {
        ulong z = state += 0x9e3779b97f4a7c15;
        z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
        z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
        return (int)((z ^ (z >> 31)) % (ulong)limit);
    }
}
