namespace Scalpel.Cli.CommandLine;

/// <summary>What the command's exit code says.</summary>
enum ExitCode
{
    /// <summary>Done.</summary>
    Done = 0,

    /// <summary>A check did not hold: a hash differs, a claim fails, a parity case is off.</summary>
    CheckFailed = 1,

    /// <summary>The input cannot be used.</summary>
    BadInput = 2,

    /// <summary>Ctrl-C or a request to end.</summary>
    Interrupted = 3,

    /// <summary>A fault of Scalpel's own, or of its installation.</summary>
    InternalError = 4,
}
