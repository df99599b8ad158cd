using System.Runtime.InteropServices;
using Scalpel.Cli.Output;

namespace Scalpel.Cli.CommandLine;

/// <summary>Turns Ctrl-C and a request to end into a cancellation; the second Ctrl-C ends the process at once.</summary>
sealed class Interrupts : IDisposable
{
    readonly CancellationTokenSource source = new();
    readonly PosixSignalRegistration interrupt, terminate;

    /// <summary>Listens until disposed.</summary>
    public Interrupts(ConsoleOutput output)
    {
        void Cancel(PosixSignalContext signal)
        {
            signal.Cancel = true;
            if (source.IsCancellationRequested)
            {
                Environment.Exit((int)ExitCode.Interrupted);
            }

            output.Note("stopping after this step; press Ctrl-C again to stop at once.");
            source.Cancel();
        }

        interrupt = PosixSignalRegistration.Create(PosixSignal.SIGINT, Cancel);
        terminate = PosixSignalRegistration.Create(PosixSignal.SIGTERM, Cancel);
    }

    /// <summary>Cancelled by the first signal.</summary>
    public CancellationToken Token => source.Token;

    /// <summary>Stops listening.</summary>
    public void Dispose()
    {
        interrupt.Dispose();
        terminate.Dispose();
        source.Dispose();
    }
}
