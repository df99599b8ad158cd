using System.CommandLine;
using System.Text;
using System.Text.Json.Nodes;
using Scalpel.Checkpoints;
using Scalpel.Cli.CommandLine;
using Scalpel.Lab.Worlds;

namespace Scalpel.Cli.Commands.Worlds;

/// <summary>Writes items of a world's module as JSON lines.</summary>
sealed class WorldExportCommand : CliCommand
{
    readonly Argument<string> world = WorldOptions.World();
    readonly Option<string> module = new("--module") { Description = "The module.", HelpName = "NAME", Required = true };
    readonly Option<string> split = WorldOptions.Split();
    readonly Option<int> count = new("--n") { Description = "How many items.", DefaultValueFactory = _ => 1000 };
    readonly Option<ulong> seed = WorldOptions.Seed();
    readonly Option<string> output = new("--out") { Description = "The file to write, JSON lines.", HelpName = "FILE", Required = true };
    readonly Option<bool> force = new("--force") { Description = "Replace an existing file." };

    public WorldExportCommand() : base("export", "Writes items of a world's module as JSON lines, which scalpel tune reads.", "scalpel world export text --module facts --n 200 --out facts.jsonl")
    {
        Add(world);
        foreach (Option option in (Option[])[module, split, count, seed, output, force])
        {
            Add(option);
        }
    }

    public override void Execute(Invocation call)
    {
        string path = Destination.File(call.Get(output), call.Get(force));
        IReadOnlyList<TextRecord> records = WorldOptions.Create(call, world, seed).Module(call.Get(module), WorldOptions.SplitOf(call.Get(split)), call.Get(count));
        AtomicFile.Write(path, stream =>
        {
            foreach (TextRecord record in records)
            {
                stream.Write(Encoding.UTF8.GetBytes(record.ToJson().ToJsonString(WorldOptions.OneLine) + "\n"));
            }
        });
        call.Output.Emit(new JsonObject { ["file"] = path, ["module"] = call.Get(module), ["items"] = records.Count });
        if (!call.Output.Json)
        {
            call.Output.Line($"{path}: {records.Count} items of {call.Get(module)}");
        }
    }
}
