using System.Net;
using System.Text.Json;

namespace Scalpel.Checkpoints.Hub;

/// <summary>
/// Brings models of the Hugging Face hub into the ecosystem's own cache, where those that other tools have fetched are found:
/// <c>models--owner--name/{blobs,refs,snapshots}</c>. Only the files that a model is read from, never a pickle.
/// </summary>
public sealed class HubClient : IDisposable
{
    const int MaxListBytes = 32 << 20;
    static readonly string[] SmallEndings = [".json", ".txt", ".model", ".jinja", ".md"];
    static readonly string[] PickleEndings = [".bin", ".pt", ".pth", ".ckpt", ".pkl", ".msgpack", ".h5"];
    readonly HubOptions options;
    readonly Downloader downloader;

    /// <summary>A client.</summary>
    /// <param name="options">Where hub and cache are; by default as the environment says.</param>
    /// <param name="patience">When to try again and when to give up.</param>
    public HubClient(HubOptions? options = null, DownloaderOptions? patience = null)
    {
        this.options = options ?? HubOptions.FromEnvironment();
        downloader = new Downloader(patience);
    }

    /// <summary>A path as it is; for <c>hf:owner/name[@revision]</c> the folder or file in the cache, after what is missing was downloaded.</summary>
    /// <exception cref="BadInputException">There is no such model, it holds only pickles, or it cannot be downloaded.</exception>
    public static async Task<string> ResolveAsync(string location, RunContext run)
    {
        if (!HubModel.IsOne(location))
        {
            return location;
        }

        using var client = new HubClient();
        return await client.GetAsync(HubModel.Parse(location), run).ConfigureAwait(false);
    }

    /// <summary>Downloads what is missing of a model.</summary>
    /// <returns>The snapshot's folder in the cache, or the file in it that was named.</returns>
    /// <exception cref="BadInputException">There is no such model, it holds only pickles, or it cannot be downloaded.</exception>
    public async Task<string> GetAsync(HubModel model, RunContext run)
    {
        if (options.Offline)
        {
            return Cached(model) ?? throw new BadInputException($"{model} is not in the cache {options.CacheFolder}, and HF_HUB_OFFLINE is set; unset it to download the model.");
        }

        (string commit, IReadOnlyList<string> files) list;
        try
        {
            list = await ListAsync(model, run).ConfigureAwait(false);
        }
        catch (UnreachableException) when (Cached(model) is { } cached)
        {
            run.Report($"{model}: the hub cannot be reached, the cached copy is used", 0, 0);
            return cached;
        }

        IReadOnlyList<string> needed = Needed(model, list.files);
        string folder = SnapshotFolder(model, list.commit);
        if (needed.FirstOrDefault(file => file.EndsWith(".index.json", StringComparison.Ordinal)) is { } index)
        {
            await GetFileAsync(model, list.commit, index, run).ConfigureAwait(false);
            needed = WithoutOtherShards(Path.Combine(folder, index), needed);
        }

        foreach (string file in needed)
        {
            await GetFileAsync(model, list.commit, file, run).ConfigureAwait(false);
        }

        AtomicFile.WriteText(Path.Combine(ModelFolder(model), "refs", model.Revision), list.commit);
        return model.File is null ? folder : Path.Combine(folder, model.File);
    }

    /// <inheritdoc/>
    public void Dispose() => downloader.Dispose();

    Uri Address(string path) => new($"{options.Endpoint.AbsoluteUri.TrimEnd('/')}/{path}");

    string ModelFolder(HubModel model) => Path.Combine(options.CacheFolder, model.CacheName);

    string SnapshotFolder(HubModel model, string commit) => Path.Combine(ModelFolder(model), "snapshots", commit);

    string? Cached(HubModel model)
    {
        string reference = Path.Combine(ModelFolder(model), "refs", model.Revision);
        string commit = File.Exists(reference) ? File.ReadAllText(reference).Trim() : model.Revision;
        string folder = SnapshotFolder(model, commit), path = model.File is null ? folder : Path.Combine(folder, model.File);
        return IsCommit(commit) && (File.Exists(path) || (Directory.Exists(path) && Directory.EnumerateFiles(path, "*", SearchOption.AllDirectories).Any(IsWeights))) ? path : null;
    }

    async Task<(string Commit, IReadOnlyList<string> Files)> ListAsync(HubModel model, RunContext run)
    {
        run.Report($"looking up {model}", 0, 0);
        Uri address = Address($"api/models/{model.Id}/revision/{Uri.EscapeDataString(model.Revision)}");
        byte[] content = await downloader.ReadAsync(address, options.Token, MaxListBytes, run).ConfigureAwait(false);
        try
        {
            using JsonDocument json = JsonDocument.Parse(content, new JsonDocumentOptions { MaxDepth = 32 });
            string commit = json.RootElement.GetProperty("sha").GetString() ?? "";
            string[] files = [.. json.RootElement.GetProperty("siblings").EnumerateArray().Select(file => file.GetProperty("rfilename").GetString() ?? "")];
            // Names and commit become paths: nothing that could leave the cache folder is taken.
            return IsCommit(commit) && files.All(file => file.Length < 1024)
                ? (commit, [.. files.Where(file => file.Split('/').All(HubModel.IsPlain))])
                : throw new BadInputException($"{address} answers with the commit '{commit}', expected 40 hexadecimal digits; is HF_ENDPOINT a Hugging Face hub?");
        }
        catch (Exception e) when (e is JsonException or KeyNotFoundException or InvalidOperationException)
        {
            throw new BadInputException($"{address} does not answer with a list of files; is HF_ENDPOINT a Hugging Face hub?", e);
        }
    }

    static List<string> Needed(HubModel model, IReadOnlyList<string> files)
    {
        if (model.File is not null)
        {
            return files.Contains(model.File) ? [model.File, .. files.Where(file => !file.Contains('/', StringComparison.Ordinal) && IsSmall(file))]
                : throw new BadInputException($"{model} does not exist; the nearest files are {string.Join(", ", Nearest.To(model.File, files, 3))}.");
        }

        // A pipeline keeps its parts in folders; of other models only what lies at the top is read.
        bool pipeline = files.Contains("model_index.json");
        string[] seen = [.. files.Where(file => pipeline || !file.Contains('/', StringComparison.Ordinal))];
        string[] weights = [.. seen.Where(file => file.EndsWith(".safetensors", StringComparison.Ordinal))];
        if (!pipeline && weights.Length > 1 && !seen.Contains(SafeTensorsCheckpoint.IndexName) && weights.Contains("model.safetensors"))
        {
            weights = ["model.safetensors"];
        }

        if (weights.Length == 0)
        {
            string[] gguf = [.. seen.Where(file => file.EndsWith(".gguf", StringComparison.OrdinalIgnoreCase)).Order(StringComparer.Ordinal)];
            weights = gguf.Length switch
            {
                1 => gguf,
                > 1 => throw new BadInputException($"{model} holds {gguf.Length} GGUF files; name one, for example hf:{model.Id}/{gguf[0]}."),
                _ when files.Any(file => PickleEndings.Contains(Path.GetExtension(file))) => throw new BadInputException(
                    $"{model} holds only pickles, which can run code when they are read; convert it elsewhere with AutoModel.from_pretrained(\"{model.Id}\").save_pretrained(folder, safe_serialization=True)."),
                _ => throw new BadInputException($"{model} holds neither safetensors nor GGUF files, so it is no model that Scalpel reads."),
            };
        }

        return [.. seen.Where(IsSmall), .. weights];
    }

    static IReadOnlyList<string> WithoutOtherShards(string index, IReadOnlyList<string> needed)
    {
        var shards = (JsonFile.Read(index, out _)["weight_map"] as System.Text.Json.Nodes.JsonObject)?.Select(pair => pair.Value?.ToString()).ToHashSet();
        return Path.GetFileName(index) != SafeTensorsCheckpoint.IndexName || shards is null ? needed : [.. needed.Where(file => !file.EndsWith(".safetensors", StringComparison.Ordinal) || shards.Contains(file))];
    }

    async Task GetFileAsync(HubModel model, string commit, string file, RunContext run)
    {
        string link = Path.Combine(SnapshotFolder(model, commit), file);
        if (File.Exists(link))
        {
            return;
        }

        Uri address = Address($"{model.Id}/resolve/{commit}/{string.Join('/', file.Split('/').Select(Uri.EscapeDataString))}");
        ContentHash hash;
        long? size;
        // The answer to HEAD before any redirect to a storage host carries hash and size; a renamed model redirects within the hub.
        using (HttpResponseMessage head = await downloader.SendAsync(HttpMethod.Head, address, options.Token, run, follow: (from, to) => from.Host == to.Host && from.Port == to.Port).ConfigureAwait(false))
        {
            string? tag = head.Headers.TryGetValues("X-Linked-Etag", out IEnumerable<string>? linked) ? linked.First() : head.Headers.ETag?.Tag;
            hash = ContentHash.Parse(tag) ?? throw new BadInputException($"{address} gives no hash for {file}, so it could not be verified; is HF_ENDPOINT a Hugging Face hub?");
            size = head.Headers.TryGetValues("X-Linked-Size", out IEnumerable<string>? sizes) && long.TryParse(sizes.First(), out long linkedSize) ? linkedSize
                : head.StatusCode == HttpStatusCode.OK ? head.Content.Headers.ContentLength : null;
        }

        string blob = Path.Combine(ModelFolder(model), "blobs", hash.Hex);
        await downloader.RunAsync(new Download(address, blob, hash, size) { Name = file }, options.Token, run).ConfigureAwait(false);
        Link(blob, link);
    }

    static void Link(string blob, string link)
    {
        try
        {
            FileStore.Disk.CreateFolder(Path.GetDirectoryName(link)!);
            if (new FileInfo(link).LinkTarget is not null)
            {
                File.Delete(link);
            }

            try
            {
                File.CreateSymbolicLink(link, Path.GetRelativePath(Path.GetDirectoryName(link)!, blob));
            }
            catch (Exception e) when (e is IOException or UnauthorizedAccessException && !File.Exists(link))
            {
                // File systems without links, and Windows without the right to make them.
                FileStore.Disk.Copy(blob, link);
            }
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            throw new BadInputException($"{link} cannot be written: {e.Message.TrimEnd('.')}; set HF_HUB_CACHE to a folder that can.", e);
        }
    }

    static bool IsSmall(string file) => SmallEndings.Contains(Path.GetExtension(file).ToLowerInvariant()) || Path.GetFileName(file).StartsWith("LICENSE", StringComparison.OrdinalIgnoreCase);

    static bool IsWeights(string file) => file.EndsWith(".safetensors", StringComparison.Ordinal) || file.EndsWith(".gguf", StringComparison.OrdinalIgnoreCase);

    static bool IsCommit(string text) => text.Length == 40 && text.All(char.IsAsciiHexDigitLower);
}
