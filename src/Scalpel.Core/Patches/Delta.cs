using System.Numerics;
using Scalpel.Checkpoints;
using Tensor = TorchSharp.torch.Tensor;
using TensorPrimitives = System.Numerics.Tensors.TensorPrimitives;

namespace Scalpel.Patches;

/// <summary>The tensor of the base that a delta was made for.</summary>
/// <param name="Type">Its storage type.</param>
/// <param name="Shape">Its shape, in the stored orientation.</param>
/// <param name="Hash">SHA-256 of its stored bytes, lower-case hexadecimal.</param>
public sealed record BaseTensor(StorageType Type, IReadOnlyList<long> Shape, string Hash)
{
    internal long Count => Type.ByteLength(Shape) / Type.BlockBytes() * Type.BlockElements();

    internal long Length => Type.ByteLength(Shape);

    /// <summary>Elements of one entry along axis 0.</summary>
    internal long RowCount => Shape.Count == 0 || Shape[0] == 0 ? 1 : Count / Shape[0];
}

/// <summary>
/// The change of one tensor, in the orientation in which the checkpoint stores it. What an edited tensor is, is defined to
/// the bit and does not depend on machine, thread count or on whether it is computed in memory or while a file is copied:
/// <list type="bullet">
/// <item><see cref="DenseXor"/> and <see cref="Replace"/> give the stored bits themselves, in the order in which the file
/// keeps them: that of some GGUF matrices is not the one of their rows under the Hugging Face name.</item>
/// <item>The others compute in float32 (float64 for F64 storage): the stored element is widened, the change is computed,
/// each product and sum rounded on its own, in the order in which the kind's page states it, and the result is rounded once
/// to the stored type, to nearest, ties to even. Where the change is exactly zero the stored bits stay.</item>
/// </list>
/// </summary>
public abstract record Delta
{
    /// <summary>
    /// The change of a checkpoint's tensor to <paramref name="after"/>, rounded to how it is stored: exact bits where the
    /// checkpoint stores numbers; a sum where it stores quantised blocks, whose bits no difference of numbers reaches. Null
    /// when nothing changes.
    /// </summary>
    /// <param name="checkpoint">The base.</param>
    /// <param name="name">The tensor's name.</param>
    /// <param name="after">What it becomes, of the same shape and any floating type.</param>
    public static Delta? Between(Checkpoint checkpoint, string name, Tensor after)
    {
        using var scope = TorchSharp.torch.NewDisposeScope();
        Tensor before = checkpoint.Read(name), rounded = after.detach().to_type(before.dtype);
        return before.Equals(rounded) ? null
            : checkpoint.Entry(name).Type.IsQuantised() ? new DenseAdd(rounded - before)
            : DenseXor.Between(checkpoint.ToFileOrder(name, before), checkpoint.ToFileOrder(name, rounded));
    }

    /// <summary>Tensors are edited in blocks of this many bytes, which hold whole elements of every plain type.</summary>
    internal const int BlockBytes = 1 << 22;

    /// <summary>Elements worked on at a time: they and their change stay in the first-level cache.</summary>
    internal const int TileElements = 2048;

    /// <summary>The kind's name in the patch file.</summary>
    public abstract string Kind { get; }

    /// <summary>Whether it adds to what is there: it can be scaled, summed with others, and forced on another base.</summary>
    public virtual bool IsAdditive => false;

    /// <summary>The tensors by which it is stored, by suffix.</summary>
    public abstract IReadOnlyDictionary<string, PatchTensor> Parts { get; }

    /// <summary>What must be stored besides the tensors, by key.</summary>
    internal virtual IReadOnlyDictionary<string, long> Numbers => new Dictionary<string, long>();

    /// <summary>The edited tensor's type.</summary>
    internal virtual StorageType EditedType(StorageType type) => type;

    /// <summary>The edited tensor's shape; null when the tensor is removed.</summary>
    internal virtual IReadOnlyList<long>? EditedShape(IReadOnlyList<long> shape) => shape;

    /// <summary>What does not fit the tensor, as the end of a sentence; null when all fits.</summary>
    internal abstract string? Mismatch(BaseTensor target);

    /// <summary>Prepares the edit of one tensor.</summary>
    internal abstract BlockWrite Begin(DeltaTarget target, double scale);

    /// <summary>An edit that computes in float32, or in float64 for F64 storage.</summary>
    private protected static BlockWrite InTiles<T>(DeltaTarget target, TileEdit<T> edit) where T : unmanaged, IFloatingPointIeee754<T> => (edited, firstByte) =>
    {
        target.Read(edited, firstByte);
        int size = target.ElementBytes;
        Span<T> values = new T[TileElements], change = new T[TileElements];
        for (int at = 0; at < edited.Length / size; at += TileElements)
        {
            int count = Math.Min(TileElements, edited.Length / size - at);
            Span<byte> bytes = edited.Slice(at * size, count * size);
            Span<T> v = values[..count], c = change[..count];
            Elements.Read(bytes, target.Type, v);
            if (edit(v, c, firstByte / size + at))
            {
                WriteChanged(v, c, target.Type, bytes);
            }
        }
    };

    static void WriteChanged<T>(Span<T> values, Span<T> change, StorageType type, Span<byte> bytes) where T : unmanaged, IFloatingPointIeee754<T>
    {
        if (!TensorPrimitives.IsNaNAny<T>(values))
        {
            Elements.Write<T>(values, type, bytes);
            return;
        }

        // Widening and rounding give every number back, but quieten a signalling NaN: only what changes may be written.
        int size = type.BlockBytes();
        for (int i = 0; i < values.Length; i++)
        {
            if (change[i] != T.Zero)
            {
                Elements.Write<T>(values.Slice(i, 1), type, bytes.Slice(i * size, size));
            }
        }
    }

    /// <summary>Mismatch of an arithmetic kind's target.</summary>
    private protected static string? NotFloat(BaseTensor target) => Elements.IsFloat(target.Type) || target.Type.IsQuantised() ? null
        : $"adds to numbers, but the tensor is stored as {target.Type}; use xor or replace";

    private protected static string Text(IEnumerable<long> shape) => $"[{string.Join(", ", shape)}]";
}

/// <summary>Fills <paramref name="edited"/> with the edited tensor's bytes from <paramref name="firstByte"/>; may run for several blocks at once.</summary>
delegate void BlockWrite(Span<byte> edited, long firstByte);

/// <summary>
/// Changes <paramref name="values"/>, the elements from <paramref name="first"/>, and says in <paramref name="change"/>, by zero,
/// which of them keep their bits. False when none changes.
/// </summary>
delegate bool TileEdit<T>(Span<T> values, Span<T> change, long first);

/// <summary>The base tensor as a delta sees it.</summary>
/// <param name="Type">Its storage type.</param>
/// <param name="Shape">Its shape.</param>
/// <param name="Read">Reads its bytes.</param>
sealed record DeltaTarget(StorageType Type, IReadOnlyList<long> Shape, BlockWrite Read)
{
    public long Length { get; } = Type.ByteLength(Shape);

    public int ElementBytes => Type.BlockBytes();
}
