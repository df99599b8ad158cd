using System.Runtime.InteropServices;

namespace Scalpel.Numerics;

/// <summary>The C library's heap, in which the memory of all tensors lies.</summary>
public static unsafe class NativeHeap
{
    const int TrimThreshold = -1, LargestMappedCount = -4;

    /// <summary>
    /// Lets the process keep the memory that freed tensors leave, for the next ones. By default glibc gives large blocks back
    /// at once, and the system clears each page anew at its next use: a fifth of a training step, a tenth of a long prefill.
    /// Holds for the whole process, so it is for a program to call, once, at its start. Does nothing without glibc.
    /// </summary>
    public static void KeepFreedMemory()
    {
        var mallopt = (delegate* unmanaged[Cdecl]<int, int, int>)Function("mallopt");
        if (mallopt is not null)
        {
            mallopt(TrimThreshold, -1);
            mallopt(LargestMappedCount, 0);
        }
    }

    /// <summary>Gives what freed tensors left back to the system: for a moment after which the process needs other memory than before.</summary>
    public static void GiveBack()
    {
        var trim = (delegate* unmanaged[Cdecl]<nuint, int>)Function("malloc_trim");
        if (trim is not null)
        {
            trim(0);
        }
    }

    static nint Function(string name) =>
        OperatingSystem.IsLinux() && NativeLibrary.TryLoad("libc.so.6", out nint library) && NativeLibrary.TryGetExport(library, name, out nint address) ? address : 0;
}
