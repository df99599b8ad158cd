using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using Scalpel.Checkpoints;
using TorchSharp;
using static TorchSharp.torch;

namespace Scalpel.Numerics;

/// <summary>
/// What a network does to each position for itself, in one pass over the memory where tensor operations would take five to
/// ten, forward and backward. Tensors are float32 or bfloat16, contiguous, on the CPU; arithmetic is in float32 and rounds
/// where the composed operations round. Gradients are not tracked.
/// </summary>
static unsafe class RowPasses
{
    const int Width = 8;
    const long ParallelFrom = 1 << 17;

    public static bool Covers(ScalarType type) => type is ScalarType.Float32 or ScalarType.BFloat16;

    /// <summary>x̂ · gain with x̂ = x · rsqrt(mean(x²) + ε), over rows of n.</summary>
    /// <param name="x">[.., n].</param>
    /// <param name="gain">[n].</param>
    /// <param name="epsilon">ε.</param>
    /// <param name="scales">Gets the rsqrt of each row, float32 [rows]; null when nobody needs it.</param>
    public static Tensor RmsNorm(Tensor x, Tensor gain, double epsilon, Tensor? scales = null)
    {
        Tensor y = empty(x.shape, dtype: x.dtype);
        byte* from = StoredTensor.Pointer(x), weight = StoredTensor.Pointer(gain), to = StoredTensor.Pointer(y);
        float* kept = scales is null ? null : (float*)StoredTensor.Pointer(scales);
        int n = (int)x.shape[^1];
        if (x.dtype == ScalarType.Float32)
        {
            InParts(x.numel() / n, n, (start, end) => Normalise<Single>(from, weight, to, kept, start, end, n, (float)epsilon));
        }
        else
        {
            InParts(x.numel() / n, n, (start, end) => Normalise<Half>(from, weight, to, kept, start, end, n, (float)epsilon));
        }

        return y;
    }

    /// <summary>Adds the norm's gradient by x to <paramref name="into"/>, and that by the gain to <paramref name="gainGradient"/>.</summary>
    /// <param name="x">[.., n].</param>
    /// <param name="gain">[n].</param>
    /// <param name="scales">What the norm gave, [rows].</param>
    /// <param name="gradient">By the norm's result.</param>
    /// <param name="into">Of x's shape; added to in place.</param>
    /// <param name="gainGradient">Float32 [n], added to; null for a gain that does not train.</param>
    public static void RmsNormBackward(Tensor x, Tensor gain, Tensor scales, Tensor gradient, Tensor into, Tensor? gainGradient)
    {
        byte* from = StoredTensor.Pointer(x), weight = StoredTensor.Pointer(gain), above = StoredTensor.Pointer(gradient), to = StoredTensor.Pointer(into);
        float* kept = (float*)StoredTensor.Pointer(scales), sum = gainGradient is null ? null : (float*)StoredTensor.Pointer(gainGradient);
        int n = (int)x.shape[^1];
        long rows = x.numel() / n;
        if (x.dtype == ScalarType.Float32)
        {
            NormaliseBackward<Single>(from, weight, kept, above, to, sum, rows, n);
        }
        else
        {
            NormaliseBackward<Half>(from, weight, kept, above, to, sum, rows, n);
        }
    }

    /// <summary>silu(gate) ⊙ up of rows [gate; up].</summary>
    /// <param name="gateUp">[.., 2f].</param>
    /// <returns>[.., f].</returns>
    public static Tensor SwiGlu(Tensor gateUp)
    {
        long[] shape = gateUp.shape;
        shape[^1] /= 2;
        Tensor y = empty(shape, dtype: gateUp.dtype);
        byte* from = StoredTensor.Pointer(gateUp), to = StoredTensor.Pointer(y);
        int f = (int)shape[^1];
        if (y.dtype == ScalarType.Float32)
        {
            InParts(y.numel() / f, 4 * f, (start, end) => Gate<Single>(from, to, start, end, f));
        }
        else
        {
            InParts(y.numel() / f, 4 * f, (start, end) => Gate<Half>(from, to, start, end, f));
        }

        return y;
    }

    /// <summary>Replaces [gate; up] by its gradient, and the gradient by the result of <see cref="SwiGlu"/> by that result.</summary>
    /// <param name="gateUp">[.., 2f]; becomes the gradient by it.</param>
    /// <param name="gradient">[.., f], by the result; becomes the result.</param>
    public static void SwiGluBackward(Tensor gateUp, Tensor gradient)
    {
        byte* both = StoredTensor.Pointer(gateUp), above = StoredTensor.Pointer(gradient);
        int f = (int)gradient.shape[^1];
        if (gradient.dtype == ScalarType.Float32)
        {
            InParts(gradient.numel() / f, 8 * f, (start, end) => GateBackward<Single>(both, above, start, end, f));
        }
        else
        {
            InParts(gradient.numel() / f, 8 * f, (start, end) => GateBackward<Half>(both, above, start, end, f));
        }
    }

    /// <summary>Turns pairs (i, i + r/2) of the leading r of each head, in place.</summary>
    /// <param name="x">[rows, columns]; the heads are its first columns.</param>
    /// <param name="heads">Heads to turn.</param>
    /// <param name="size">e, columns of a head.</param>
    /// <param name="cos">[rows or a divisor of it, r/2], repeated.</param>
    /// <param name="sin">As <paramref name="cos"/>.</param>
    /// <param name="back">Whether to turn the other way, as gradients do.</param>
    public static void Rotate(Tensor x, int heads, int size, Tensor cos, Tensor sin, bool back)
    {
        byte* at = StoredTensor.Pointer(x), c = StoredTensor.Pointer(cos), s = StoredTensor.Pointer(sin);
        int columns = (int)x.shape[^1], half = (int)cos.shape[^1];
        long period = cos.numel() / half;
        if (x.dtype == ScalarType.Float32)
        {
            InParts(x.numel() / columns, columns, (start, end) => Turn<Single>(at, c, s, start, end, columns, heads, size, half, period, back));
        }
        else
        {
            InParts(x.numel() / columns, columns, (start, end) => Turn<Half>(at, c, s, start, end, columns, heads, size, half, period, back));
        }
    }

    /// <summary>log softmax of each row at its target; the logits become (softmax − one-hot) · weight, the loss's gradient by them.</summary>
    /// <param name="logits">[n, V]; overwritten when there are weights.</param>
    /// <param name="targets">[n].</param>
    /// <param name="weight">Of a row, by its log-probability; null when no gradient is wanted.</param>
    /// <param name="logProbabilities">[n], set.</param>
    public static void CrossEntropy(Tensor logits, ReadOnlySpan<long> targets, Func<float, float>? weight, Span<float> logProbabilities)
    {
        byte* at = StoredTensor.Pointer(logits);
        int vocabulary = (int)logits.shape[1];
        fixed (long* wanted = targets)
        fixed (float* result = logProbabilities)
        {
            (nint target, nint into) = ((nint)wanted, (nint)result);
            if (logits.dtype == ScalarType.Float32)
            {
                InParts(logits.shape[0], 4 * vocabulary, (start, end) => Entropy<Single>(at, (long*)target, weight, (float*)into, start, end, vocabulary));
            }
            else
            {
                InParts(logits.shape[0], 4 * vocabulary, (start, end) => Entropy<Half>(at, (long*)target, weight, (float*)into, start, end, vocabulary));
            }
        }
    }

    // Short work is done by the caller: dividing it would cost as much.
    static void InParts(long rows, long costOfRow, Action<long, long> work)
    {
        int parts = (int)Math.Min(rows, Math.Min(get_num_threads(), rows * costOfRow / ParallelFrom + 1));
        if (parts <= 1)
        {
            work(0, rows);
            return;
        }

        TensorThreads.Run(parts, i => work(rows * i / parts, rows * (i + 1) / parts));
    }

    static void Normalise<T>(byte* x, byte* gain, byte* y, float* scales, long start, long end, int n, float epsilon) where T : IStored
    {
        for (long row = start; row < end; row++)
        {
            byte* from = x + row * n * T.Size, to = y + row * n * T.Size;
            Vector256<float> sum = default;
            for (int i = 0; i < n; i += Width)
            {
                Vector256<float> value = T.Load(from, i, n);
                sum = Vector256.MultiplyAddEstimate(value, value, sum);
            }

            float scale = 1 / MathF.Sqrt(Vector256.Sum(sum) / n + epsilon);
            if (scales is not null)
            {
                scales[row] = scale;
            }

            for (int i = 0; i < n; i += Width)
            {
                T.Store(to, i, n, T.Round(T.Load(from, i, n) * scale) * T.Load(gain, i, n));
            }
        }
    }

    static void NormaliseBackward<T>(byte* x, byte* gain, float* scales, byte* above, byte* into, float* gainGradient, long rows, int n) where T : IStored
    {
        for (long row = 0; row < rows; row++)
        {
            byte* from = x + row * n * T.Size, up = above + row * n * T.Size, to = into + row * n * T.Size;
            float scale = scales[row];
            Vector256<float> sum = default;
            for (int i = 0; i < n; i += Width)
            {
                sum = Vector256.MultiplyAddEstimate(T.Load(up, i, n) * T.Load(gain, i, n), T.Load(from, i, n), sum);
            }

            // dx = s (g w − x̂ mean(g w x̂)), x̂ = s x.
            float share = Vector256.Sum(sum) / n * scale * scale * scale;
            for (int i = 0; i < n; i += Width)
            {
                Vector256<float> value = T.Load(from, i, n), gradient = T.Load(up, i, n);
                T.Store(to, i, n, T.Load(to, i, n) + (gradient * T.Load(gain, i, n) * scale - value * share));
                if (gainGradient is not null)
                {
                    Single.Store((byte*)gainGradient, i, n, Vector256.MultiplyAddEstimate(gradient, value * scale, Single.Load((byte*)gainGradient, i, n)));
                }
            }
        }
    }

    static void Gate<T>(byte* gateUp, byte* y, long start, long end, int f) where T : IStored
    {
        for (long row = start; row < end; row++)
        {
            byte* gate = gateUp + row * 2 * f * T.Size, up = gate + (long)f * T.Size, to = y + row * f * T.Size;
            for (int i = 0; i < f; i += Width)
            {
                Vector256<float> g = T.Load(gate, i, f);
                T.Store(to, i, f, T.Round(g * Sigmoid(g)) * T.Load(up, i, f));
            }
        }
    }

    static void GateBackward<T>(byte* gateUp, byte* above, long start, long end, int f) where T : IStored
    {
        for (long row = start; row < end; row++)
        {
            byte* gate = gateUp + row * 2 * f * T.Size, up = gate + (long)f * T.Size, at = above + row * f * T.Size;
            for (int i = 0; i < f; i += Width)
            {
                Vector256<float> g = T.Load(gate, i, f), u = T.Load(up, i, f), d = T.Load(at, i, f), sigmoid = Sigmoid(g), silu = g * sigmoid;
                T.Store(at, i, f, T.Round(silu) * u);
                T.Store(up, i, f, d * silu);
                T.Store(gate, i, f, d * u * (sigmoid + silu * (Vector256<float>.One - sigmoid)));
            }
        }
    }

    static void Turn<T>(byte* x, byte* cos, byte* sin, long start, long end, int columns, int heads, int size, int half, long period, bool back) where T : IStored
    {
        float sign = back ? -1 : 1;
        for (long row = start; row < end; row++)
        {
            byte* c = cos + row % period * half * T.Size, s = sin + row % period * half * T.Size;
            for (int head = 0; head < heads; head++)
            {
                byte* first = x + (row * columns + (long)head * size) * T.Size, second = first + (long)half * T.Size;
                for (int i = 0; i < half; i += Width)
                {
                    Vector256<float> a = T.Load(first, i, half), b = T.Load(second, i, half), co = T.Load(c, i, half), si = T.Load(s, i, half) * sign;
                    T.Store(first, i, half, T.Round(a * co) - T.Round(b * si));
                    T.Store(second, i, half, T.Round(b * co) + T.Round(a * si));
                }
            }
        }
    }

    static void Entropy<T>(byte* logits, long* targets, Func<float, float>? weight, float* logProbabilities, long start, long end, int n) where T : IStored
    {
        for (long row = start; row < end; row++)
        {
            byte* at = logits + row * n * T.Size;
            Vector256<float> top = Vector256.Create(float.NegativeInfinity), sum = default;
            for (int i = 0; i + Width <= n; i += Width)
            {
                top = Vector256.Max(top, T.Load(at, i, n));
            }

            float most = float.NegativeInfinity, rest = 0;
            for (int lane = 0; lane < Width; lane++)
            {
                most = MathF.Max(most, top[lane]);
            }

            for (int i = n / Width * Width; i < n; i++)
            {
                most = MathF.Max(most, T.Load(at, i, i + 1)[0]);
            }

            for (int i = 0; i + Width <= n; i += Width)
            {
                sum += Exp(T.Load(at, i, n) - Vector256.Create(most));
            }

            for (int i = n / Width * Width; i < n; i++)
            {
                rest += MathF.Exp(T.Load(at, i, i + 1)[0] - most);
            }

            float total = MathF.Log(Vector256.Sum(sum) + rest) + most, target = T.Load(at, (int)targets[row], (int)targets[row] + 1)[0];
            logProbabilities[row] = target - total;
            if (weight is null)
            {
                continue;
            }

            float factor = weight(target - total);
            for (int i = 0; i < n; i += Width)
            {
                T.Store(at, i, n, Exp(T.Load(at, i, n) - Vector256.Create(total)) * factor);
            }

            T.Store(at, (int)targets[row], (int)targets[row] + 1, Vector256.Create((MathF.Exp(target - total) - 1) * factor));
        }
    }

    static Vector256<float> Sigmoid(Vector256<float> x) => Vector256<float>.One / (Vector256<float>.One + Exp(-x));

    // 2^k · e^r with r in ±½ ln 2, e^r to the last bits by its series; 0 far below, ∞ far above, NaN for NaN.
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    static Vector256<float> Exp(Vector256<float> x)
    {
        Vector256<float> k = Vector256.Round(x * 1.44269504f);
        Vector256<float> r = Vector256.MultiplyAddEstimate(k, Vector256.Create(-0.693359375f), x);
        r = Vector256.MultiplyAddEstimate(k, Vector256.Create(2.12194440e-4f), r);
        Vector256<float> p = Vector256.MultiplyAddEstimate(Vector256.Create(1.9875691500e-4f), r, Vector256.Create(1.3981999507e-3f));
        p = Vector256.MultiplyAddEstimate(p, r, Vector256.Create(8.3334519073e-3f));
        p = Vector256.MultiplyAddEstimate(p, r, Vector256.Create(4.1665795894e-2f));
        p = Vector256.MultiplyAddEstimate(p, r, Vector256.Create(1.6666665459e-1f));
        p = Vector256.MultiplyAddEstimate(p, r, Vector256.Create(5.0000001201e-1f));
        p = Vector256.MultiplyAddEstimate(p, r * r, r) + Vector256<float>.One;
        Vector256<float> power = ((Vector256.ConvertToInt32(k) + Vector256.Create(127)) << 23).AsSingle();
        Vector256<float> inside = p * power;
        inside = Vector256.ConditionalSelect(Vector256.LessThan(x, Vector256.Create(-87.3f)), Vector256<float>.Zero, inside);
        inside = Vector256.ConditionalSelect(Vector256.GreaterThan(x, Vector256.Create(88.3f)), Vector256.Create(float.PositiveInfinity), inside);
        return Vector256.ConditionalSelect(Vector256.Equals(x, x), inside, x);
    }

    /// <summary>Numbers as they lie in memory, eight at a time; a part of eight at the end of a row of n.</summary>
    interface IStored
    {
        static abstract int Size { get; }

        static abstract Vector256<float> Load(byte* row, int index, int n);

        static abstract void Store(byte* row, int index, int n, Vector256<float> value);

        /// <summary>To the precision of the memory.</summary>
        static abstract Vector256<float> Round(Vector256<float> value);
    }

    readonly struct Single : IStored
    {
        public static int Size => 4;

        [MethodImpl(MethodImplOptions.AggressiveInlining)]
        public static Vector256<float> Load(byte* row, int index, int n) => index + Width <= n ? Vector256.Load((float*)row + index) : LoadPart((float*)row + index, n - index);

        [MethodImpl(MethodImplOptions.AggressiveInlining)]
        public static void Store(byte* row, int index, int n, Vector256<float> value)
        {
            if (index + Width <= n)
            {
                value.Store((float*)row + index);
                return;
            }

            for (int i = 0; i < n - index; i++)
            {
                ((float*)row)[index + i] = value[i];
            }
        }

        public static Vector256<float> Round(Vector256<float> value) => value;

        static Vector256<float> LoadPart(float* from, int count)
        {
            float* part = stackalloc float[Width];
            for (int i = 0; i < count; i++)
            {
                part[i] = from[i];
            }

            return Vector256.Load(part);
        }
    }

    readonly struct Half : IStored
    {
        public static int Size => 2;

        [MethodImpl(MethodImplOptions.AggressiveInlining)]
        public static Vector256<float> Load(byte* row, int index, int n) =>
            Widen(index + Width <= n ? Vector128.Load((ushort*)row + index) : LoadPart((ushort*)row + index, n - index));

        [MethodImpl(MethodImplOptions.AggressiveInlining)]
        public static void Store(byte* row, int index, int n, Vector256<float> value)
        {
            Vector256<uint> bits = Bits(value) >> 16;
            Vector128<ushort> narrow = Vector128.Narrow(bits.GetLower(), bits.GetUpper());
            if (index + Width <= n)
            {
                narrow.Store((ushort*)row + index);
                return;
            }

            for (int i = 0; i < n - index; i++)
            {
                ((ushort*)row)[index + i] = narrow[i];
            }
        }

        [MethodImpl(MethodImplOptions.AggressiveInlining)]
        public static Vector256<float> Round(Vector256<float> value) => (Bits(value) & Vector256.Create(0xFFFF0000)).AsSingle();

        // Rounded to the nearest, ties to even; NaN stays one.
        [MethodImpl(MethodImplOptions.AggressiveInlining)]
        static Vector256<uint> Bits(Vector256<float> value)
        {
            Vector256<uint> bits = value.AsUInt32(), rounded = bits + Vector256.Create(0x7FFFu) + ((bits >> 16) & Vector256<uint>.One);
            return Vector256.ConditionalSelect(Vector256.Equals(value, value).AsUInt32(), rounded, Vector256.Create(0x7FC00000u));
        }

        [MethodImpl(MethodImplOptions.AggressiveInlining)]
        static Vector256<float> Widen(Vector128<ushort> half)
        {
            (Vector128<uint> low, Vector128<uint> high) = Vector128.Widen(half);
            return (Vector256.Create(low, high) << 16).AsSingle();
        }

        static Vector128<ushort> LoadPart(ushort* from, int count)
        {
            ushort* part = stackalloc ushort[Width];
            for (int i = 0; i < count; i++)
            {
                part[i] = from[i];
            }

            return Vector128.Load(part);
        }
    }
}
