using System.IO.MemoryMappedFiles;

namespace Scalpel.Checkpoints;

/// <summary>A file mapped read-only into memory; spans into it are valid until it is disposed.</summary>
sealed unsafe class MappedFile : IDisposable
{
    readonly FileStream stream;
    readonly MemoryMappedFile? map;
    readonly MemoryMappedViewAccessor? view;
    byte* start;

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
        return new ReadOnlySpan<byte>(start + offset, count);
    }

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
