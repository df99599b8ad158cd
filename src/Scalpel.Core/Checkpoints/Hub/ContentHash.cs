using System.Security.Cryptography;
using System.Text;

namespace Scalpel.Checkpoints.Hub;

/// <summary>The hash by which a downloaded file is known.</summary>
/// <param name="IsGit">SHA-1 of git's blob (a header with the length, then the content) instead of SHA-256 of the content.</param>
/// <param name="Hex">Lower-case hexadecimal.</param>
public readonly record struct ContentHash(bool IsGit, string Hex)
{
    /// <summary>A SHA-256.</summary>
    public static ContentHash Sha256(string hex) => new(false, hex.ToLowerInvariant());

    /// <summary>Reads an entity tag of the hub: 64 digits for large files, 40 for small ones; null when it is neither.</summary>
    public static ContentHash? Parse(string? tag)
    {
        string hex = (tag ?? "").Replace("W/", "", StringComparison.Ordinal).Trim('"').ToLowerInvariant();
        return hex.Length is 40 or 64 && hex.All(char.IsAsciiHexDigitLower) ? new ContentHash(hex.Length == 40, hex) : null;
    }

    /// <summary>The same hash of a file on disk.</summary>
    public ContentHash Of(string path, CancellationToken cancellation = default)
    {
        using IncrementalHash hash = IncrementalHash.CreateHash(IsGit ? HashAlgorithmName.SHA1 : HashAlgorithmName.SHA256);
        using var stream = new FileStream(path, FileMode.Open, FileAccess.Read, FileShare.Read, 1);
        if (IsGit)
        {
            hash.AppendData(Encoding.ASCII.GetBytes($"blob {stream.Length}\0"));
        }

        byte[] buffer = new byte[1 << 20];
        for (int count; (count = stream.Read(buffer)) > 0;)
        {
            cancellation.ThrowIfCancellationRequested();
            hash.AppendData(buffer, 0, count);
        }

        return this with { Hex = Convert.ToHexStringLower(hash.GetHashAndReset()) };
    }

    /// <inheritdoc/>
    public override string ToString() => $"{(IsGit ? "git SHA-1" : "SHA-256")} {Hex}";
}
