using System.CommandLine;
using System.Text.Json.Nodes;
using Scalpel.Cli.CommandLine;
using Scalpel.Lab.Data;

namespace Scalpel.Cli.Commands.Data;

/// <summary>Downloads a data set from its public origin and checks it.</summary>
sealed class DataGetCommand : CliCommand
{
    readonly Argument<string> name = new("NAME") { Description = "A name of scalpel data list." };

    public DataGetCommand() : base("get", "Downloads a data set from its public origin and checks its SHA-256.", "scalpel data get counterfact") => Add(name);

    public override void Execute(Invocation call)
    {
        DataSet set = DataSets.Of(call.Get(name));
        string folder = DataSets.Folder(call.Context());
        int downloaded = DataSets.GetAsync(set, folder, call.Context()).GetAwaiter().GetResult();
        string path = Path.Combine(folder, set.Name);
        if (call.Output.Json)
        {
            call.Output.Emit(new JsonObject { ["name"] = set.Name, ["folder"] = path, ["files"] = set.Files.Count, ["downloaded"] = downloaded });
        }
        else
        {
            call.Output.Line($"{set.Name}: {set.Files.Count} files verified in {path}, {downloaded} downloaded ({set.Licence}, {set.Source})");
        }
    }
}
