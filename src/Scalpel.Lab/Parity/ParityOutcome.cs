namespace Scalpel.Lab.Parity;

/// <summary>What came of one case.</summary>
public enum ParityVerdict
{
    /// <summary>Every compared value lies within the tolerance.</summary>
    Pass,

    /// <summary>A value lies outside, or the case could not be read or computed.</summary>
    Fail,

    /// <summary>This kind of case is not known here.</summary>
    Unsupported,
}

/// <summary>The verdict on one case.</summary>
/// <param name="Case">The case's folder.</param>
/// <param name="Kind">Its kind.</param>
/// <param name="Verdict">Pass, fail or unsupported.</param>
/// <param name="Error">Largest |ours − expected| / (atol + rtol·|expected|); 1 is the limit.</param>
/// <param name="Tensor">Where the largest error stands.</param>
/// <param name="Seconds">Time of computing and comparing.</param>
/// <param name="Reason">For a failure or an unsupported case, one sentence.</param>
public sealed record ParityOutcome(string Case, string Kind, ParityVerdict Verdict, double Error, string? Tensor, double Seconds, string? Reason);
