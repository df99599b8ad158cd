using System.Net;
using System.Net.Http.Headers;

namespace Scalpel.Checkpoints.Hub;

/// <summary>One file to fetch.</summary>
/// <param name="From">Where it is.</param>
/// <param name="To">The file to make.</param>
/// <param name="Hash">What its content must be.</param>
/// <param name="Size">Its bytes, when known.</param>
public sealed record Download(Uri From, string To, ContentHash Hash, long? Size = null)
{
    /// <summary>The name under which it is reported.</summary>
    public string Name { get; init; } = Path.GetFileName(To);

    /// <summary>Holds what has arrived until all of it is there and verified; a later attempt goes on from it.</summary>
    public string Partial => To + ".incomplete";
}

/// <summary>
/// Fetches files over HTTP: resumes where an earlier attempt stopped, tries again after dropped connections, stalls and
/// busy servers, and gives a file its name only when size and hash are right.
/// </summary>
public sealed class Downloader : IDisposable
{
    const int MaxRedirects = 10;
    readonly HttpClient client;
    readonly DownloaderOptions options;

    /// <summary>A downloader.</summary>
    public Downloader(DownloaderOptions? options = null)
    {
        this.options = options ?? new DownloaderOptions();
        client = new HttpClient(new SocketsHttpHandler { AllowAutoRedirect = false, ConnectTimeout = this.options.StallTime, PooledConnectionLifetime = TimeSpan.FromMinutes(5) })
        {
            Timeout = Timeout.InfiniteTimeSpan,
        };
        client.DefaultRequestHeaders.UserAgent.ParseAdd("scalpel");
    }

    /// <summary>Fetches one file; does nothing when it is there with the right size.</summary>
    /// <exception cref="BadInputException">It cannot be had, or what came is not what was announced.</exception>
    public async Task RunAsync(Download download, string? token, RunContext run)
    {
        if (File.Exists(download.To) && (download.Size is null || new FileInfo(download.To).Length == download.Size))
        {
            return;
        }

        try
        {
            FileStore.Disk.CreateFolder(Path.GetDirectoryName(Path.GetFullPath(download.To))!);
            await FetchAsync(download, token, run).ConfigureAwait(false);
            Verify(download, run);
            FileStore.Disk.Rename(download.Partial, download.To);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            throw new BadInputException($"{download.To} cannot be written: {e.Message.TrimEnd('.')}; free space or choose another folder, then run the command again to go on.", e);
        }
    }

    /// <summary>The content of a small answer.</summary>
    /// <exception cref="BadInputException">The server refuses, cannot be reached, or answers with more than <paramref name="limit"/> bytes.</exception>
    internal async Task<byte[]> ReadAsync(Uri from, string? token, int limit, RunContext run)
    {
        for (int attempt = 1; ; attempt++)
        {
            using HttpResponseMessage response = await SendAsync(HttpMethod.Get, from, token, run).ConfigureAwait(false);
            try
            {
                using var content = new MemoryStream();
                Stream stream = await response.Content.ReadAsStreamAsync(run.Cancellation).ConfigureAwait(false);
                byte[] buffer = new byte[1 << 16];
                for (int count; (count = await InTimeAsync(cancellation => stream.ReadAsync(buffer, cancellation).AsTask(), run).ConfigureAwait(false)) > 0;)
                {
                    content.Write(buffer, 0, count);
                    if (content.Length > limit)
                    {
                        throw new BadInputException($"{from} answers with more than {limit} bytes, which is no answer to what was asked.");
                    }
                }

                return content.ToArray();
            }
            catch (Exception e) when (e is HttpRequestException or IOException or TimeoutException)
            {
                if (attempt >= options.Attempts)
                {
                    throw new UnreachableException(from.GetLeftPart(UriPartial.Path), e);
                }

                await PauseAsync(attempt, null, run).ConfigureAwait(false);
            }
        }
    }

    /// <summary>Sends a request and follows redirects; the token goes to the first host only.</summary>
    /// <exception cref="BadInputException">The server refuses, or cannot be reached.</exception>
    internal async Task<HttpResponseMessage> SendAsync(HttpMethod method, Uri uri, string? token, RunContext run, Func<Uri, Uri, bool>? follow = null, long from = 0)
    {
        string what = uri.GetLeftPart(UriPartial.Path);
        for (int attempt = 1; ; attempt++)
        {
            try
            {
                HttpResponseMessage response = await FollowAsync(method, uri, token, follow ?? ((_, _) => true), from, run).ConfigureAwait(false);
                if ((int)response.StatusCode < 400 || response.StatusCode == HttpStatusCode.RequestedRangeNotSatisfiable)
                {
                    return response;
                }

                using (response)
                {
                    if (!IsBusy(response.StatusCode) || attempt >= options.Attempts)
                    {
                        throw new BadInputException(Refusal(what, response.StatusCode, token is not null));
                    }

                    await PauseAsync(attempt, response.Headers.RetryAfter, run).ConfigureAwait(false);
                }
            }
            catch (Exception e) when (e is HttpRequestException or IOException or TimeoutException)
            {
                if (attempt >= options.Attempts)
                {
                    throw new UnreachableException(what, e);
                }

                await PauseAsync(attempt, null, run).ConfigureAwait(false);
            }
        }
    }

    /// <inheritdoc/>
    public void Dispose() => client.Dispose();

    async Task FetchAsync(Download download, string? token, RunContext run)
    {
        int failures = 0;
        while (true)
        {
            long have = File.Exists(download.Partial) ? new FileInfo(download.Partial).Length : 0;
            if (have == download.Size)
            {
                using FileStream touched = new(download.Partial, FileMode.Append, FileAccess.Write, FileShare.None, 1);
                return;
            }

            if (have > download.Size)
            {
                FileStore.Disk.Delete(download.Partial);
                have = 0;
            }

            long before = have;
            string reason;
            try
            {
                using HttpResponseMessage response = await SendAsync(HttpMethod.Get, download.From, token, run, from: have).ConfigureAwait(false);
                if (response.StatusCode == HttpStatusCode.RequestedRangeNotSatisfiable)
                {
                    // What is there is at least as long as the file: without a known size only its hash can tell.
                    if (download.Size is null && have > 0)
                    {
                        return;
                    }

                    FileStore.Disk.Delete(download.Partial);
                    reason = "the server refused to go on from what was there";
                }
                else if (await ReceiveAsync(download, response, have, run).ConfigureAwait(false) is { } broken)
                {
                    reason = broken;
                }
                else
                {
                    return;
                }
            }
            catch (Exception e) when (e is HttpRequestException or TimeoutException)
            {
                reason = e.Message.TrimEnd('.');
            }

            failures = File.Exists(download.Partial) && new FileInfo(download.Partial).Length > before ? 1 : failures + 1;
            if (failures >= options.Attempts)
            {
                throw new BadInputException($"{download.Name} from {download.From.Host} did not arrive after {failures} attempts ({reason}); run the command again to go on from what is there.");
            }

            await PauseAsync(failures, null, run).ConfigureAwait(false);
        }
    }

    // Null when all that was announced has come, else what went wrong.
    async Task<string?> ReceiveAsync(Download download, HttpResponseMessage response, long have, RunContext run)
    {
        bool goesOn = response.StatusCode == HttpStatusCode.PartialContent && response.Content.Headers.ContentRange?.From == have;
        long at = goesOn ? have : 0;
        long? announced = response.Content.Headers.ContentLength is { } length ? at + length : null;
        if (download.Size is { } size && announced is { } total && total != size)
        {
            throw new BadInputException($"{download.Name} from {download.From.Host} is announced with {total} bytes, expected {size}; the file at its origin has changed or the server is at fault.");
        }

        long? limit = download.Size ?? announced;
        using var file = new FileStream(download.Partial, goesOn ? FileMode.Append : FileMode.Create, FileAccess.Write, FileShare.None, 1);
        Stream content = await response.Content.ReadAsStreamAsync(run.Cancellation).ConfigureAwait(false);
        byte[] buffer = new byte[1 << 17];
        while (true)
        {
            int count;
            try
            {
                count = await InTimeAsync(cancellation => content.ReadAsync(buffer, cancellation).AsTask(), run).ConfigureAwait(false);
            }
            catch (Exception e) when (e is IOException or TimeoutException)
            {
                // What came is kept: the next attempt goes on from it.
                return e.Message.TrimEnd('.');
            }

            if (count == 0)
            {
                break;
            }

            at += count;
            if (at > limit)
            {
                file.Dispose();
                FileStore.Disk.Delete(download.Partial);
                throw new BadInputException($"{download.Name} from {download.From.Host} goes on beyond the {limit} bytes that were expected; the file at its origin has changed or the server is at fault.");
            }

            await file.WriteAsync(buffer.AsMemory(0, count), run.Cancellation).ConfigureAwait(false);
            run.Report($"downloading {download.Name}", at, limit ?? 0);
        }

        file.Flush(flushToDisk: true);
        return limit is null || at == limit ? null : $"the connection ended after {at} of {limit} bytes";
    }

    static void Verify(Download download, RunContext run)
    {
        if (download.Hash.Of(download.Partial, run.Cancellation) is var found && found != download.Hash)
        {
            FileStore.Disk.Delete(download.Partial);
            throw new BadInputException($"{download.Name} from {download.From.Host} has the {found}, expected {download.Hash}; it was damaged on the way or changed at its origin, and nothing was kept.");
        }
    }

    async Task<HttpResponseMessage> FollowAsync(HttpMethod method, Uri uri, string? token, Func<Uri, Uri, bool> follow, long from, RunContext run)
    {
        Uri first = uri;
        for (int hops = 0; ; hops++)
        {
            using var request = new HttpRequestMessage(method, uri);
            if (token is not null && uri.Host == first.Host && uri.Port == first.Port)
            {
                request.Headers.Authorization = new AuthenticationHeaderValue("Bearer", token);
            }

            if (from > 0)
            {
                request.Headers.Range = new RangeHeaderValue(from, null);
            }

            HttpResponseMessage response = await InTimeAsync(cancellation => client.SendAsync(request, HttpCompletionOption.ResponseHeadersRead, cancellation), run).ConfigureAwait(false);
            if ((int)response.StatusCode is < 300 or >= 400 || response.Headers.Location is not { } location)
            {
                return response;
            }

            Uri next = new(uri, location);
            if (!follow(uri, next))
            {
                return response;
            }

            response.Dispose();
            if (hops == MaxRedirects || next.Scheme is not ("http" or "https") || (uri.Scheme == "https" && next.Scheme == "http"))
            {
                throw new BadInputException($"{first.GetLeftPart(UriPartial.Path)} redirects {(hops == MaxRedirects ? $"more than {MaxRedirects} times" : $"to {next.GetLeftPart(UriPartial.Authority)}, which is not secure")}; nothing was downloaded.");
            }

            uri = next;
        }
    }

    // A time-out for each step, not for the whole: a long download is no stall.
    async Task<T> InTimeAsync<T>(Func<CancellationToken, Task<T>> step, RunContext run)
    {
        using var limit = CancellationTokenSource.CreateLinkedTokenSource(run.Cancellation);
        limit.CancelAfter(options.StallTime);
        try
        {
            return await step(limit.Token).ConfigureAwait(false);
        }
        catch (OperationCanceledException e) when (!run.Cancellation.IsCancellationRequested)
        {
            throw new TimeoutException($"nothing came for {options.StallTime.TotalSeconds:0.#} s", e);
        }
    }

    Task PauseAsync(int attempt, RetryConditionHeaderValue? asked, RunContext run)
    {
        TimeSpan pause = options.Pause * Math.Pow(2, attempt - 1), wanted = asked?.Delta ?? TimeSpan.Zero;
        return Task.Delay(wanted > pause ? (wanted < options.LongestPause ? wanted : options.LongestPause) : pause, run.Cancellation);
    }

    static bool IsBusy(HttpStatusCode status) => status is HttpStatusCode.TooManyRequests or HttpStatusCode.RequestTimeout || (int)status >= 500;

    static string Refusal(string what, HttpStatusCode status, bool hasToken) => status switch
    {
        HttpStatusCode.Unauthorized or HttpStatusCode.Forbidden => hasToken
            ? $"{what} is refused ({(int)status}) to the token in HF_TOKEN; accept the model's conditions on its page or use a token that may read it."
            : $"{what} does not exist or is not public ({(int)status}); check the name, or set HF_TOKEN to a token that may read it.",
        HttpStatusCode.NotFound => $"{what} does not exist (404); check owner, name, revision and file.",
        HttpStatusCode.TooManyRequests => $"{what} is refused because of too many requests (429); wait a few minutes, or set HF_TOKEN.",
        _ => $"{what} cannot be had: the server answers {(int)status}; try again later.",
    };
}

/// <summary>How patient a <see cref="Downloader"/> is.</summary>
public sealed record DownloaderOptions
{
    /// <summary>Time without a byte after which a connection counts as stalled. Default 30 s.</summary>
    public TimeSpan StallTime { get; init; } = TimeSpan.FromSeconds(30);

    /// <summary>Attempts without any progress before giving up. Default 5.</summary>
    public int Attempts { get; init; } = 5;

    /// <summary>Pause before the second attempt, doubled each time. Default 1 s.</summary>
    public TimeSpan Pause { get; init; } = TimeSpan.FromSeconds(1);

    /// <summary>Longest pause that a server may ask for. Default 60 s.</summary>
    public TimeSpan LongestPause { get; init; } = TimeSpan.FromSeconds(60);
}

/// <summary>A server that could not be reached at all; what is in the cache may serve instead.</summary>
sealed class UnreachableException(string what, Exception inner)
    : BadInputException($"{what} cannot be reached: {inner.Message.TrimEnd('.')}; check the network, or set HF_HUB_OFFLINE=1 to use only what is in the cache.", inner);
