using System.Security.Cryptography;
using System.Text;
using Scalpel.Checkpoints;
using Scalpel.Checkpoints.Hub;

namespace Scalpel.Tests.Checkpoints.Hub;

public sealed class HubClientTests : IDisposable
{
    const string Commit = "0123456789abcdef0123456789abcdef01234567";
    static readonly DownloaderOptions Impatient = new() { StallTime = TimeSpan.FromSeconds(2), Attempts = 2, Pause = TimeSpan.FromMilliseconds(5) };

    readonly string cache = Directory.CreateTempSubdirectory("scalpel hub ").FullName;
    readonly Dictionary<string, byte[]> files = Directory.GetFiles(Repository.Reference("decoders", "_models", "llama-sharded"))
        .ToDictionary(file => Path.GetFileName(file)!, File.ReadAllBytes);

    public void Dispose() => Directory.Delete(cache, recursive: true);

    [Fact]
    public async Task AModelIsKeptInTheLayoutThatOtherToolsShare()
    {
        files["pytorch_model.bin"] = [1];
        files["onnx/model.onnx"] = [2];
        files["original/consolidated.safetensors"] = [3];
        files["consolidated.safetensors"] = [4];
        using LocalServer server = Hub();
        string folder = await GetAsync(server, "hf:some/model");
        folder.ShouldBe(Path.Combine(cache, "models--some--model", "snapshots", Commit));
        File.ReadAllText(Path.Combine(cache, "models--some--model", "refs", "main")).ShouldBe(Commit);
        Directory.GetFiles(folder).Select(Path.GetFileName).Order().ShouldBe(files.Keys.Where(name => !name.Contains('/') && name is not ("pytorch_model.bin" or "consolidated.safetensors")).Order());
        string shard = Path.Combine(folder, "model-00001-of-00003.safetensors");
        new FileInfo(shard).LinkTarget.ShouldBe($"../../blobs/{Sha256(files["model-00001-of-00003.safetensors"])}");
        new FileInfo(Path.Combine(folder, "config.json")).LinkTarget.ShouldBe($"../../blobs/{GitSha1(files["config.json"])}");
        using (Checkpoint checkpoint = Checkpoint.Open(folder))
        {
            checkpoint.Tensors.Count.ShouldBeGreaterThan(10);
        }

        // What is there is not asked for again, and serves without a network.
        int before = server.Requests.Count;
        (await GetAsync(server, "hf:some/model")).ShouldBe(folder);
        server.Requests.Count.ShouldBe(before + 1);
        (await GetAsync(server, "hf:some/model", offline: true)).ShouldBe(folder);
        (await GetAsync(new Uri("http://127.0.0.1:9"), "hf:some/model")).ShouldBe(folder);
        (await GetAsync(server, $"hf:some/model@{Commit}", offline: true)).ShouldBe(folder);
    }

    [Fact]
    public async Task ABlobThatLiesIsNotLinked()
    {
        using LocalServer server = Hub(lie: "model-00002-of-00003.safetensors");
        (await Should.ThrowAsync<BadInputException>(() => GetAsync(server, "hf:some/model"))).Message.ShouldContain("expected SHA-256");
        File.Exists(Path.Combine(cache, "models--some--model", "refs", "main")).ShouldBeFalse();
        Directory.GetFiles(Path.Combine(cache, "models--some--model", "snapshots", Commit)).ShouldNotContain(file => file.EndsWith("model-00002-of-00003.safetensors", StringComparison.Ordinal));
    }

    [Fact]
    public async Task ARepositoryOfPicklesIsRefusedWithTheWayOut()
    {
        files.Clear();
        files["pytorch_model.bin"] = [1];
        using LocalServer server = Hub();
        (await Should.ThrowAsync<BadInputException>(() => GetAsync(server, "hf:some/model"))).Message.ShouldContain("safe_serialization=True");
        server.Requests.Count.ShouldBe(1);
    }

    [Fact]
    public async Task OneOfSeveralGgufFilesIsNamed()
    {
        files.Clear();
        files["a.gguf"] = [1, 2];
        files["b.gguf"] = [3, 4];
        using LocalServer server = Hub();
        (await Should.ThrowAsync<BadInputException>(() => GetAsync(server, "hf:some/model"))).Message.ShouldContain("hf:some/model/a.gguf");
        string file = await GetAsync(server, "hf:some/model/b.gguf");
        File.ReadAllBytes(file).ShouldBe([3, 4]);
    }

    [Fact]
    public async Task NamesThatLeaveTheCacheAreIgnored()
    {
        files["../evil.json"] = [1];
        files["/etc/evil.json"] = [1];
        files["a\\evil.json"] = [1];
        using LocalServer server = Hub();
        string folder = await GetAsync(server, "hf:some/model");
        Directory.GetFiles(cache, "*evil*", SearchOption.AllDirectories).ShouldBeEmpty();
        Directory.Exists(folder).ShouldBeTrue();
    }

    [Theory]
    [InlineData("not json")]
    [InlineData("{}")]
    [InlineData("""{"sha":"../../etc","siblings":[]}""")]
    [InlineData("""{"sha":"0123456789abcdef0123456789abcdef01234567","siblings":{}}""")]
    public async Task AnAnswerThatIsNoListOfFilesIsRefused(string answer)
    {
        using var server = new LocalServer(_ => new Answer(200, Encoding.UTF8.GetBytes(answer)));
        (await Should.ThrowAsync<BadInputException>(() => GetAsync(server, "hf:some/model"))).Message.ShouldContain("HF_ENDPOINT");
    }

    [Theory]
    [InlineData("hf:model")]
    [InlineData("hf:../model")]
    [InlineData("hf:some/model@")]
    [InlineData("hf:some/model@../x")]
    [InlineData("hf:some/model/file.bin")]
    [InlineData("hf:")]
    public void ANameThatIsNoModelIsRefused(string name) => Should.Throw<BadInputException>(() => HubModel.Parse(name)).Message.ShouldContain("hf:owner/name@revision");

    [Fact]
    public void TheEnvironmentSaysWhereTheCacheIs()
    {
        HubOptions Of(params (string Name, string Value)[] variables) => HubOptions.FromEnvironment(name => variables.FirstOrDefault(pair => pair.Name == name).Value);
        Of(("HF_HOME", cache)).CacheFolder.ShouldBe(Path.Combine(cache, "hub"));
        Of(("HF_HOME", "x"), ("HF_HUB_CACHE", cache)).CacheFolder.ShouldBe(cache);
        Of(("XDG_CACHE_HOME", cache)).CacheFolder.ShouldBe(Path.Combine(cache, "huggingface", "hub"));
        Of(("HF_TOKEN", " t ")).Token.ShouldBe("t");
        Of(("HF_HUB_OFFLINE", "1")).Offline.ShouldBeTrue();
        Should.Throw<BadInputException>(() => Of(("HF_ENDPOINT", "nowhere")));
    }

    Task<string> GetAsync(LocalServer server, string name, bool offline = false) => GetAsync(server.Address, name, offline);

    async Task<string> GetAsync(Uri endpoint, string name, bool offline = false)
    {
        using var client = new HubClient(new HubOptions { CacheFolder = cache, Endpoint = endpoint, Offline = offline }, Impatient);
        return await client.GetAsync(HubModel.Parse(name), new RunContext());
    }

    LocalServer Hub(string? lie = null) => new(request =>
    {
        if (request.Path.StartsWith("/api/models/some/model/revision/", StringComparison.Ordinal))
        {
            string siblings = string.Join(',', files.Keys.Select(name => $$"""{"rfilename":"{{name.Replace("\\", "\\\\", StringComparison.Ordinal)}}"}"""));
            return new Answer(200, Encoding.UTF8.GetBytes($$"""{"sha":"{{Commit}}","siblings":[{{siblings}}]}"""));
        }

        string file = Uri.UnescapeDataString(request.Path).Replace($"/some/model/resolve/{Commit}/", "", StringComparison.Ordinal);
        if (request.Path.StartsWith("/storage/", StringComparison.Ordinal))
        {
            byte[] body = (byte[])files[file["/storage/".Length..]].Clone();
            body[^1] ^= (byte)(request.Path.EndsWith(lie ?? "?", StringComparison.Ordinal) ? 1 : 0);
            return new Answer(200, body);
        }

        if (!files.TryGetValue(file, out byte[]? content))
        {
            return new Answer(404, []);
        }

        return file.EndsWith(".safetensors", StringComparison.Ordinal)
            ? new Answer(302, []) { Headers = { ["Location"] = Moved(request, file), ["X-Linked-Etag"] = $"\"{Sha256(content)}\"", ["X-Linked-Size"] = $"{content.Length}" } }
            : new Answer(200, content) { Headers = { ["ETag"] = $"\"{(file.EndsWith(".gguf", StringComparison.Ordinal) ? Sha256(content) : GitSha1(content))}\"" } };
    });

    // Another name of the same machine: storage is another host to the client.
    static string Moved(Request request, string file) => $"http://localhost:{request.Headers["host"].Split(':')[1]}/storage/{file}";

    static string Sha256(byte[] content) => Convert.ToHexStringLower(SHA256.HashData(content));

    static string GitSha1(byte[] content) => Convert.ToHexStringLower(SHA1.HashData([.. Encoding.ASCII.GetBytes($"blob {content.Length}\0"), .. content]));
}
