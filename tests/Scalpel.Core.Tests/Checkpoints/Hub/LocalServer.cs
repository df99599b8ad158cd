using System.Net;
using System.Net.Sockets;
using System.Text;

namespace Scalpel.Tests.Checkpoints.Hub;

/// <summary>A request as it came in.</summary>
sealed record Request(string Method, string Path, IReadOnlyDictionary<string, string> Headers)
{
    public long From => Headers.TryGetValue("range", out string? range) ? long.Parse(range["bytes=".Length..].TrimEnd('-'), System.Globalization.CultureInfo.InvariantCulture) : 0;
}

/// <summary>An answer, and how the server misbehaves while it gives it.</summary>
sealed record Answer(int Status, byte[] Body)
{
    public Dictionary<string, string> Headers { get; init; } = [];

    /// <summary>Bytes of the body after which the connection is dropped.</summary>
    public int? DropAfter { get; init; }

    /// <summary>Bytes of the body after which nothing more comes.</summary>
    public int? StallAfter { get; init; }

    /// <summary>The length that is announced instead of the true one.</summary>
    public long? Announced { get; init; }
}

/// <summary>A server on this machine that does what a test tells it, byte by byte.</summary>
sealed class LocalServer : IDisposable
{
    readonly TcpListener listener = new(IPAddress.Loopback, 0);
    readonly CancellationTokenSource stop = new();

    public LocalServer(Func<Request, Answer> answer)
    {
        listener.Start();
        Address = new Uri($"http://127.0.0.1:{((IPEndPoint)listener.LocalEndpoint).Port}");
        _ = AcceptAsync(answer);
    }

    public Uri Address { get; }

    public List<Request> Requests { get; } = [];

    public void Dispose()
    {
        stop.Cancel();
        listener.Stop();
        stop.Dispose();
    }

    async Task AcceptAsync(Func<Request, Answer> answer)
    {
        try
        {
            while (true)
            {
                TcpClient client = await listener.AcceptTcpClientAsync(stop.Token);
                _ = ServeAsync(client, answer);
            }
        }
        catch (Exception e) when (e is OperationCanceledException or SocketException or ObjectDisposedException)
        {
            // The test is over.
        }
    }

    async Task ServeAsync(TcpClient client, Func<Request, Answer> answer)
    {
        using (client)
        {
            try
            {
                NetworkStream stream = client.GetStream();
                Request request = await ReadAsync(stream);
                lock (Requests)
                {
                    Requests.Add(request);
                }

                Answer given = answer(request);
                var head = new StringBuilder($"HTTP/1.1 {given.Status} X\r\nContent-Length: {given.Announced ?? given.Body.Length}\r\nConnection: close\r\n");
                foreach ((string name, string value) in given.Headers)
                {
                    head.Append($"{name}: {value}\r\n");
                }

                await stream.WriteAsync(Encoding.ASCII.GetBytes(head.Append("\r\n").ToString()));
                if (request.Method == "HEAD")
                {
                    return;
                }

                int count = given.DropAfter ?? given.StallAfter ?? given.Body.Length;
                await stream.WriteAsync(given.Body.AsMemory(0, Math.Min(count, given.Body.Length)));
                await stream.FlushAsync();
                if (given.StallAfter is not null)
                {
                    await Task.Delay(Timeout.Infinite, stop.Token);
                }
            }
            catch (Exception e) when (e is IOException or OperationCanceledException or ObjectDisposedException)
            {
                // The client went away, or the test is over.
            }
        }
    }

    static async Task<Request> ReadAsync(NetworkStream stream)
    {
        var text = new StringBuilder();
        byte[] one = new byte[1];
        while (!text.ToString().EndsWith("\r\n\r\n", StringComparison.Ordinal))
        {
            if (await stream.ReadAsync(one) == 0)
            {
                throw new IOException("closed");
            }

            text.Append((char)one[0]);
        }

        string[] lines = text.ToString().Split("\r\n", StringSplitOptions.RemoveEmptyEntries), first = lines[0].Split(' ');
        return new Request(first[0], first[1], lines[1..].Select(line => line.Split(": ", 2)).ToDictionary(pair => pair[0].ToLowerInvariant(), pair => pair[1]));
    }
}
