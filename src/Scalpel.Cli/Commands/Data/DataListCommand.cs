using System.Globalization;
using System.Text.Json.Nodes;
using Scalpel.Cli.CommandLine;
using Scalpel.Lab.Data;

namespace Scalpel.Cli.Commands.Data;

/// <summary>The data sets that evaluations and reproductions know.</summary>
sealed class DataListCommand() : CliCommand("list", "Lists the data sets with licence, size, and whether they are there.", "scalpel data list")
{
    public override void Execute(Invocation call)
    {
        string folder = DataSets.Folder(call.Context());
        foreach (DataSet set in DataSets.All)
        {
            int missing = set.Missing(folder).Count;
            string state = missing == 0 ? "here" : missing == set.Files.Count ? "not here" : $"{missing} of {set.Files.Count} files missing";
            if (call.Output.Json)
            {
                call.Output.Emit(new JsonObject
                {
                    ["name"] = set.Name, ["what"] = set.Description, ["from"] = set.Source, ["licence"] = set.Licence,
                    ["files"] = set.Files.Count, ["bytes"] = set.Bytes, ["missing"] = missing, ["folder"] = Path.Combine(folder, set.Name),
                });
            }
            else
            {
                call.Output.Line(string.Create(CultureInfo.InvariantCulture, $"{set.Name,-22} {state,-10} {set.Bytes / 1e6,6:0.0} MB  {set.Description} ({set.Licence})"));
            }
        }

        call.Output.Note($"data folder: {folder} (set SCALPEL_DATA to choose another)");
    }
}
