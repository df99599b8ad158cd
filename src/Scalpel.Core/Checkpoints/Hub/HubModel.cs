namespace Scalpel.Checkpoints.Hub;

/// <summary>A model on the hub as a user names it: <c>hf:owner/name[/file.gguf][@revision]</c>.</summary>
/// <param name="Id">Owner and name, with a slash between.</param>
/// <param name="Revision">Branch, tag or commit; main when none is given.</param>
/// <param name="File">One weight file of it, where there are several to choose from; null otherwise.</param>
public sealed record HubModel(string Id, string Revision, string? File)
{
    const string Prefix = "hf:";

    /// <summary>Whether <paramref name="text"/> names a model on the hub rather than a path.</summary>
    public static bool IsOne(string text) => text.StartsWith(Prefix, StringComparison.Ordinal);

    /// <summary>Reads a name.</summary>
    /// <exception cref="BadInputException">It is not of the form <c>hf:owner/name[/file.gguf][@revision]</c>.</exception>
    public static HubModel Parse(string text)
    {
        string rest = IsOne(text) ? text[Prefix.Length..] : "", revision = "main";
        int at = rest.IndexOf('@', StringComparison.Ordinal);
        if (at >= 0)
        {
            (rest, revision) = (rest[..at], rest[(at + 1)..]);
        }

        string[] parts = rest.Split('/');
        bool valid = parts.Length >= 2 && parts.All(IsPlain) && revision.Split('/').All(IsPlain);
        string? file = parts.Length > 2 ? string.Join('/', parts[2..]) : null;
        if (!valid || (file is not null && !file.EndsWith(".gguf", StringComparison.OrdinalIgnoreCase) && !file.EndsWith(".safetensors", StringComparison.Ordinal)))
        {
            throw new BadInputException($"'{text}' does not name a model of the hub; expected hf:owner/name, hf:owner/name@revision, or hf:owner/name/file.gguf.");
        }

        return new HubModel($"{parts[0]}/{parts[1]}", revision, file);
    }

    /// <summary>Name of its folder in the cache.</summary>
    public string CacheName => "models--" + Id.Replace("/", "--", StringComparison.Ordinal);

    /// <inheritdoc/>
    public override string ToString() => Prefix + Id + (File is null ? "" : "/" + File) + (Revision == "main" ? "" : "@" + Revision);

    internal static bool IsPlain(string part) => part.Length > 0 && part is not ("." or "..") && part.All(c => char.IsAsciiLetterOrDigit(c) || c is '-' or '_' or '.' or '+' or ' ' or '(' or ')' or '=' or ',');
}
