using System.Buffers;
using System.Buffers.Binary;
using System.Security.Cryptography;
using Scalpel.Checkpoints;
using TorchSharp;
using static TorchSharp.torch;

namespace Scalpel.Patches;

/// <summary>
/// The bits of the base XOR the bits of the edited tensor: exact both ways, for every storage type, between equal types.
/// Stored either raw (<c>t.xor</c>, type and shape of the tensor) or packed (<c>t.xor.zst</c>, see <see cref="XorCoding"/>).
/// </summary>
public sealed record DenseXor : Delta
{
    readonly Lazy<long[]>? blocks;

    internal DenseXor(PatchTensor bits, bool packed, long length)
    {
        Bits = bits;
        IsPacked = packed;
        blocks = packed ? new Lazy<long[]>(() => XorCoding.Blocks(bits, length)) : null;
    }

    /// <summary>The XOR itself, or its packed form.</summary>
    public PatchTensor Bits { get; }

    /// <summary>Whether <see cref="Bits"/> is packed.</summary>
    public bool IsPacked { get; }

    /// <summary>SHA-256 of the edited tensor's bytes.</summary>
    public required string EditedHash { get; init; }

    /// <inheritdoc/>
    public override string Kind => "xor";

    /// <inheritdoc/>
    public override IReadOnlyDictionary<string, PatchTensor> Parts => new Dictionary<string, PatchTensor> { [IsPacked ? "xor.zst" : "xor"] = Bits };

    /// <summary>The change from one tensor to another of the same type and shape.</summary>
    /// <exception cref="BadInputException">Their types or shapes differ.</exception>
    public static DenseXor Between(Tensor before, Tensor after)
    {
        PatchTensor a = PatchTensor.Of(before), b = PatchTensor.Of(after);
        if (a.Type != b.Type || !a.Shape.SequenceEqual(b.Shape))
        {
            throw new BadInputException($"A XOR delta joins tensors of one type and shape, not {a.Type} {Text(a.Shape)} and {b.Type} {Text(b.Shape)}.");
        }

        using var packed = new MemoryStream();
        string hash = Encode(packed, a.Type, a.Length, (into, at) => a.Bytes(at, into.Length).CopyTo(into), (into, at) => b.Bytes(at, into.Length).CopyTo(into));
        if (packed.Length < a.Length)
        {
            return new DenseXor(PatchTensor.Of(StorageType.U8, [packed.Length], packed.ToArray()), packed: true, a.Length) { EditedHash = hash };
        }

        byte[] raw = a.ToArray();
        XorCoding.Xor(raw, b.Bytes(0, raw.Length));
        return new DenseXor(PatchTensor.Of(a.Type, a.Shape, raw), packed: false, a.Length) { EditedHash = hash };
    }

    /// <summary>Packs the XOR of two tensors, block by block on all cores, and returns the hash of the second.</summary>
    /// <param name="packed">Receives the packed form.</param>
    /// <param name="type">Type of both.</param>
    /// <param name="length">Bytes of both.</param>
    /// <param name="before">Reads the first.</param>
    /// <param name="after">Reads or computes the second.</param>
    /// <param name="edited">Receives the second's bytes in order; null when nobody wants them.</param>
    internal static string Encode(Stream packed, StorageType type, long length, BlockWrite before, BlockWrite after, Stream? edited = null)
    {
        using var sha = IncrementalHash.CreateHash(HashAlgorithmName.SHA256);
        int lanes = (int)Math.Clamp((length + BlockBytes - 1) / BlockBytes, 1, Environment.ProcessorCount);
        int size = (int)Math.Min(BlockBytes, length);
        XorCoding[] coding = [.. Enumerable.Range(0, lanes).Select(_ => new XorCoding(type.BlockBytes()))];
        byte[][] a = [.. coding.Select(_ => ArrayPool<byte>.Shared.Rent(size))], b = [.. coding.Select(_ => ArrayPool<byte>.Shared.Rent(size))];
        try
        {
            for (long start = 0; start < length; start += (long)lanes * BlockBytes)
            {
                int busy = (int)Math.Min(lanes, (length - start + BlockBytes - 1) / BlockBytes);
                int Count(int lane) => (int)Math.Min(BlockBytes, length - start - (long)lane * BlockBytes);
                Parallel.For(0, busy, lane =>
                {
                    long at = start + (long)lane * BlockBytes;
                    Span<byte> first = a[lane].AsSpan(0, Count(lane)), second = b[lane].AsSpan(0, Count(lane));
                    before(first, at);
                    after(second, at);
                    XorCoding.Xor(first, second);
                    coding[lane].Pack(first);
                });
                for (int lane = 0; lane < busy; lane++)
                {
                    sha.AppendData(b[lane], 0, Count(lane));
                    edited?.Write(b[lane], 0, Count(lane));
                    coding[lane].Write(packed);
                }
            }
        }
        finally
        {
            for (int lane = 0; lane < lanes; lane++)
            {
                coding[lane].Dispose();
                ArrayPool<byte>.Shared.Return(a[lane]);
                ArrayPool<byte>.Shared.Return(b[lane]);
            }
        }

        return Convert.ToHexStringLower(sha.GetHashAndReset());
    }

    /// <summary>Copies the XOR's bytes from <paramref name="firstByte"/>, the start of a block.</summary>
    internal void ReadBits(Span<byte> into, long firstByte, int elementBytes)
    {
        if (blocks is null)
        {
            Bits.Bytes(firstByte, into.Length).CopyTo(into);
            return;
        }

        using var coding = new XorCoding(elementBytes);
        int block = (int)(firstByte / BlockBytes);
        coding.Read(Bits.Bytes(blocks.Value[block] + 4, (int)(blocks.Value[block + 1] - blocks.Value[block] - 4)), into);
    }

    internal override string? Mismatch(BaseTensor target)
    {
        if (IsPacked)
        {
            try
            {
                _ = blocks!.Value;
            }
            catch (BadInputException e)
            {
                return e.Message;
            }

            return Bits.Type == StorageType.U8 && Bits.Shape.Count == 1 && !target.Type.IsQuantised() ? null : "has a packed XOR that is not U8 with one axis, or a quantised base";
        }

        return Bits.Type == target.Type && Bits.Shape.SequenceEqual(target.Shape) ? null
            : $"has a XOR of {Bits.Type} {Text(Bits.Shape)} for a tensor of {target.Type} {Text(target.Shape)}";
    }

    internal override BlockWrite Begin(DeltaTarget target, double scale) => (edited, firstByte) =>
    {
        target.Read(edited, firstByte);
        byte[] bits = ArrayPool<byte>.Shared.Rent(edited.Length);
        ReadBits(bits.AsSpan(0, edited.Length), firstByte, target.ElementBytes);
        XorCoding.Xor(edited, bits.AsSpan(0, edited.Length));
        ArrayPool<byte>.Shared.Return(bits);
    };
}

/// <summary>
/// The packed form of a XOR: the tensor's bytes in blocks of 4 MiB (the last one shorter). Each block is a little-endian u32
/// with the length of what follows, then either the block itself (when the length is the block's own) or one Zstandard frame.
/// Within a block the bytes are ordered by significance: first byte of every element, then the second of every element, and
/// so on; sign and exponent rarely change, which makes long runs of zeros.
/// </summary>
sealed class XorCoding(int elementBytes) : IDisposable
{
    const int Level = 1;

    ZstdSharp.Compressor? compressor;
    ZstdSharp.Decompressor? decompressor;
    byte[] planes = [], frame = [];
    int packedLength;

    public static void Xor(Span<byte> into, ReadOnlySpan<byte> other) => System.Numerics.Tensors.TensorPrimitives.Xor(into, other, into);

    /// <summary>Where each block begins in the packed form, and where the last one ends.</summary>
    /// <exception cref="BadInputException">The lengths do not add up.</exception>
    public static long[] Blocks(PatchTensor packed, long length)
    {
        long count = (length + Delta.BlockBytes - 1) / Delta.BlockBytes;
        // Each block takes at least its length and one byte, so a lying header cannot ask for more than the file has.
        if (count * 5 > packed.Length)
        {
            throw new BadInputException($"has a packed XOR of {packed.Length} bytes, too few for {count} blocks");
        }

        long[] starts = new long[count + 1];
        for (long i = 0, at = 0; i < count; i++)
        {
            long block = Math.Min(Delta.BlockBytes, length - i * Delta.BlockBytes);
            long size = at + 4 <= packed.Length ? BinaryPrimitives.ReadUInt32LittleEndian(packed.Bytes(at, 4)) : -1;
            if (size < 1 || size > block || at + 4 + size > packed.Length)
            {
                throw new BadInputException($"has a packed XOR whose block {i} claims {size} bytes, which it cannot have");
            }

            starts[i + 1] = at += 4 + size;
        }

        return starts[count] == packed.Length ? starts : throw new BadInputException($"has a packed XOR with {packed.Length - starts[count]} bytes after its last block");
    }

    /// <summary>Packs a block; <see cref="Write"/> then writes it.</summary>
    public void Pack(ReadOnlySpan<byte> block)
    {
        Grow(block.Length);
        int elements = block.Length / elementBytes;
        for (int plane = 0; plane < elementBytes; plane++)
        {
            Span<byte> to = planes.AsSpan(plane * elements, elements);
            for (int i = 0; i < to.Length; i++)
            {
                to[i] = block[i * elementBytes + plane];
            }
        }

        compressor ??= new ZstdSharp.Compressor(Level);
        int size = compressor.TryWrap(planes.AsSpan(0, block.Length), frame.AsSpan(0, block.Length), out int written) ? written : int.MaxValue;
        packedLength = Math.Min(size, block.Length);
        if (size >= block.Length)
        {
            block.CopyTo(frame);
        }
    }

    public void Write(Stream packed)
    {
        Span<byte> header = stackalloc byte[4];
        BinaryPrimitives.WriteUInt32LittleEndian(header, (uint)packedLength);
        packed.Write(header);
        packed.Write(frame, 0, packedLength);
    }

    public void Read(ReadOnlySpan<byte> content, Span<byte> block)
    {
        if (content.Length == block.Length)
        {
            content.CopyTo(block);
            return;
        }

        Grow(block.Length);
        bool whole;
        try
        {
            decompressor ??= new ZstdSharp.Decompressor();
            whole = decompressor.TryUnwrap(content, planes.AsSpan(0, block.Length), out int written) && written == block.Length;
        }
        catch (ZstdSharp.ZstdException)
        {
            whole = false;
        }

        if (!whole)
        {
            throw new BadInputException("The patch has a packed XOR that does not unpack to its tensor; the file is damaged, get it again.");
        }

        int elements = block.Length / elementBytes;
        for (int plane = 0; plane < elementBytes; plane++)
        {
            ReadOnlySpan<byte> from = planes.AsSpan(plane * elements, elements);
            for (int i = 0; i < from.Length; i++)
            {
                block[i * elementBytes + plane] = from[i];
            }
        }
    }

    public void Dispose()
    {
        compressor?.Dispose();
        decompressor?.Dispose();
        Return();
    }

    void Grow(int length)
    {
        if (planes.Length < length)
        {
            Return();
            planes = ArrayPool<byte>.Shared.Rent(length);
            frame = ArrayPool<byte>.Shared.Rent(length);
        }
    }

    void Return()
    {
        if (planes.Length > 0)
        {
            ArrayPool<byte>.Shared.Return(planes);
            ArrayPool<byte>.Shared.Return(frame);
            planes = frame = [];
        }
    }
}
