using System.IO.MemoryMappedFiles;
using System.Runtime.InteropServices;

namespace Scalpel.Checkpoints;

/// <summary>
/// A file mapped read-only into memory; spans into it are valid until it is disposed. Pages that were read are given back
/// from time to time, so that going through a file of many gigabytes does not count as memory of as many.
/// </summary>
sealed unsafe partial class MappedFile : IDisposable
{
    const long MostResident = 32L << 20;
    const int DontNeed = 4;

    readonly FileStream stream;
    readonly MemoryMappedFile? map;
    readonly MemoryMappedViewAccessor? view;
    byte* start;
    long read;

    public MappedFile(string path)
    {
        Path = path;
        try
        {
            stream = new FileStream(path, FileMode.Open, FileAccess.Read, FileShare.Read | FileShare.Delete, 1);
            Length = stream.Length;
            if (Length > 0)
            {
                map = MemoryMappedFile.CreateFromFile(stream, null, 0, MemoryMappedFileAccess.Read, HandleInheritability.None, leaveOpen: true);
                view = map.CreateViewAccessor(0, 0, MemoryMappedFileAccess.Read);
                view.SafeMemoryMappedViewHandle.AcquirePointer(ref start);
                start += view.PointerOffset;
            }
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            stream?.Dispose();
            throw new CheckpointException(path, CheckpointProblem.Missing, $"cannot be opened: {e.Message}");
        }
    }

    public string Path { get; }

    public long Length { get; }

    public ReadOnlySpan<byte> Span(long offset, int count)
    {
        ObjectDisposedException.ThrowIf(start is null && Length > 0, this);
        ArgumentOutOfRangeException.ThrowIfNegative(offset);
        ArgumentOutOfRangeException.ThrowIfGreaterThan(offset, Length - count);
        if (Interlocked.Add(ref read, count) > MostResident)
        {
            GiveBack();
        }

        return new ReadOnlySpan<byte>(start + offset, count);
    }

    // Pages of a file that are given back come again from the system's cache when a span touches them.
    void GiveBack()
    {
        Interlocked.Exchange(ref read, 0);
        if (OperatingSystem.IsLinux())
        {
            _ = Advise(start, (nuint)Length, DontNeed);
        }
    }

    [LibraryImport("libc", EntryPoint = "madvise")]
    private static partial int Advise(byte* address, nuint length, int advice);

    /// <summary>Pointer to <paramref name="count"/> bytes, checked to lie in the file.</summary>
    public byte* Pointer(long offset, long count)
    {
        ObjectDisposedException.ThrowIf(start is null && Length > 0, this);
        ArgumentOutOfRangeException.ThrowIfNegative(offset);
        ArgumentOutOfRangeException.ThrowIfGreaterThan(offset, Length - count);
        return start + offset;
    }

    public void Dispose()
    {
        if (start is not null)
        {
            view!.SafeMemoryMappedViewHandle.ReleasePointer();
            start = null;
        }

        view?.Dispose();
        map?.Dispose();
        stream.Dispose();
    }
}
