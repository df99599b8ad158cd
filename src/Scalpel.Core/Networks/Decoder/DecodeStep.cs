using System.Numerics;
using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using MathNet.Numerics;
using Scalpel.Checkpoints;
using Scalpel.Networks.Layers;
using Scalpel.Numerics;
using TorchSharp;
using static TorchSharp.torch;
using Matrix = Scalpel.Numerics.Matrix;
using TensorPrimitives = System.Numerics.Tensors.TensorPrimitives;

namespace Scalpel.Networks;

public sealed partial class Decoder
{
    /// <summary>
    /// One token of each row after a cache, over the tensors' memory: the same arithmetic as <see cref="Forward"/> without
    /// a tensor in between. Decoding is products of matrices with one vector; this runs them at the speed of memory.
    /// In bfloat16 results are rounded where the tensor operations round them.
    /// </summary>
    internal sealed unsafe class DecodeStep : IDisposable
    {
        const int MaxBatch = 8, HeadsAtOnceFrom = 64;

        readonly Decoder model;
        readonly DecoderConfig config;
        readonly WorkerPool pool;
        readonly bool half;
        readonly int batch;
        readonly LayerWeights[] layers;
        readonly CachedMemory?[] memories;
        readonly Matrix head;
        readonly Vectors finalNorm;
        readonly byte* embedding, position;
        readonly Buffer x, normed, queryKeyValue, mixed, branch, up, logits;

        readonly record struct Vectors(Norm Norm, float[] Gain, float[] Bias);

        sealed record LayerWeights(Vectors AttentionNorm, Vectors? MlpNorm, Vectors? QueryNorm, Vectors? KeyNorm, Matrix[] QueryKeyValue, Matrix[] Output, Matrix[] Up, Matrix[] Down);

        sealed record CachedMemory(Tensor Keys, Tensor Values, nint KeysAt, nint ValuesAt, int Capacity);

        DecodeStep(Decoder model, int batch, WorkerPool pool)
        {
            memories = new CachedMemory?[model.layers.Count];
            (this.model, config, this.batch, this.pool, half) = (model, model.Config, batch, pool, model.DType == ScalarType.BFloat16);
            layers = [.. model.layers.Select(layer => new LayerWeights(
                Of(layer.AttentionNorm!), layer.MlpNorm is null ? null : Of(layer.MlpNorm),
                layer.QueryNorm is null ? null : Of(layer.QueryNorm), layer.KeyNorm is null ? null : Of(layer.KeyNorm),
                [Of(layer.QueryKeyValue)], [Of(layer.Output)], [Of(layer.Mlps[0].Up)], [Of(layer.Mlps[0].Down)]))];
            finalNorm = Of(model.finalNorm);
            head = Of(model.head);
            embedding = StoredTensor.Pointer(model.embedding);
            position = model.position is null ? null : StoredTensor.Pointer(model.position);
            int d = config.Width, e = config.HeadSize, rows = (config.Heads + 2 * config.KeyValueHeads) * e;
            (x, normed, branch) = (new(batch * d), new(batch * d), new(batch * d));
            (queryKeyValue, mixed) = (new(batch * rows), new(batch * config.Heads * e));
            (up, logits) = (new(batch * (config.Gated ? 2 : 1) * config.Inner), new((long)batch * config.Vocabulary));
        }

        /// <summary>A step for a model of this kind; null when its arithmetic is not covered here and tensors must do.</summary>
        public static DecodeStep? For(Decoder model, int batch, WorkerPool pool)
        {
            DecoderConfig c = model.Config;
            bool covered = batch <= MaxBatch && model.DType is ScalarType.Float32 or ScalarType.BFloat16
                && c.Experts == 0 && c.Senses == 0 && c.ScoreCap is null && c.LogitCap is null && c.ClipQueryKeyValue is null
                && c.Block is BlockKind.Sequential or BlockKind.ParallelOneNorm or BlockKind.ParallelTwoNorms
                && c.QueryKeyNorm != QueryKeyNorm.AllHeads && model.layers.All(layer => layer.AttentionNorm is not null)
                && model.embeddingAdapters.Count == 0 && model.Parameters.Keys.All(name => model.LinearOf(name) is not { Linear.Adapters.Count: > 0 });
            return covered ? new DecodeStep(model, batch, pool) : null;
        }

        /// <summary>Reads one token a row, which the cache then holds.</summary>
        /// <param name="tokens">[B].</param>
        /// <param name="cache">Not empty; all its padding on the left.</param>
        /// <param name="padding">Columns of padding in each row.</param>
        /// <returns>Logits [B, V], valid until the next step.</returns>
        public ReadOnlySpan<float> Run(ReadOnlySpan<long> tokens, KeyValueCache cache, ReadOnlySpan<int> padding)
        {
            int d = config.Width, past = cache.Length;
            for (int b = 0; b < batch; b++)
            {
                Embed(tokens[b], past - padding[b], x.Row(b, d));
            }

            (float[] Cos, float[] Sin)[][] angles = Angles(past, padding);
            // Columns of the memory, which begins where a window has slid to.
            cache.MakeRoom(1);
            int held = past - cache.First;
            Span<int> before = stackalloc int[MaxBatch];
            for (int b = 0; b < batch; b++)
            {
                before[b] = Math.Max(0, padding[b] - cache.First);
            }

            for (int l = 0; l < layers.Length; l++)
            {
                Layer(l, cache, held, before, angles);
            }

            Normalise(finalNorm, x, normed, d);
            MatrixVector.Multiply([head], normed.Pointer, batch, logits.Pointer, pool, MatrixVector.BestPath);
            Round(logits.All);
            cache.Advance(1);
            return logits.All;
        }

        public void Dispose()
        {
            foreach (Buffer buffer in (Buffer[])[x, normed, queryKeyValue, mixed, branch, up, logits])
            {
                buffer.Dispose();
            }
        }

        void Layer(int l, KeyValueCache cache, int past, ReadOnlySpan<int> padding, (float[] Cos, float[] Sin)[][] angles)
        {
            LayerWeights w = layers[l];
            int d = config.Width;
            bool parallel = config.Block != BlockKind.Sequential;
            Normalise(w.AttentionNorm, x, normed, d);
            Multiply(w.QueryKeyValue, normed, queryKeyValue);
            CachedMemory memory = Memory(l, cache, past + 1);
            for (int b = 0; b < batch; b++)
            {
                Attend(l, b, (byte*)memory.KeysAt, (byte*)memory.ValuesAt, memory.Capacity, past, padding[b], angles[b]);
            }

            Multiply(w.Output, mixed, branch);
            if (!parallel)
            {
                Add(x, branch);
                Normalise(w.MlpNorm!.Value, x, normed, d);
            }
            else if (w.MlpNorm is { } second)
            {
                Normalise(second, x, normed, d);
            }

            if (parallel)
            {
                Add(x, branch);
            }

            Multiply(w.Up, normed, up);
            for (int b = 0; b < batch; b++)
            {
                Activate(up.Row(b, up.Length / batch));
            }

            Multiply(w.Down, Packed(), branch);
            Add(x, branch);
        }

        // Asking a tensor for its address and size costs as much as a small product, and they stay until the cache grows.
        CachedMemory Memory(int l, KeyValueCache cache, int end)
        {
            (Tensor? keys, Tensor? values) = cache.Memory(l);
            if (memories[l] is { } known && known.Capacity >= end && ReferenceEquals(known.Keys, keys) && ReferenceEquals(known.Values, values))
            {
                return known;
            }

            cache.Reserve(l, end);
            (keys, values) = cache.Memory(l);
            return memories[l] = new CachedMemory(keys!, values!, (nint)StoredTensor.Pointer(keys!), (nint)StoredTensor.Pointer(values!), (int)keys!.shape[2]);
        }

        // The gated rows are [activation; rest]: brought together, so that the next product finds them in a row.
        Buffer Packed()
        {
            int width = up.Length / batch, f = config.Inner;
            for (int b = 1; b < batch && width != f; b++)
            {
                up.Row(b, width)[..f].CopyTo(up.All.Slice(b * f, f));
            }

            return up;
        }

        void Embed(long token, int at, Span<float> into)
        {
            if (token < 0 || token >= config.Vocabulary)
            {
                throw new BadInputException($"The token id {token} is outside of the model's {config.Vocabulary} tokens; is the tokenizer that of this model?");
            }

            Read(embedding, token * config.Width, into);
            if (config.EmbeddingScale != 1)
            {
                Span<float> factor = [(float)config.EmbeddingScale];
                Round(factor);
                TensorPrimitives.Multiply(into, factor[0], into);
                Round(into);
            }

            if (position != null)
            {
                if (at >= config.MaxPositions)
                {
                    throw new BadInputException($"The text has {at + 1} tokens, the model {config.MaxPositions} positions; shorten the text.");
                }

                Span<float> row = normed.All[..config.Width];
                Read(position, (long)at * config.Width, row);
                TensorPrimitives.Add(into, row, into);
                Round(into);
            }
        }

        void Attend(int l, int b, byte* keys, byte* values, int capacity, int past, int padding, (float[] Cos, float[] Sin)[] angles)
        {
            int h = config.Heads, kv = config.KeyValueHeads, e = config.HeadSize, share = h / kv;
            LayerWeights w = layers[l];
            float* row = queryKeyValue.Pointer + (long)b * (h + 2 * kv) * e;
            bool perHead = model.names.Layout == QueryKeyValueLayout.FusedPerHead;
            float* Query(int i) => row + (perHead ? i * 3 * e : i * e);
            float* Key(int i) => row + (perHead ? (i * 3 + 1) * e : (h + i) * e);
            float* Value(int i) => row + (perHead ? (i * 3 + 2) * e : (h + kv + i) * e);
            for (int i = 0; i < kv; i++)
            {
                Prepare(new Span<float>(Key(i), e), w.KeyNorm, l, angles);
                long at = (((long)b * kv + i) * capacity + past) * e;
                Write(keys, at, new ReadOnlySpan<float>(Key(i), e));
                Write(values, at, new ReadOnlySpan<float>(Value(i), e));
            }

            int start = config.Window[l] is { } window ? Math.Max(padding, past + 1 - window) : padding, count = past + 1 - start;
            float scale = (float)model.Scale(l);
            float* output = mixed.Pointer + (long)b * h * e;
            void Head(int i)
            {
                var query = new Span<float>(Query(i), e);
                Prepare(query, w.QueryNorm, l, angles);
                long first = (((long)b * kv + i / share) * capacity + start) * e;
                float[] rented = System.Buffers.ArrayPool<float>.Shared.Rent(count);
                Span<float> scores = rented.AsSpan(0, count);
                for (int s = 0; s < count; s++)
                {
                    scores[s] = Dot(Query(i), keys, first + (long)s * e, e) * scale;
                }

                TensorPrimitives.Subtract(scores, TensorPrimitives.Max(scores), scores);
                TensorPrimitives.Exp(scores, scores);
                TensorPrimitives.Divide(scores, TensorPrimitives.Sum(scores), scores);
                var sum = new Span<float>(output + i * e, e);
                sum.Clear();
                for (int s = 0; s < count; s++)
                {
                    AddScaled(output + i * e, values, first + (long)s * e, scores[s], e);
                }

                Round(sum);
                System.Buffers.ArrayPool<float>.Shared.Return(rented);
            }

            if (count >= HeadsAtOnceFrom)
            {
                pool.Run(h, Head);
            }
            else
            {
                for (int i = 0; i < h; i++)
                {
                    Head(i);
                }
            }
        }

        void Prepare(Span<float> headRow, Vectors? norm, int l, (float[] Cos, float[] Sin)[] angles)
        {
            if (norm is { } vectors)
            {
                Normalise(vectors, headRow, headRow);
            }

            if (angles.Length == 0)
            {
                return;
            }

            (float[] cos, float[] sin) = angles[config.RotaryOfLayer[l]];
            bool interleaved = config.Rotary[config.RotaryOfLayer[l]].Interleaved;
            int n = cos.Length;
            for (int i = 0; i < n; i++)
            {
                ref float first = ref headRow[interleaved ? 2 * i : i], second = ref headRow[interleaved ? 2 * i + 1 : i + n];
                (float a, float c) = (first, second);
                first = R(R(a * cos[i]) - R(c * sin[i]));
                second = R(R(c * cos[i]) + R(a * sin[i]));
            }
        }

        // Angles in float32, as the tensors compute them. Per row, since padding shifts positions.
        (float[] Cos, float[] Sin)[][] Angles(int past, ReadOnlySpan<int> padding)
        {
            var all = new (float[], float[])[batch][];
            for (int b = 0; b < batch; b++)
            {
                all[b] = new (float[], float[])[config.Rotary.Count];
                int at = past - padding[b];
                for (int i = 0; i < all[b].Length; i++)
                {
                    RotaryConfig rotary = config.Rotary[i];
                    double[] theta = rotary.Frequencies(rotary.Scaling == RotaryScaling.Dynamic ? past - MinOf(padding) + 1 : 0);
                    float factor = (float)rotary.AttentionFactor;
                    float[] angle = [.. theta.Select(t => at * (float)t)];
                    all[b][i] = ([.. angle.Select(a => R(MathF.Cos(a) * factor))], [.. angle.Select(a => R(MathF.Sin(a) * factor))]);
                }
            }

            return all;
        }

        static int MinOf(ReadOnlySpan<int> values) => TensorPrimitives.Min(values);

        void Activate(Span<float> row)
        {
            Span<float> gate = row[..config.Inner];
            switch (config.Activation)
            {
                case Activation.Silu:
                    Times(gate, TensorPrimitives.Sigmoid);
                    break;
                case Activation.Relu:
                    TensorPrimitives.Max(gate, 0f, gate);
                    break;
                default:
                    for (int i = 0; i < gate.Length; i++)
                    {
                        float z = gate[i];
                        gate[i] = config.Activation switch
                        {
                            Activation.GeluTanh => 0.5f * z * (1 + MathF.Tanh(0.7978845608f * (z + 0.044715f * z * z * z))),
                            Activation.QuickGelu => z / (1 + MathF.Exp(-1.702f * z)),
                            _ => (float)(0.5 * z * (1 + SpecialFunctions.Erf(z / Math.Sqrt(2)))),
                        };
                    }

                    break;
            }

            Round(gate);
            if (config.Gated)
            {
                TensorPrimitives.Multiply(gate, row[config.Inner..], gate);
                Round(gate);
            }
        }

        delegate void Map(ReadOnlySpan<float> from, Span<float> to);

        void Times(Span<float> values, Map map)
        {
            Span<float> scratch = logits.All[..values.Length];
            map(values, scratch);
            TensorPrimitives.Multiply(values, scratch, values);
        }

        void Normalise(Vectors vectors, Buffer from, Buffer to, int d)
        {
            for (int b = 0; b < batch; b++)
            {
                Normalise(vectors, from.Row(b, d), to.Row(b, d));
            }
        }

        void Normalise(Vectors vectors, ReadOnlySpan<float> from, Span<float> to)
        {
            (Norm norm, float[] gain, float[] bias) = vectors;
            int n = from.Length;
            if (norm.Centred)
            {
                TensorPrimitives.Subtract(from, TensorPrimitives.Sum(from) / n, to);
            }
            else
            {
                from.CopyTo(to);
            }

            TensorPrimitives.Multiply(to, 1 / MathF.Sqrt(TensorPrimitives.SumOfSquares<float>(to) / n + (float)norm.Epsilon), to);
            if (norm.Kind == NormKind.Rms)
            {
                Round(to);
            }

            if (gain.Length > 0)
            {
                TensorPrimitives.Multiply(to, gain, to);
            }

            if (bias.Length > 0)
            {
                TensorPrimitives.Add(to, bias, to);
            }

            Round(to);
        }

        void Multiply(Matrix[] matrix, Buffer from, Buffer to)
        {
            MatrixVector.Multiply(matrix, from.Pointer, batch, to.Pointer, pool, MatrixVector.BestPath);
            Round(to.All);
        }

        void Add(Buffer sum, Buffer summand)
        {
            TensorPrimitives.Add(sum.All, summand.All, sum.All);
            Round(sum.All);
        }

        float Dot(float* a, byte* memory, long at, int n)
        {
            float* b = (float*)memory + at;
            ushort* bits = (ushort*)memory + at;
            Vector<float> sum = Vector<float>.Zero;
            int i = 0, width = Vector<float>.Count;
            if (half)
            {
                for (; i <= n - 2 * width; i += 2 * width)
                {
                    Vector<ushort> packed = Unsafe.ReadUnaligned<Vector<ushort>>(bits + i);
                    sum += Vector.LoadUnsafe(ref a[i]) * Widened(Vector.WidenLower(packed)) + Vector.LoadUnsafe(ref a[i + width]) * Widened(Vector.WidenUpper(packed));
                }
            }
            else
            {
                for (; i <= n - width; i += width)
                {
                    sum += Vector.LoadUnsafe(ref a[i]) * Vector.LoadUnsafe(ref b[i]);
                }
            }

            float total = Vector.Sum(sum);
            for (; i < n; i++)
            {
                total += a[i] * (half ? Single(bits[i]) : b[i]);
            }

            return total;
        }

        void AddScaled(float* into, byte* memory, long at, float factor, int n)
        {
            float* v = (float*)memory + at;
            ushort* bits = (ushort*)memory + at;
            int i = 0, width = Vector<float>.Count;
            if (half)
            {
                for (; i <= n - 2 * width; i += 2 * width)
                {
                    Vector<ushort> packed = Unsafe.ReadUnaligned<Vector<ushort>>(bits + i);
                    (Vector.LoadUnsafe(ref into[i]) + Widened(Vector.WidenLower(packed)) * factor).StoreUnsafe(ref into[i]);
                    (Vector.LoadUnsafe(ref into[i + width]) + Widened(Vector.WidenUpper(packed)) * factor).StoreUnsafe(ref into[i + width]);
                }
            }
            else
            {
                for (; i <= n - width; i += width)
                {
                    (Vector.LoadUnsafe(ref into[i]) + Vector.LoadUnsafe(ref v[i]) * factor).StoreUnsafe(ref into[i]);
                }
            }

            for (; i < n; i++)
            {
                into[i] += factor * (half ? Single(bits[i]) : v[i]);
            }
        }

        static Vector<float> Widened(Vector<uint> bits) => Vector.AsVectorSingle(bits << 16);

        static float Single(ushort bits) => BitConverter.UInt32BitsToSingle((uint)bits << 16);

        void Read(byte* memory, long at, Span<float> into)
        {
            if (!half)
            {
                new ReadOnlySpan<float>((float*)memory + at, into.Length).CopyTo(into);
                return;
            }

            for (int i = 0; i < into.Length; i++)
            {
                into[i] = Single(((ushort*)memory)[at + i]);
            }
        }

        void Write(byte* memory, long at, ReadOnlySpan<float> from)
        {
            if (!half)
            {
                from.CopyTo(new Span<float>((float*)memory + at, from.Length));
                return;
            }

            for (int i = 0; i < from.Length; i++)
            {
                ((ushort*)memory)[at + i] = (ushort)(BitConverter.SingleToUInt32Bits(from[i]) >> 16);
            }
        }

        // To the nearest bfloat16, ties to even; nothing in float32.
        void Round(Span<float> values)
        {
            if (!half)
            {
                return;
            }

            Span<uint> bits = MemoryMarshal.Cast<float, uint>(values);
            int i = 0, width = Vector<uint>.Count;
            for (; i <= bits.Length - width; i += width)
            {
                Vector<uint> v = Vector.LoadUnsafe(ref bits[i]);
                v += new Vector<uint>(0x7fff) + ((v >>> 16) & Vector<uint>.One);
                (v & new Vector<uint>(0xffff0000)).StoreUnsafe(ref bits[i]);
            }

            for (; i < bits.Length; i++)
            {
                bits[i] = (bits[i] + 0x7fff + (bits[i] >> 16 & 1)) & 0xffff0000;
            }
        }

        float R(float value)
        {
            if (!half)
            {
                return value;
            }

            uint bits = BitConverter.SingleToUInt32Bits(value);
            return BitConverter.UInt32BitsToSingle((bits + 0x7fff + (bits >> 16 & 1)) & 0xffff0000);
        }

        static Matrix Of(Linear linear) => new(linear.Weight, linear.Bias, linear.Transposed);

        static Vectors Of(Norm norm)
        {
            float[] gain = norm.Gain is null ? [] : Floats(norm.Gain);
            return new Vectors(norm, norm.Kind == NormKind.RmsPlusOne ? [.. gain.Select(g => g + 1)] : gain, norm.Bias is null ? [] : Floats(norm.Bias));
        }

        static float[] Floats(Tensor tensor)
        {
            using Tensor detached = tensor.detach(), wide = detached.to_type(ScalarType.Float32);
            return wide.data<float>().ToArray();
        }

        /// <summary>Numbers in memory of our own, aligned to a cache line.</summary>
        sealed class Buffer(long length) : IDisposable
        {
            public float* Pointer { get; private set; } = (float*)NativeMemory.AlignedAlloc((nuint)(length * sizeof(float)), 64);

            public int Length => checked((int)length);

            public Span<float> All => new(Pointer, Length);

            public Span<float> Row(int row, int width) => new(Pointer + (long)row * width, width);

            public void Dispose()
            {
                NativeMemory.AlignedFree(Pointer);
                Pointer = null;
            }
        }
    }
}
