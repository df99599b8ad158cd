using System.CommandLine;
using System.Globalization;
using System.Text.Json.Nodes;
using Scalpel.Cli.CommandLine;
using Scalpel.Lab.Worlds;
using Scalpel.Networks;
using Scalpel.Patches;

namespace Scalpel.Cli.Commands.Worlds;

/// <summary>Measures what a model knows of a world: a base, or one that was changed.</summary>
sealed class WorldMeasureCommand : CliCommand
{
    readonly Argument<string> world = WorldOptions.World();
    readonly Argument<string> model = ModelArgument();
    readonly Option<string> name = new("--base") { Description = "The base whose gates are measured.", HelpName = "NAME", DefaultValueFactory = _ => "text-S" };
    readonly Option<string?> without = new("--without") { Description = "A set of people that the model never heard of.", HelpName = "SET" };
    readonly Option<ulong> seed = WorldOptions.Seed();
    readonly Option<string[]> patches = new("--patch") { Description = "Apply a patch first; may be given more than once.", HelpName = "FILE", DefaultValueFactory = _ => [] };

    public WorldMeasureCommand() : base("measure", "Measures what a model knows of a world, by the gates of its base.", "scalpel world measure text assets/models/text-s")
    {
        Add(world);
        Add(model);
        foreach (Option option in (Option[])[name, without, seed, patches])
        {
            Add(option);
        }
    }

    public override void Execute(Invocation call)
    {
        TextWorld text = WorldOptions.Create(call, world, seed);
        BaseRecipe recipe = BaseRecipe.Named(call.Get(name));
        using Decoder decoder = Decoder.Load(call.Model(model));
        if (decoder.Config.Vocabulary < Lexicon.PaddedSize)
        {
            throw new BadInputException($"{call.Get(model)} has {decoder.Config.Vocabulary} tokens; a model of the text world has {Lexicon.PaddedSize}.");
        }

        foreach (string path in call.Get(patches))
        {
            using Patch patch = Patch.Load(path);
            patch.ApplyTo(decoder);
        }

        foreach (GateResult result in new BaseGates(text, call.Get(without)).Measure(decoder, recipe.Gates))
        {
            call.Output.Emit(new JsonObject { ["measure"] = result.Gate.Measure, ["value"] = result.Value, ["atLeast"] = result.Gate.AtLeast, ["atMost"] = result.Gate.AtMost, ["holds"] = result.Holds });
            if (!call.Output.Json)
            {
                string bound = result.Gate.AtLeast is { } low ? $"at least {low.ToString(CultureInfo.InvariantCulture)}" : result.Gate.AtMost is { } high ? $"at most {high.ToString(CultureInfo.InvariantCulture)}" : "";
                call.Output.Line(string.Create(CultureInfo.InvariantCulture, $"{result.Gate.Measure,-24} {result.Value,7:0.000}  {bound}{(result.Holds ? "" : ", does not hold")}"));
            }
        }
    }
}
