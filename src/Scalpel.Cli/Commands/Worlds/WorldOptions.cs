using System.CommandLine;
using System.Text.Encodings.Web;
using System.Text.Json;
using Scalpel.Cli.CommandLine;
using Scalpel.Lab.Worlds;

namespace Scalpel.Cli.Commands.Worlds;

/// <summary>What the commands of worlds share.</summary>
static class WorldOptions
{
    /// <summary>Compact JSON that shows words as they are.</summary>
    public static JsonSerializerOptions OneLine { get; } = new() { Encoder = JavaScriptEncoder.UnsafeRelaxedJsonEscaping };

    public static Argument<string> World() => new("WORLD") { Description = "The world: text." };

    public static Option<string> Split() => new("--split") { Description = "train, test, validation or holdout.", DefaultValueFactory = _ => "train" };

    public static Option<ulong> Seed() => new("--seed") { Description = "Seed of the world; 1 is for development.", DefaultValueFactory = _ => 1UL };

    /// <summary>The text world of the given seed.</summary>
    public static TextWorld Create(Invocation call, Argument<string> world, Option<ulong> seed) => call.Get(world) == "text"
        ? TextWorld.Create(call.Get(seed))
        : throw new BadInputException($"There is no world '{call.Get(world)}'; there is text.");

    /// <summary>The split of a name.</summary>
    public static TextSplit SplitOf(string name) => Enum.TryParse(name, ignoreCase: true, out TextSplit split) && Enum.IsDefined(split) && !char.IsDigit(name[0])
        ? split
        : throw new BadInputException($"There is no split '{name}'; there are train, test, validation and holdout.");
}
