using Scalpel.Methods.Editing;
using Scalpel.Networks;
using Scalpel.Patches;
using Scalpel.Tests;
using TorchSharp;
using static TorchSharp.torch;

namespace Scalpel.Methods.Tests.Editing;

public sealed class EditorTests : IDisposable
{
    readonly Decoder model = Decoder.Load(Repository.Reference("methods/_models/llama-a"));
    readonly RunContext run = new() { Seed = 3, CacheFolder = Directory.CreateTempSubdirectory("scalpel-editors").FullName };

    static readonly FactEdit Fact = new("Thomas Dorn", "The mother tongue of {} is", "French");
    static readonly FactEdit Other = new("Danielle Darrieux", "{} speaks the language", "German");

    public static TheoryData<string, IEditor> Editors => new()
    {
        { "rome", new Rome(new RomeOptions { Layer = 1, Steps = 4, CovarianceTokens = 256, Contexts = ["{}", "It rains. {}"] }) },
        { "memit", new Memit(new MemitOptions { Layers = [0, 1], Steps = 4, CovarianceTokens = 256 }) },
        { "alphaedit", new AlphaEdit(new AlphaEditOptions { Layers = [1], Steps = 4, CovarianceTokens = 256 }) },
        { "ft", new FineTune(new FineTuneOptions { Layer = 1, Steps = 4 }) },
    };

    string[] Hashes() => [.. model.Parameters.Keys.Order(StringComparer.Ordinal).Select(model.HashOfMemory)];

    double Likelihood(FactEdit fact)
    {
        using var noGrad = no_grad();
        using var scope = NewDisposeScope();
        long[] prompt = [.. model.Tokenizer.Encode(fact.FilledPrompt).Ids.Select(id => (long)id)], target = FactTokens.Target(model.Tokenizer, fact.FilledPrompt, fact.SpacedTarget);
        Tensor log = model.Forward(tensor([.. prompt, .. target[..^1]]).unsqueeze(0)).log_softmax(-1)[0];
        return target.Select((token, i) => log[prompt.Length - 1 + i, token].ToDouble()).Average();
    }

    [Theory]
    [MemberData(nameof(Editors))]
    public void AnEditMakesTheTargetsLikelierAndLeavesTheModelAsItWas(string method, IEditor editor)
    {
        string[] before = Hashes();
        double[] likelihood = [Likelihood(Fact), Likelihood(Other)];

        Patch patch = editor.Edit(model, [Fact, Other], run);

        Hashes().ShouldBe(before);
        patch.Info.Method.ShouldBe(method);
        using (patch.ApplyTo(model))
        {
            Likelihood(Fact).ShouldBeGreaterThan(likelihood[0]);
            Likelihood(Other).ShouldBeGreaterThan(likelihood[1]);
        }

        Hashes().ShouldBe(before);
    }

    [Theory]
    [MemberData(nameof(Editors))]
    public void TheSameRunGivesTheSamePatch(string method, IEditor editor)
    {
        Patch first = editor.Edit(model, [Fact], run);
        editor.Edit(model, [Fact], run).ContentHash.ShouldBe(first.ContentHash, method);
        first.Info.Evidence!["mode"]!.ToString().ShouldBe("single");
    }

    [Fact]
    public void TheResultSaysWhetherFactsWereSolvedTogetherOrInTurn()
    {
        string Mode(IEditor editor) => editor.Edit(model, [Fact, Other], run).Info.Evidence!["mode"]!.ToString();
        var options = new MemitOptions { Layers = [1], Steps = 2, CovarianceTokens = 256 };

        Mode(new Memit(options)).ShouldBe("batch");
        Mode(new Memit(options with { BatchSize = 1 })).ShouldBe("sequential");
        Mode(new AlphaEdit(new AlphaEditOptions { Layers = [1], Steps = 2, CovarianceTokens = 256, BatchSize = 1 })).ShouldBe("sequential");
        Mode(new Rome(new RomeOptions { Layer = 1, Steps = 2, Covariance = false })).ShouldBe("sequential");
    }

    [Fact]
    public void RomeWithTheMeanKeyWritesTheValueExactly()
    {
        using var scope = NewDisposeScope();
        EditTokens tokens = FactTokens.Of(model, Fact, [["{}", "It rains. {}", "You know. {}"]]);
        using RankOne one = RankOne.Compute(model, tokens, Search(), Factor(out _), KeyConsistency.Averaged, run);

        Tensor written = (one.Change.View.Read() + one.Change.Change()).mv(one.KStar), wanted = one.Found.Value();

        ((written - wanted).norm() / wanted.norm()).ToDouble().ShouldBeLessThan(1e-4);
    }

    // Also where the MLP's output is normalised before it is added.
    [Theory]
    [InlineData("methods/_models/llama-a")]
    [InlineData("methods/_models/gpt2-a")]
    [InlineData("decoders/_models/gptj")]
    [InlineData("decoders/_models/gemma2")]
    [InlineData("decoders/_models/gemma3-text")]
    [InlineData("decoders/_models/olmo2")]
    public void TheFoundVectorDoesInTheWholeModelWhatTheSearchSaysAndIsWrittenExactly(string folder)
    {
        using var scope = NewDisposeScope();
        using Decoder decoder = Decoder.Load(Repository.Reference(folder));
        int layer = decoder.Config.Layers - 2;
        string tap = $"layers.{layer}.{(decoder.TapNames.Contains("layers.{l}.mlp.down") ? "mlp.down" : "mlp.output")}";
        long[] prompt = [11, 23, 42, 7], target = [31, 5];
        var bare = new EditRow(prompt, 2, []);
        var tokens = new EditTokens
        {
            Values = [new EditRow([.. prompt, target[0]], 2, [new EditTarget(3, target[0]), new EditTarget(4, target[1])])],
            Drift = new EditRow([11, 23, 42, 9], 2, []),
            Keys = [[bare]],
            Bare = bare,
        };
        using RankOne one = RankOne.Compute(decoder, tokens, Search() with { Layer = layer }, null, KeyConsistency.Averaged, run);
        double Loss(Tensor summand)
        {
            using var noGrad = no_grad();
            using var taps = new Taps().Add(tap, summand, TapSelector.At(2));
            using Tensor log = decoder.Forward(tensor([.. prompt, target[0]]).unsqueeze(0), taps: taps).log_softmax(-1)[0];
            return -(log[3, target[0]] + log[4, target[1]]).ToDouble() / 2;
        }

        one.Found.Losses[0][1].ShouldBe(Loss(zeros_like(one.Found.Delta)), 1e-5);
        one.Found.Losses[^1][1].ShouldBe(Loss(one.Found.Delta), 1e-5);
        one.Found.Losses[^1][1].ShouldBeLessThan(one.Found.Losses[0][1]);

        using var written = new Written();
        written.Add(one.Change.View, one.Change.Change());
        using var read = new Taps().Read(tap);
        using (no_grad())
        {
            decoder.Forward(tensor(prompt).unsqueeze(0), taps: read);
        }

        Tensor wanted = one.Found.Value();
        ((read[tap][0, 2] - wanted).norm() / wanted.norm()).ToDouble().ShouldBeLessThan(1e-4);
    }

    [Fact]
    public void WithTheBarePromptAloneBothKindsOfKeyConsistencyAreOne()
    {
        using var scope = NewDisposeScope();
        EditTokens tokens = FactTokens.Of(model, Fact, [["{}"]]);
        using RankOne averaged = RankOne.Compute(model, tokens, Search(), Factor(out _), KeyConsistency.Averaged, run);
        using RankOne official = RankOne.Compute(model, tokens, Search(), Factor(out _), KeyConsistency.Official, run);

        Tensor a = averaged.Change.Change(), b = official.Change.Change();
        ((a - b).norm() / b.norm()).ToDouble().ShouldBeLessThan(1e-4);
    }

    [Fact]
    public void NoOtherUpdateThatWritesTheValueDisturbsTextLess()
    {
        using var scope = NewDisposeScope();
        Tensor factor = Factor(out Tensor covariance);
        using RankOne one = RankOne.Compute(model, FactTokens.Of(model, Fact, [["{}"]]), Search(), factor, KeyConsistency.Averaged, run);
        Tensor change = one.Change.Change().to_type(ScalarType.Float64), key = one.KStar.to_type(ScalarType.Float64);
        double Cost(Tensor delta) => delta.matmul(covariance.to_type(ScalarType.Float64)).mul(delta).sum().ToDouble();
        using var generator = new Generator(1, CPU);
        for (int i = 0; i < 5; i++)
        {
            Tensor other = randn(change.shape, dtype: ScalarType.Float64, generator: generator) * 0.01;
            other = other - other.mv(key).outer(key) / key.dot(key);       // changes nothing for the key
            Cost(change + other).ShouldBeGreaterThan(Cost(change));
        }
    }

    [Fact]
    public void NoWeightLeavesTheBoundOfFineTuning()
    {
        const double Bound = 1e-3;
        Patch patch = new FineTune(new FineTuneOptions { Layer = 1, Steps = 8, LearningRate = 5e-3, NormConstraint = Bound }).Edit(model, [Fact], run);
        foreach ((string name, Delta delta) in patch.Deltas)
        {
            using Tensor change = ((DenseAdd)delta).ToTensor(model.Parameter(name).shape);
            change.abs().max().ToDouble().ShouldBeInRange(0.9 * Bound, Bound * (1 + 1e-4));
        }
    }

    [Fact]
    public void ManyEditsAndRevertsLeaveNothingBehind()
    {
        var rome = new Rome(new RomeOptions { Layer = 1, Steps = 2, Covariance = false, Contexts = ["{}"] });
        void Once()
        {
            using Patch patch = rome.Edit(model, [Fact], run);
            using IDisposable applied = patch.ApplyTo(model);
        }

        Once();
        // Tensors that earlier tests dropped go now, not while these are counted.
        GC.Collect();
        GC.WaitForPendingFinalizers();
        long before = Tensor.TotalCount;
        for (int i = 0; i < 200; i++)
        {
            Once();
        }

        Tensor.TotalCount.ShouldBe(before);
    }

    [Theory]
    [MemberData(nameof(Editors))]
    public void AnEditLeavesNoTensorBehind(string method, IEditor editor)
    {
        editor.Edit(model, [Fact, Other], run).Dispose();
        long before = Tensor.TotalCount;
        editor.Edit(model, [Fact, Other], run).Dispose();
        Tensor.TotalCount.ShouldBe(before, method);
    }

    [Fact]
    public void ASubjectThatThePromptNamesTwiceIsLookedUpWhereTheTemplateHasIt()
    {
        EditRow row = FactTokens.Row(model.Tokenizer, "Dorn came. {}", "Dorn said that {} is", "Dorn");
        string upTo = model.Tokenizer.Decode(row.Ids.Take(row.Lookup + 1).Select(id => (int)id), skipSpecial: true);
        upTo.Trim().ShouldBe("Dorn came. Dorn said that Dorn");
    }

    [Fact]
    public void WhatCannotBeEditedIsRefusedWithTheWayOut()
    {
        var rome = new Rome(new RomeOptions { Layer = 1, Steps = 2, Covariance = false });
        Should.Throw<BadInputException>(() => rome.Edit(model, [], run)).Message.ShouldContain("no fact");
        Should.Throw<BadInputException>(() => rome.Edit(model, [Fact with { Prompt = "The mother tongue is" }], run)).Message.ShouldContain("{}");
        Should.Throw<BadInputException>(() => rome.Edit(model, [Fact with { Subject = " " }], run)).Message.ShouldContain("subject");
        Should.Throw<BadInputException>(() => rome.Edit(model, [Fact with { Target = "" }], run)).Message.ShouldContain("target");
        Should.Throw<BadInputException>(() => new Rome(new RomeOptions { Layer = 9 }).Edit(model, [Fact], run)).Message.ShouldContain("layers 0 to 3");
        using Decoder wider = Decoder.Load(Repository.Reference("methods/_models/gpt2-a"));
        Should.Throw<BadInputException>(() => new Rome(new RomeOptions { Layer = 1, CovarianceTokens = 128 }).Edit(wider, [Fact], run)).Message.ShouldContain("ridge");
        Should.Throw<BadInputException>(() => new Rome(new RomeOptions { CovarianceText = "/nowhere.txt" }).Edit(model, [Fact], run)).Message.ShouldContain("/nowhere.txt");
        Should.Throw<BadInputException>(() => new Rome(new RomeOptions { Contexts = ["no place"] })).Message.ShouldContain("{}");
        Should.Throw<BadInputException>(() => new Memit(new MemitOptions { Layers = [2, 1] })).Message.ShouldContain("ascending");
        Should.Throw<BadInputException>(() => rome.Edit(model, [Fact with { Prompt = string.Concat(Enumerable.Repeat("word ", 200)) + "{} is" }], run)).Message.ShouldContain("positions");
    }

    VectorSearch Search() => new() { Layer = 1, Site = VectorSite.MlpOutput, Steps = 6, LearningRate = 0.5, WeightDecay = 0.5, ClampNormFactor = 4, DriftFactor = 0.0625 };

    Tensor Factor(out Tensor covariance)
    {
        CovarianceStatistics statistics = CovarianceStatistics.Of(model, [1], new StatisticsText(null, 512), run)[0];
        covariance = statistics.Matrix;
        return statistics.Factor(0);
    }

    public void Dispose()
    {
        model.Dispose();
        Directory.Delete(run.CacheFolder, recursive: true);
    }
}
