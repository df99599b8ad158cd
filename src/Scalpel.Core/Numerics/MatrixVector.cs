using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using System.Runtime.Intrinsics;
using Scalpel.Checkpoints;
using TorchSharp;
using static TorchSharp.torch;

namespace Scalpel.Numerics;

/// <summary>The width of the vectors that a product computes with.</summary>
public enum VectorPath
{
    /// <summary>One number at a time; runs everywhere.</summary>
    Plain,

    /// <summary>Eight numbers at a time (AVX2 and FMA).</summary>
    Vector256,

    /// <summary>Sixteen numbers at a time (AVX-512).</summary>
    Vector512,
}

/// <summary>A weight matrix where it lies: the memory belongs to the tensor, which must outlive it and stay in place.</summary>
public readonly unsafe struct Matrix
{
    readonly byte* weight, bias;
    readonly bool biasIsHalf;

    /// <summary>Takes the address of a matrix of float32 or bfloat16 on the CPU.</summary>
    /// <param name="weight">[out, in], or [in, out] when <paramref name="transposed"/>; rows may be views into a wider storage.</param>
    /// <param name="bias">[out], contiguous, or null.</param>
    /// <param name="transposed">Whether it is stored [in, out], as GPT-2 does.</param>
    public Matrix(Tensor weight, Tensor? bias = null, bool transposed = false)
    {
        if (weight.dim() != 2 || weight.device_type != DeviceType.CPU || weight.dtype is not (ScalarType.Float32 or ScalarType.BFloat16)
            || (weight.shape[1] > 1 && weight.stride()[1] != 1))
        {
            throw new ArgumentException("A matrix of float32 or bfloat16 on the CPU with consecutive columns is needed.", nameof(weight));
        }

        Transposed = transposed;
        IsBFloat16 = weight.dtype == ScalarType.BFloat16;
        Outputs = checked((int)weight.shape[transposed ? 1 : 0]);
        Inputs = checked((int)weight.shape[transposed ? 0 : 1]);
        Stride = weight.stride()[0];
        if (weight.numel() > 0)
        {
            using Tensor detached = weight.detach(), row = detached.narrow(0, 0, 1), first = row.narrow(1, 0, 1);
            this.weight = StoredTensor.Pointer(first);
        }

        if (bias is not null)
        {
            if (bias.numel() != Outputs || bias.dtype is not (ScalarType.Float32 or ScalarType.BFloat16))
            {
                throw new ArgumentException($"A bias of {Outputs} float32 or bfloat16 numbers is needed.", nameof(bias));
            }

            this.bias = StoredTensor.Pointer(bias);
            biasIsHalf = bias.dtype == ScalarType.BFloat16;
        }
    }

    /// <summary>Numbers that a product gives.</summary>
    public int Outputs { get; }

    /// <summary>Numbers that a product takes.</summary>
    public int Inputs { get; }

    /// <summary>Elements from one stored row to the next.</summary>
    public long Stride { get; }

    /// <summary>Whether the weights are bfloat16; else they are float32.</summary>
    public bool IsBFloat16 { get; }

    /// <summary>Whether the matrix is stored [in, out].</summary>
    public bool Transposed { get; }

    internal byte* Row(long index) => weight + index * Stride * (IsBFloat16 ? 2 : 4);

    internal float Bias(int output) => bias is null ? 0
        : biasIsHalf ? BitConverter.UInt32BitsToSingle((uint)((ushort*)bias)[output] << 16)
        : ((float*)bias)[output];
}

/// <summary>
/// Products of weight matrices with one vector or a few, at the speed at which memory gives the weights:
/// y[b, o] = Σ_i W[o, i] · x[b, i] + bias[o]. Sums are in float32, bfloat16 weights are exact in it. The order of a sum
/// depends on the path alone, not on the number of threads.
/// </summary>
public static unsafe class MatrixVector
{
    const int TileBytes = 32 << 10, MaxColumns = 2048;

    /// <summary>The widest path that this processor has.</summary>
    public static VectorPath BestPath { get; } =
        Vector512.IsHardwareAccelerated ? VectorPath.Vector512
        : Vector256.IsHardwareAccelerated ? VectorPath.Vector256
        : VectorPath.Plain;

    /// <summary>Multiplies, and returns a new tensor.</summary>
    /// <param name="input">[…, in] float32 or bfloat16.</param>
    /// <param name="matrix">The weights.</param>
    /// <param name="pool">The threads to use; null for the caller alone.</param>
    /// <returns>[…, out] of the input's type, rounded once.</returns>
    public static Tensor Multiply(Tensor input, Matrix matrix, WorkerPool? pool = null)
    {
        long[] shape = input.shape;
        if (shape.Length == 0 || shape[^1] != matrix.Inputs)
        {
            throw new ArgumentException($"An input of shape […, {matrix.Inputs}] is needed, not [{string.Join(", ", shape)}].", nameof(input));
        }

        int batch = checked((int)shape[..^1].Aggregate(1L, (a, b) => a * b));
        using Tensor single = input.detach().to_type(ScalarType.Float32).contiguous();
        Tensor output = empty([.. shape[..^1], matrix.Outputs], dtype: ScalarType.Float32);
        Multiply([matrix], (float*)StoredTensor.Pointer(single), batch, (float*)StoredTensor.Pointer(output), pool, BestPath);
        if (input.dtype == ScalarType.Float32)
        {
            return output;
        }

        using (output)
        {
            return output.to_type(input.dtype);
        }
    }

    /// <summary>Multiplies several matrices with the same input, as one piece of work.</summary>
    /// <param name="matrices">Matrices of equal <see cref="Matrix.Inputs"/> and type.</param>
    /// <param name="x">[batch, in].</param>
    /// <param name="batch">Vectors; weights are read once for all of them.</param>
    /// <param name="y">[batch, sum of outputs]: the matrices' results beside each other.</param>
    /// <param name="pool">The threads to use; null for the caller alone.</param>
    /// <param name="path">The width of the vectors; <see cref="BestPath"/> but in tests.</param>
    public static void Multiply(Matrix[] matrices, float* x, int batch, float* y, WorkerPool? pool, VectorPath path)
    {
        bool half = matrices[0].IsBFloat16;
        foreach (Matrix matrix in matrices)
        {
            if (matrix.IsBFloat16 != half || matrix.Inputs != matrices[0].Inputs)
            {
                throw new ArgumentException("Matrices that are multiplied together must have the same inputs and the same type.", nameof(matrices));
            }
        }

        switch (path)
        {
            case VectorPath.Vector512 when half: Multiply<Vector512<float>, Lanes512, BFloat16Weights>(matrices, x, batch, y, pool); break;
            case VectorPath.Vector512: Multiply<Vector512<float>, Lanes512, SingleWeights>(matrices, x, batch, y, pool); break;
            case VectorPath.Vector256 when half: Multiply<Vector256<float>, Lanes256, BFloat16Weights>(matrices, x, batch, y, pool); break;
            case VectorPath.Vector256: Multiply<Vector256<float>, Lanes256, SingleWeights>(matrices, x, batch, y, pool); break;
            case VectorPath.Plain when half: Multiply<float, OneLane, BFloat16Weights>(matrices, x, batch, y, pool); break;
            default: Multiply<float, OneLane, SingleWeights>(matrices, x, batch, y, pool); break;
        }
    }

    static void Multiply<V, L, W>(Matrix[] matrices, float* x, int batch, float* y, WorkerPool? pool)
        where V : unmanaged where L : ILanes<V> where W : IWeights
    {
        int inputs = matrices[0].Inputs, outputs = 0;
        foreach (Matrix matrix in matrices)
        {
            outputs += matrix.Outputs;
        }

        // Each thread walks a stretch of tiles of its own, as memory is fastest when read on and on, and then helps the others.
        int tileRows = (int)Math.Max(1, TileBytes / Math.Max(1L, (long)inputs * W.Size));
        int threads = pool?.Threads ?? 1, tiles = 0;
        var tileSizes = new int[matrices.Length];
        for (int m = 0; m < matrices.Length; m++)
        {
            int columns = (matrices[m].Outputs + threads - 1) / threads;
            tileSizes[m] = matrices[m].Transposed ? Math.Min(MaxColumns, (columns + 63) / 64 * 64) : tileRows;
            tiles += (matrices[m].Outputs + tileSizes[m] - 1) / Math.Max(1, tileSizes[m]);
        }

        float* packed = (float*)NativeMemory.AlignedAlloc((nuint)Math.Max(1L, (long)batch * inputs) * sizeof(float), 64);
        try
        {
            for (int b = 0; b < batch; b++)
            {
                W.Pack<V, L>(x + (long)b * inputs, packed + (long)b * inputs, inputs);
            }

            void RunTile(int tile)
            {
                int before = 0;
                for (int m = 0; m < matrices.Length; m++)
                {
                    int size = tileSizes[m], outputsOfThis = matrices[m].Outputs, count = (outputsOfThis + size - 1) / Math.Max(1, size);
                    if (tile < count)
                    {
                        int from = tile * size, to = Math.Min(outputsOfThis, from + size);
                        if (matrices[m].Transposed)
                        {
                            Columns<V, L, W>(matrices[m], from, to, x, batch, y + before, outputs);
                        }
                        else
                        {
                            Rows<V, L, W>(matrices[m], from, to, packed, batch, y + before, outputs);
                        }

                        return;
                    }

                    tile -= count;
                    before += outputsOfThis;
                }
            }

            int stretches = Math.Min(threads, tiles);
            if (stretches <= 1)
            {
                for (int tile = 0; tile < tiles; tile++)
                {
                    RunTile(tile);
                }

                return;
            }

            // A cache line for each counter.
            var next = new int[stretches * 16];
            pool!.Run(stretches, own =>
            {
                for (int i = 0; i < stretches; i++)
                {
                    int stretch = (own + i) % stretches;
                    int start = (int)((long)tiles * stretch / stretches), end = (int)((long)tiles * (stretch + 1) / stretches);
                    for (int tile; (tile = start + Interlocked.Increment(ref next[stretch * 16]) - 1) < end;)
                    {
                        RunTile(tile);
                    }
                }
            });
        }
        finally
        {
            NativeMemory.AlignedFree(packed);
        }
    }

    // Stored rows are outputs: one long stream of weights, each loaded once for up to four inputs.
    static void Rows<V, L, W>(in Matrix matrix, int from, int to, float* x, int batch, float* y, int outputs)
        where V : unmanaged where L : ILanes<V> where W : IWeights
    {
        int n = matrix.Inputs;
        float* sums = stackalloc float[4];
        for (int b = 0; b < batch;)
        {
            float* inputs = x + (long)b * n;
            int together = batch - b >= 4 ? 4 : batch - b >= 2 ? 2 : 1;
            for (int row = from; row < to; row++)
            {
                switch (together)
                {
                    case 4: Dot4<V, L, W>(matrix.Row(row), inputs, n, sums); break;
                    case 2: Dot2<V, L, W>(matrix.Row(row), inputs, n, sums); break;
                    default: sums[0] = Dot<V, L, W>(matrix.Row(row), inputs, n); break;
                }

                float bias = matrix.Bias(row);
                for (int i = 0; i < together; i++)
                {
                    y[(long)(b + i) * outputs + row] = sums[i] + bias;
                }
            }

            b += together;
        }
    }

    static float Dot<V, L, W>(byte* w, float* x, int n)
        where V : unmanaged where L : ILanes<V> where W : IWeights
    {
        int width = L.Width, i = 0;
        V a = default, b = default, c = default, d = default;
        for (; i + 4 * width <= n; i += 4 * width)
        {
            W.Load<V, L>(w, i, out V pa, out V pb);
            W.Load<V, L>(w, i + 2 * width, out V pc, out V pd);
            a = L.MultiplyAdd(pa, L.Load(x + i), a);
            b = L.MultiplyAdd(pb, L.Load(x + i + width), b);
            c = L.MultiplyAdd(pc, L.Load(x + i + 2 * width), c);
            d = L.MultiplyAdd(pd, L.Load(x + i + 3 * width), d);
        }

        if (i + 2 * width <= n)
        {
            W.Load<V, L>(w, i, out V pa, out V pb);
            a = L.MultiplyAdd(pa, L.Load(x + i), a);
            b = L.MultiplyAdd(pb, L.Load(x + i + width), b);
            i += 2 * width;
        }

        return L.Sum(L.Add(L.Add(a, b), L.Add(c, d))) + Tail<W>(w, x, i, n);
    }

    static void Dot2<V, L, W>(byte* w, float* x, int n, float* sums)
        where V : unmanaged where L : ILanes<V> where W : IWeights
    {
        int width = L.Width, i = 0;
        float* x1 = x + n;
        V a0 = default, a1 = default, b0 = default, b1 = default;
        for (; i + 2 * width <= n; i += 2 * width)
        {
            W.Load<V, L>(w, i, out V pa, out V pb);
            a0 = L.MultiplyAdd(pa, L.Load(x + i), a0);
            a1 = L.MultiplyAdd(pa, L.Load(x1 + i), a1);
            b0 = L.MultiplyAdd(pb, L.Load(x + i + width), b0);
            b1 = L.MultiplyAdd(pb, L.Load(x1 + i + width), b1);
        }

        sums[0] = L.Sum(L.Add(a0, b0)) + Tail<W>(w, x, i, n);
        sums[1] = L.Sum(L.Add(a1, b1)) + Tail<W>(w, x1, i, n);
    }

    static void Dot4<V, L, W>(byte* w, float* x, int n, float* sums)
        where V : unmanaged where L : ILanes<V> where W : IWeights
    {
        int width = L.Width, i = 0;
        float* x1 = x + n, x2 = x1 + n, x3 = x2 + n;
        V a0 = default, a1 = default, a2 = default, a3 = default, b0 = default, b1 = default, b2 = default, b3 = default;
        for (; i + 2 * width <= n; i += 2 * width)
        {
            W.Load<V, L>(w, i, out V pa, out V pb);
            a0 = L.MultiplyAdd(pa, L.Load(x + i), a0);
            a1 = L.MultiplyAdd(pa, L.Load(x1 + i), a1);
            a2 = L.MultiplyAdd(pa, L.Load(x2 + i), a2);
            a3 = L.MultiplyAdd(pa, L.Load(x3 + i), a3);
            b0 = L.MultiplyAdd(pb, L.Load(x + i + width), b0);
            b1 = L.MultiplyAdd(pb, L.Load(x1 + i + width), b1);
            b2 = L.MultiplyAdd(pb, L.Load(x2 + i + width), b2);
            b3 = L.MultiplyAdd(pb, L.Load(x3 + i + width), b3);
        }

        sums[0] = L.Sum(L.Add(a0, b0)) + Tail<W>(w, x, i, n);
        sums[1] = L.Sum(L.Add(a1, b1)) + Tail<W>(w, x1, i, n);
        sums[2] = L.Sum(L.Add(a2, b2)) + Tail<W>(w, x2, i, n);
        sums[3] = L.Sum(L.Add(a3, b3)) + Tail<W>(w, x3, i, n);
    }

    static float Tail<W>(byte* w, float* x, int from, int to) where W : IWeights
    {
        float sum = 0;
        for (int i = from; i < to; i++)
        {
            sum += W.One(w, i) * x[i];
        }

        return sum;
    }

    // Stored rows are inputs: the sums of a block of outputs stay in the nearest cache while the rows stream by.
    static void Columns<V, L, W>(in Matrix matrix, int from, int to, float* x, int batch, float* y, int outputs)
        where V : unmanaged where L : ILanes<V> where W : IWeights
    {
        int count = to - from, n = matrix.Inputs, width = L.Width, i = 0;
        float* sums = stackalloc float[MaxColumns], natural = stackalloc float[MaxColumns];
        for (int b = 0; b < batch; b++, i = 0)
        {
            float* xb = x + (long)b * n;
            new Span<float>(sums, count).Clear();
            for (; i + 4 <= n; i += 4)
            {
                byte* w = matrix.Row(i) + from * W.Size, w1 = matrix.Row(i + 1) + from * W.Size;
                byte* w2 = matrix.Row(i + 2) + from * W.Size, w3 = matrix.Row(i + 3) + from * W.Size;
                V x0 = L.Broadcast(xb[i]), x1 = L.Broadcast(xb[i + 1]), x2 = L.Broadcast(xb[i + 2]), x3 = L.Broadcast(xb[i + 3]);
                int j = 0;
                for (; j + 2 * width <= count; j += 2 * width)
                {
                    V a = L.Load(sums + j), c = L.Load(sums + j + width);
                    W.Load<V, L>(w, j, out V pa, out V pb);
                    a = L.MultiplyAdd(pa, x0, a);
                    c = L.MultiplyAdd(pb, x0, c);
                    W.Load<V, L>(w1, j, out pa, out pb);
                    a = L.MultiplyAdd(pa, x1, a);
                    c = L.MultiplyAdd(pb, x1, c);
                    W.Load<V, L>(w2, j, out pa, out pb);
                    a = L.MultiplyAdd(pa, x2, a);
                    c = L.MultiplyAdd(pb, x2, c);
                    W.Load<V, L>(w3, j, out pa, out pb);
                    a = L.MultiplyAdd(pa, x3, a);
                    c = L.MultiplyAdd(pb, x3, c);
                    L.Store(a, sums + j);
                    L.Store(c, sums + j + width);
                }

                for (; j < count; j++)
                {
                    sums[j] += W.One(w, j) * xb[i] + W.One(w1, j) * xb[i + 1] + W.One(w2, j) * xb[i + 2] + W.One(w3, j) * xb[i + 3];
                }
            }

            for (; i < n; i++)
            {
                byte* w = matrix.Row(i) + from * W.Size;
                V x0 = L.Broadcast(xb[i]);
                int j = 0;
                for (; j + 2 * width <= count; j += 2 * width)
                {
                    W.Load<V, L>(w, j, out V pa, out V pb);
                    L.Store(L.MultiplyAdd(pa, x0, L.Load(sums + j)), sums + j);
                    L.Store(L.MultiplyAdd(pb, x0, L.Load(sums + j + width)), sums + j + width);
                }

                for (; j < count; j++)
                {
                    sums[j] += W.One(w, j) * xb[i];
                }
            }

            W.Unpack<V, L>(sums, natural, count);
            for (int j = 0; j < count; j++)
            {
                y[(long)b * outputs + from + j] = natural[j] + matrix.Bias(from + j);
            }
        }
    }

    // The vector width is a type argument, so that one text serves all paths and the compiler sees straight code.
    interface ILanes<V> where V : unmanaged
    {
        static abstract int Width { get; }

        static abstract V Load(float* from);

        static abstract void Store(V value, float* to);

        static abstract V Broadcast(float value);

        static abstract V Add(V a, V b);

        static abstract V MultiplyAdd(V a, V b, V sum);

        static abstract float Sum(V value);

        /// <summary>Of 2 · Width bfloat16 numbers those at even and those at odd places: a shift and a mask, no shuffle.</summary>
        static abstract void Expand(ushort* from, out V even, out V odd);

        /// <summary>Of 2 · Width numbers those at even places, then those at odd places.</summary>
        static abstract void Part(float* from, float* to);
    }

    readonly struct Lanes512 : ILanes<Vector512<float>>
    {
        public static int Width => 16;

        public static Vector512<float> Load(float* from) => Vector512.Load(from);

        public static void Store(Vector512<float> value, float* to) => value.Store(to);

        public static Vector512<float> Broadcast(float value) => Vector512.Create(value);

        public static Vector512<float> Add(Vector512<float> a, Vector512<float> b) => a + b;

        [MethodImpl(MethodImplOptions.AggressiveInlining)]
        public static Vector512<float> MultiplyAdd(Vector512<float> a, Vector512<float> b, Vector512<float> sum) => Vector512.MultiplyAddEstimate(a, b, sum);

        public static float Sum(Vector512<float> value) => Vector512.Sum(value);

        [MethodImpl(MethodImplOptions.AggressiveInlining)]
        public static void Expand(ushort* from, out Vector512<float> even, out Vector512<float> odd)
        {
            Vector512<uint> both = Vector512.Load((uint*)from);
            even = (both << 16).AsSingle();
            odd = (both & Vector512.Create(0xffff0000u)).AsSingle();
        }

        public static void Part(float* from, float* to)
        {
            Lanes256.Part(from, to);
            Lanes256.Part(from + 16, to + 16);
            // [even, odd, even, odd] of eight each: the middle two change places.
            Vector256<float> odd = Vector256.Load(to + 8), even = Vector256.Load(to + 16);
            even.Store(to + 8);
            odd.Store(to + 16);
        }
    }

    readonly struct Lanes256 : ILanes<Vector256<float>>
    {
        public static int Width => 8;

        public static Vector256<float> Load(float* from) => Vector256.Load(from);

        public static void Store(Vector256<float> value, float* to) => value.Store(to);

        public static Vector256<float> Broadcast(float value) => Vector256.Create(value);

        public static Vector256<float> Add(Vector256<float> a, Vector256<float> b) => a + b;

        [MethodImpl(MethodImplOptions.AggressiveInlining)]
        public static Vector256<float> MultiplyAdd(Vector256<float> a, Vector256<float> b, Vector256<float> sum) => Vector256.MultiplyAddEstimate(a, b, sum);

        public static float Sum(Vector256<float> value) => Vector256.Sum(value);

        [MethodImpl(MethodImplOptions.AggressiveInlining)]
        public static void Expand(ushort* from, out Vector256<float> even, out Vector256<float> odd)
        {
            Vector256<uint> both = Vector256.Load((uint*)from);
            even = (both << 16).AsSingle();
            odd = (both & Vector256.Create(0xffff0000u)).AsSingle();
        }

        public static void Part(float* from, float* to)
        {
            Vector256<int> parted = Vector256.Create(0, 2, 4, 6, 1, 3, 5, 7);
            Vector256<float> a = Vector256.Shuffle(Vector256.Load(from), parted), b = Vector256.Shuffle(Vector256.Load(from + 8), parted);
            Vector256.Create(a.GetLower(), b.GetLower()).Store(to);
            Vector256.Create(a.GetUpper(), b.GetUpper()).Store(to + 8);
        }
    }

    readonly struct OneLane : ILanes<float>
    {
        public static int Width => 1;

        public static float Load(float* from) => *from;

        public static void Store(float value, float* to) => *to = value;

        public static float Broadcast(float value) => value;

        public static float Add(float a, float b) => a + b;

        public static float MultiplyAdd(float a, float b, float sum) => a * b + sum;

        public static float Sum(float value) => value;

        public static void Expand(ushort* from, out float even, out float odd)
        {
            even = BitConverter.UInt32BitsToSingle((uint)from[0] << 16);
            odd = BitConverter.UInt32BitsToSingle((uint)from[1] << 16);
        }

        public static void Part(float* from, float* to) => (to[0], to[1]) = (from[0], from[1]);
    }

    interface IWeights
    {
        static abstract int Size { get; }

        static abstract float One(byte* row, int index);

        /// <summary>The weights at index … index + 2 · Width − 1, in the order in which <see cref="Pack"/> leaves an input.</summary>
        static abstract void Load<V, L>(byte* row, int index, out V a, out V b) where V : unmanaged where L : ILanes<V>;

        static abstract void Pack<V, L>(float* from, float* to, int count) where V : unmanaged where L : ILanes<V>;

        static abstract void Unpack<V, L>(float* from, float* to, int count) where V : unmanaged where L : ILanes<V>;
    }

    readonly struct SingleWeights : IWeights
    {
        public static int Size => 4;

        public static float One(byte* row, int index) => ((float*)row)[index];

        [MethodImpl(MethodImplOptions.AggressiveInlining)]
        public static void Load<V, L>(byte* row, int index, out V a, out V b) where V : unmanaged where L : ILanes<V>
        {
            a = L.Load((float*)row + index);
            b = L.Load((float*)row + index + L.Width);
        }

        public static void Pack<V, L>(float* from, float* to, int count) where V : unmanaged where L : ILanes<V> =>
            new ReadOnlySpan<float>(from, count).CopyTo(new Span<float>(to, count));

        public static void Unpack<V, L>(float* from, float* to, int count) where V : unmanaged where L : ILanes<V> => Pack<V, L>(from, to, count);
    }

    readonly struct BFloat16Weights : IWeights
    {
        public static int Size => 2;

        public static float One(byte* row, int index) => BitConverter.UInt32BitsToSingle((uint)((ushort*)row)[index] << 16);

        [MethodImpl(MethodImplOptions.AggressiveInlining)]
        public static void Load<V, L>(byte* row, int index, out V a, out V b) where V : unmanaged where L : ILanes<V> =>
            L.Expand((ushort*)row + index, out a, out b);

        public static void Pack<V, L>(float* from, float* to, int count) where V : unmanaged where L : ILanes<V>
        {
            int width = L.Width, i = 0;
            for (; i + 2 * width <= count; i += 2 * width)
            {
                L.Part(from + i, to + i);
            }

            new ReadOnlySpan<float>(from + i, count - i).CopyTo(new Span<float>(to + i, count - i));
        }

        public static void Unpack<V, L>(float* from, float* to, int count) where V : unmanaged where L : ILanes<V>
        {
            int width = L.Width, i = 0;
            for (; i + 2 * width <= count; i += 2 * width)
            {
                for (int j = 0; j < width; j++)
                {
                    to[i + 2 * j] = from[i + j];
                    to[i + 2 * j + 1] = from[i + width + j];
                }
            }

            new ReadOnlySpan<float>(from + i, count - i).CopyTo(new Span<float>(to + i, count - i));
        }
    }
}
