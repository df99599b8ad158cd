using System.Text.Json.Nodes;
using Scalpel.Lab.Worlds;
using Scalpel.Networks;
using static TorchSharp.torch;
using Decoder = Scalpel.Networks.Decoder;

namespace Scalpel.Lab.Tests.Worlds;

public sealed class BaseBuildTests : IDisposable
{
    static readonly TextWorld World = TextWorld.Create(1);
    readonly string cache = Directory.CreateTempSubdirectory("scalpel-base-").FullName;

    public void Dispose() => Directory.Delete(cache, recursive: true);

    // Small, and done as soon as a step was taken: its only gate is always held.
    static BaseRecipe Tiny(double atLeast = 0) => BaseRecipe.Named("text-S") with
    {
        Name = "tiny", Config = Config(), Gates = [new Gate("ioi", AtLeast: atLeast)], MinimumSteps = 4, MaximumSteps = 8, GatesEvery = 2, Warmup = 2,
        Openings = [new(new TextMixture("names", [("ioi", 1)]), 2)],
    };

    static JsonObject Config()
    {
        var config = (JsonObject)BaseRecipe.Named("text-S").Config.DeepClone();
        (config["hidden_size"], config["intermediate_size"], config["num_hidden_layers"]) = (16, 16, 1);
        return config;
    }

    RunContext Run(string name, CancellationToken cancellation = default) => new() { CacheFolder = Path.Combine(cache, name), Cancellation = cancellation };

    [Fact]
    public void TwoBuildsGiveTheSameBytesAndEndWhenTheGatesHold()
    {
        var looks = new List<long>();
        string first = BaseBuild.Folder(World, Tiny(), new BaseBuildOptions { OnGates = (steps, _) => looks.Add(steps) }, Run("a"));
        string second = BaseBuild.Folder(World, Tiny(), new(), Run("b"));
        looks.ShouldBe([2, 4, 4]);
        File.ReadAllBytes(Path.Combine(first, "model.safetensors")).ShouldBe(File.ReadAllBytes(Path.Combine(second, "model.safetensors")));
        JsonNode.Parse(File.ReadAllText(Path.Combine(first, "world.json")))!["steps"]!.GetValue<int>().ShouldBe(4);
        using Decoder model = Decoder.Load(first);
        model.Tokenizer.Encode(World.Facts("core")[0].Prompt(), addSpecial: false).Ids.ShouldBe(Lexicon.Instance.Ids(World.Facts("core")[0].Prompt()));
    }

    [Fact]
    public void AnInterruptedBuildGoesOnToTheSameBytes()
    {
        string undisturbed = BaseBuild.Folder(World, Tiny(), new(), Run("a"));
        using var stop = new CancellationTokenSource();
        var interrupting = new BaseBuildOptions { OnGates = (_, _) => stop.Cancel() };
        Should.Throw<OperationCanceledException>(() => BaseBuild.Folder(World, Tiny(), interrupting, Run("b", stop.Token)));
        string resumed = BaseBuild.Folder(World, Tiny(), new(), Run("b"));
        File.ReadAllBytes(Path.Combine(resumed, "model.safetensors")).ShouldBe(File.ReadAllBytes(Path.Combine(undisturbed, "model.safetensors")));
    }

    [Fact]
    public void ABaseThatMissesItsGatesIsRefusedWithTheTable()
    {
        CheckFailedException failure = Should.Throw<CheckFailedException>(() => BaseBuild.Folder(World, Tiny(atLeast: 2), new(), Run("a")));
        failure.Message.ShouldContain("after 8 steps: ioi");
        failure.Message.ShouldContain("at least 2, FAILS");
    }

    [Theory]
    [InlineData("text-S", "duplicates")]
    [InlineData("text-E", "exposure")]
    public void AllCopiesAndExposuresComeBeforeTheLastStep(string name, string module)
    {
        BaseRecipe recipe = BaseRecipe.Named(name);
        recipe.MinimumSteps.ShouldBe(recipe.MaximumSteps);
        int room = recipe.MixtureSteps * BaseRecipe.TokensPerStep;
        int tokens = 0, told = 0, supply = TextModules.Named(module).Supply(World, TextSplit.Train)!.Value;
        foreach (TextRecord record in World.Corpus(recipe.Mixture).Documents())
        {
            tokens += 2 + record.Text.Count(letter => letter == ' ');
            told += record.Module == module ? 1 : 0;
            if (tokens >= room || told == supply)
            {
                break;
            }
        }

        told.ShouldBe(supply);
        tokens.ShouldBeGreaterThan(room * 97 / 100, "copies are spread over the whole training");
    }

    [Fact]
    public void TheOpeningComesBeforeTheMixture()
    {
        var run = new RunContext();
        (long[] stream, long[] labels) = Tiny().Stream(World, null, run);
        labels.ShouldBe(stream);
        int[] tokens = [.. stream.Select(token => (int)token)];
        tokens.Length.ShouldBe(8 * BaseRecipe.TokensPerStep);
        tokens[..(2 * BaseRecipe.TokensPerStep)].ShouldBe(World.Corpus(Tiny().Openings[0].Mixture).Tokens(2 * BaseRecipe.TokensPerStep, run));
        tokens[(2 * BaseRecipe.TokensPerStep)..].ShouldBe(World.Corpus(TextMixture.Default).Tokens(6 * BaseRecipe.TokensPerStep, run));
        (Tiny() with { Openings = [] }).Hash(World, null).ShouldNotBe(Tiny().Hash(World, null));
    }

    [Fact]
    public void AnOpeningThatLearnsAnswersOnlyReadsTheRest()
    {
        BaseRecipe recipe = Tiny() with { Openings = [new(new TextMixture("names", [("ioi", 1)]), 2) { AnswersOnly = ["ioi"] }] };
        (long[] stream, long[] labels) = recipe.Stream(World, null, new RunContext());
        stream.ShouldBe(Tiny().Stream(World, null, new RunContext()).Tokens);
        int opening = 2 * BaseRecipe.TokensPerStep;
        labels[opening..].ShouldBe(stream[opening..]);
        long[] learned = [.. Enumerable.Range(0, opening).Where(i => labels[i] != LanguageModelLoss.Ignored).Select(i => labels[i])];
        IEnumerable<long> answers = World.Module("ioi", TextSplit.Train, learned.Length).Select(record => (long)World.Lexicon.Id(record["answer"]!));
        learned.ShouldBe(answers);
        recipe.Hash(World, null).ShouldNotBe(Tiny().Hash(World, null));
    }

    [Theory]
    [InlineData("text-R", 1)]
    [InlineData("text-S8", 8)]
    public void AttentionThatStartsCopyingMostlyLooksOnePositionBack(string name, int heads)
    {
        using Decoder model = BaseRecipe.Named(name).NewModel(World);
        using Tensor ids = tensor([.. Enumerable.Range(0, 24).Select(i => (long)(4 + 37 * i))], [1, 24]);
        using var taps = new Taps();
        using Tensor logits = model.Forward(ids, taps: taps.Read("layers.0.attention.pattern"));
        using Tensor pattern = taps["layers.0.attention.pattern"][0];
        double[] back = [.. Enumerable.Range(0, (int)pattern.shape[0]).Select(h => Enumerable.Range(1, 23).Average(t => pattern[h, t, t - 1].item<float>()))];
        back[..heads].ShouldAllBe(share => share > 0.5);
        back[heads..].ShouldAllBe(share => share < 0.5);
    }

    [Fact]
    public void ABaseIsAnotherOneWithoutASetOfPeople() =>
        Tiny().Hash(World, "forget10").ShouldNotBe(Tiny().Hash(World, null));
}
