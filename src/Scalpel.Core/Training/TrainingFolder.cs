using System.Globalization;
using System.Text;
using System.Text.Encodings.Web;
using System.Text.Json;
using Scalpel.Checkpoints;
using TorchSharp;
using static TorchSharp.torch;

namespace Scalpel.Training;

/// <summary>A run between two steps.</summary>
/// <param name="Step">Steps taken.</param>
/// <param name="Loss">Loss of the last of them.</param>
/// <param name="Best">Best value of an evaluation so far.</param>
/// <param name="SinceBest">Evaluations since then.</param>
/// <param name="Tensors">Values, moments and averages.</param>
sealed record TrainingState(long Step, double Loss, double? Best, int SinceBest, IReadOnlyDictionary<string, Tensor> Tensors) : IDisposable
{
    public Tensor Required(string name, long length) => Tensors.TryGetValue(name, out Tensor? tensor) && tensor.numel() == length
        ? tensor
        : throw new BadInputException($"The saved state has no {name} of {length} elements; it belongs to another run. Choose another folder, or delete this one to start anew.");

    public void Dispose()
    {
        foreach (Tensor tensor in Tensors.Values)
        {
            tensor.Dispose();
        }
    }
}

/// <summary>
/// The state and the log of a run. The state is one file, replaced in one step; the log is cut back to the state when a
/// run goes on, so that an interrupted run leaves the same log as an undisturbed one. Neither holds a time.
/// </summary>
sealed class TrainingFolder : IDisposable
{
    const string StateName = "state.safetensors", LogName = "log.jsonl";
    readonly string folder, fingerprint;
    readonly FileStore store;
    FileStream? log;

    public TrainingFolder(string folder, string fingerprint, FileStore store)
    {
        (this.folder, this.fingerprint, this.store) = (folder, fingerprint, store);
        Writing(() => store.CreateFolder(folder));
    }

    string StatePath => Path.Combine(folder, StateName);

    string LogPath => Path.Combine(folder, LogName);

    public void Save(TrainingState state)
    {
        if (NotFinite(state) is { } name)
        {
            throw new CheckFailedException($"After step {state.Step}, {name} is not finite; the last saved state in {folder} is. Lower the learning rate.");
        }

        Write(state);
    }

    /// <summary>Saves what may have gone wrong already; then the state before stays.</summary>
    public void SaveIfFinite(TrainingState state)
    {
        if (NotFinite(state) is null)
        {
            Write(state);
        }
    }

    static string? NotFinite(TrainingState state)
    {
        foreach ((string name, Tensor tensor) in state.Tensors)
        {
            using Tensor sum = tensor.sum();
            if (!double.IsFinite(sum.ToDouble()))
            {
                return name;
            }
        }

        return null;
    }

    void Write(TrainingState state)
    {
        Writing(() => log?.Flush(flushToDisk: true));
        SafeTensorsWriter.Write(StatePath, state.Tensors, new Dictionary<string, string>
        {
            ["fingerprint"] = fingerprint,
            ["step"] = state.Step.ToString(CultureInfo.InvariantCulture),
            ["loss"] = state.Loss.ToString("R", CultureInfo.InvariantCulture),
            ["best"] = state.Best?.ToString("R", CultureInfo.InvariantCulture) ?? "",
            ["since_best"] = state.SinceBest.ToString(CultureInfo.InvariantCulture),
        }, store);
    }

    /// <summary>The saved state, or null when the run starts; opens the log at the place where the run goes on.</summary>
    public TrainingState? Load(bool resume)
    {
        bool there = File.Exists(StatePath);
        if (there && !resume)
        {
            throw new BadInputException($"{folder} holds the state of a run already; resume it, choose another folder, or delete it to start anew.");
        }

        TrainingState? state = there ? Read() : null;
        Writing(() => CutLog(state?.Step ?? 0));
        return state;
    }

    public void Log(StepReport report)
    {
        using var line = new MemoryStream();
        using (var json = new Utf8JsonWriter(line, new JsonWriterOptions { Encoder = JavaScriptEncoder.UnsafeRelaxedJsonEscaping }))
        {
            json.WriteStartObject();
            json.WriteNumber("step", report.Step + 1);
            Write(json, "loss", report.Loss);
            Write(json, "rate", report.Rate);
            Write(json, "grad_norm", report.GradNorm);
            foreach ((string name, double value) in report.Metrics)
            {
                Write(json, name, value);
            }

            if (report.Evaluation is { } evaluation)
            {
                Write(json, "evaluation", evaluation);
            }

            json.WriteEndObject();
        }

        line.WriteByte((byte)'\n');
        Writing(() =>
        {
            log!.Write(line.ToArray());
            log.Flush();
        });
    }

    // A full disk, above all.
    void Writing(Action write)
    {
        try
        {
            write();
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            throw new BadInputException($"{folder} cannot be written: {e.Message.TrimEnd('.')}; the last saved state, if any, is whole. Make room and resume.", e);
        }
    }

    public void Dispose() => log?.Dispose();

    TrainingState Read()
    {
        using SafeTensorsFile file = SafeTensorsFile.Open(StatePath);
        string Metadata(string key) => file.Metadata.TryGetValue(key, out string? value) ? value : throw new BadInputException($"{StatePath} has no '{key}'; it is not the state of a run.");
        if (Metadata("fingerprint") != fingerprint)
        {
            throw new BadInputException($"{folder} holds the state of a run with another model, data or options; resume that one with its own, or choose another folder.");
        }

        if (!long.TryParse(Metadata("step"), NumberStyles.None, CultureInfo.InvariantCulture, out long step) || !int.TryParse(Metadata("since_best"), NumberStyles.None, CultureInfo.InvariantCulture, out int since)
            || !double.TryParse(Metadata("loss"), CultureInfo.InvariantCulture, out double loss))
        {
            throw new BadInputException($"{StatePath} has a step, count or loss that is no number; it is damaged.");
        }

        double? best = double.TryParse(Metadata("best"), CultureInfo.InvariantCulture, out double value) ? value : null;
        return new TrainingState(step, loss, best, since, file.Entries.Keys.ToDictionary(name => name, name => file.Read(name).DetachFromDisposeScope()));
    }

    // A kill may leave lines beyond the state, and half a line.
    void CutLog(long steps)
    {
        log = new FileStream(LogPath, FileMode.OpenOrCreate, FileAccess.ReadWrite, FileShare.Read);
        long lines = 0, end = 0;
        for (int c; lines < steps && (c = log.ReadByte()) >= 0;)
        {
            if (c == '\n')
            {
                lines++;
                end = log.Position;
            }
        }

        log.SetLength(end);
        log.Position = end;
    }

    static void Write(Utf8JsonWriter json, string name, double value)
    {
        if (double.IsFinite(value))
        {
            json.WriteNumber(name, value);
        }
        else
        {
            json.WriteNull(name);
        }
    }
}
