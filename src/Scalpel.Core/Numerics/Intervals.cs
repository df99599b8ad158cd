namespace Scalpel.Numerics;

/// <summary>A value with its 95 % interval.</summary>
/// <param name="Value">The estimate.</param>
/// <param name="Low">Lower end.</param>
/// <param name="High">Upper end.</param>
public readonly record struct Interval(double Value, double Low, double High);

/// <summary>Intervals at 95 %.</summary>
public static class Intervals
{
    const double Z = 1.959963984540054;
    const int Resamples = 2000;

    /// <summary>Wilson's score interval of a share.</summary>
    /// <param name="successes">How many of them succeeded.</param>
    /// <param name="count">How many there were, at least 1.</param>
    public static Interval Wilson(long successes, long count)
    {
        double n = count, p = successes / n, z2 = Z * Z;
        double centre = (p + z2 / (2 * n)) / (1 + z2 / n), half = Z / (1 + z2 / n) * Math.Sqrt(p * (1 - p) / n + z2 / (4 * n * n));
        return new Interval(p, successes == 0 ? 0 : centre - half, successes == count ? 1 : centre + half);
    }

    /// <summary>Percentile bootstrap of a mean, 2,000 resamples.</summary>
    /// <param name="values">The sample, at least one value. Equal values give an interval of no width.</param>
    /// <param name="seed">Of the resampling.</param>
    public static Interval Mean(IReadOnlyList<double> values, ulong seed)
    {
        double mean = values.Average();
        if (values.Count == 1 || values.All(value => value == values[0]))
        {
            return new Interval(mean, mean, mean);
        }

        ulong state = seed;
        var means = new double[Resamples];
        for (int r = 0; r < Resamples; r++)
        {
            double sum = 0;
            for (int i = 0; i < values.Count; i++)
            {
                sum += values[(int)(Next(ref state) % (ulong)values.Count)];
            }

            means[r] = sum / values.Count;
        }

        Array.Sort(means);
        return new Interval(mean, means[(int)(0.025 * Resamples)], means[(int)(0.975 * Resamples) - 1]);
    }

    // SplitMix64.
    static ulong Next(ref ulong state)
    {
        ulong z = state += 0x9e3779b97f4a7c15;
        z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
        z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
        return z ^ (z >> 31);
    }
}
