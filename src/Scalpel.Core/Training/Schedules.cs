namespace Scalpel.Training;

/// <summary>How the learning rate goes over the steps, as a factor of the peak rate.</summary>
public abstract record Schedule
{
    /// <summary>Steps in which the rate rises to its peak; the first of them has rate 0. Default 0.</summary>
    public long Warmup { get; init; }

    /// <summary>Factor of the peak rate in step <paramref name="step"/>, counted from 0.</summary>
    public double Factor(long step) => step < Warmup ? WarmupFactor(step) : AfterWarmup(step);

    /// <summary>The factor while the rate rises: linear from 0.</summary>
    private protected virtual double WarmupFactor(long step) => (double)step / Math.Max(1, Warmup);

    /// <summary>The factor from step <see cref="Warmup"/> on.</summary>
    private protected abstract double AfterWarmup(long step);
}

/// <summary>The peak rate throughout.</summary>
public sealed record ConstantSchedule : Schedule
{
    private protected override double AfterWarmup(long step) => 1;
}

/// <summary>A schedule that knows where training ends.</summary>
/// <param name="Steps">Steps in all, warm-up included.</param>
public abstract record FiniteSchedule(long Steps) : Schedule
{
    /// <summary>Share of the steps after warm-up that lie behind step <paramref name="step"/>.</summary>
    private protected double Progress(long step) => (double)(step - Warmup) / Math.Max(1, Steps - Warmup);
}

/// <summary>A straight line down to 0.</summary>
public sealed record LinearSchedule(long Steps) : FiniteSchedule(Steps)
{
    private protected override double AfterWarmup(long step) => Math.Max(0, (double)(Steps - step) / Math.Max(1, Steps - Warmup));
}

/// <summary>A cosine from 1 to <see cref="Floor"/>.</summary>
public sealed record CosineSchedule(long Steps) : FiniteSchedule(Steps)
{
    /// <summary>Waves of the cosine; ½ is one fall. Default ½.</summary>
    public double Cycles { get; init; } = 0.5;

    /// <summary>Lowest factor. Default 0.</summary>
    public double Floor { get; init; }

    /// <summary>
    /// Factor of the first warm-up step, from which the rate rises so that the last warm-up step has the peak; null for
    /// a rise from 0. With it the cosine runs one step ahead.
    /// </summary>
    public double? WarmupFloor { get; init; }

    /// <summary>Whether warm-up starts one step up, and the cosine runs one step ahead. Default: when <see cref="WarmupFloor"/> is given.</summary>
    public bool OneAhead { get; init; }

    bool Ahead => OneAhead || WarmupFloor is not null;

    private protected override double WarmupFactor(long step) =>
        WarmupFloor is { } floor ? floor + (1 - floor) * step / Math.Max(1, Warmup - 1)
        : Ahead ? (step + 1.0) / Math.Max(1, Warmup)
        : base.WarmupFactor(step);

    private protected override double AfterWarmup(long step)
    {
        double wave = 0.5 * (1 + Math.Cos(Math.PI * Cycles * 2 * Progress(Ahead ? step + 1 : step)));
        return Math.Max(0, wave * (1 - Floor) + Floor);
    }
}

/// <summary>Falls of a cosine from 1 to 0, each starting at 1 again; 0 after the end.</summary>
public sealed record CosineRestartsSchedule(long Steps) : FiniteSchedule(Steps)
{
    /// <summary>Number of falls. Default 1.</summary>
    public double Cycles { get; init; } = 1;

    private protected override double AfterWarmup(long step) =>
        Progress(step) >= 1 ? 0 : Math.Max(0, 0.5 * (1 + Math.Cos(Math.PI * (Cycles * Progress(step) % 1.0))));
}

/// <summary>A power of the remaining share, from 1 to <see cref="Floor"/>.</summary>
public sealed record PolynomialSchedule(long Steps) : FiniteSchedule(Steps)
{
    /// <summary>The exponent. Default 1.</summary>
    public double Power { get; init; } = 1;

    /// <summary>Factor at the end and after. Default 0.</summary>
    public double Floor { get; init; }

    private protected override double AfterWarmup(long step) =>
        step > Steps ? Floor : (1 - Floor) * Math.Pow(1 - Progress(step), Power) + Floor;
}

/// <summary>1/√ of the step, 1 at the end of warm-up.</summary>
public sealed record InverseSqrtSchedule : Schedule
{
    /// <summary>Steps after which the factor has fallen to 1/√2, counted from the end of warm-up. Default: the warm-up's length, or 10,000 without one.</summary>
    public long? Timescale { get; init; }

    private protected override double AfterWarmup(long step)
    {
        long scale = Timescale ?? (Warmup > 0 ? Warmup : 10_000);
        return 1 / Math.Sqrt((double)(step + scale - Warmup) / scale);
    }
}

/// <summary>The shape of a rise or a fall.</summary>
public enum RampShape
{
    /// <summary>A straight line.</summary>
    Linear,

    /// <summary>Half a wave of a cosine.</summary>
    Cosine,

    /// <summary>1 − √x.</summary>
    OneMinusSqrt,
}

/// <summary>Warm-up, a long stretch at the peak, decay: the schedule of runs that may be prolonged.</summary>
/// <param name="Steps">Steps in all; what warm-up and decay leave is the stable stretch.</param>
/// <param name="Decay">Steps of the decay.</param>
public sealed record WarmupStableDecaySchedule(long Steps, long Decay) : FiniteSchedule(Steps)
{
    /// <summary>Shape of the rise. Default linear.</summary>
    public RampShape WarmupShape { get; init; } = RampShape.Linear;

    /// <summary>Shape of the fall. Default cosine.</summary>
    public RampShape DecayShape { get; init; } = RampShape.Cosine;

    /// <summary>Factor at the start of warm-up and at the end. Default 0.</summary>
    public double Floor { get; init; }

    /// <summary>Waves of a cosine fall; ½ is one fall. Default ½.</summary>
    public double Cycles { get; init; } = 0.5;

    private protected override double WarmupFactor(long step)
    {
        double x = base.WarmupFactor(step);
        return Lift(WarmupShape switch
        {
            RampShape.Linear => x,
            RampShape.Cosine => 0.5 * (1 - Math.Cos(Math.PI * x)),
            _ => 1 - Math.Sqrt(1 - x),
        });
    }

    private protected override double AfterWarmup(long step)
    {
        long start = Math.Max(Warmup, Steps - Decay);
        if (step < start)
        {
            return 1;
        }

        if (step >= start + Decay)
        {
            return Floor;
        }

        double x = (double)(step - start) / Math.Max(1, Decay);
        return Lift(DecayShape switch
        {
            RampShape.Linear => 1 - x,
            RampShape.Cosine => 0.5 * (1 + Math.Cos(Math.PI * Cycles * 2 * x)),
            _ => 1 - Math.Sqrt(x),
        });
    }

    double Lift(double factor) => Math.Max(0, factor * (1 - Floor) + Floor);
}

/// <summary>A schedule for a number of steps.</summary>
/// <param name="Steps">For how many steps.</param>
/// <param name="Schedule">The schedule; it counts from the first of them.</param>
/// <param name="Scale">What its factors are multiplied by. Default 1.</param>
public sealed record ScheduleStage(long Steps, Schedule Schedule, double Scale = 1);

/// <summary>Schedules one after the other, as PyTorch's SequentialLR; the last goes on after its steps.</summary>
/// <param name="Stages">At least one.</param>
public sealed record SequentialSchedule(IReadOnlyList<ScheduleStage> Stages) : Schedule
{
    private protected override double AfterWarmup(long step)
    {
        int stage = 0;
        for (; stage < Stages.Count - 1 && step >= Stages[stage].Steps; stage++)
        {
            step -= Stages[stage].Steps;
        }

        return Stages[stage].Scale * Stages[stage].Schedule.Factor(step);
    }
}
