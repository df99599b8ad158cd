namespace Scalpel;

/// <summary>One line of progress of a long computation.</summary>
/// <param name="Stage">What is being done, in a few words: "covariance of layer 5".</param>
/// <param name="Done">Units finished.</param>
/// <param name="Total">Units in all; 0 when unknown.</param>
/// <param name="Note">A figure worth showing beside it: "loss 0.31".</param>
public readonly record struct ProgressReport(string Stage, long Done, long Total, string? Note = null);

/// <summary>
/// What one computation needs from outside: seed, progress, cancellation, a scratch folder. There is no ambient state:
/// two computations with equal contexts and equal inputs give equal bytes.
/// </summary>
public sealed record RunContext
{
    /// <summary>Seed of everything random in this run. Default 0.</summary>
    public ulong Seed { get; init; }

    /// <summary>Receives progress; null for none.</summary>
    public IProgress<ProgressReport>? Progress { get; init; }

    /// <summary>Stops the computation at its next step.</summary>
    public CancellationToken Cancellation { get; init; }

    /// <summary>Folder for caches such as covariance statistics. Default: <c>scalpel</c> in the user's cache folder.</summary>
    public string CacheFolder { get; init; } = DefaultCacheFolder();

    /// <summary>A context with the given seed and nothing else.</summary>
    public static RunContext WithSeed(ulong seed) => new() { Seed = seed };

    /// <summary>Throws when the run was cancelled, then reports progress.</summary>
    public void Report(string stage, long done, long total, string? note = null)
    {
        Cancellation.ThrowIfCancellationRequested();
        Progress?.Report(new ProgressReport(stage, done, total, note));
    }

    static string DefaultCacheFolder()
    {
        string? cache = Environment.GetEnvironmentVariable("XDG_CACHE_HOME");
        if (string.IsNullOrEmpty(cache))
        {
            cache = Path.Combine(Environment.GetFolderPath(Environment.SpecialFolder.UserProfile), ".cache");
        }

        return Path.Combine(cache, "scalpel");
    }
}
