using System.Diagnostics;
using System.Runtime.ExceptionServices;

namespace Scalpel.Numerics;

/// <summary>
/// A few threads for work of some ten microseconds, where the start of a parallel loop would cost as much as the work.
/// Idle workers spin for half a millisecond and then sleep. The caller takes parts too and never waits for a worker to
/// wake: whoever is free takes the next part. Not for parts that block.
/// </summary>
public sealed class WorkerPool : IDisposable
{
    static readonly long SpinTicks = Stopwatch.Frequency / 2000;

    readonly Thread[] workers;
    readonly object parking = new();
    Action<int>? work;
    Exception? failure;

    // Job number in the upper half, parts not yet taken in the lower: whoever lowers it has read that job's fields.
    long state;
    int finished, parked, busy;
    volatile bool disposed;

    /// <summary>Starts the workers.</summary>
    /// <param name="threads">Threads that work together, the caller among them; at most one a core is used.</param>
    public WorkerPool(int threads)
    {
        Threads = Math.Clamp(threads, 1, Environment.ProcessorCount);
        workers = new Thread[Threads - 1];
        for (int i = 0; i < workers.Length; i++)
        {
            workers[i] = new Thread(Serve) { IsBackground = true, Name = $"Scalpel worker {i + 1}" };
            workers[i].Start();
        }
    }

    /// <summary>Threads that work together, the caller among them.</summary>
    public int Threads { get; }

    /// <summary>
    /// Runs <paramref name="part"/> for 0 … <paramref name="parts"/> − 1 and returns when all have ended. A call from
    /// within a part, or while another thread uses the pool, runs on the caller alone.
    /// </summary>
    /// <exception cref="Exception">The first that a part threw; the other parts have run.</exception>
    public void Run(int parts, Action<int> part)
    {
        ObjectDisposedException.ThrowIf(disposed, this);
        if (parts <= 1 || workers.Length == 0 || Interlocked.CompareExchange(ref busy, 1, 0) != 0)
        {
            for (int i = 0; i < parts; i++)
            {
                part(i);
            }

            return;
        }

        try
        {
            work = part;
            finished = 0;
            Interlocked.Exchange(ref state, (((state >> 32) + 1) << 32) | (uint)parts);
            if (Volatile.Read(ref parked) != 0)
            {
                lock (parking)
                {
                    Monitor.PulseAll(parking);
                }
            }

            while (TakePart())
            {
            }

            var spin = new SpinWait();
            while (Volatile.Read(ref finished) < parts)
            {
                // Another process may hold the worker's core: give ours away after a while.
                spin.SpinOnce(sleep1Threshold: -1);
            }

            if (failure is { } thrown)
            {
                failure = null;
                ExceptionDispatchInfo.Throw(thrown);
            }
        }
        finally
        {
            work = null;
            Volatile.Write(ref busy, 0);
        }
    }

    /// <summary>Ends the workers. Not to be called while <see cref="Run"/> is under way.</summary>
    public void Dispose()
    {
        disposed = true;
        lock (parking)
        {
            Monitor.PulseAll(parking);
        }

        foreach (Thread worker in workers)
        {
            worker.Join();
        }
    }

    bool HasWork => (uint)Volatile.Read(ref state) != 0;

    bool TakePart()
    {
        long seen = Volatile.Read(ref state);
        uint left = (uint)seen;
        if (left == 0)
        {
            return false;
        }

        Action<int>? part = Volatile.Read(ref work);
        if (Interlocked.CompareExchange(ref state, seen - 1, seen) != seen)
        {
            return true;
        }

        try
        {
            part!((int)left - 1);
        }
        catch (Exception e)
        {
            Interlocked.CompareExchange(ref failure, e, null);
        }

        Interlocked.Increment(ref finished);
        return true;
    }

    void Serve()
    {
        long idleSince = Stopwatch.GetTimestamp();
        while (!disposed)
        {
            if (TakePart())
            {
                idleSince = 0;
                continue;
            }

            if (idleSince == 0)
            {
                idleSince = Stopwatch.GetTimestamp();
            }

            if (Stopwatch.GetTimestamp() - idleSince < SpinTicks)
            {
                Thread.SpinWait(4);
                continue;
            }

            lock (parking)
            {
                // Counted before the last look, as Run publishes before it reads the count: one of the two sees the other.
                Interlocked.Increment(ref parked);
                while (!disposed && !HasWork)
                {
                    Monitor.Wait(parking);
                }

                Interlocked.Decrement(ref parked);
            }
        }
    }
}
