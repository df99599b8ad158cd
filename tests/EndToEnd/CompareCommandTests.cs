using System.Text.Json.Nodes;
using System.Xml.Linq;

namespace Scalpel.EndToEnd;

public sealed class CompareCommandTests : IDisposable
{
    readonly TemporaryFolder folder = new();

    public void Dispose() => folder.Dispose();

    void Train(string run, string rate)
    {
        folder.Write("data.jsonl", """{"text": "the cat sat on the mat"}""");
        CommandResult result = ScalpelProcess.Run(folder.Path, "tune", ScalpelProcess.TinyModel, "--data", "data.jsonl", "--batch-size", "1", "--steps", "30", "--learning-rate", rate,
            "--eval-data", "data.jsonl", "--eval-every", "10", "--run", run, "--out", $"{run}.patch.safetensors");
        result.Code.ShouldBe(0, result.Error);
    }

    [Fact]
    public void RunsAreShownWithTheirLossesAndTheOptionsThatDiffer()
    {
        Train("slow & low", "1e-4");
        Train("fast", "1e-2");
        CommandResult text = ScalpelProcess.Run(folder.Path, "compare", "slow & low", "fast", "--out", "losses.svg");
        text.Code.ShouldBe(0, text.Error);
        text.Output.ShouldContain("learning rate");
        text.Output.ShouldNotContain("weight decay");
        XNamespace svg = "http://www.w3.org/2000/svg";
        string[] legend = [.. XDocument.Load(folder.At("losses.svg")).Descendants(svg + "text").Select(element => element.Value)];
        foreach (string name in (string[])["slow & low", "slow & low, held-out data", "fast", "fast, held-out data"])
        {
            legend.ShouldContain(name);
        }

        CommandResult json = ScalpelProcess.Run(folder.Path, "compare", "slow & low", "fast", "--json");
        JsonNode[] lines = [.. json.Output.TrimEnd('\n').Split('\n').Select(line => JsonNode.Parse(line)!)];
        double[] logged = [.. File.ReadLines(folder.At("fast/log.jsonl")).Select(line => JsonNode.Parse(line)!["loss"]!.GetValue<double>())];
        lines[1]["last_loss"]!.GetValue<double>().ShouldBe(logged[^3..].Average(), 1e-12);
        lines[1]["first_loss"]!.GetValue<double>().ShouldBe(logged[0]);
        lines[1]["best_step"]!.GetValue<double>().ShouldBe(30);
        lines.Select(line => line["options"]!["learning_rate"]!.GetValue<double>()).ShouldBe([1e-4, 1e-2]);
        lines.ShouldAllBe(line => line["finished"]!.GetValue<bool>() && line["steps"]!.GetValue<double>() == 30);
    }

    [Fact]
    public void ARunThatIsNotFinishedSaysSo()
    {
        folder.Write("data.jsonl", """{"text": "the cat sat on the mat"}""");
        Directory.CreateDirectory(folder.At("run"));
        folder.Write("run/log.jsonl", """{"step":1,"loss":2.5}""" + "\n" + """{"step":2,"los""");
        CommandResult result = ScalpelProcess.Run(folder.Path, "compare", "run");
        result.Code.ShouldBe(0, result.Error);
        result.Output.ShouldContain("1, unfinished");
    }

    [Theory]
    [InlineData("", "not the log of a training run")]
    [InlineData("{\"step\": 1, \"loss\": 2}\n{\"step\"", "after step 1")]
    [InlineData("[1]", "not the log of a training run")]
    [InlineData("{\"step\": \"a\"}", "not the log of a training run")]
    [InlineData("{\"step\": 1, \"loss\": null}", "holds no step")]
    public void WhatIsNoLogIsRefused(string log, string sentence)
    {
        Directory.CreateDirectory(folder.At("run"));
        folder.Write("run/log.jsonl", log + "\n");
        CommandResult result = ScalpelProcess.Run(folder.Path, "compare", "run");
        result.Code.ShouldBe(2, result.Error);
        result.Error.ShouldContain(sentence);
    }

    [Theory]
    [InlineData("nothing is not the folder of a training run", "nothing")]
    [InlineData("ends with .svg", "nothing", "--out", "a.png")]
    public void WhatCannotBeComparedIsRefused(string sentence, params string[] arguments)
    {
        CommandResult result = ScalpelProcess.Run(folder.Path, ["compare", .. arguments]);
        result.Code.ShouldBe(2, result.Error);
        result.Error.ShouldContain(sentence);
    }
}
