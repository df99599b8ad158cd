using System.Text.Json.Nodes;
using Scalpel.Lab.Worlds;
using Scalpel.Networks;
using Scalpel.Tests;

namespace Scalpel.Lab.Tests.Worlds;

public sealed class ShippedBaseTests
{
    static readonly TextWorld World = TextWorld.Create(1);

    public static TheoryData<string> Shipped() =>
        [.. BaseRecipe.All.Select(recipe => recipe.Name).Where(name => File.Exists(Path.Combine(Folder(name), "world.json")))];

    static string Folder(string name) => Path.Combine(Repository.Root, "assets", "models", name.ToLowerInvariant());

    [Theory]
    [MemberData(nameof(Shipped))]
    public void AShippedBaseIsTheOneOfItsRecipeAndKeepsItsGates(string name)
    {
        // Found by its recipe, so nothing is trained; a stale one would start a training here.
        BaseRecipe recipe = BaseRecipe.Named(name);
        var card = (JsonObject)JsonNode.Parse(File.ReadAllText(Path.Combine(Folder(name), "world.json")))!;
        card["recipe"]!.GetValue<string>().ShouldBe(recipe.Hash(World, null), "the recipe or the world changed; build the base again");
        card["gates"]!.AsArray().ShouldAllBe(gate => gate!["holds"]!.GetValue<bool>());
        World.BaseFolder(name, RunContext.WithSeed(0)).ShouldBe(Folder(name));
        using Decoder model = Decoder.Load(World.Base(name, RunContext.WithSeed(0)));
        Gate[] quick = [.. recipe.Gates.Where(gate => gate.Measure is "cloze" or "question" or "near" or "holdout above chance" or "common" or "provoked toxic" or "exposure 128" or "kin deviation" or "domain answers")];
        new BaseGates(World).Measure(model, quick).ShouldAllBe(result => result.Holds);
        Fact fact = World.Facts("core")[0];
        model.Tokenizer.Encode(fact.Prompt(), addSpecial: false).Ids.ShouldBe(Lexicon.Instance.Ids(fact.Prompt()));
    }

    [Fact]
    public void TextSComesWithTheRepository() => Shipped().ShouldNotBeEmpty();
}
