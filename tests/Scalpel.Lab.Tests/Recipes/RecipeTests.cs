using System.Text.Json.Nodes;
using Scalpel.Lab.Recipes;
using Scalpel.Methods.Editing;

namespace Scalpel.Lab.Tests.Recipes;

public sealed class RecipeTests : IDisposable
{
    const string Whole = """
        # A comment.
        model: models/tiny
        method: rome
        options:
          layer: 2
          covariance: false
        requests:
          - subject: France
            prompt: "The capital of {} is"
            target: "Rome"
            old: Paris
            paraphrases: ["France's capital is"]
        text: held-out.txt
        seed: 18446744073709551615
        """;

    readonly string root = Directory.CreateTempSubdirectory("scalpel recipes ").FullName;

    public void Dispose() => Directory.Delete(root, recursive: true);

    [Fact]
    public void ARecipeIsReadWithPathsCountedFromItsFolder()
    {
        Recipe recipe = Load(Whole);
        Path.GetFullPath(recipe.Model, root).ShouldBe(Path.Combine(root, "models", "tiny"));
        recipe.Method.ShouldBe("rome");
        recipe.Options["layer"]!.GetValue<long>().ShouldBe(2);
        recipe.Requests.Single().Paraphrases.ShouldBe(["France's capital is"]);
        recipe.Seed.ShouldBe(ulong.MaxValue);
    }

    [Fact]
    public void TheResolvedRecipeIsARecipeOfTheSameRun()
    {
        string resolved = Load(Whole).Resolved();
        Load(resolved).Resolved().ShouldBe(resolved);
        resolved.ShouldContain("steps");
    }

    [Theory]
    [InlineData("  layer: 2", "  lair: 2", "line 5")]
    [InlineData("  layer: 2", "  layer: two", "line 5")]
    [InlineData("seed: 18446744073709551615", "seed: 18446744073709551616", "seed")]
    [InlineData("method: rome", "method: rom", "nearest is rome")]
    [InlineData("    target: \"Rome\"", "    target: []", "target")]
    [InlineData("The capital of {} is", "The capital of is", "{}")]
    [InlineData("seed: 18446744073709551615", "seed: *a", "alias")]
    [InlineData("seed: 18446744073709551615", "seed: !!int 3", "tag")]
    [InlineData("seed: 18446744073709551615", "seed: 1\n---\nseed: 2", "document")]
    [InlineData("model: models/tiny", "", "model")]
    public void AWrongRecipeIsRefusedWithWhatIsWrong(string right, string wrong, string finding) =>
        Should.Throw<BadInputException>(() => Load(Whole.Replace(right, wrong, StringComparison.Ordinal))).Message.ShouldContain(finding);

    [Fact]
    public void FactsAreReadInTheLayoutsOfCounterFactAndZsRe()
    {
        FactFile.Read(Write("cf.json", """
            [{"case_id": 0, "requested_rewrite": {"prompt": "The mother tongue of {} is", "target_new": {"str": "English"}, "target_true": {"str": "French"}, "subject": "Danielle Darrieux"},
              "paraphrase_prompts": ["p"], "neighborhood_prompts": ["n"]}]
            """)).Single().ShouldSatisfyAllConditions(
            fact => fact.FilledPrompt.ShouldBe("The mother tongue of Danielle Darrieux is"), fact => fact.Target.ShouldBe("English"),
            fact => fact.Old.ShouldBe("French"), fact => fact.Neighbours.ShouldBe(["n"]));
        FactFile.Read(Write("zs.json", """
            [{"subject": "Watts Humphrey", "src": "What university did Watts Humphrey attend?", "rephrase": "r", "alt": "Illinois", "answers": ["Chicago"], "loc": "nq question: who played desmond", "loc_ans": "a",
              "portability": {"Recalled Relation": "r", "New Question": "In which state is it?", "New Answer": "Illinois"}}]
            """)).Single().ShouldSatisfyAllConditions(
            fact => fact.Portability.ShouldBe([new Consequence("In which state is it?", "Illinois")]),
            fact => fact.Prompt.ShouldBe("What university did {} attend?"), fact => fact.Target.ShouldBe("Illinois"), fact => fact.Locality.ShouldNotBeEmpty());
        FactEdit own = FactFile.Read(Write("own.json", """[{"subject": "a", "prompt": "{} b", "target": "c", "portability": [{"prompt": "d", "answer": "e"}]}]""")).Single();
        own.Portability.ShouldBe([new Consequence("d", "e")]);
        FactFile.Read(Write("again.json", new JsonArray(FactFile.ToJson(own)).ToJsonString())).Single().Portability.ShouldBe(own.Portability);
        Should.Throw<BadInputException>(() => FactFile.Read(Write("own.json", """[{"subject": "a", "prompt": "{}", "target": "b", "portability": ["d"]}]"""))).Message.ShouldContain("portability");
        Should.Throw<BadInputException>(() => FactFile.Read(Write("own.json", """[{"subjct": "a", "prompt": "{}", "target": "b"}]"""))).Message.ShouldContain("subject");
        Should.Throw<BadInputException>(() => FactFile.Read(Write("empty.json", "[]")));
    }

    Recipe Load(string text) => Recipe.Load(Write("recipe.yaml", text));

    string Write(string name, string text)
    {
        File.WriteAllText(Path.Combine(root, name), text);
        return Path.Combine(root, name);
    }
}
