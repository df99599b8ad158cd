using System.Text.Json.Nodes;
using Scalpel.Methods;

namespace Scalpel.Methods.Tests.Registry;

public sealed class OptionBinderTests
{
    [Fact]
    public void ValuesAreReadFromJsonAndFromTheTextOfTheCommandLine()
    {
        var fromJson = (SampleOptions)OptionBinder.Bind(typeof(SampleOptions), JsonNode.Parse("""{"learning_rate": 0.25, "layers": [3, 4], "mode": "prompt_last", "bias": true}""")!.AsObject(), "sample");
        var fromText = (SampleOptions)OptionBinder.Bind(typeof(SampleOptions), OptionBinder.FromPairs(["learning_rate=0.25", "layers=3,4", "mode=prompt_last", "bias=true"]), "sample");
        fromJson.LearningRate.ShouldBe(0.25);
        fromJson.Layers.ShouldBe([3, 4]);
        fromJson.Mode.ShouldBe(SampleMode.PromptLast);
        fromJson.Bias.ShouldBeTrue();
        fromJson.Steps.ShouldBe(20);
        OptionBinder.ToJson(fromText).ToJsonString().ShouldBe(OptionBinder.ToJson(fromJson).ToJsonString());
    }

    [Fact]
    public void AnUnknownOptionIsAnErrorThatNamesTheNearest() =>
        Should.Throw<BadInputException>(() => OptionBinder.Bind(typeof(SampleOptions), new JsonObject { ["learnin_rate"] = 1 }, "method sample"))
            .Message.ShouldContain("nearest is learning_rate");

    [Theory]
    [InlineData("steps", "1.5", "integer")]
    [InlineData("steps", "99999999999", "integer")]
    [InlineData("learning_rate", "fast", "number")]
    [InlineData("learning_rate", "NaN", "number")]
    [InlineData("mode", "PromptLast", "target_tokens, prompt_last")]
    [InlineData("layers", "3,x", "list of integer")]
    [InlineData("bias", "yes", "true or false")]
    public void AValueOfAnotherTypeIsAnErrorThatNamesTheExpectation(string key, string value, string expectation) =>
        Should.Throw<BadInputException>(() => OptionBinder.Bind(typeof(SampleOptions), new JsonObject { [key] = value }, "sample"))
            .Message.ShouldContain(expectation);

    [Fact]
    public void NothingIsABindingOnlyWhereTheOptionMayBeDecidedByTheMethod()
    {
        ((SampleOptions)OptionBinder.Bind(typeof(SampleOptions), new JsonObject { ["layers"] = null }, "sample")).Layers.ShouldBeNull();
        Should.Throw<BadInputException>(() => OptionBinder.Bind(typeof(SampleOptions), new JsonObject { ["steps"] = null }, "sample"));
    }

    [Fact]
    public void APairWithoutEqualsSignAndAKeySetTwiceAreErrors()
    {
        Should.Throw<BadInputException>(() => OptionBinder.FromPairs(["steps"])).Message.ShouldContain("key=value");
        Should.Throw<BadInputException>(() => OptionBinder.FromPairs(["steps=1", "steps=2"])).Message.ShouldContain("twice");
    }

    public enum SampleMode
    {
        TargetTokens,
        PromptLast,
    }

    public sealed record SampleOptions
    {
        public double LearningRate { get; init; } = 0.5;

        public int Steps { get; init; } = 20;

        public IReadOnlyList<int>? Layers { get; init; }

        public SampleMode Mode { get; init; }

        public bool Bias { get; init; }
    }
}
