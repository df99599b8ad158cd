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
        if (OperatingSystem.IsLinux() && NativeLibrary.TryLoad("libc.so.6", out nint library) && NativeLibrary.TryGetExport(library, "mallopt", out nint address))
        {
            var mallopt = (delegate* unmanaged[Cdecl]<int, int, int>)address;
            mallopt(TrimThreshold, -1);
            mallopt(LargestMappedCount, 0);
        }
    }
}
