using System.Security.Cryptography;

namespace Scalpel.Checkpoints;

/// <summary>
/// The few operations that change a disk. Everything that Scalpel writes goes through one of these, so that a test can
/// let the n-th of them fail and look at what is left.
/// </summary>
public class FileStore
{
    /// <summary>The real disk.</summary>
    public static FileStore Disk { get; } = new();

    /// <summary>Opens a new file for writing; fails when it exists.</summary>
    public virtual Stream Create(string path) => new FileStream(path, FileMode.CreateNew, FileAccess.Write, FileShare.None, 1 << 16);

    /// <summary>Opens an existing file to write over parts of it.</summary>
    public virtual Stream Update(string path) => new FileStream(path, FileMode.Open, FileAccess.Write, FileShare.None, 1);

    /// <summary>Brings everything written to <paramref name="stream"/> to the disk itself.</summary>
    public virtual void Flush(Stream stream)
    {
        if (stream is FileStream file)
        {
            file.Flush(flushToDisk: true);
        }
        else
        {
            stream.Flush();
        }
    }

    /// <summary>Replaces <paramref name="to"/> by <paramref name="from"/> in one step.</summary>
    public virtual void Rename(string from, string to)
    {
        if (Directory.Exists(from))
        {
            Directory.Move(from, to);
        }
        else
        {
            File.Move(from, to, overwrite: true);
        }
    }

    /// <summary>Copies a whole file; the system may share the blocks.</summary>
    public virtual void Copy(string from, string to) => File.Copy(from, to);

    /// <summary>Creates a folder and those above it.</summary>
    public virtual void CreateFolder(string path) => Directory.CreateDirectory(path);

    /// <summary>Deletes a file or a whole folder; nothing happens when it is not there.</summary>
    public virtual void Delete(string path)
    {
        if (Directory.Exists(path))
        {
            Directory.Delete(path, recursive: true);
        }
        else if (File.Exists(path))
        {
            File.Delete(path);
        }
    }
}

/// <summary>Writes a file so that the old one or the new one is there, whole, whatever happens in between.</summary>
public static class AtomicFile
{
    /// <summary>Writes to a temporary file beside <paramref name="path"/>, flushes it to the disk, renames it.</summary>
    /// <exception cref="BadInputException">The folder cannot be written or the disk is full; the old file is untouched.</exception>
    public static void Write(string path, Action<Stream> content, FileStore? store = null)
    {
        store ??= FileStore.Disk;
        string full = System.IO.Path.GetFullPath(path);
        string temporary = $"{full}.{Environment.ProcessId:x}{RandomNumberGenerator.GetHexString(6, lowercase: true)}.tmp";
        try
        {
            store.CreateFolder(System.IO.Path.GetDirectoryName(full)!);
            using (Stream stream = store.Create(temporary))
            {
                content(stream);
                store.Flush(stream);
            }

            store.Rename(temporary, full);
        }
        catch (Exception e)
        {
            TryDelete(temporary);
            if (e is IOException or UnauthorizedAccessException)
            {
                throw new BadInputException($"{path} cannot be written: {e.Message.TrimEnd('.')}; the old file, if any, is as it was.", e);
            }

            throw;
        }
    }

    /// <summary>Writes UTF-8 text without a byte-order mark.</summary>
    public static void WriteText(string path, string text, FileStore? store = null) =>
        Write(path, stream => stream.Write(System.Text.Encoding.UTF8.GetBytes(text)), store);

    // The clean-up uses the real disk: it must not fail because the store under test does.
    internal static void TryDelete(string path)
    {
        try
        {
            FileStore.Disk.Delete(path);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            // Left behind under a name that nothing reads.
        }
    }
}

/// <summary>Writes a whole folder so that it is there complete or not at all.</summary>
public static class AtomicFolder
{
    /// <summary>Lets <paramref name="content"/> fill a hidden sibling of <paramref name="path"/> and renames it at the end.</summary>
    /// <param name="path">The folder to make.</param>
    /// <param name="overwrite">Whether an existing folder may be replaced; it is moved aside first and deleted last.</param>
    /// <param name="content">Fills the folder that it is given.</param>
    /// <param name="store">Where to write; the disk by default.</param>
    /// <exception cref="BadInputException">The folder exists and may not be replaced, or cannot be written.</exception>
    public static void Write(string path, bool overwrite, Action<string> content, FileStore? store = null)
    {
        store ??= FileStore.Disk;
        string full = System.IO.Path.TrimEndingDirectorySeparator(System.IO.Path.GetFullPath(path));
        bool exists = System.IO.Path.Exists(full);
        if (exists && !overwrite)
        {
            throw new BadInputException($"{path} exists already; choose another folder or add --force to replace it.");
        }

        string tag = $"{Environment.ProcessId:x}{RandomNumberGenerator.GetHexString(6, lowercase: true)}";
        string parent = System.IO.Path.GetDirectoryName(full)!, name = System.IO.Path.GetFileName(full);
        string partial = System.IO.Path.Combine(parent, $".{name}.{tag}.partial"), old = System.IO.Path.Combine(parent, $".{name}.{tag}.old");
        bool aside = false;
        try
        {
            store.CreateFolder(partial);
            content(partial);
            if (exists)
            {
                store.Rename(full, old);
                aside = true;
            }

            store.Rename(partial, full);
        }
        catch (Exception e)
        {
            if (aside && !System.IO.Path.Exists(full))
            {
                FileStore.Disk.Rename(old, full);
                aside = false;
            }

            AtomicFile.TryDelete(partial);
            if (e is IOException or UnauthorizedAccessException)
            {
                throw new BadInputException($"{path} cannot be written: {e.Message.TrimEnd('.')}; what was there before is as it was.", e);
            }

            throw;
        }

        if (aside)
        {
            AtomicFile.TryDelete(old);
        }
    }
}
