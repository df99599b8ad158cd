using System.Net;
using System.Security.Cryptography;
using Scalpel.Checkpoints.Hub;
using Scalpel.Lab.Data;

namespace Scalpel.Lab.Tests.Data;

public sealed class DataSetsTests : IDisposable
{
    readonly string folder = Directory.CreateTempSubdirectory("scalpel data ").FullName;

    public void Dispose() => Directory.Delete(folder, recursive: true);

    [Fact]
    public void EverySetHasFilesALicenceAndHashes()
    {
        DataSets.All.Count.ShouldBe(26);
        foreach (DataSet set in DataSets.All)
        {
            set.Files.ShouldNotBeEmpty(set.Name);
            set.Licence.ShouldNotBeEmpty(set.Name);
            set.Description.ShouldNotBeEmpty(set.Name);
            foreach (DataFile file in set.Files)
            {
                file.Sha256.Length.ShouldBe(64, file.Path);
                file.Bytes.ShouldBeGreaterThan(0, file.Path);
                file.Path.ShouldStartWith(set.Name + "/");
                file.Path.ShouldNotContain("..");
                (file.Origin?.Split(':')[0].Split('/').Length ?? 2).ShouldBe(2, file.Path);
            }
        }

        Should.Throw<BadInputException>(() => DataSets.Of("counterfacts")).Message.ShouldContain("the nearest is counterfact,");
    }

    [Fact]
    public async Task ASetIsDownloadedOnceAndCheckedEachTime()
    {
        byte[] content = [1, 2, 3, 4];
        var set = new DataSet("toy", "a toy", "someone", "CC0", [new DataFile("toy/a b.txt", 4, Convert.ToHexStringLower(SHA256.HashData(content)), "owner/name:deep/a b.txt")]);
        using var server = new HttpListener();
        Uri origin = Listen(server);
        var paths = new List<string>();
        Task serving = Task.Run(async () =>
        {
            HttpListenerContext context = await server.GetContextAsync();
            paths.Add(context.Request.RawUrl!);
            context.Response.ContentLength64 = content.Length;
            await context.Response.OutputStream.WriteAsync(content);
            context.Response.Close();
        }, TestContext.Current.CancellationToken);

        (await DataSets.GetAsync(set, folder, new RunContext(), origin, new DownloaderOptions { Attempts = 1 })).ShouldBe(1);
        await serving;
        paths.ShouldBe(["/owner/name/HEAD/deep/a%20b.txt"]);
        (await DataSets.GetAsync(set, folder, new RunContext(), origin)).ShouldBe(0);
        File.WriteAllBytes(Path.Combine(folder, "toy", "a b.txt"), [1, 2, 3, 5]);
        (await Should.ThrowAsync<BadInputException>(() => DataSets.GetAsync(set, folder, new RunContext(), origin))).Message.ShouldContain("expected SHA-256");
    }

    [Fact]
    public async Task ADerivedSetSaysThatItCannotBeDownloaded() =>
        (await Should.ThrowAsync<BadInputException>(() => DataSets.GetAsync(DataSets.Of("mnist"), folder, new RunContext()))).Message.ShouldContain("no public origin");

    static Uri Listen(HttpListener server)
    {
        for (int port = 20_000 + Random.Shared.Next(20_000); ; port++)
        {
            try
            {
                server.Prefixes.Add($"http://127.0.0.1:{port}/");
                server.Start();
                return new Uri($"http://127.0.0.1:{port}");
            }
            catch (HttpListenerException)
            {
                server.Prefixes.Clear();
            }
        }
    }
}
