using System.Diagnostics;
using System.Globalization;
using System.Reflection;
using System.Text.Json;
using System.Text.Json.Nodes;
using TorchSharp;
using static TorchSharp.torch;

namespace Scalpel.Bench;

/// <summary>
/// <c>work NAME [--threads N] [--repeats N] [--json]</c>: seconds of each repeat, and beside them the rate of a 1024³
/// matrix product in the same process, before and after, so that figures of unequal machines can be compared as
/// seconds × rate.
/// </summary>
static class WorkCommand
{
    const int Size = 1024, Products = 8;

    static readonly Dictionary<string, Type> Works = typeof(WorkCommand).Assembly.GetTypes()
        .Where(type => type is { IsClass: true, IsAbstract: false } && type.IsAssignableTo(typeof(IWork)))
        .ToDictionary(type => (string)type.GetProperty(nameof(IWork.Name), BindingFlags.Public | BindingFlags.Static)!.GetValue(null)!, StringComparer.Ordinal);

    public static int Run(string[] args)
    {
        try
        {
            return Run(args.FirstOrDefault() ?? "", Option(args, "--threads", 2), Option(args, "--repeats", 5), args.Contains("--json"));
        }
        catch (BadInputException e)
        {
            Console.Error.WriteLine(e.Message);
            return 2;
        }
    }

    static int Run(string name, int threads, int repeats, bool json)
    {
        if (!Works.TryGetValue(name, out Type? type))
        {
            throw new BadInputException($"There is no work '{name}'; there are {string.Join(", ", Works.Keys.Order(StringComparer.Ordinal))}.");
        }

        set_num_threads(threads);
        (double f32, double bf16) = (Rate(ScalarType.Float32), Rate(ScalarType.BFloat16));
        var seconds = new double[repeats];
        var processor = new double[repeats];
        using (var work = (IWork)Activator.CreateInstance(type)!)
        {
            work.Run();
            for (int i = 0; i < repeats; i++)
            {
                long start = Stopwatch.GetTimestamp();
                TimeSpan before = ProcessorTime();
                work.Run();
                seconds[i] = Stopwatch.GetElapsedTime(start).TotalSeconds;
                processor[i] = (ProcessorTime() - before).TotalSeconds;
            }
        }

        long peak = PeakMegabytes();
        (f32, bf16) = (Math.Max(f32, Rate(ScalarType.Float32)), Math.Max(bf16, Rate(ScalarType.BFloat16)));
        double[] sorted = [.. seconds.Order()];
        double median = (sorted[repeats / 2] + sorted[(repeats - 1) / 2]) / 2;
        if (json)
        {
            Console.WriteLine(new JsonObject
            {
                ["work"] = name,
                ["seconds"] = new JsonArray([.. seconds.Select(s => JsonValue.Create(Math.Round(s, 6)))]),
                ["median"] = Math.Round(median, 6),
                ["processor_seconds"] = new JsonArray([.. processor.Select(s => JsonValue.Create(Math.Round(s, 3)))]),
                ["matmul_f32_gflops"] = Math.Round(f32, 1),
                ["matmul_bf16_gflops"] = Math.Round(bf16, 1),
                ["peak_rss_mb"] = peak,
            }.ToJsonString(JsonSerializerOptions.Default));
        }
        else
        {
            Console.WriteLine(string.Create(CultureInfo.InvariantCulture,
                $"{name}: median {median:0.####} s of {repeats} ({sorted[0]:0.####} to {sorted[^1]:0.####}); product {f32:0} / {bf16:0} GFLOP/s; seconds × rate {median * f32:0.#}; peak {peak} MB"));
        }

        return 0;
    }

    // Of all threads: on a machine with other work, the figure of one thread that wall time would be on a quiet one.
    static TimeSpan ProcessorTime()
    {
        using var process = Process.GetCurrentProcess();
        return process.TotalProcessorTime;
    }

    static double Rate(ScalarType type)
    {
        using var scope = NewDisposeScope();
        using var noGrad = no_grad();
        Tensor a = randn(Size, Size).to_type(type), b = randn(Size, Size).to_type(type);
        double best = 0;
        for (int i = 0; i < Products; i++)
        {
            long start = Stopwatch.GetTimestamp();
            using Tensor product = a.mm(b);
            best = Math.Max(best, 2.0 * Size * Size * Size / Stopwatch.GetElapsedTime(start).TotalSeconds / 1e9);
        }

        return best;
    }

    static long PeakMegabytes()
    {
        const string Status = "/proc/self/status", Field = "VmHWM:";
        string? line = File.Exists(Status) ? File.ReadLines(Status).FirstOrDefault(l => l.StartsWith(Field, StringComparison.Ordinal)) : null;
        return line is null
            ? Process.GetCurrentProcess().PeakWorkingSet64 >> 20
            : long.Parse(line[Field.Length..].Replace("kB", "", StringComparison.Ordinal), CultureInfo.InvariantCulture) >> 10;
    }

    static int Option(string[] args, string name, int otherwise)
    {
        int at = Array.IndexOf(args, name);
        return at < 0 ? otherwise
            : at + 1 < args.Length && int.TryParse(args[at + 1], CultureInfo.InvariantCulture, out int value) && value > 0 ? value
            : throw new BadInputException($"{name} needs a positive whole number after it.");
    }
}
