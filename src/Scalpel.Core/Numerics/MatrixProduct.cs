using System.Buffers;
using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.X86;
using Scalpel.Checkpoints;
using TorchSharp;
using static TorchSharp.torch;

namespace Scalpel.Numerics;

/// <summary>
/// Products of float32 matrices with vectors of 512 bits. libtorch's own use them on the processors of one maker only and
/// reach half of the peak on others, and less where rows are few; what is not covered here is left to them. From
/// <see cref="Several"/> rows on, a row's result does not depend on the rows beside it.
/// </summary>
static unsafe class MatrixProduct
{
    // A tile of the result stays in registers, 8 × 48 numbers in 24 of them, while it runs along the depth. A block of
    // the right factor, of this depth, lies packed in the second cache, and a block of the left one in the third.
    const int TileRows = 8, TileColumns = 48, Depth = 768, BlockRows = 1024, TilesOfPart = 5, InPlaceBelow = 64;
    const int DotRows = 4, DotColumns = 4;

    /// <summary>From how many rows on it pays to pack the factors.</summary>
    public const int Several = 24;

    const long FewestOther = 16, WorthThreads = 1 << 20, WorthPacking = 1 << 15;

    /// <summary>left · right.</summary>
    /// <param name="left">[m, k].</param>
    /// <param name="right">[k, n].</param>
    /// <returns>[m, n].</returns>
    public static Tensor Of(Tensor left, Tensor right)
    {
        if (!Covers(left, right))
        {
            return left.mm(right);
        }

        Tensor result = empty([left.shape[0], right.shape[1]]);
        Run(result, left, right, add: false);
        return result;
    }

    /// <summary>Writes left · right to a result, or adds it.</summary>
    /// <param name="result">[m, n], rows of consecutive numbers.</param>
    /// <param name="left">[m, k].</param>
    /// <param name="right">[k, n].</param>
    /// <param name="add">Whether the result is added to.</param>
    public static void Into(Tensor result, Tensor left, Tensor right, bool add)
    {
        if (Covers(left, right) && result.dtype == ScalarType.Float32 && result.stride(1) == 1)
        {
            Run(result, left, right, add);
        }
        else
        {
            result.addmm_(left, right, add ? 1 : 0, 1);
        }
    }

    /// <summary>Whether a product is done here: float32 on the CPU, each factor with consecutive rows or columns, and large enough.</summary>
    public static bool Covers(Tensor left, Tensor right) =>
        Avx512F.IsSupported && left.dtype == ScalarType.Float32 && right.dtype == ScalarType.Float32
        && left.device_type == DeviceType.CPU && right.device_type == DeviceType.CPU && left.dim() == 2 && right.dim() == 2
        && left.shape[1] == right.shape[0] && left.shape[0] > 1 && left.shape[1] >= FewestOther && right.shape[1] >= FewestOther
        && (left.stride(1) == 1 || left.stride(0) == 1 && left.shape[0] >= Several) && (right.stride(0) == 1 || right.stride(1) == 1);

    static void Run(Tensor result, Tensor left, Tensor right, bool add)
    {
        float* c = Address(result), a = Address(left), b = Address(right);
        long m = left.shape[0], k = left.shape[1], n = right.shape[1], ldc = result.stride(0);
        (long aRow, long aColumn, long bRow, long bColumn) = (left.stride(0), left.stride(1), right.stride(0), right.stride(1));
        if (m < Several && bRow == 1)
        {
            Few(c, ldc, a, aRow, m, b, bColumn, n, k, add);
            return;
        }

        int tiles = (int)((n + TileColumns - 1) / TileColumns), threads = m * n * k < WorthThreads ? 1 : get_num_threads();
        // Parts of equal size, as many for each thread.
        int parts = Math.Min(tiles, (tiles + TilesOfPart * threads - 1) / (TilesOfPart * threads) * threads);
        long depths = (k + Depth - 1) / Depth, depth = (k + depths - 1) / depths, blocks = (m + BlockRows - 1) / BlockRows;
        long blockRows = ((m + blocks - 1) / blocks + TileRows - 1) / TileRows * TileRows;
        float[] packed = ArrayPool<float>.Shared.Rent((int)(blockRows * depth) + Alignment);
        try
        {
            fixed (float* memory = packed)
            {
                float* panel = Aligned(memory);
                for (long row = 0; row < m; row += blockRows)
                {
                    long rows = Math.Min(blockRows, m - row);
                    for (long at = 0; at < k; at += depth)
                    {
                        long length = Math.Min(depth, k - at);
                        float* from = a + row * aRow + at * aColumn;
                        float* to = c + row * ldc, other = b + at * bRow;
                        bool more = add || at > 0;
                        int pieces = rows * length < WorthPacking ? 1 : threads, missing = pieces;
                        long panels = (rows + TileRows - 1) / TileRows;
                        // First the left factor is packed, by all, then the parts follow: one call, as each waits for its slowest thread.
                        InParts(threads, pieces + parts, i =>
                        {
                            if (i < pieces)
                            {
                                long first = panels * i / pieces * TileRows, last = Math.Min(rows, panels * (i + 1) / pieces * TileRows);
                                Pack(from + first * aRow, aRow, aColumn, last - first, length, TileRows, panel + first * length);
                                Interlocked.Decrement(ref missing);
                                return;
                            }

                            var wait = new SpinWait();
                            while (Volatile.Read(ref missing) > 0)
                            {
                                wait.SpinOnce(sleep1Threshold: -1);
                            }

                            long column = (long)tiles * (i - pieces) / parts * TileColumns, end = Math.Min(n, (long)tiles * (i - pieces + 1) / parts * TileColumns);
                            Part(to + column, ldc, panel, rows, other + column * bColumn, bRow, bColumn, end - column, length, more);
                        });
                    }
                }
            }
        }
        finally
        {
            ArrayPool<float>.Shared.Return(packed);
        }
    }

    // The right factor is stored turned: each number is the product of two stored rows, and each row is read once.
    static void Few(float* c, long ldc, float* left, long leftStride, long rows, float* right, long rightStride, long columns, long depth, bool add)
    {
        long groups = (columns + DotColumns - 1) / DotColumns;
        int parts = (int)Math.Min(groups, Math.Min(4 * get_num_threads(), columns * depth * rows / WorthThreads + 1));
        InParts(parts, parts, i =>
        {
            float* sums = stackalloc float[DotRows * DotColumns];
            long last = Math.Min(columns, groups * (i + 1) / parts * DotColumns);
            for (long column = groups * i / parts * DotColumns; column < last; column += DotColumns)
            {
                for (long row = 0; row < rows; row += DotRows)
                {
                    // At the end of rows or columns the last one stands in for those that are not there.
                    (long height, long width) = (Math.Min(DotRows, rows - row), Math.Min(DotColumns, columns - column));
                    Dots(left + row * leftStride, leftStride, height, right + column * rightStride, rightStride, width, depth, sums);
                    for (long y = 0; y < height; y++)
                    {
                        float* to = c + (row + y) * ldc + column;
                        for (long x = 0; x < width; x++)
                        {
                            to[x] = sums[y * DotColumns + x] + (add ? to[x] : 0);
                        }
                    }
                }
            }
        });
    }

    static void InParts(int threads, int parts, Action<int> part)
    {
        if (threads > 1)
        {
            TensorThreads.Run(parts, part);
            return;
        }

        for (int i = 0; i < parts; i++)
        {
            part(i);
        }
    }

    // Columns of the result: their block of the right factor is packed and meets all rows of the left one.
    static void Part(float* c, long ldc, float* left, long rows, float* right, long bRow, long bColumn, long columns, long depth, bool add)
    {
        float* edge = stackalloc float[TileRows * TileColumns];
        // Few rows read consecutive columns where they lie.
        long inPlace = bColumn == 1 && rows < InPlaceBelow ? columns / TileColumns * TileColumns : 0;
        float[] packed = ArrayPool<float>.Shared.Rent((int)((columns - inPlace + TileColumns - 1) / TileColumns * TileColumns * depth) + Alignment);
        fixed (float* memory = packed)
        {
            float* panel = Aligned(memory);
            Pack(right + inPlace * bColumn, bColumn, bRow, columns - inPlace, depth, TileColumns, panel);
            for (long i = 0; i < rows; i += TileRows)
            {
                for (long j = 0; j < columns; j += TileColumns)
                {
                    float* to = c + i * ldc + j, block = j < inPlace ? right + j : panel + (j - inPlace) * depth;
                    long step = j < inPlace ? bRow : TileColumns;
                    (long height, long width) = (Math.Min(TileRows, rows - i), Math.Min(TileColumns, columns - j));
                    if (height == TileRows && width == TileColumns)
                    {
                        Tile(left + i * depth, block, step, depth, to, ldc, add);
                        continue;
                    }

                    Tile(left + i * depth, block, step, depth, edge, TileColumns, false);
                    for (long y = 0; y < height; y++)
                    {
                        for (long x = 0; x < width; x++)
                        {
                            to[y * ldc + x] = edge[y * TileColumns + x] + (add ? to[y * ldc + x] : 0);
                        }
                    }
                }
            }
        }

        ArrayPool<float>.Shared.Return(packed);
    }

    // The loop in which all time is spent: written out, so that each sum has a register.
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    static void Tile(float* left, float* right, long step, long depth, float* to, long stride, bool add)
    {
        Vector512<float> r00 = default, r01 = default, r02 = default;
        Vector512<float> r10 = default, r11 = default, r12 = default;
        Vector512<float> r20 = default, r21 = default, r22 = default;
        Vector512<float> r30 = default, r31 = default, r32 = default;
        Vector512<float> r40 = default, r41 = default, r42 = default;
        Vector512<float> r50 = default, r51 = default, r52 = default;
        Vector512<float> r60 = default, r61 = default, r62 = default;
        Vector512<float> r70 = default, r71 = default, r72 = default;
        for (float* end = left + TileRows * depth; left < end; left += TileRows, right += step)
        {
            Vector512<float> y0 = Vector512.Load(right), y1 = Vector512.Load(right + 16), y2 = Vector512.Load(right + 32), x;
            x = Vector512.Create(left[0]);
            r00 = Vector512.FusedMultiplyAdd(x, y0, r00);
            r01 = Vector512.FusedMultiplyAdd(x, y1, r01);
            r02 = Vector512.FusedMultiplyAdd(x, y2, r02);
            x = Vector512.Create(left[1]);
            r10 = Vector512.FusedMultiplyAdd(x, y0, r10);
            r11 = Vector512.FusedMultiplyAdd(x, y1, r11);
            r12 = Vector512.FusedMultiplyAdd(x, y2, r12);
            x = Vector512.Create(left[2]);
            r20 = Vector512.FusedMultiplyAdd(x, y0, r20);
            r21 = Vector512.FusedMultiplyAdd(x, y1, r21);
            r22 = Vector512.FusedMultiplyAdd(x, y2, r22);
            x = Vector512.Create(left[3]);
            r30 = Vector512.FusedMultiplyAdd(x, y0, r30);
            r31 = Vector512.FusedMultiplyAdd(x, y1, r31);
            r32 = Vector512.FusedMultiplyAdd(x, y2, r32);
            x = Vector512.Create(left[4]);
            r40 = Vector512.FusedMultiplyAdd(x, y0, r40);
            r41 = Vector512.FusedMultiplyAdd(x, y1, r41);
            r42 = Vector512.FusedMultiplyAdd(x, y2, r42);
            x = Vector512.Create(left[5]);
            r50 = Vector512.FusedMultiplyAdd(x, y0, r50);
            r51 = Vector512.FusedMultiplyAdd(x, y1, r51);
            r52 = Vector512.FusedMultiplyAdd(x, y2, r52);
            x = Vector512.Create(left[6]);
            r60 = Vector512.FusedMultiplyAdd(x, y0, r60);
            r61 = Vector512.FusedMultiplyAdd(x, y1, r61);
            r62 = Vector512.FusedMultiplyAdd(x, y2, r62);
            x = Vector512.Create(left[7]);
            r70 = Vector512.FusedMultiplyAdd(x, y0, r70);
            r71 = Vector512.FusedMultiplyAdd(x, y1, r71);
            r72 = Vector512.FusedMultiplyAdd(x, y2, r72);
        }

        Put(to, r00, r01, r02, add);
        Put(to + stride, r10, r11, r12, add);
        Put(to + 2 * stride, r20, r21, r22, add);
        Put(to + 3 * stride, r30, r31, r32, add);
        Put(to + 4 * stride, r40, r41, r42, add);
        Put(to + 5 * stride, r50, r51, r52, add);
        Put(to + 6 * stride, r60, r61, r62, add);
        Put(to + 7 * stride, r70, r71, r72, add);
    }

    // Products of four rows with four rows, [4, 4].
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    static void Dots(float* left, long leftStride, long height, float* right, long rightStride, long width, long depth, float* sums)
    {
        float* left0 = left, left1 = left + Math.Min(1, height - 1) * leftStride, left2 = left + Math.Min(2, height - 1) * leftStride, left3 = left + Math.Min(3, height - 1) * leftStride;
        float* right0 = right, right1 = right + Math.Min(1, width - 1) * rightStride, right2 = right + Math.Min(2, width - 1) * rightStride, right3 = right + Math.Min(3, width - 1) * rightStride;
        Vector512<float> r00 = default, r01 = default, r02 = default, r03 = default;
        Vector512<float> r10 = default, r11 = default, r12 = default, r13 = default;
        Vector512<float> r20 = default, r21 = default, r22 = default, r23 = default;
        Vector512<float> r30 = default, r31 = default, r32 = default, r33 = default;
        long k = 0;
        for (; k + 16 <= depth; k += 16)
        {
            Vector512<float> y0 = Vector512.Load(right0 + k), y1 = Vector512.Load(right1 + k), y2 = Vector512.Load(right2 + k), y3 = Vector512.Load(right3 + k), x;
            x = Vector512.Load(left0 + k);
            r00 = Vector512.FusedMultiplyAdd(x, y0, r00);
            r01 = Vector512.FusedMultiplyAdd(x, y1, r01);
            r02 = Vector512.FusedMultiplyAdd(x, y2, r02);
            r03 = Vector512.FusedMultiplyAdd(x, y3, r03);
            x = Vector512.Load(left1 + k);
            r10 = Vector512.FusedMultiplyAdd(x, y0, r10);
            r11 = Vector512.FusedMultiplyAdd(x, y1, r11);
            r12 = Vector512.FusedMultiplyAdd(x, y2, r12);
            r13 = Vector512.FusedMultiplyAdd(x, y3, r13);
            x = Vector512.Load(left2 + k);
            r20 = Vector512.FusedMultiplyAdd(x, y0, r20);
            r21 = Vector512.FusedMultiplyAdd(x, y1, r21);
            r22 = Vector512.FusedMultiplyAdd(x, y2, r22);
            r23 = Vector512.FusedMultiplyAdd(x, y3, r23);
            x = Vector512.Load(left3 + k);
            r30 = Vector512.FusedMultiplyAdd(x, y0, r30);
            r31 = Vector512.FusedMultiplyAdd(x, y1, r31);
            r32 = Vector512.FusedMultiplyAdd(x, y2, r32);
            r33 = Vector512.FusedMultiplyAdd(x, y3, r33);
        }

        sums[0] = Vector512.Sum(r00);
        sums[1] = Vector512.Sum(r01);
        sums[2] = Vector512.Sum(r02);
        sums[3] = Vector512.Sum(r03);
        sums[4] = Vector512.Sum(r10);
        sums[5] = Vector512.Sum(r11);
        sums[6] = Vector512.Sum(r12);
        sums[7] = Vector512.Sum(r13);
        sums[8] = Vector512.Sum(r20);
        sums[9] = Vector512.Sum(r21);
        sums[10] = Vector512.Sum(r22);
        sums[11] = Vector512.Sum(r23);
        sums[12] = Vector512.Sum(r30);
        sums[13] = Vector512.Sum(r31);
        sums[14] = Vector512.Sum(r32);
        sums[15] = Vector512.Sum(r33);
        for (; k < depth; k++)
        {
            (float y0, float y1, float y2, float y3) = (right0[k], right1[k], right2[k], right3[k]);
            for (int i = 0; i < DotRows; i++)
            {
                float x = (i == 0 ? left0 : i == 1 ? left1 : i == 2 ? left2 : left3)[k];
                sums[4 * i] += x * y0;
                sums[4 * i + 1] += x * y1;
                sums[4 * i + 2] += x * y2;
                sums[4 * i + 3] += x * y3;
            }
        }
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    static void Put(float* to, Vector512<float> a, Vector512<float> b, Vector512<float> c, bool add)
    {
        if (add)
        {
            a += Vector512.Load(to);
            b += Vector512.Load(to + 16);
            c += Vector512.Load(to + 32);
        }

        a.Store(to);
        b.Store(to + 16);
        c.Store(to + 32);
    }

    // Lines of a factor, [count, depth] with any one stride of 1, as panels [depth, width] of neighbouring lines; the last
    // one is filled up with zeros.
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    static void Pack(float* from, long lineStride, long depthStride, long count, long depth, int width, float* to)
    {
        for (long line = 0; line < count; line += width, to += width * depth)
        {
            int lines = (int)Math.Min(width, count - line);
            float* start = from + line * lineStride;
            if (lines < width)
            {
                new Span<float>(to, (int)(width * depth)).Clear();
            }

            if (lineStride == 1 && lines == width && width == TileColumns)
            {
                for (long k = 0; k < depth; k++)
                {
                    float* row = start + k * depthStride, into = to + k * TileColumns;
                    Vector512.Load(row).Store(into);
                    Vector512.Load(row + 16).Store(into + 16);
                    Vector512.Load(row + 32).Store(into + 32);
                }

                continue;
            }

            if (lineStride == 1 && lines == width && width == TileRows)
            {
                for (long k = 0; k < depth; k++)
                {
                    Vector256.Load(start + k * depthStride).Store(to + k * TileRows);
                }

                continue;
            }

            if (lineStride == 1)
            {
                for (long k = 0; k < depth; k++)
                {
                    Unsafe.CopyBlockUnaligned(to + k * width, start + k * depthStride, (uint)lines * sizeof(float));
                }

                continue;
            }

            int group = 0;
            for (; group + 8 <= lines; group += 8)
            {
                float* rows = start + group * lineStride;
                long k = 0;
                for (; k + 8 <= depth; k += 8)
                {
                    Transpose(rows + k, lineStride, to + k * width + group, width);
                }

                for (; k < depth; k++)
                {
                    for (int i = 0; i < 8; i++)
                    {
                        to[k * width + group + i] = rows[i * lineStride + k];
                    }
                }
            }

            for (; group < lines; group++)
            {
                for (long k = 0; k < depth; k++)
                {
                    to[k * width + group] = start[group * lineStride + k];
                }
            }
        }
    }

    // 8 × 8 numbers.
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    static void Transpose(float* from, long fromStride, float* to, long toStride)
    {
        Vector256<float> a = Vector256.Load(from), b = Vector256.Load(from + fromStride), c = Vector256.Load(from + 2 * fromStride), d = Vector256.Load(from + 3 * fromStride);
        from += 4 * fromStride;
        Vector256<float> e = Vector256.Load(from), f = Vector256.Load(from + fromStride), g = Vector256.Load(from + 2 * fromStride), h = Vector256.Load(from + 3 * fromStride);
        (Vector256<float> ab0, Vector256<float> ab1, Vector256<float> cd0, Vector256<float> cd1) = (Avx.UnpackLow(a, b), Avx.UnpackHigh(a, b), Avx.UnpackLow(c, d), Avx.UnpackHigh(c, d));
        (Vector256<float> ef0, Vector256<float> ef1, Vector256<float> gh0, Vector256<float> gh1) = (Avx.UnpackLow(e, f), Avx.UnpackHigh(e, f), Avx.UnpackLow(g, h), Avx.UnpackHigh(g, h));
        Vector256<float> p0 = Avx.Shuffle(ab0, cd0, 0x44), p1 = Avx.Shuffle(ab0, cd0, 0xEE), p2 = Avx.Shuffle(ab1, cd1, 0x44), p3 = Avx.Shuffle(ab1, cd1, 0xEE);
        Vector256<float> q0 = Avx.Shuffle(ef0, gh0, 0x44), q1 = Avx.Shuffle(ef0, gh0, 0xEE), q2 = Avx.Shuffle(ef1, gh1, 0x44), q3 = Avx.Shuffle(ef1, gh1, 0xEE);
        Avx.Permute2x128(p0, q0, 0x20).Store(to);
        Avx.Permute2x128(p1, q1, 0x20).Store(to + toStride);
        Avx.Permute2x128(p2, q2, 0x20).Store(to + 2 * toStride);
        Avx.Permute2x128(p3, q3, 0x20).Store(to + 3 * toStride);
        to += 4 * toStride;
        Avx.Permute2x128(p0, q0, 0x31).Store(to);
        Avx.Permute2x128(p1, q1, 0x31).Store(to + toStride);
        Avx.Permute2x128(p2, q2, 0x31).Store(to + 2 * toStride);
        Avx.Permute2x128(p3, q3, 0x31).Store(to + 3 * toStride);
    }

    const int Alignment = 16;

    static float* Aligned(float* memory) => (float*)(((nint)memory + 63) & ~63);

    static float* Address(Tensor matrix)
    {
        using Tensor detached = matrix.detach(), row = detached.narrow(0, 0, 1), first = row.narrow(1, 0, 1);
        return (float*)StoredTensor.Pointer(first);
    }
}
