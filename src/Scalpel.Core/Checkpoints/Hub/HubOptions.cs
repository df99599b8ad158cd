namespace Scalpel.Checkpoints.Hub;

/// <summary>Where the Hugging Face hub is and where its files are kept, in the ecosystem's own layout.</summary>
public sealed record HubOptions
{
    /// <summary>Address of the hub. Default https://huggingface.co.</summary>
    public Uri Endpoint { get; init; } = new("https://huggingface.co");

    /// <summary>Folder of the cache, which other tools share.</summary>
    public required string CacheFolder { get; init; }

    /// <summary>Access token; null for none.</summary>
    public string? Token { get; init; }

    /// <summary>Whether only what is in the cache may be used.</summary>
    public bool Offline { get; init; }

    /// <summary>
    /// As the ecosystem's own variables say: HF_ENDPOINT; HF_HUB_CACHE, else HF_HOME/hub, else huggingface/hub in
    /// XDG_CACHE_HOME or ~/.cache; HF_TOKEN, else HF_HOME/token; HF_HUB_OFFLINE.
    /// </summary>
    /// <param name="variable">Reads a variable; by default of the process's environment.</param>
    /// <exception cref="BadInputException">HF_ENDPOINT is not an address.</exception>
    public static HubOptions FromEnvironment(Func<string, string?>? variable = null)
    {
        string? Get(string name) => (variable ?? Environment.GetEnvironmentVariable)(name) is { } text && !string.IsNullOrWhiteSpace(text) ? text.Trim() : null;
        string user = Environment.GetFolderPath(Environment.SpecialFolder.UserProfile);
        string home = Get("HF_HOME") ?? Path.Combine(Get("XDG_CACHE_HOME") ?? Path.Combine(user, ".cache"), "huggingface");
        string address = Get("HF_ENDPOINT") ?? "https://huggingface.co";
        if (!Uri.TryCreate(address, UriKind.Absolute, out Uri? endpoint) || endpoint.Scheme is not ("http" or "https"))
        {
            throw new BadInputException($"HF_ENDPOINT is '{address}', which is not an address; expected something like https://huggingface.co.");
        }

        string tokenFile = Get("HF_TOKEN_PATH") ?? Path.Combine(home, "token");
        string? kept = File.Exists(tokenFile) ? File.ReadAllText(tokenFile).Trim() : null;
        return new HubOptions
        {
            Endpoint = endpoint,
            CacheFolder = Get("HF_HUB_CACHE") ?? Get("HUGGINGFACE_HUB_CACHE") ?? Path.Combine(home, "hub"),
            Token = Get("HF_TOKEN") ?? Get("HUGGING_FACE_HUB_TOKEN") ?? (string.IsNullOrEmpty(kept) ? null : kept),
            Offline = Get("HF_HUB_OFFLINE")?.ToUpperInvariant() is "1" or "TRUE" or "YES" or "ON",
        };
    }
}
