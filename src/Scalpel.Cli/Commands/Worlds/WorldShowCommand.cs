using System.CommandLine;
using System.Globalization;
using System.Text.Json.Nodes;
using Scalpel.Cli.CommandLine;
using Scalpel.Lab.Worlds;

namespace Scalpel.Cli.Commands.Worlds;

/// <summary>Shows the modules of a world, or items of one with what is true of them.</summary>
sealed class WorldShowCommand : CliCommand
{
    readonly Argument<string> world = WorldOptions.World();
    readonly Option<string?> module = new("--module") { Description = "The module; without it the modules are listed.", HelpName = "NAME" };
    readonly Option<string> split = WorldOptions.Split();
    readonly Option<int> count = new("--n") { Description = "How many items.", DefaultValueFactory = _ => 5 };
    readonly Option<ulong> seed = WorldOptions.Seed();

    public WorldShowCommand() : base("show", "Shows a world's modules, or items of one with what is true of them.", "scalpel world show text --module facts --n 3")
    {
        Add(world);
        foreach (Option option in (Option[])[module, split, count, seed])
        {
            Add(option);
        }
    }

    public override void Execute(Invocation call)
    {
        TextWorld text = WorldOptions.Create(call, world, seed);
        if (call.Get(module) is not { } name)
        {
            foreach (ITextModule known in TextModules.All)
            {
                int? supply = known.Supply(text, TextSplit.Train);
                call.Output.Emit(new JsonObject { ["module"] = known.Name, ["summary"] = known.Summary, ["items"] = supply });
                if (!call.Output.Json)
                {
                    call.Output.Line(string.Create(CultureInfo.InvariantCulture, $"{known.Name,-18} {(supply is { } items ? items.ToString(CultureInfo.InvariantCulture) : "any"),7}  {known.Summary}"));
                }
            }

            return;
        }

        foreach (TextRecord record in text.Module(name, WorldOptions.SplitOf(call.Get(split)), call.Get(count)))
        {
            call.Output.Emit(record.ToJson());
            if (!call.Output.Json)
            {
                call.Output.Line(record.Id);
                call.Output.Line($"  {record.Text}");
                call.Output.Line($"  {record.Truth.ToJsonString(WorldOptions.OneLine)}");
            }
        }
    }
}
