using Scalpel.Generation;
using Scalpel.Networks;
using TorchSharp;
using static TorchSharp.torch;

namespace Scalpel.Tests.Generation;

public class TextGeneratorTests
{
    static readonly int[] Prompt = [3, 14, 15, 9, 2, 6];

    public static TheoryData<string> Models() => [.. Directory.EnumerateDirectories(Repository.Reference("decoders", "_models")).Select(folder => Path.GetFileName(folder)!)
        .Where(name => name is not ("gpt2-tagger" or "llama-classifier")).Order(StringComparer.Ordinal)];

    [Theory, InlineData("gpt2-tagger"), InlineData("llama-classifier")]
    public void AClassifierIsRefused(string name)
    {
        using Decoder model = Load(name);
        Should.Throw<BadInputException>(() => new TextGenerator(model).Generate([Prompt])).Message.ShouldContain("classifier");
    }

    static Decoder Load(string name) => Decoder.Load(Repository.Reference("decoders", "_models", name));

    [Theory, MemberData(nameof(Models))]
    public void CachedLogitsAgreeWithThoseOfTheWholeTextForEveryFamily(string name)
    {
        using Decoder model = Load(name);
        var said = new List<int>(Prompt);
        foreach (GenerationStep step in new TextGenerator(model, new() { MaxNewTokens = 6, EndIds = [] }).Steps([Prompt]))
        {
            using var scope = NewDisposeScope();
            using var noGrad = no_grad();
            Tensor whole = model.Forward(tensor(said.Select(id => (long)id).ToArray()).unsqueeze(0), logits: LogitsAt.Last).select(1, 0);
            (whole - step.Logits).abs().max().ToSingle().ShouldBeLessThan(1e-4f);
            said.Add(step.Tokens[0]!.Value);
        }
    }

    [Theory, MemberData(nameof(Models))]
    public void ARowsAnswerDoesNotDependOnItsNeighbours(string name)
    {
        using Decoder model = Load(name);
        int[][] prompts = [Prompt, [7], [1, 2, 3]];
        foreach (GenerationOptions options in new GenerationOptions[] { new() { MaxNewTokens = 6, EndIds = [] }, new() { MaxNewTokens = 6, EndIds = [], Temperature = 1, Seed = 5 } })
        {
            var generator = new TextGenerator(model, options);
            IReadOnlyList<GeneratedTokens> together = generator.Generate(prompts);
            generator.Generate([prompts[0]])[0].Tokens.ShouldBe(together[0].Tokens);
            together.ShouldAllBe(row => row.Tokens.Count == 6 && row.Reason == StopReason.MaxNewTokens);
            if (options.Greedy)
            {
                generator.Generate([prompts[1]])[0].Tokens.ShouldBe(together[1].Tokens);
                generator.Generate([prompts[2]])[0].Tokens.ShouldBe(together[2].Tokens);
            }
        }
    }

    [Fact]
    public void TheSameSeedGivesTheSameTokensAndAnotherOneOthers()
    {
        using Decoder model = Load("llama");
        IReadOnlyList<int> Answer(ulong seed, int row = 0) =>
            new TextGenerator(model, new() { MaxNewTokens = 12, EndIds = [], Temperature = 1.5, Seed = seed }).Generate([Prompt, Prompt])[row].Tokens;
        Answer(1).ShouldBe(Answer(1));
        Answer(1).ShouldNotBe(Answer(2));
        Answer(1, row: 0).ShouldNotBe(Answer(1, row: 1));
    }

    [Fact]
    public void ARowEndsAtATokenThatEndsATextWhileOthersGoOn()
    {
        using Decoder model = Load("llama");
        int[][] prompts = [Prompt, [7]];
        IReadOnlyList<GeneratedTokens> free = new TextGenerator(model, new() { MaxNewTokens = 8, EndIds = [] }).Generate(prompts);
        int end = free[0].Tokens[2];
        int first = Enumerable.Range(0, 3).First(i => free[0].Tokens[i] == end), other = Enumerable.Range(0, 9).First(i => i == 8 || free[1].Tokens[i] == end);
        IReadOnlyList<GeneratedTokens> ended = new TextGenerator(model, new() { MaxNewTokens = 8, EndIds = [end] }).Generate(prompts);
        ended[0].Tokens.ShouldBe(free[0].Tokens.Take(first));
        ended[0].Reason.ShouldBe(StopReason.EndToken);
        ended[1].Tokens.ShouldBe(free[1].Tokens.Take(other));
    }

    [Fact]
    public void ProcessorsSeeTheRowAndMayForbidTokens()
    {
        using Decoder model = Load("gpt2");
        var processor = new OnlyEven();
        IReadOnlyList<GeneratedTokens> answers = new TextGenerator(model, new() { MaxNewTokens = 5, EndIds = [], Processors = [processor] }).Generate([Prompt, [7]]);
        answers.SelectMany(answer => answer.Tokens).ShouldAllBe(id => id % 2 == 0);
        processor.Seen.ShouldBe([(0, 0, 6), (1, 0, 1), (0, 1, 7), (1, 1, 2), (0, 2, 8), (1, 2, 3), (0, 3, 9), (1, 3, 4), (0, 4, 10), (1, 4, 5)]);
    }

    [Fact]
    public void EditsActInEveryStepAndAnEditThatChangesNothingLeavesTheLogitsAsTheyAre()
    {
        using Decoder model = Load("llama");
        var options = new GenerationOptions { MaxNewTokens = 6, EndIds = [] };
        using var same = new Taps().Scale("layers.0.mlp.output", 1);
        using var edited = new Taps().Scale("layers.0.mlp.output", 0);
        IReadOnlyList<int> plain = new TextGenerator(model, options).Generate([Prompt])[0].Tokens;
        new TextGenerator(model, options, same).Generate([Prompt])[0].Tokens.ShouldBe(plain);

        // Against the whole text, edited everywhere.
        var said = new List<int>(Prompt);
        foreach (GenerationStep step in new TextGenerator(model, options, edited).Steps([Prompt]))
        {
            using var scope = NewDisposeScope();
            using var noGrad = no_grad();
            using var whole = new Taps().Scale("layers.0.mlp.output", 0);
            Tensor logits = model.Forward(tensor(said.Select(id => (long)id).ToArray()).unsqueeze(0), taps: whole, logits: LogitsAt.Last).select(1, 0);
            (logits - step.Logits).abs().max().ToSingle().ShouldBeLessThan(1e-4f);
            said.Add(step.Tokens[0]!.Value);
        }
    }

    [Fact]
    public void MoreTokensThanPositionsAndEmptyPromptsAreOneClearSentence()
    {
        using Decoder model = Load("gpt2");
        int positions = model.Config.MaxPositions;
        var generator = new TextGenerator(model, new() { MaxNewTokens = 4 });
        Should.Throw<BadInputException>(() => generator.Generate([[.. Enumerable.Repeat(1, positions)]])).Message.ShouldContain("shorten the prompt");
        Should.Throw<BadInputException>(() => generator.Generate([[.. Enumerable.Repeat(1, positions - 2)]])).Message.ShouldContain("at most 2 new tokens");
        Should.Throw<BadInputException>(() => generator.Generate([[]])).Message.ShouldContain("empty");
        Should.Throw<BadInputException>(() => generator.Generate([])).Message.ShouldContain("empty");
        Should.Throw<BadInputException>(() => generator.Generate([[model.Config.Vocabulary]])).Message.ShouldContain("outside");
    }

    [Fact]
    public void WeightsThatAreNotFiniteAreNamedAndNotSampledFrom()
    {
        using Decoder model = Load("llama");
        model.Parameter("model.norm.weight").fill_(double.NaN);
        Should.Throw<BadInputException>(() => new TextGenerator(model, new() { MaxNewTokens = 4 }).Generate([Prompt])).Message.ShouldContain("not finite");
        Should.Throw<BadInputException>(() => new TextGenerator(model, new() { MaxNewTokens = 4, Temperature = 1 }).Generate([Prompt])).Message.ShouldContain("not finite");
    }

    [Fact]
    public void CancellationStopsAndNoTensorIsLeftBehind()
    {
        using Decoder model = Load("llama");
        var generator = new TextGenerator(model, new() { MaxNewTokens = 5, EndIds = [] });
        generator.Generate([Prompt, [7]]);
        long before = DisposeScopeManager.Statistics.ThreadTotalLiveCount;
        using var source = new CancellationTokenSource();
        int steps = 0;
        Should.Throw<OperationCanceledException>(() =>
        {
            foreach (GenerationStep step in generator.Steps([Prompt], source.Token))
            {
                if (++steps == 2)
                {
                    source.Cancel();
                }
            }
        });
        steps.ShouldBe(2);
        generator.Generate([Prompt, [7]]);
        DisposeScopeManager.Statistics.ThreadTotalLiveCount.ShouldBe(before);
    }

    sealed class OnlyEven : ILogitsProcessor
    {
        public List<(int Row, int Step, int Count)> Seen { get; } = [];

        public void Process(LogitsContext context, Span<float> logits)
        {
            Seen.Add((context.Row, context.Step, context.Ids.Count));
            for (int i = 1; i < logits.Length; i += 2)
            {
                logits[i] = float.NegativeInfinity;
            }
        }
    }
}
