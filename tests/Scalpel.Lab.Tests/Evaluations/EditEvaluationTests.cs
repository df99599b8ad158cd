using System.Text.Json.Nodes;
using Scalpel.Lab.Evaluations;
using Scalpel.Methods.Editing;
using Scalpel.Networks;
using Scalpel.Patches;
using Scalpel.Tests;
using TorchSharp;
using static TorchSharp.torch;

namespace Scalpel.Lab.Tests.Evaluations;

public sealed class EditEvaluationTests : IDisposable
{
    static readonly EditEvaluationOptions Small = new() { Text = "w1 w2 w3 w4 w5 w6 w7 w8 w9 w10", FluencyFacts = 1, FluencyTokens = 6 };
    static readonly FactEdit Fact = new("w3", "w1 w2 {} w4", "w5")
    {
        Old = "w6", Paraphrases = ["w7 w3 w8"], Neighbours = ["w1 w2 w9 w4"], Locality = ["w10 w11"], Portability = [new("w12 w3 w13", "w14"), new("w15", "w16 w17")],
    };

    readonly string folder = Directory.CreateTempSubdirectory("scalpel evaluation ").FullName;
    readonly Decoder model;

    public EditEvaluationTests()
    {
        // A tiny model whose head is not its embedding, with a tokenizer of words.
        foreach (string file in Directory.GetFiles(Repository.Reference("decoders", "_models", "llama")))
        {
            File.Copy(file, Path.Combine(folder, Path.GetFileName(file)));
        }

        var words = new JsonObject();
        for (int i = 0; i < 60; i++)
        {
            words[$"w{i}"] = i;
        }

        words["<unk>"] = 60;
        var tokenizer = new JsonObject
        {
            ["version"] = "1.0",
            ["added_tokens"] = new JsonArray(),
            ["pre_tokenizer"] = new JsonObject { ["type"] = "WhitespaceSplit" },
            ["model"] = new JsonObject { ["type"] = "WordLevel", ["vocab"] = words, ["unk_token"] = "<unk>" },
        };
        File.WriteAllText(Path.Combine(folder, "tokenizer.json"), tokenizer.ToJsonString());
        model = Decoder.Load(folder);
    }

    public void Dispose()
    {
        model.Dispose();
        Directory.Delete(folder, recursive: true);
    }

    [Fact]
    public void AnEditThatNoTextReachesScoresExactlyZero()
    {
        using Tensor index = tensor(new long[] { 60 }), row = ones([1, model.Config.Width]);
        // The embedding of a word that occurs in no prompt and no text.
        using Patch patch = Patch.For(model, new PatchInfo { Method = "test" }, new Dictionary<string, Delta> { ["model.embed_tokens.weight"] = new Rows(index, row) });
        Scorecard card = new EditEvaluation(Small).Run(model, patch, [Fact], new RunContext());
        Metric Named(string name) => card.Metrics.Single(metric => metric.Name == name);
        foreach (Metric metric in card.Metrics.Where(metric => metric.Before is not null))
        {
            metric.After.Value.ShouldBe(metric.Before!.Value.Value, metric.Name);
        }

        Named("loss_change").After.Value.ShouldBe(0);
        Named("divergence").After.Value.ShouldBe(0);
        Named("locality").After.Value.ShouldBe(1);
        Named("text_agreement").After.Value.ShouldBe(1);
    }

    [Fact]
    public void PortabilityIsTheAnswersProbabilityBeforeAndAfter()
    {
        using Tensor change = randn(model.Parameter("lm_head.weight").shape, generator: new Generator(5, CPU));
        using Patch patch = Patch.For(model, new PatchInfo { Method = "test" }, new Dictionary<string, Delta> { ["lm_head.weight"] = new DenseAdd(change) });
        Metric metric = new EditEvaluation(Small).Run(model, patch, [Fact], new RunContext()).Metrics.Single(metric => metric.Name == "portability_probability");
        metric.Count.ShouldBe(2);
        metric.Before!.Value.Value.ShouldBe(Expected(), 1e-5);
        using (patch.ApplyTo(model))
        {
            metric.After.Value.ShouldBe(Expected(), 1e-5);
        }

        metric.After.Value.ShouldNotBe(metric.Before!.Value.Value);
    }

    double Expected() => Fact.Portability.Average(item =>
    {
        using var scope = NewDisposeScope();
        using var quiet = no_grad();
        long[] prompt = [.. model.Tokenizer.Encode(item.Prompt).Ids.Select(id => (long)id)], answer = [.. model.Tokenizer.Encode(item.Answer).Ids.Select(id => (long)id)];
        Tensor logs = model.Forward(tensor([.. prompt, .. answer], [1, prompt.Length + answer.Length])).log_softmax(-1);
        return Math.Exp(answer.Select((id, i) => logs[0, prompt.Length - 1 + i, id].ToDouble()).Average());
    });
}
