using System.Text.Json.Nodes;
using Scalpel.Checkpoints;
using TorchSharp;

namespace Scalpel.EndToEnd;

public sealed class ClassifyCommandTests : IDisposable
{
    static readonly string Cases = Path.Combine(ScalpelProcess.Root, "tests", "Reference", "encoders-vision");
    readonly TemporaryFolder folder = new();

    public void Dispose() => folder.Dispose();

    /// <summary>A small classifier of the golden cases, with a tokenizer whose word w17 is the token 17 and every other word the token 0.</summary>
    internal static void Write(string path, string model)
    {
        Directory.CreateDirectory(path);
        foreach (string file in Directory.EnumerateFiles(Path.Combine(Cases, "_models", model)))
        {
            File.Copy(file, Path.Combine(path, Path.GetFileName(file)));
        }

        int size = JsonNode.Parse(File.ReadAllText(Path.Combine(path, "config.json")))!["vocab_size"]!.GetValue<int>();
        File.WriteAllText(Path.Combine(path, "tokenizer.json"), new JsonObject
        {
            ["pre_tokenizer"] = new JsonObject { ["type"] = "WhitespaceSplit" },
            ["model"] = new JsonObject { ["type"] = "WordLevel", ["unk_token"] = "w0", ["vocab"] = new JsonObject(Enumerable.Range(0, size).Select(id => KeyValuePair.Create($"w{id}", (JsonNode?)id))) },
        }.ToJsonString());
    }

    [Fact]
    public void ThePairsOfTheGoldenCaseHaveItsLogitsAndLabels()
    {
        Write(folder.At("model"), "bert-classifier-a");
        CommandResult result = ScalpelProcess.Run(folder.Path, "classify", "model", "--pair", Words("bert-classifier-pair-a", 0, 0, 8), Words("bert-classifier-pair-a", 0, 8, 17),
            Words("bert-classifier-pair-a", 1, 0, 5), Words("bert-classifier-pair-a", 1, 5, 13), "--json");
        result.Code.ShouldBe(0, result.Error);
        JsonNode[] lines = [.. result.Output.TrimEnd('\n').Split('\n').Select(line => JsonNode.Parse(line)!)];
        float[] expected = Values("bert-classifier-pair-a", "expected", "logits");
        lines.SelectMany(line => line["logits"]!.AsArray().Select(value => value!.GetValue<float>())).ToArray().ShouldBe(expected, 2e-5);
        lines.Select(line => line["label"]!.GetValue<string>()).ShouldBe(["entailment", "entailment"]);
        lines.ShouldAllBe(line => Math.Abs(line["scores"]!.AsObject().Sum(score => score.Value!.GetValue<float>()) - 1) < 1e-5);
        folder.Write("pairs.txt", $"{Words("bert-classifier-pair-a", 0, 0, 8)}\t{Words("bert-classifier-pair-a", 0, 8, 17)}\n");
        ScalpelProcess.Run(folder.Path, "classify", "model", "--pair", "--text", "pairs.txt", "--json").Output.ShouldBe(result.Output.Split('\n')[0] + "\n");
    }

    [Fact]
    public void TheTokensOfTheGoldenCaseHaveItsLabels()
    {
        Write(folder.At("model"), "bert-tokens-a");
        CommandResult result = ScalpelProcess.Run(folder.Path, "classify", "model", Words("bert-tokens-tags-a", 0, 0, 17), "--json");
        result.Code.ShouldBe(0, result.Error);
        float[][] logits = [.. Values("bert-tokens-tags-a", "expected", "logits").Chunk(5).Take(17)];
        JsonObject config = JsonNode.Parse(File.ReadAllText(folder.At("model/config.json")))!.AsObject();
        JsonNode[] tokens = [.. JsonNode.Parse(result.Output)!["tokens"]!.AsArray().Select(token => token!)];
        tokens.Select(token => token["label"]!.GetValue<string>()).ShouldBe(logits.Select(row => config["id2label"]![Array.IndexOf(row, row.Max()).ToString()]!.GetValue<string>()));
        tokens[1]["token"]!.GetValue<string>().ShouldBe("w54");
        tokens[1]["from"]!.GetValue<int>().ShouldBe(4);
    }

    [Fact]
    public void TheSurestLabelComesFirst()
    {
        Write(folder.At("model"), "bert-classifier-a");
        CommandResult result = ScalpelProcess.Run(folder.Path, "classify", "model", "w3 w4", "w5");
        result.Code.ShouldBe(0, result.Error);
        string[] lines = result.Output.TrimEnd('\n').Split('\n');
        lines.Length.ShouldBe(2);
        lines[0].ShouldEndWith("  w3 w4");
        double[] shares = [.. lines[0].Split("  ")[..3].Select(part => double.Parse(part.Split(' ')[1], System.Globalization.CultureInfo.InvariantCulture))];
        shares.ShouldBe(shares.OrderDescending());
        shares.Sum().ShouldBe(1, 0.002);
    }

    [Fact]
    public void LabelsThatDoNotExcludeEachOtherAreJudgedOneByOne()
    {
        Write(folder.At("model"), "bert-classifier-a");
        JsonObject config = JsonNode.Parse(File.ReadAllText(folder.At("model/config.json")))!.AsObject();
        config["problem_type"] = "multi_label_classification";
        folder.Write("model/config.json", config.ToJsonString());
        JsonNode line = JsonNode.Parse(ScalpelProcess.Run(folder.Path, "classify", "model", "w3 w4", "--json").Output)!;
        double[] logits = [.. line["logits"]!.AsArray().Select(value => value!.GetValue<double>())];
        line["scores"]!.AsObject().Select(score => score.Value!.GetValue<double>()).ShouldBe(logits.Select(x => 1 / (1 + Math.Exp(-x))), 1e-6);
        line["labels"]!.AsArray().Count.ShouldBe(logits.Count(x => x >= 0));
    }

    [Theory]
    [InlineData("There is no text")]
    [InlineData("take one of them", "a", "--text", "x.txt")]
    [InlineData("two at a time; 3 are given", "--pair", "a", "b", "c")]
    [InlineData("Text 2 has 41 tokens, the model reads 40", "a", "LONG")]
    [InlineData("line 2: two texts with a tab", "--pair", "--text", "broken.txt")]
    public void WhatCannotBeLabelledIsOneSentence(string expected, params string[] args)
    {
        Write(folder.At("model"), "bert-classifier-a");
        folder.Write("broken.txt", "a\tb\nc\n");
        string[] given = [.. args.Select(arg => arg == "LONG" ? string.Join(' ', Enumerable.Repeat("w3", 41)) : arg)];
        CommandResult result = ScalpelProcess.Run(folder.Path, ["classify", "model", .. given]);
        result.Code.ShouldBe(2);
        result.Error.ShouldContain(expected);
    }

    [Fact]
    public void AModelWithoutAClassifierIsRefused()
    {
        CommandResult result = ScalpelProcess.Run(folder.Path, "classify", ScalpelProcess.TinyModel, "a");
        result.Code.ShouldBe(2);
        result.Error.ShouldContain("has no classifier");
    }

    static string Words(string name, int row, int from, int to)
    {
        float[] ids = Values(name, "inputs", "input_ids");
        return string.Join(' ', ids.Skip(row * 17).Take(17).Take(from..to).Select(id => $"w{id}"));
    }

    static float[] Values(string name, string file, string tensor)
    {
        using SafeTensorsFile open = SafeTensorsFile.Open(Path.Combine(Cases, name, $"{file}.safetensors"));
        using torch.Tensor values = open.Read(tensor, torch.ScalarType.Float32);
        return values.data<float>().ToArray();
    }
}
