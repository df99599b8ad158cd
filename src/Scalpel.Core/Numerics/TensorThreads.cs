using System.Diagnostics;
using System.Runtime.CompilerServices;
using System.Runtime.ExceptionServices;
using System.Runtime.InteropServices;
using static TorchSharp.torch;

namespace Scalpel.Numerics;

/// <summary>
/// Work on the threads that tensor operations use. Between two of those they wait spinning, each on a core, so that threads
/// of our own would stand in line behind them; these are there at once. Where libtorch brings no libgomp, .NET's threads
/// do the work.
/// </summary>
static unsafe class TensorThreads
{
    static readonly delegate* unmanaged[Cdecl]<delegate* unmanaged[Cdecl]<nint, void>, nint, uint, uint, void> Parallel = Find();

    /// <summary>
    /// Runs <paramref name="part"/> for 0 … <paramref name="parts"/> − 1, on as many threads as tensor operations may use.
    /// Parts are begun in this order, so that one may wait for those before it.
    /// </summary>
    /// <exception cref="Exception">The first that a part threw.</exception>
    public static void Run(int parts, Action<int> part)
    {
        int threads = Math.Min(parts, get_num_threads());
        if (threads <= 1)
        {
            for (int i = 0; i < parts; i++)
            {
                part(i);
            }

            return;
        }

        var work = new Work(parts, part);
        if (Parallel is null)
        {
            System.Threading.Tasks.Parallel.For(0, threads, new ParallelOptions { MaxDegreeOfParallelism = threads }, _ => work.TakeParts());
            work.Rethrow();
            return;
        }

        GCHandle handle = GCHandle.Alloc(work);
        try
        {
            Parallel(&Serve, GCHandle.ToIntPtr(handle), (uint)threads, 0);
        }
        finally
        {
            handle.Free();
        }

        work.Rethrow();
    }

    [UnmanagedCallersOnly(CallConvs = [typeof(CallConvCdecl)])]
    static void Serve(nint handle) => ((Work)GCHandle.FromIntPtr(handle).Target!).TakeParts();

    static delegate* unmanaged[Cdecl]<delegate* unmanaged[Cdecl]<nint, void>, nint, uint, uint, void> Find()
    {
        // The very library that libtorch has loaded: another copy would have threads of its own.
        string? path = OperatingSystem.IsLinux()
            ? Process.GetCurrentProcess().Modules.Cast<ProcessModule>().FirstOrDefault(module => module.ModuleName.StartsWith("libgomp", StringComparison.Ordinal))?.FileName
            : null;
        return path is not null && NativeLibrary.TryLoad(path, out nint library) && NativeLibrary.TryGetExport(library, "GOMP_parallel", out nint address)
            ? (delegate* unmanaged[Cdecl]<delegate* unmanaged[Cdecl]<nint, void>, nint, uint, uint, void>)address
            : null;
    }

    sealed class Work(int parts, Action<int> part)
    {
        int next;
        Exception? failure;

        public void Rethrow()
        {
            if (failure is not null)
            {
                ExceptionDispatchInfo.Throw(failure);
            }
        }

        public void TakeParts()
        {
            for (int i; (i = Interlocked.Increment(ref next) - 1) < parts;)
            {
                try
                {
                    part(i);
                }
                catch (Exception e)
                {
                    // An exception must not cross the native frames.
                    failure ??= e;
                }
            }
        }
    }
}
