using System.Numerics;
using System.Runtime.CompilerServices;

namespace Scalpel.Checkpoints.Gguf;

/// <summary>The types whose bits are indices into a codebook, and the ternary and 4-bit floating ones.</summary>
static unsafe partial class Dequantiser
{
    const float IQ1Delta = 0.125f;

    // d, then for each 32 values four indices and a word: 4 × 7 sign bits, 4 bits of scale.
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    static void IQ2_XXS(byte* x, float* y, long blocks)
    {
        fixed (sbyte* grid = Codebooks.Two256)
        {
            for (; blocks > 0; blocks--, x += 66)
            {
                float d = Half(x);
                for (int group = 0; group < 8; group++)
                {
                    byte* indices = x + 2 + 8 * group;
                    uint word = *(uint*)(indices + 4);
                    float scale = d * (0.5f + (word >> 28)) * 0.25f;
                    for (int k = 0; k < 4; k++, y += 8)
                    {
                        Signed(grid + 8 * indices[k], 8, scale, Signs(word >> (7 * k)), y);
                    }
                }
            }
        }
    }

    // d, 32 words of 9 index and 7 sign bits, scales[8] of 4 bits for 16 values each.
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    static void IQ2_XS(byte* x, float* y, long blocks)
    {
        fixed (sbyte* grid = Codebooks.Two512)
        {
            for (; blocks > 0; blocks--, x += 74)
            {
                float d = Half(x);
                for (int k = 0; k < 32; k++, y += 8)
                {
                    uint word = *(ushort*)(x + 2 + 2 * k);
                    Signed(grid + 8 * (word & 511), 8, d * (0.5f + Nibble(x + 66, k / 2)) * 0.25f, Signs(word >> 9), y);
                }
            }
        }
    }

    // d, qs[32], signs[32], qh[8] of 2 bits, scales[8] of 4 bits for 16 values each.
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    static void IQ2_S(byte* x, float* y, long blocks)
    {
        fixed (sbyte* grid = Codebooks.Two1024)
        {
            for (; blocks > 0; blocks--, x += 82)
            {
                float d = Half(x);
                for (int k = 0; k < 32; k++, y += 8)
                {
                    int index = x[2 + k] | (x[66 + k / 4] >> (2 * (k % 4)) & 3) << 8;
                    Signed(grid + 8 * index, 8, d * (0.5f + Nibble(x + 74, k / 2)) * 0.25f, x[34 + k], y);
                }
            }
        }
    }

    // d, qs[64], then for each 32 values a word: 4 × 7 sign bits, 4 bits of scale.
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    static void IQ3_XXS(byte* x, float* y, long blocks)
    {
        fixed (sbyte* grid = Codebooks.Three256)
        {
            for (; blocks > 0; blocks--, x += 98)
            {
                float d = Half(x);
                for (int k = 0; k < 64; k++, y += 4)
                {
                    uint word = *(uint*)(x + 66 + 4 * (k / 8));
                    int signs = Signs(word >> (7 * (k / 2 % 4))) >> (4 * (k % 2));
                    Signed(grid + 4 * x[2 + k], 4, d * (0.5f + (word >> 28)) * 0.5f, signs, y);
                }
            }
        }
    }

    // d, qs[64], qh[8] of 1 bit, signs[32], scales[4] of 4 bits for 32 values each.
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    static void IQ3_S(byte* x, float* y, long blocks)
    {
        fixed (sbyte* grid = Codebooks.Three512)
        {
            for (; blocks > 0; blocks--, x += 110)
            {
                float d = Half(x);
                for (int k = 0; k < 64; k++, y += 4)
                {
                    int index = x[2 + k] | (x[66 + k / 8] >> (k % 8) & 1) << 8;
                    Signed(grid + 4 * index, 4, d * (1 + 2 * Nibble(x + 106, k / 8)), x[74 + k / 2] >> (4 * (k % 2)), y);
                }
            }
        }
    }

    // d, qs[32], then for each 32 values a word: 4 × 3 index bits, 3 bits of scale, the sign of the shift.
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    static void IQ1_S(byte* x, float* y, long blocks)
    {
        fixed (sbyte* grid = Codebooks.One2048)
        {
            for (; blocks > 0; blocks--, x += 50)
            {
                float d = Half(x);
                for (int k = 0; k < 32; k++, y += 8)
                {
                    int word = *(ushort*)(x + 34 + 2 * (k / 4));
                    int index = x[2 + k] | (word >> (3 * (k % 4)) & 7) << 8;
                    Shifted(grid + 8 * index, d * (2 * (word >> 12 & 7) + 1), (word & 0x8000) != 0, y);
                }
            }
        }
    }

    // qs[32], qh[16] of 3 index bits and the sign of the shift, four words: 4 × 3 bits of scale, 4 bits of d.
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    static void IQ1_M(byte* x, float* y, long blocks)
    {
        fixed (sbyte* grid = Codebooks.One2048)
        {
            for (; blocks > 0; blocks--, x += 56)
            {
                var words = (ushort*)(x + 48);
                ushort bits = (ushort)(words[0] >> 12 | (words[1] >> 8 & 0xf0) | (words[2] >> 4 & 0xf00) | (words[3] & 0xf000));
                float d = (float)BitConverter.UInt16BitsToHalf(bits);
                for (int k = 0; k < 32; k++, y += 8)
                {
                    int high = Nibble(x + 32, k), group = k / 2;
                    Shifted(grid + 8 * (x[k] | (high & 7) << 8), d * (2 * (words[group / 4] >> (3 * (group % 4)) & 7) + 1), (high & 8) != 0, y);
                }
            }
        }
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    static void IQ4_NL(byte* x, float* y, long blocks)
    {
        for (; blocks > 0; blocks--, x += 18, y += 32)
        {
            Looked(Codebooks.FourBits, x + 2, 16, Half(x), y);
        }
    }

    // d, 8 × 2 high bits of scale, 8 × 4 low bits of scale, qs[128].
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    static void IQ4_XS(byte* x, float* y, long blocks)
    {
        for (; blocks > 0; blocks--, x += 136)
        {
            float d = Half(x);
            int high = *(ushort*)(x + 2);
            for (int group = 0; group < 8; group++, y += 32)
            {
                int scale = (Nibble(x + 4, group) | (high >> (2 * group) & 3) << 4) - 32;
                Looked(Codebooks.FourBits, x + 8 + 16 * group, 16, d * scale, y);
            }
        }
    }

    // Five digits to base 3 in a byte, as a fraction of 256: 32 and 16 bytes of five, 4 of four digits; d.
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    static void TQ1_0(byte* x, float* y, long blocks)
    {
        for (; blocks > 0; blocks--, x += 54)
        {
            float d = Half(x + 52);
            y = Digits(x, 32, 5, d, y);
            y = Digits(x + 32, 16, 5, d, y);
            y = Digits(x + 48, 4, 4, d, y);
        }
    }

    static float* Digits(byte* q, int bytes, int digits, float d, float* y)
    {
        int power = 1;
        for (int digit = 0; digit < digits; digit++, power *= 3)
        {
            for (int j = 0; j < bytes; j++)
            {
                *y++ = d * (((byte)(q[j] * power) * 3 >> 8) - 1);
            }
        }

        return y;
    }

    // qs[64] of 2 bits, d.
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    static void TQ2_0(byte* x, float* y, long blocks)
    {
        for (; blocks > 0; blocks--, x += 66)
        {
            float d = Half(x + 64);
            for (int half = 0; half < 64; half += 32)
            {
                for (int shift = 0; shift < 8; shift += 2)
                {
                    for (int j = 0; j < 32; j++)
                    {
                        *y++ = d * ((x[half + j] >> shift & 3) - 1);
                    }
                }
            }
        }
    }

    // Exponent of a power of two (bias 127), qs[16].
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    static void MXFP4(byte* x, float* y, long blocks)
    {
        for (; blocks > 0; blocks--, x += 17, y += 32)
        {
            // Half of 2^(e − 127), because the codebook holds doubled values; below e = 2 that is subnormal.
            uint bits = *x < 2 ? 0x00200000u << *x : (uint)(*x - 1) << 23;
            Looked(Codebooks.FourBitFloats, x + 1, 16, BitConverter.UInt32BitsToSingle(bits), y);
        }
    }

    // Four scales (8-bit floats without sign: 4 bits of exponent, 3 of mantissa), qs[32].
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    static void NVFP4(byte* x, float* y, long blocks)
    {
        for (; blocks > 0; blocks--, x += 36)
        {
            for (int group = 0; group < 4; group++, y += 16)
            {
                int exponent = x[group] >> 3 & 15, mantissa = x[group] & 7;
                float d = x[group] == 0x7f ? 0
                    : exponent == 0 ? MathF.ScaleB(mantissa, -10)
                    : MathF.ScaleB(8 + mantissa, exponent - 11);
                Looked(Codebooks.FourBitFloats, x + 4 + 8 * group, 8, d, y);
            }
        }
    }

    // Seven stored signs; the eighth makes their number even.
    static int Signs(uint bits) => (int)(bits & 127) | (BitOperations.PopCount(bits & 127) & 1) << 7;

    static int Nibble(byte* at, int index) => at[index / 2] >> (4 * (index % 2)) & 15;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    static void Signed(sbyte* values, int count, float scale, int signs, float* y)
    {
        for (int j = 0; j < count; j++)
        {
            float value = scale * values[j];
            y[j] = (signs >> j & 1) != 0 ? -value : value;
        }
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    static void Shifted(sbyte* values, float scale, bool down, float* y)
    {
        float shift = down ? -IQ1Delta : IQ1Delta;
        for (int j = 0; j < 8; j++)
        {
            y[j] = scale * (values[j] + shift);
        }
    }

    // Low halves of the bytes first, then the high ones.
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    static void Looked(ReadOnlySpan<sbyte> values, byte* q, int bytes, float scale, float* y)
    {
        for (int j = 0; j < bytes; j++)
        {
            y[j] = scale * values[q[j] & 15];
            y[j + bytes] = scale * values[q[j] >> 4];
        }
    }
}
