using System.Text.Json.Nodes;
using TorchSharp;
using static TorchSharp.torch;

namespace Scalpel.Lab.Parity;

/// <summary>
/// Collects the differences of one case: the largest error over tolerance and where it stands. Integers and strings
/// must be equal. Something expected that is never compared is a failure of the case, so nothing passes by omission.
/// </summary>
public sealed class Comparison
{
    readonly double rtol, atol;

    /// <summary>A comparison with the tolerance of <paramref name="parityCase"/>.</summary>
    public Comparison(ParityCase parityCase) : this(parityCase.RelativeTolerance, parityCase.AbsoluteTolerance) { }

    /// <summary>A comparison with a tolerance of its own.</summary>
    public Comparison(double rtol, double atol)
    {
        this.rtol = rtol;
        this.atol = atol;
    }

    /// <summary>Largest |ours − expected| / (atol + rtol·|expected|) so far; infinite after a mismatch of kind, shape or text.</summary>
    public double WorstError { get; private set; }

    /// <summary>Name of the worst value.</summary>
    public string? WorstName { get; private set; }

    /// <summary>The first difference that no number describes (shape, string, count), as a sentence.</summary>
    public string? Reason { get; private set; }

    /// <summary>How many values were compared.</summary>
    public long Count { get; private set; }

    /// <summary>Compares two tensors of equal shape; <paramref name="where"/> (bool, broadcastable) limits it to valid elements.</summary>
    public void Tensors(string name, Tensor ours, Tensor expected, Tensor? where = null)
    {
        using var scope = NewDisposeScope();
        if (!ours.shape.SequenceEqual(expected.shape))
        {
            Mismatch(name, $"{name} has shape [{string.Join(", ", ours.shape)}], expected [{string.Join(", ", expected.shape)}]");
            return;
        }

        if (expected.numel() == 0)
        {
            Count++;
            return;
        }

        bool exact = !expected.is_floating_point();
        using var noGrad = no_grad();
        Tensor a = ours.detach().to_type(ScalarType.Float64), b = expected.detach().to_type(ScalarType.Float64);
        // Equal infinities and NaN in both count as equal.
        Tensor same = a.eq(b).logical_or(a.isnan().logical_and(b.isnan()));
        Tensor limit = exact ? zeros_like(b) : b.abs().mul(rtol).add(atol);
        Tensor error = (a - b).abs() / limit;
        error = torch.where(same, zeros_like(error), error);
        error = torch.where(error.isnan(), full_like(error, double.PositiveInfinity), error);
        if (where is not null)
        {
            error = torch.where(where.expand(error.shape), error, zeros_like(error));
        }

        Count += expected.numel();
        Record(name, error.max().ToDouble());
    }

    /// <summary>Compares two numbers.</summary>
    public void Numbers(string name, double ours, double expected)
    {
        Count++;
        if (ours.Equals(expected))
        {
            Record(name, 0);
            return;
        }

        double error = Math.Abs(ours - expected) / (atol + rtol * Math.Abs(expected));
        Record(name, double.IsNaN(error) ? double.PositiveInfinity : error);
    }

    /// <summary>Compares two values that must be equal: strings, ids, counts.</summary>
    public void Exact<T>(string name, T ours, T expected)
    {
        Count++;
        if (EqualityComparer<T>.Default.Equals(ours, expected))
        {
            Record(name, 0);
        }
        else
        {
            Mismatch(name, $"{name} is {Show(ours)}, expected {Show(expected)}");
        }
    }

    /// <summary>Compares two sequences that must be equal element by element.</summary>
    public void Sequences<T>(string name, IEnumerable<T> ours, IEnumerable<T> expected)
    {
        T[] a = [.. ours], b = [.. expected];
        Count++;
        int n = Math.Min(a.Length, b.Length);
        for (int i = 0; i < n; i++)
        {
            if (!EqualityComparer<T>.Default.Equals(a[i], b[i]))
            {
                Mismatch($"{name}[{i}]", $"{name}[{i}] is {Show(a[i])}, expected {Show(b[i])}");
                return;
            }
        }

        if (a.Length != b.Length)
        {
            Mismatch(name, $"{name} has {a.Length} entries, expected {b.Length}");
            return;
        }

        Record(name, 0);
    }

    /// <summary>Notes a difference that no number describes; the case fails.</summary>
    public void Mismatch(string name, string reason)
    {
        Reason ??= reason;
        if (!double.IsPositiveInfinity(WorstError))
        {
            WorstError = double.PositiveInfinity;
            WorstName = name;
        }
    }

    void Record(string name, double error)
    {
        if (error > WorstError || WorstName is null)
        {
            WorstError = error;
            WorstName = name;
        }
    }

    static string Show<T>(T value)
    {
        string text = value is string s ? JsonValue.Create(s).ToJsonString() : value?.ToString() ?? "nothing";
        return text.Length > 200 ? text[..200] + "…" : text;
    }
}
