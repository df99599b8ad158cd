using System.Text;
using System.Text.Encodings.Web;
using System.Text.Json;
using System.Text.Json.Nodes;

namespace Scalpel.Cli.Output;

/// <summary>
/// Where a command writes. Results go to standard output: text for people, or with <c>--json</c> one object a line and
/// nothing else. Sentences and progress go to standard error.
/// </summary>
sealed class ConsoleOutput : IDisposable
{
    static readonly JsonSerializerOptions OneLine = new() { Encoder = JavaScriptEncoder.UnsafeRelaxedJsonEscaping };
    readonly TextWriter results, messages;
    readonly ProgressWriter progress;
    readonly Lock gate = new();

    /// <summary>Output to the given writers.</summary>
    public ConsoleOutput(TextWriter results, TextWriter messages, bool json, bool liveProgress)
    {
        this.results = results;
        this.messages = messages;
        Json = json;
        progress = new ProgressWriter(messages, gate, json ? ProgressForm.Json : liveProgress ? ProgressForm.Live : ProgressForm.Lines, TimeProvider.System);
    }

    /// <summary>Whether results are JSON objects.</summary>
    public bool Json { get; }

    /// <summary>Receives progress and shows it.</summary>
    public IProgress<ProgressReport> Progress => progress;

    /// <summary>The process's own streams; UTF-8.</summary>
    public static ConsoleOutput Standard(bool json) => new(
        new StreamWriter(Console.OpenStandardOutput(), new UTF8Encoding(false)) { AutoFlush = false },
        new StreamWriter(Console.OpenStandardError(), new UTF8Encoding(false)) { AutoFlush = true },
        json, liveProgress: !Console.IsErrorRedirected);

    /// <summary>A line for people; with --json it goes to standard error.</summary>
    public void Line(string text = "")
    {
        lock (gate)
        {
            progress.Clear();
            TextWriter to = Json ? messages : results;
            to.Write(text + "\n");
            to.Flush();
        }
    }

    /// <summary>A piece of a line for people, at once: text that a model is writing. Nothing with --json.</summary>
    public void Write(string text)
    {
        if (Json)
        {
            messages.Write(text);
            return;
        }

        lock (gate)
        {
            progress.Clear();
            results.Write(text);
            results.Flush();
        }
    }

    /// <summary>A JSON object on one line; nothing without --json.</summary>
    public void Emit(JsonObject value)
    {
        if (!Json)
        {
            return;
        }

        lock (gate)
        {
            progress.Clear();
            results.Write(value.ToJsonString(OneLine) + "\n");
            results.Flush();
        }
    }

    /// <summary>A sentence to standard error.</summary>
    public void Note(string sentence)
    {
        lock (gate)
        {
            progress.Clear();
            messages.Write(sentence + "\n");
        }
    }

    /// <summary>What went wrong, as one sentence to standard error.</summary>
    public void Error(string sentence) => Note($"scalpel: {sentence.ReplaceLineEndings(" ")}");

    /// <summary>Takes the progress bar away.</summary>
    public void EndProgress()
    {
        lock (gate)
        {
            progress.Clear();
        }
    }

    /// <summary>Flushes; a reader that went away is not an error.</summary>
    public void Dispose()
    {
        try
        {
            results.Flush();
            messages.Flush();
        }
        catch (IOException)
        {
            // The reader of the pipe is gone.
        }
    }
}
