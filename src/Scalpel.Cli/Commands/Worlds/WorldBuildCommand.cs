using System.CommandLine;
using System.Globalization;
using System.Text.Json.Nodes;
using Scalpel.Checkpoints;
using Scalpel.Cli.CommandLine;
using Scalpel.Lab.Worlds;

namespace Scalpel.Cli.Commands.Worlds;

/// <summary>Trains a base model of a world, or finds the one that there is.</summary>
sealed class WorldBuildCommand : CliCommand
{
    readonly Argument<string> world = WorldOptions.World();
    readonly Option<string> name = new("--base") { Description = "The base model.", HelpName = "NAME", DefaultValueFactory = _ => "text-S" };
    readonly Option<string?> without = new("--without") { Description = "A set of people that it never hears of: core, forget, forget02, forget10, forget20.", HelpName = "SET" };
    readonly Option<ulong> seed = WorldOptions.Seed();
    readonly Option<string?> output = new("--out") { Description = "Copy the model to this folder.", HelpName = "FOLDER" };
    readonly Option<bool> force = new("--force") { Description = "Replace an existing folder." };
    readonly Option<bool> resume = new("--resume") { Description = "Go on with a build that was interrupted; otherwise it starts anew." };
    readonly Option<bool> keep = new("--keep") { Description = "Keep the model even when a gate fails at the last step." };

    public WorldBuildCommand() : base("build", "Trains a base model of a world until its gates hold; one that there is already is taken.",
        "scalpel world build text --base text-S --out text-s")
    {
        Add(world);
        foreach (Option option in (Option[])[name, without, seed, output, force, resume, keep])
        {
            Add(option);
        }
    }

    public override void Execute(Invocation call)
    {
        string? target = call.Get(output);
        if (target is not null)
        {
            Destination.Folder(target, call.Get(force));
        }

        TextWorld text = WorldOptions.Create(call, world, seed);
        string folder = text.BaseFolder(call.Get(name), call.Context(), new BaseBuildOptions
        {
            Exclude = call.Get(without),
            Resume = call.Get(resume),
            RequireGates = !call.Get(keep),
            OnGates = (steps, gates) => call.Output.Note($"step {steps}: {string.Join("; ", gates)}"),
        });
        if (target is not null)
        {
            AtomicFolder.Write(target, call.Get(force), partial =>
            {
                foreach (string file in Directory.EnumerateFiles(folder))
                {
                    File.Copy(file, Path.Combine(partial, Path.GetFileName(file)));
                }
            });
        }

        var card = (JsonObject)JsonNode.Parse(File.ReadAllText(Path.Combine(folder, "world.json")))!;
        call.Output.Emit(new JsonObject { ["folder"] = target ?? folder, ["base"] = card["base"]!.DeepClone(), ["steps"] = card["steps"]!.DeepClone(), ["gates"] = card["gates"]!.DeepClone() });
        if (!call.Output.Json)
        {
            call.Output.Line($"{target ?? folder}: {card["base"]}, {card["steps"]} steps");
            foreach (JsonNode? gate in card["gates"]!.AsArray())
            {
                string bound = gate!["atLeast"] is { } low ? $"at least {low}" : gate["atMost"] is { } high ? $"at most {high}" : "";
                call.Output.Line(string.Create(CultureInfo.InvariantCulture, $"  {gate["measure"],-22} {gate["value"]!.GetValue<double>(),7:0.000}  {bound}"));
            }
        }
    }
}
