using System.Globalization;
using System.Text.Json.Nodes;

namespace Scalpel.Cli.Output;

/// <summary>How progress is shown.</summary>
enum ProgressForm
{
    /// <summary>A bar that is redrawn, on a terminal.</summary>
    Live,

    /// <summary>A line now and then, into a file or a pipe.</summary>
    Lines,

    /// <summary>A JSON object now and then.</summary>
    Json,
}

/// <summary>Shows progress with rate and time left. The caller holds the lock that guards the writer.</summary>
sealed class ProgressWriter(TextWriter to, Lock gate, ProgressForm form, TimeProvider time) : IProgress<ProgressReport>
{
    const int BarWidth = 24;
    static readonly TimeSpan Redraw = TimeSpan.FromMilliseconds(80), NextLine = TimeSpan.FromSeconds(2);
    string? stage;
    long started, shown, first;
    bool visible, ended;

    /// <summary>Takes note of a step; writes when enough time has passed since the last time, and at a stage's end.</summary>
    public void Report(ProgressReport value)
    {
        lock (gate)
        {
            long now = time.GetTimestamp();
            bool fresh = value.Stage != stage, last = value.Total > 0 && value.Done >= value.Total;
            if (fresh)
            {
                stage = value.Stage;
                started = now;
                first = value.Done;
                shown = 0;
                ended = false;
            }

            // A stage that goes round again is not ended again.
            if (last && ended)
            {
                Clear();
                return;
            }

            ended |= last;

            TimeSpan pause = form == ProgressForm.Live ? Redraw : NextLine;
            if (!fresh && !last && time.GetElapsedTime(shown, now) < pause)
            {
                return;
            }

            shown = now;
            double seconds = time.GetElapsedTime(started, now).TotalSeconds;
            double rate = seconds > 0.05 ? (value.Done - first) / seconds : 0;
            double left = rate > 0 && value.Total > 0 ? (value.Total - value.Done) / rate : double.NaN;
            switch (form)
            {
                case ProgressForm.Json:
                    to.Write(Object(value, rate, left).ToJsonString() + "\n");
                    break;
                case ProgressForm.Lines:
                    to.Write(Sentence(value, rate, left) + "\n");
                    break;
                default:
                    // Erase the line, then draw; a narrow terminal gets no second line.
                    string text = Bar(value) + Sentence(value, rate, left);
                    int width = Math.Max(20, Console.BufferWidth - 1);
                    to.Write("\r\x1b[2K" + (text.Length > width ? text[..width] : text));
                    visible = true;
                    if (last)
                    {
                        Clear();
                    }

                    break;
            }
        }
    }

    /// <summary>Takes a live bar away, so that a line can be written.</summary>
    public void Clear()
    {
        if (visible)
        {
            to.Write("\r\x1b[2K");
            visible = false;
        }
    }

    static string Bar(ProgressReport value)
    {
        if (value.Total <= 0)
        {
            return "";
        }

        int filled = (int)Math.Clamp(value.Done * BarWidth / value.Total, 0, BarWidth);
        return new string('━', filled) + new string('╌', BarWidth - filled) + " ";
    }

    static string Sentence(ProgressReport value, double rate, double left)
    {
        string count = value.Total > 0 ? $" {value.Done}/{value.Total}" : value.Done > 0 ? $" {value.Done}" : "";
        string speed = rate > 0 ? $"  {Number(rate)}/s" : "";
        string remaining = double.IsFinite(left) && left > 0.5 ? $"  {Duration(left)} left" : "";
        return value.Stage + count + speed + remaining + (value.Note is null ? "" : $"  {value.Note}");
    }

    static JsonObject Object(ProgressReport value, double rate, double left) => new()
    {
        ["stage"] = value.Stage,
        ["done"] = value.Done,
        ["total"] = value.Total,
        ["rate"] = Math.Round(rate, 3),
        ["seconds_left"] = double.IsFinite(left) ? Math.Round(left, 1) : null,
        ["note"] = value.Note,
    };

    static string Number(double value) => value.ToString(value >= 100 ? "0" : value >= 1 ? "0.0" : "0.00", CultureInfo.InvariantCulture);

    static string Duration(double seconds) => seconds < 60 ? $"{seconds:0} s" : seconds < 3600 ? $"{(int)seconds / 60}:{(int)seconds % 60:00} min" : $"{(int)seconds / 3600}:{(int)seconds % 3600 / 60:00} h";
}
