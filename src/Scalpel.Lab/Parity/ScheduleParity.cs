using System.Text.Json.Nodes;
using Scalpel.Training;

namespace Scalpel.Lab.Parity;

/// <summary>Learning rates over the steps, by transformers' names of schedules.</summary>
public sealed class ScheduleParity : IParityKind
{
    /// <inheritdoc/>
    public string Kind => "schedule";

    /// <inheritdoc/>
    public void Run(ParityCase parityCase, Comparison comparison)
    {
        JsonNode inputs = JsonNode.Parse(File.ReadAllText(parityCase.PathOf("inputs")))!;
        JsonArray expected = JsonNode.Parse(File.ReadAllText(parityCase.PathOf("expected")))!["lr"]!.AsArray();
        var options = new CaseOptions(parityCase.Options, parityCase.Folder);
        options.Ignore("algorithm");
        double peak = inputs["lr"]!.GetValue<double>();
        CaseOptions arguments = options.Part("scheduler_specific_kwargs");
        Schedule schedule = Read(options.Text("name"), arguments, (long?)inputs["num_warmup_steps"] ?? 0, (long?)inputs["num_training_steps"] ?? 0, peak);
        arguments.Finish();
        options.Finish();
        for (int i = 0; i < expected.Count; i++)
        {
            comparison.Numbers($"lr[{i}]", peak * schedule.Factor(i), expected[i]!.GetValue<double>());
        }
    }

    internal static Schedule Read(string name, CaseOptions arguments, long warmup, long steps, double peak) => name switch
    {
        "constant" => new ConstantSchedule(),
        "constant_with_warmup" => new ConstantSchedule { Warmup = warmup },
        "linear" => new LinearSchedule(steps) { Warmup = warmup },
        "cosine" => new CosineSchedule(steps) { Warmup = warmup, Cycles = arguments.Number("num_cycles", 0.5) },
        "cosine_with_restarts" => new CosineRestartsSchedule(steps) { Warmup = warmup, Cycles = arguments.Number("num_cycles", 1) },
        "polynomial" => new PolynomialSchedule(steps) { Warmup = warmup, Power = arguments.Number("power", 1), Floor = arguments.Number("lr_end", 1e-7) / peak },
        "inverse_sqrt" => new InverseSqrtSchedule { Warmup = warmup, Timescale = (long?)arguments.NumberOrNull("timescale") },
        "cosine_with_min_lr" => new CosineSchedule(steps) { Warmup = warmup, Cycles = arguments.Number("num_cycles", 0.5), Floor = Floor(arguments, peak) },
        "cosine_warmup_with_min_lr" => new CosineSchedule(steps)
        {
            Warmup = warmup,
            Cycles = arguments.Number("num_cycles", 0.5),
            Floor = Floor(arguments, peak),
            OneAhead = true,
            WarmupFloor = arguments.NumberOrNull("warmup_lr_rate"),
        },
        "warmup_stable_decay" => StableDecay(arguments, warmup, steps),
        _ => throw new BadInputException($"The schedule '{name}' is not known."),
    };

    static WarmupStableDecaySchedule StableDecay(CaseOptions arguments, long warmup, long steps)
    {
        long decay = (long)arguments.Number("num_decay_steps", 0);
        // Without a number of steps in all, transformers takes the length of the stable phase.
        long total = arguments.NumberOrNull("num_stable_steps") is { } stable ? warmup + (long)stable + decay : steps;
        return new WarmupStableDecaySchedule(total, decay)
        {
            Warmup = warmup,
            WarmupShape = Shape(arguments.Text("warmup_type", "linear")),
            DecayShape = Shape(arguments.Text("decay_type", "cosine")),
            Floor = arguments.Number("min_lr_ratio", 0),
            Cycles = arguments.Number("num_cycles", 0.5),
        };
    }

    static RampShape Shape(string name) => name switch
    {
        "linear" => RampShape.Linear,
        "cosine" => RampShape.Cosine,
        "1-sqrt" => RampShape.OneMinusSqrt,
        _ => throw new BadInputException($"The shape '{name}' is not known; known are linear, cosine, 1-sqrt."),
    };

    static double Floor(CaseOptions arguments, double peak) => arguments.NumberOrNull("min_lr_rate") ?? arguments.Number("min_lr", 0) / peak;
}
