namespace Scalpel.Checkpoints.Gguf;

/// <summary>
/// Rounds float32 to the types in which a changed tensor can be written, byte for byte as the format's Python package
/// does: plain float32 arithmetic, the scale rounded to float16 after the quotients were made with the exact one.
/// </summary>
public static unsafe class Quantiser
{
    /// <summary>The types that can be written.</summary>
    public static IReadOnlyList<StorageType> Types { get; } =
        [StorageType.F32, StorageType.F16, StorageType.BF16, StorageType.Q8_0, StorageType.Q4_0, StorageType.Q4_1, StorageType.Q5_0, StorageType.Q5_1];

    /// <summary>Quantises whole blocks.</summary>
    /// <param name="type">One of <see cref="Types"/>.</param>
    /// <param name="values">Values, a multiple of the block's elements.</param>
    /// <param name="target">Exactly the bytes of these blocks.</param>
    /// <exception cref="BadInputException">The type cannot be written.</exception>
    public static void Quantise(StorageType type, ReadOnlySpan<float> values, Span<byte> target)
    {
        int elements = type.BlockElements(), bytes = type.BlockBytes();
        if (values.Length % elements != 0 || target.Length != values.Length / elements * bytes)
        {
            throw new ArgumentException($"{values.Length} values do not fill {target.Length} bytes of {type}.", nameof(target));
        }

        delegate*<float*, byte*, long, void> quantise = Of(type);
        fixed (float* x = values)
        fixed (byte* y = target)
        {
            quantise(x, y, values.Length / elements);
        }
    }

    /// <summary>Rounds a given number of whole blocks from the first address to the second.</summary>
    internal static delegate*<float*, byte*, long, void> Of(StorageType type) => type switch
    {
        StorageType.F32 => &F32,
        StorageType.F16 => &F16,
        StorageType.BF16 => &BF16,
        StorageType.Q8_0 => &Q8_0,
        StorageType.Q4_0 => &Q4_0,
        StorageType.Q4_1 => &Q4_1,
        StorageType.Q5_0 => &Q5_0,
        StorageType.Q5_1 => &Q5_1,
        _ => throw new BadInputException($"Tensors cannot be written as {type}; choose one of {string.Join(", ", Types)}."),
    };

    static void F32(float* x, byte* y, long count) => Buffer.MemoryCopy(x, y, 4 * count, 4 * count);

    static void F16(float* x, byte* y, long count)
    {
        for (long i = 0; i < count; i++)
        {
            ((Half*)y)[i] = (Half)x[i];
        }
    }

    static void BF16(float* x, byte* y, long count)
    {
        for (long i = 0; i < count; i++)
        {
            uint bits = BitConverter.SingleToUInt32Bits(x[i]);
            // To nearest, ties to even; a NaN stays one.
            ((ushort*)y)[i] = (ushort)(float.IsNaN(x[i]) ? (bits | 0x00400000) >> 16 : (bits + 0x7fff + (bits >> 16 & 1)) >> 16);
        }
    }

    static void Q8_0(float* x, byte* y, long blocks)
    {
        for (; blocks > 0; blocks--, x += 32, y += 34)
        {
            float d = MathF.Abs(x[FarthestFromZero(x)]) / 127, inverse = d == 0 ? 0 : 1 / d;
            *(Half*)y = (Half)d;
            for (int j = 0; j < 32; j++)
            {
                float q = MathF.Round(x[j] * inverse, MidpointRounding.AwayFromZero);
                y[2 + j] = float.IsFinite(q) ? (byte)(sbyte)q : (byte)0;
            }
        }
    }

    static void Q4_0(float* x, byte* y, long blocks)
    {
        for (; blocks > 0; blocks--, x += 32, y += 18)
        {
            float inverse = Scale(x, -8, (Half*)y);
            for (int j = 0; j < 16; j++)
            {
                y[2 + j] = (byte)(Level(x[j] * inverse + 8.5f, 15) | Level(x[j + 16] * inverse + 8.5f, 15) << 4);
            }
        }
    }

    static void Q5_0(float* x, byte* y, long blocks)
    {
        for (; blocks > 0; blocks--, x += 32, y += 22)
        {
            float inverse = Scale(x, -16, (Half*)y);
            uint high = 0;
            for (int j = 0; j < 16; j++)
            {
                int a = Level(x[j] * inverse + 16.5f, 31), b = Level(x[j + 16] * inverse + 16.5f, 31);
                y[6 + j] = (byte)((a & 15) | (b & 15) << 4);
                high |= (uint)(a >> 4) << j | (uint)(b >> 4) << (j + 16);
            }

            *(uint*)(y + 2) = high;
        }
    }

    static void Q4_1(float* x, byte* y, long blocks)
    {
        for (; blocks > 0; blocks--, x += 32, y += 20)
        {
            float inverse = ScaleAndMinimum(x, 15, (Half*)y, out float minimum);
            for (int j = 0; j < 16; j++)
            {
                y[4 + j] = (byte)(Level((x[j] - minimum) * inverse + 0.5f, 15) | Level((x[j + 16] - minimum) * inverse + 0.5f, 15) << 4);
            }
        }
    }

    static void Q5_1(float* x, byte* y, long blocks)
    {
        for (; blocks > 0; blocks--, x += 32, y += 24)
        {
            float inverse = ScaleAndMinimum(x, 31, (Half*)y, out float minimum);
            uint high = 0;
            for (int j = 0; j < 16; j++)
            {
                int a = Level((x[j] - minimum) * inverse + 0.5f, 31), b = Level((x[j + 16] - minimum) * inverse + 0.5f, 31);
                y[8 + j] = (byte)((a & 15) | (b & 15) << 4);
                high |= (uint)(a >> 4) << j | (uint)(b >> 4) << (j + 16);
            }

            *(uint*)(y + 4) = high;
        }
    }

    // The value farthest from zero falls on the lowest level, whatever its sign.
    static float Scale(float* x, int lowest, Half* scale)
    {
        float d = x[FarthestFromZero(x)] / lowest;
        *scale = (Half)d;
        return d == 0 ? 0 : 1 / d;
    }

    static float ScaleAndMinimum(float* x, int levels, Half* scale, out float minimum)
    {
        float maximum = minimum = x[0];
        for (int j = 1; j < 32; j++)
        {
            maximum = MathF.Max(maximum, x[j]);
            minimum = MathF.Min(minimum, x[j]);
        }

        float d = (maximum - minimum) / levels;
        scale[0] = (Half)d;
        scale[1] = (Half)minimum;
        return d == 0 ? 0 : 1 / d;
    }

    static int FarthestFromZero(float* x)
    {
        int farthest = 0;
        for (int j = 1; j < 32; j++)
        {
            if (MathF.Abs(x[j]) > MathF.Abs(x[farthest]))
            {
                farthest = j;
            }
        }

        return farthest;
    }

    // A subnormal scale has an infinite inverse; what it makes of the values counts as 0.
    static int Level(float value, int highest) => float.IsFinite(value) ? Math.Min((int)value, highest) : 0;
}
