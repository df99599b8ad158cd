namespace Scalpel.Checkpoints;

/// <summary>How the elements of a stored tensor are encoded: the types of safetensors and the block types of GGUF.</summary>
public enum StorageType
{
#pragma warning disable CS1591 // The names are the formats' own.
    F64, F32, F16, BF16, I64, I32, I16, I8, U64, U32, U16, U8, Bool, F8E4M3, F8E5M2,
    Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K, Q3_K, Q4_K, Q5_K, Q6_K,
    IQ1_S, IQ1_M, IQ2_XXS, IQ2_XS, IQ2_S, IQ3_XXS, IQ3_S, IQ4_NL, IQ4_XS, TQ1_0, TQ2_0, MXFP4, NVFP4,
#pragma warning restore CS1591
}

/// <summary>Sizes of the storage types.</summary>
public static class StorageTypes
{
    /// <summary>Elements in one block; 1 for plain types.</summary>
    public static int BlockElements(this StorageType type) => type switch
    {
        < StorageType.Q4_0 => 1,
        StorageType.Q4_0 or StorageType.Q4_1 or StorageType.Q5_0 or StorageType.Q5_1 or StorageType.Q8_0
            or StorageType.IQ4_NL or StorageType.MXFP4 => 32,
        StorageType.NVFP4 => 64,
        _ => 256,
    };

    /// <summary>Bytes of one block.</summary>
    public static int BlockBytes(this StorageType type) => type switch
    {
        StorageType.F64 or StorageType.I64 or StorageType.U64 => 8,
        StorageType.F32 or StorageType.I32 or StorageType.U32 => 4,
        StorageType.F16 or StorageType.BF16 or StorageType.I16 or StorageType.U16 => 2,
        StorageType.I8 or StorageType.U8 or StorageType.Bool or StorageType.F8E4M3 or StorageType.F8E5M2 => 1,
        StorageType.Q4_0 or StorageType.IQ4_NL => 18,
        StorageType.Q4_1 => 20,
        StorageType.Q5_0 => 22,
        StorageType.Q5_1 => 24,
        StorageType.Q8_0 => 34,
        StorageType.Q2_K => 84,
        StorageType.Q3_K => 110,
        StorageType.Q4_K => 144,
        StorageType.Q5_K => 176,
        StorageType.Q6_K => 210,
        StorageType.IQ1_S => 50,
        StorageType.IQ1_M => 56,
        StorageType.IQ2_XXS => 66,
        StorageType.IQ2_XS => 74,
        StorageType.IQ2_S => 82,
        StorageType.IQ3_XXS => 98,
        StorageType.IQ3_S => 110,
        StorageType.IQ4_XS => 136,
        StorageType.TQ1_0 => 54,
        StorageType.TQ2_0 => 66,
        StorageType.MXFP4 => 17,
        StorageType.NVFP4 => 36,
        _ => throw new ArgumentOutOfRangeException(nameof(type)),
    };

    /// <summary>Whether elements share a scale, so that a change of one changes its neighbours.</summary>
    public static bool IsQuantised(this StorageType type) => type >= StorageType.Q4_0;

    /// <summary>Bytes of a tensor of this type and shape.</summary>
    /// <exception cref="OverflowException">The product of the shape overflows, or the last axis is no multiple of the block.</exception>
    public static long ByteLength(this StorageType type, IReadOnlyList<long> shape)
    {
        long elements = 1;
        foreach (long size in shape)
        {
            elements = checked(elements * size);
        }

        int block = type.BlockElements();
        if (block > 1 && (shape.Count == 0 || shape[^1] % block != 0))
        {
            throw new OverflowException($"rows of {(shape.Count == 0 ? 0 : shape[^1])} are no multiple of the block of {block}");
        }

        return checked(elements / block * type.BlockBytes());
    }
}
