using System.Text.RegularExpressions;
using Scalpel.Generation;
using Scalpel.Lab.Worlds;
using Scalpel.Methods.Editing;
using Scalpel.Networks;
using Scalpel.Patches;
using TorchSharp;
using Tensor = TorchSharp.torch.Tensor;

namespace Scalpel.EndToEnd;

/// <summary>The C# of the pages: the same lines stand here, where they are compiled and run.</summary>
public sealed partial class SnippetTests : IDisposable
{
    readonly TemporaryFolder folder = new();
    readonly string before = Environment.CurrentDirectory;
    readonly TextWriter console = Console.Out;

    public SnippetTests()
    {
        Clone.Make(folder, realModel: false);
        Environment.CurrentDirectory = folder.Path;
        Console.SetOut(TextWriter.Null);
    }

    public void Dispose()
    {
        Console.SetOut(console);
        Environment.CurrentDirectory = before;
        folder.Dispose();
    }

    [Fact]
    public void EditingAsALibrary()
    {
        using var model = Decoder.Load("assets/models/smollm2-135m-instruct");
        var edit = new FactEdit("The Eiffel Tower", "{} is located in the city of", "Rome");
        using Patch patch = new Rome().Edit(model, [edit], RunContext.WithSeed(0));

        using (patch.ApplyTo(model))                       // bit for bit the old model at the end of the scope
        {
            Console.WriteLine(model.Generate("The Eiffel Tower is located in the city of"));
        }

        patch.Save("eiffel.patch.safetensors");
        Patch.Load("eiffel.patch.safetensors").Dispose();
    }

    [Fact]
    public void EncodingSentences()
    {
        using SentenceEncoder encoder = SentenceEncoder.Load("assets/models/all-MiniLM-L6-v2");
        using Tensor vectors = encoder.Encode(["A man is eating food.", "Someone has lunch."]);   // [2, 384]
        vectors.shape.ShouldBe([2, 384]);
    }

    [Fact]
    public void FactsOfTheTextWorldAndItsBaseModels()
    {
        TextWorld world = TextWorld.Create(1);
        Fact fact = world.Facts("core", "home")[0];
        fact.Prompt();                        // "zoba pisan lives in", the object follows
        fact.Paraphrases(Wording.Near);       // a new prefix before known wordings
        fact.Paraphrases(Wording.Far);        // wordings that no training shows
        fact.Neighbours();                    // other people with the same answer
        FactEdit edit = fact.ToEdit();        // a request for an editor: the counterfactual, paraphrases, neighbours
        TextCorpus stream = world.Corpus(TextMixture.Default, exclude: "forget10");
        stream.ShouldNotBeNull();
        edit.Subject.ShouldNotBeEmpty();

        var run = new RunContext();
        using Decoder model = Decoder.Load(world.Base("text-S", run));
        model.Config.Layers.ShouldBe(4);
    }

    [Fact]
    public void EveryCSharpSnippetOfThePagesStandsAbove()
    {
        string own = Squeeze(File.ReadAllText(Path.Combine(ScalpelProcess.Root, "tests", "EndToEnd", "SnippetTests.cs")));
        foreach (string page in Pages.All())
        {
            foreach (string block in Pages.Blocks(page, "csharp"))
            {
                own.ShouldContain(Squeeze(block), Case.Sensitive, $"{Path.GetFileName(page)}: add the snippet to SnippetTests.cs\n{block}");
            }
        }
    }

    static string Squeeze(string text) => Spaces().Replace(text, " ").Trim();

    [GeneratedRegex(@"\s+")]
    private static partial Regex Spaces();
}
