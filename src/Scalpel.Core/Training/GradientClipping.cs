using TorchSharp;
using static TorchSharp.torch;

namespace Scalpel.Training;

/// <summary>Bounds the gradients of a step, over the flat buffers of all groups together.</summary>
public static class GradientClipping
{
    /// <summary>The Euclidean norm of all gradients together.</summary>
    public static double Norm(IReadOnlyList<ParameterGroup> groups)
    {
        double sum = 0;
        foreach (ParameterGroup group in groups)
        {
            // At once where nothing is converted.
            long piece = group.Gradients.dtype == group.Values.dtype ? group.Length : ParameterGroup.Piece;
            for (long at = 0; at < group.Length; at += piece)
            {
                using var scope = NewDisposeScope();
                double value = group.GradientsAt(at, Math.Min(piece, group.Length - at)).norm().ToDouble();
                sum += value * value;
            }
        }

        return Math.Sqrt(sum);
    }

    /// <summary>Scales all gradients by min(1, largest/(norm + 1e-6)).</summary>
    /// <returns>The norm before.</returns>
    public static double ByNorm(IReadOnlyList<ParameterGroup> groups, double largest)
    {
        double norm = Norm(groups), factor = largest / (norm + 1e-6);
        if (factor < 1)
        {
            foreach (ParameterGroup group in groups)
            {
                group.ScaleGradients(factor);
            }
        }

        return norm;
    }

    /// <summary>Bounds every gradient to [−largest, largest].</summary>
    public static void ByValue(IReadOnlyList<ParameterGroup> groups, double largest)
    {
        using var scope = NewDisposeScope();
        foreach (ParameterGroup group in groups)
        {
            group.Gradients.clamp_(-largest, largest);
        }
    }
}
