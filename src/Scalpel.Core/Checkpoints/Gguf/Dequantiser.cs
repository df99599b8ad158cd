using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using static TorchSharp.torch;

namespace Scalpel.Checkpoints.Gguf;

/// <summary>Expands the blocks of GGUF to float32. Formulas: ggml's block structures; d and m are float16.</summary>
/// <remarks>Compiled at full optimisation at once: a model is loaded within the few calls that tiering would spend on slow code.</remarks>
public static unsafe partial class Dequantiser
{
    /// <summary>Expands whole blocks.</summary>
    /// <param name="type">A block type.</param>
    /// <param name="blocks">Bytes of the blocks, contiguous.</param>
    /// <param name="target">Contiguous float32 of as many elements as the blocks have.</param>
    public static void Expand(StorageType type, Tensor blocks, Tensor target)
    {
        long count = target.numel() / type.BlockElements();
        if (target.dtype != ScalarType.Float32 || count * type.BlockElements() != target.numel() || blocks.numel() * blocks.element_size() != count * type.BlockBytes())
        {
            throw new ArgumentException($"{blocks.numel() * blocks.element_size()} bytes of {type} do not expand to {target.numel()} elements.", nameof(target));
        }

        Expand(type, StoredTensor.Pointer(blocks), (float*)StoredTensor.Pointer(target), count);
    }

    internal static void Expand(StorageType type, byte* source, float* target, long count)
    {
        int elements = type.BlockElements(), bytes = type.BlockBytes();
        delegate*<byte*, float*, long, void> expand = Of(type);
        StoredTensor.InChunks(count, (at, part) => expand(source + at * bytes, target + at * elements, part), elements);
    }

    /// <summary>The method that expands a given number of whole blocks.</summary>
    internal static delegate*<byte*, float*, long, void> Of(StorageType type) => type switch
    {
        StorageType.Q4_0 => &Q4_0,
        StorageType.Q4_1 => &Q4_1,
        StorageType.Q5_0 => &Q5_0,
        StorageType.Q5_1 => &Q5_1,
        StorageType.Q8_0 => &Q8_0,
        StorageType.Q2_K => &Q2_K,
        StorageType.Q3_K => &Q3_K,
        StorageType.Q4_K => &Q4_K,
        StorageType.Q5_K => &Q5_K,
        StorageType.Q6_K => &Q6_K,
        StorageType.IQ1_S => &IQ1_S,
        StorageType.IQ1_M => &IQ1_M,
        StorageType.IQ2_XXS => &IQ2_XXS,
        StorageType.IQ2_XS => &IQ2_XS,
        StorageType.IQ2_S => &IQ2_S,
        StorageType.IQ3_XXS => &IQ3_XXS,
        StorageType.IQ3_S => &IQ3_S,
        StorageType.IQ4_NL => &IQ4_NL,
        StorageType.IQ4_XS => &IQ4_XS,
        StorageType.TQ1_0 => &TQ1_0,
        StorageType.TQ2_0 => &TQ2_0,
        StorageType.MXFP4 => &MXFP4,
        StorageType.NVFP4 => &NVFP4,
        _ => throw new ArgumentOutOfRangeException(nameof(type)),
    };

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    static float Half(byte* at) => (float)*(Half*)at;

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    static void Q4_0(byte* x, float* y, long blocks)
    {
        for (; blocks > 0; blocks--, x += 18, y += 32)
        {
            float d = Half(x);
            for (int j = 0; j < 16; j++)
            {
                y[j] = d * ((x[2 + j] & 15) - 8);
                y[j + 16] = d * ((x[2 + j] >> 4) - 8);
            }
        }
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    static void Q4_1(byte* x, float* y, long blocks)
    {
        for (; blocks > 0; blocks--, x += 20, y += 32)
        {
            Vector512<float> d = Vector512.Create(Half(x)), m = Vector512.Create(Half(x + 2));
            Vector128<byte> q = Vector128.Load(x + 4);
            // Product and sum are rounded separately, as the format's reference does.
            Vector512.Add(Vector512.Multiply(d, Widen(q & Vector128.Create((byte)15))), m).Store(y);
            Vector512.Add(Vector512.Multiply(d, Widen(q >>> 4)), m).Store(y + 16);
        }
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    static Vector512<float> Widen(Vector128<byte> q)
    {
        (Vector128<ushort> low, Vector128<ushort> high) = Vector128.Widen(q);
        (Vector128<uint> a, Vector128<uint> b) = Vector128.Widen(low);
        (Vector128<uint> c, Vector128<uint> d) = Vector128.Widen(high);
        return Vector512.ConvertToSingle(Vector512.Create(Vector256.Create(a, b), Vector256.Create(c, d)).AsInt32());
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    static void Q5_0(byte* x, float* y, long blocks)
    {
        for (; blocks > 0; blocks--, x += 22, y += 32)
        {
            float d = Half(x);
            uint high = *(uint*)(x + 2);
            for (int j = 0; j < 16; j++)
            {
                y[j] = d * (((x[6 + j] & 15) | (int)(high >> j & 1) << 4) - 16);
                y[j + 16] = d * (((x[6 + j] >> 4) | (int)(high >> (j + 16) & 1) << 4) - 16);
            }
        }
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    static void Q5_1(byte* x, float* y, long blocks)
    {
        for (; blocks > 0; blocks--, x += 24, y += 32)
        {
            float d = Half(x), m = Half(x + 2);
            uint high = *(uint*)(x + 4);
            for (int j = 0; j < 16; j++)
            {
                y[j] = d * ((x[8 + j] & 15) | (int)(high >> j & 1) << 4) + m;
                y[j + 16] = d * ((x[8 + j] >> 4) | (int)(high >> (j + 16) & 1) << 4) + m;
            }
        }
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    static void Q8_0(byte* x, float* y, long blocks)
    {
        for (; blocks > 0; blocks--, x += 34, y += 32)
        {
            float d = Half(x);
            var q = (sbyte*)(x + 2);
            for (int j = 0; j < 32; j++)
            {
                y[j] = d * q[j];
            }
        }
    }

    // scales[16] (4-bit scale, 4-bit minimum), qs[64] of 2 bits, d, dmin.
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    static void Q2_K(byte* x, float* y, long blocks)
    {
        for (; blocks > 0; blocks--, x += 84)
        {
            float d = Half(x + 80), min = Half(x + 82);
            byte* scale = x, q = x + 16;
            for (int half = 0; half < 2; half++, q += 32)
            {
                for (int shift = 0; shift < 8; shift += 2)
                {
                    for (int part = 0; part < 2; part++, scale++)
                    {
                        float dl = d * (*scale & 15), ml = min * (*scale >> 4);
                        for (int l = 0; l < 16; l++)
                        {
                            *y++ = dl * (q[l + 16 * part] >> shift & 3) - ml;
                        }
                    }
                }
            }
        }
    }

    // hmask[32], qs[64] of 2 bits, scales[12] of 6 bits, d.
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    static void Q3_K(byte* x, float* y, long blocks)
    {
        byte* scales = stackalloc byte[16];
        for (; blocks > 0; blocks--, x += 110)
        {
            float d = Half(x + 108);
            byte* mask = x, q = x + 32, packed = x + 96;
            for (int i = 0; i < 16; i++)
            {
                int low = i < 8 ? packed[i] & 15 : packed[i - 8] >> 4, high = packed[8 + i % 4] >> (2 * (i / 4)) & 3;
                scales[i] = (byte)(low | high << 4);
            }

            int bit = 0, s = 0;
            for (int half = 0; half < 2; half++, q += 32)
            {
                for (int shift = 0; shift < 8; shift += 2, bit++)
                {
                    for (int part = 0; part < 2; part++, s++)
                    {
                        float dl = d * (scales[s] - 32);
                        for (int l = 16 * part; l < 16 * part + 16; l++)
                        {
                            *y++ = dl * ((q[l] >> shift & 3) - ((mask[l] >> bit & 1) != 0 ? 0 : 4));
                        }
                    }
                }
            }
        }
    }

    internal static (int Scale, int Minimum) ScaleAndMinimum(byte* s, int j) => j < 4
        ? (s[j] & 63, s[j + 4] & 63)
        : ((s[j + 4] & 15) | (s[j - 4] >> 6) << 4, (s[j + 4] >> 4) | (s[j] >> 6) << 4);

    // d, dmin, scales[12], qs[128] of 4 bits.
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    static void Q4_K(byte* x, float* y, long blocks)
    {
        for (; blocks > 0; blocks--, x += 144, y += 256)
        {
            float d = Half(x), min = Half(x + 2);
            for (int c = 0; c < 8; c++)
            {
                (int scale, int minimum) = ScaleAndMinimum(x + 4, c);
                float dl = d * scale, ml = min * minimum;
                byte* q = x + 16 + 32 * (c / 2);
                int shift = c % 2 * 4;
                for (int l = 0; l < 32; l++)
                {
                    y[32 * c + l] = dl * (q[l] >> shift & 15) - ml;
                }
            }
        }
    }

    // d, dmin, scales[12], qh[32] of 1 bit, qs[128] of 4 bits.
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    static void Q5_K(byte* x, float* y, long blocks)
    {
        for (; blocks > 0; blocks--, x += 176, y += 256)
        {
            float d = Half(x), min = Half(x + 2);
            for (int c = 0; c < 8; c++)
            {
                (int scale, int minimum) = ScaleAndMinimum(x + 4, c);
                float dl = d * scale, ml = min * minimum;
                byte* q = x + 48 + 32 * (c / 2), high = x + 16;
                int shift = c % 2 * 4;
                for (int l = 0; l < 32; l++)
                {
                    y[32 * c + l] = dl * ((q[l] >> shift & 15) + (high[l] >> c & 1) * 16) - ml;
                }
            }
        }
    }

    // ql[128] of 4 bits, qh[64] of 2 bits, scales[16], d.
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    static void Q6_K(byte* x, float* y, long blocks)
    {
        for (; blocks > 0; blocks--, x += 210, y += 256)
        {
            float d = Half(x + 208);
            var scales = (sbyte*)(x + 192);
            for (int n = 0; n < 2; n++)
            {
                byte* low = x + 64 * n, high = x + 128 + 32 * n;
                sbyte* s = scales + 8 * n;
                float* to = y + 128 * n;
                for (int l = 0; l < 32; l++)
                {
                    int u = l / 16;
                    to[l] = d * s[u] * (((low[l] & 15) | (high[l] & 3) << 4) - 32);
                    to[l + 32] = d * s[u + 2] * (((low[l + 32] & 15) | (high[l] >> 2 & 3) << 4) - 32);
                    to[l + 64] = d * s[u + 4] * (((low[l] >> 4) | (high[l] >> 4 & 3) << 4) - 32);
                    to[l + 96] = d * s[u + 6] * (((low[l + 32] >> 4) | (high[l] >> 6 & 3) << 4) - 32);
                }
            }
        }
    }
}
