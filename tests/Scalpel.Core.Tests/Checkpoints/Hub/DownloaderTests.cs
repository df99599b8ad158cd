using System.Security.Cryptography;
using Scalpel.Checkpoints.Hub;

namespace Scalpel.Tests.Checkpoints.Hub;

public sealed class DownloaderTests : IDisposable
{
    static readonly DownloaderOptions Impatient = new() { StallTime = TimeSpan.FromSeconds(0.5), Attempts = 3, Pause = TimeSpan.FromMilliseconds(5), LongestPause = TimeSpan.FromMilliseconds(20) };

    readonly string folder = Directory.CreateTempSubdirectory("scalpel download ").FullName;
    readonly byte[] content = new byte[200_000];

    public DownloaderTests() => new Random(1).NextBytes(content);

    string Target => Path.Combine(folder, "deep", "file.bin");

    public void Dispose() => Directory.Delete(folder, recursive: true);

    [Fact]
    public async Task AFileArrivesWholeAndNothingElseIsLeft()
    {
        await FetchAsync(_ => new Answer(200, content));
        Arrived();
    }

    [Fact]
    public async Task ADroppedConnectionIsResumedWhereItBroke()
    {
        List<Request> requests = await FetchAsync(request => Part(request) with { DropAfter = 70_000 });
        Arrived();
        requests.Select(request => request.From).ShouldBe([0, 70_000, 140_000]);
    }

    [Fact]
    public async Task AStallIsTimedOutAndResumed()
    {
        int count = 0;
        List<Request> requests = await FetchAsync(request => count++ == 0 ? new Answer(200, content) { StallAfter = 50_000 } : Part(request));
        Arrived();
        requests.Select(request => request.From).ShouldBe([0, 50_000]);
    }

    [Fact]
    public async Task WhatAnEarlierRunLeftIsUsed()
    {
        Directory.CreateDirectory(Path.GetDirectoryName(Target)!);
        File.WriteAllBytes(Target + ".incomplete", content[..150_000]);
        List<Request> requests = await FetchAsync(Part);
        Arrived();
        requests.ShouldHaveSingleItem().From.ShouldBe(150_000);
    }

    [Fact]
    public async Task AServerWithoutRangesBeginsAnew()
    {
        Directory.CreateDirectory(Path.GetDirectoryName(Target)!);
        File.WriteAllBytes(Target + ".incomplete", new byte[1000]);
        await FetchAsync(_ => new Answer(200, content));
        Arrived();
    }

    [Fact]
    public async Task ARefusedRangeBeginsAnew()
    {
        Directory.CreateDirectory(Path.GetDirectoryName(Target)!);
        File.WriteAllBytes(Target + ".incomplete", new byte[1000]);
        await FetchAsync(request => request.From > 0 ? new Answer(416, []) : new Answer(200, content));
        Arrived();
    }

    [Fact]
    public async Task ABusyServerIsAskedAgain()
    {
        int count = 0;
        await FetchAsync(_ => count++ switch { 0 => new Answer(429, []) { Headers = { ["Retry-After"] = "3600" } }, 1 => new Answer(500, []), _ => new Answer(200, content) });
        Arrived();
    }

    [Theory]
    [InlineData(401, "HF_TOKEN")]
    [InlineData(403, "HF_TOKEN")]
    [InlineData(404, "does not exist")]
    [InlineData(429, "too many requests")]
    [InlineData(500, "500")]
    [InlineData(503, "try again later")]
    public async Task ARefusalIsOneSentence(int status, string words)
    {
        BadInputException error = await Should.ThrowAsync<BadInputException>(() => FetchAsync(_ => new Answer(status, [])));
        error.Message.ShouldContain(words);
        Nothing();
    }

    [Fact]
    public async Task OtherContentThanExpectedIsNotKept()
    {
        byte[] other = (byte[])content.Clone();
        other[99_999] ^= 1;
        (await Should.ThrowAsync<BadInputException>(() => FetchAsync(_ => new Answer(200, other)))).Message.ShouldContain("expected SHA-256");
        Nothing();
    }

    [Fact]
    public async Task AnotherLengthThanExpectedIsRefusedAtOnce()
    {
        (await Should.ThrowAsync<BadInputException>(() => FetchAsync(_ => new Answer(200, [.. content, 1])))).Message.ShouldContain("announced with 200001 bytes, expected 200000");
        Nothing();
    }

    [Fact]
    public async Task AServerThatAnnouncesMoreThanItGivesIsGivenUp()
    {
        BadInputException error = await Should.ThrowAsync<BadInputException>(() => FetchAsync(request => new Answer(200, content[..1000]) { Announced = 200_000 }));
        error.Message.ShouldContain("did not arrive after 3 attempts");
        File.Exists(Target).ShouldBeFalse();
    }

    [Fact]
    public async Task AServerThatIsNotThereIsOneSentence()
    {
        using var downloader = new Downloader(Impatient);
        var download = new Download(new Uri("http://127.0.0.1:9/file"), Target, Hash());
        (await Should.ThrowAsync<BadInputException>(() => downloader.RunAsync(download, null, new RunContext()))).Message.ShouldContain("cannot be reached");
    }

    [Fact]
    public async Task ATokenGoesToTheFirstHostOnly()
    {
        using var storage = new LocalServer(_ => new Answer(200, content));
        List<Request> requests = await FetchAsync(_ => new Answer(302, []) { Headers = { ["Location"] = new Uri(storage.Address, "/blob").ToString() } }, token: "secret");
        Arrived();
        requests.ShouldHaveSingleItem().Headers["authorization"].ShouldBe("Bearer secret");
        storage.Requests.ShouldHaveSingleItem().Headers.ContainsKey("authorization").ShouldBeFalse();
    }

    [Fact]
    public async Task RedirectsWithoutEndAreGivenUp()
    {
        (await Should.ThrowAsync<BadInputException>(() => FetchAsync(_ => new Answer(302, []) { Headers = { ["Location"] = "/again" } }))).Message.ShouldContain("redirects more than 10 times");
    }

    [Fact]
    public async Task CancellingKeepsWhatHasArrived()
    {
        using var stop = new CancellationTokenSource();
        var progress = new Sink(report =>
        {
            if (report.Done >= 50_000)
            {
                stop.Cancel();
            }
        });
        using var server = new LocalServer(_ => new Answer(200, content) { StallAfter = 60_000 });
        using var downloader = new Downloader(Impatient);
        await Should.ThrowAsync<OperationCanceledException>(() => downloader.RunAsync(new Download(server.Address, Target, Hash(), content.Length), null, new RunContext { Cancellation = stop.Token, Progress = progress }));
        File.Exists(Target).ShouldBeFalse();
        new FileInfo(Target + ".incomplete").Length.ShouldBeGreaterThan(0);
    }

    async Task<List<Request>> FetchAsync(Func<Request, Answer> answer, string? token = null)
    {
        using var server = new LocalServer(answer);
        using var downloader = new Downloader(Impatient);
        await downloader.RunAsync(new Download(new Uri(server.Address, "/file.bin"), Target, Hash(), content.Length), token, new RunContext());
        return server.Requests;
    }

    Answer Part(Request request) => request.From == 0 ? new Answer(200, content)
        : new Answer(206, content[(int)request.From..]) { Headers = { ["Content-Range"] = $"bytes {request.From}-{content.Length - 1}/{content.Length}" } };

    ContentHash Hash() => ContentHash.Sha256(Convert.ToHexString(SHA256.HashData(content)));

    void Arrived()
    {
        File.ReadAllBytes(Target).ShouldBe(content);
        Directory.GetFiles(Path.GetDirectoryName(Target)!).ShouldBe([Target]);
    }

    void Nothing() => (Directory.Exists(Path.GetDirectoryName(Target)) ? Directory.GetFiles(Path.GetDirectoryName(Target)!) : []).ShouldBeEmpty();

    sealed class Sink(Action<ProgressReport> action) : IProgress<ProgressReport>
    {
        public void Report(ProgressReport value) => action(value);
    }
}
