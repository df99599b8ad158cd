using TorchSharp;
using static TorchSharp.torch;

namespace Scalpel.Training;

/// <summary>Bounds the gradients of a step, over the flat buffers of all groups together.</summary>
// TorchSharp's in-place operations return the very object that they change: disposing the result frees the buffer.
public static class GradientClipping
{
    /// <summary>The Euclidean norm of all gradients together.</summary>
    public static double Norm(IReadOnlyList<ParameterGroup> groups)
    {
        double sum = 0;
        foreach (ParameterGroup group in groups)
        {
            using Tensor norm = group.Gradients.norm();
            double value = norm.ToDouble();
            sum += value * value;
        }

        return Math.Sqrt(sum);
    }

    /// <summary>Scales all gradients by min(1, largest/(norm + 1e-6)).</summary>
    /// <returns>The norm before.</returns>
    public static double ByNorm(IReadOnlyList<ParameterGroup> groups, double largest)
    {
        using var scope = NewDisposeScope();
        double norm = Norm(groups), factor = largest / (norm + 1e-6);
        if (factor < 1)
        {
            foreach (ParameterGroup group in groups)
            {
                group.Gradients.mul_(factor);
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
