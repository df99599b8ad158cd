using System.Runtime.Intrinsics;
using Scalpel.Checkpoints;
using TorchSharp;
using static TorchSharp.torch;

namespace Scalpel.Numerics;

/// <summary>A step of Adam over flat float32 buffers in one pass: each number is read and written once.</summary>
/// <param name="Beta1">Of the mean.</param>
/// <param name="Beta2">Of the mean square.</param>
/// <param name="Penalty">Added to the gradient times the value.</param>
/// <param name="Shrink">Factor of the value before the step.</param>
/// <param name="Rate">η over the mean's correction.</param>
/// <param name="Root">Root of the mean square's correction.</param>
/// <param name="Epsilon">ε.</param>
readonly unsafe record struct AdamPass(float Beta1, float Beta2, float Penalty, float Shrink, float Rate, float Root, float Epsilon)
{
    const long Piece = 1 << 18;

    /// <summary>Changes values, mean and mean square in place.</summary>
    public void Run(Tensor values, Tensor gradients, Tensor mean, Tensor square)
    {
        AdamPass pass = this;
        float* w = (float*)StoredTensor.Pointer(values), g = (float*)StoredTensor.Pointer(gradients), m = (float*)StoredTensor.Pointer(mean), v = (float*)StoredTensor.Pointer(square);
        long count = values.numel();
        TensorThreads.Run(checked((int)((count + Piece - 1) / Piece)), part =>
        {
            long at = part * Piece;
            pass.Run(w + at, g + at, m + at, v + at, Math.Min(Piece, count - at));
        });
    }

    void Run(float* w, float* g, float* m, float* v, long count)
    {
        const int Width = 8;
        long i = 0;
        for (; i + Width <= count; i += Width)
        {
            Vector256<float> value = Vector256.Load(w + i), gradient = Vector256.Load(g + i) + value * Penalty;
            Vector256<float> mean = Vector256.Load(m + i) * Beta1 + gradient * (1 - Beta1);
            Vector256<float> square = Vector256.Load(v + i) * Beta2 + gradient * gradient * (1 - Beta2);
            mean.Store(m + i);
            square.Store(v + i);
            (value * Shrink - mean / (Vector256.Sqrt(square) / Root + Vector256.Create(Epsilon)) * Rate).Store(w + i);
        }

        for (; i < count; i++)
        {
            float gradient = g[i] + w[i] * Penalty;
            m[i] = m[i] * Beta1 + gradient * (1 - Beta1);
            v[i] = v[i] * Beta2 + gradient * gradient * (1 - Beta2);
            w[i] = w[i] * Shrink - m[i] / (MathF.Sqrt(v[i]) / Root + Epsilon) * Rate;
        }
    }
}
