namespace Scalpel.EndToEnd;

public sealed class BadInputTests : IDisposable
{
    const string Recipe = """
        model: MODEL
        method: ft
        requests:
          - subject: cat
            prompt: "The {} sat on the"
            target: mat
        """;

    readonly TemporaryFolder folder = new();

    public void Dispose() => folder.Dispose();

    public static TheoryData<string[], string> CommandLines() => new()
    {
        { ["inof"], "nearest is info" },
        { ["info"], "needs MODEL" },
        { ["info", "--tensor", "x"], "nearest is --tensors" },
        { ["info", "no such folder"], "no such folder" },
        { ["patch", "aply"], "nearest is apply" },
        { ["edit", "TINY", "--method", "roem", "--subject", "cat", "--prompt", "The {} sat", "--target", "mat", "--out", "x.patch.safetensors"], "nearest is rome" },
        { ["edit", "TINY", "--method", "ft", "--set", "step=3", "--subject", "cat", "--prompt", "The {} sat", "--target", "mat", "--out", "x.patch.safetensors"], "nearest is steps" },
        { ["edit", "TINY", "--method", "ft", "--set", "steps=many", "--subject", "cat", "--prompt", "The {} sat", "--target", "mat", "--out", "x.patch.safetensors"], "steps" },
        { ["edit", "TINY", "--method", "ft", "--subject", "dog", "--prompt", "The cat sat", "--target", "mat", "--out", "x.patch.safetensors"], "dog" },
        { ["edit", "TINY", "--method", "ft", "--subject", "", "--prompt", "The {} sat", "--target", "mat", "--out", "x.patch.safetensors"], "subject" },
        { ["edit", "TINY", "--method", "ft", "--subject", "cat", "--prompt", "", "--target", "mat", "--out", "x.patch.safetensors"], "prompt" },
        { ["edit", "TINY", "--method", "ft", "--subject", "cat", "--prompt", "{} {}", "--target", "mat", "--out", "x.patch.safetensors"], "{}" },
        { ["edit", "TINY", "--method", "ft", "--requests", "nothing.json", "--out", "x.patch.safetensors"], "nothing.json" },
        { ["generate", "TINY", ""], "prompt" },
        { ["generate", "TINY", "The cat", "--max-tokens", "100000"], "positions" },
        { ["generate", "TINY", "The cat", "--max-tokens", "many"], "max-tokens" },
        { ["generate", "TINY", "The cat", "--patch", "nothing.patch.safetensors"], "nothing.patch.safetensors" },
        { ["locate", "TINY", "--subject", "dog", "--prompt", "The cat sat"], "dog" },
        { ["score", "TINY", "--text", "nothing.txt"], "nothing.txt" },
        { ["run", "nothing.yaml"], "nothing.yaml" },
        { ["methods", "roem"], "nearest is rome" },
        { ["parity", "nowhere"], "nowhere" },
    };

    [Theory]
    [MemberData(nameof(CommandLines))]
    public void BadInputIsOneSentenceExitCodeTwoAndNothingWritten(string[] args, string finding)
    {
        CommandResult result = ScalpelProcess.Run(folder.Path, [.. args.Select(arg => arg == "TINY" ? ScalpelProcess.TinyModel : arg)]);
        RefusedWith(result, finding);
        Directory.EnumerateFileSystemEntries(folder.Path).ShouldBeEmpty();
    }

    [Theory]
    [InlineData("seed: 1", "sed: 1", "line 7: unknown key 'sed'; the nearest is seed")]
    [InlineData("options: {steps: 2}", "options: {stepps: 2}", "nearest is steps")]
    [InlineData("method: ft", "method: fd", "nearest is ft")]
    [InlineData("seed: 1", "seed: -1", "seed")]
    [InlineData("subject: cat", "subject: &a cat", "anchor")]
    [InlineData("seed: 1", "seed: [[[[[[[[[[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]]]]]]]]]]", "nesting")]
    [InlineData("seed: 1", "seed: 1\nseed: 2", "twice")]
    [InlineData("seed: 1", "seed: {", "YAML")]
    [InlineData("target: mat", "aim: mat", "aim")]
    public void AMisspeltOrHostileRecipeIsRefusedWithItsLine(string right, string wrong, string finding)
    {
        string text = Recipe.Replace("MODEL", ScalpelProcess.TinyModel, StringComparison.Ordinal) + "\n" + (Recipe.Contains(right, StringComparison.Ordinal) ? "" : right + "\n");
        folder.Write("recipe.yaml", text.Replace(right, wrong, StringComparison.Ordinal));
        RefusedWith(ScalpelProcess.Run(folder.Path, "run", "recipe.yaml", "--out", "out"), finding);
        Directory.Exists(folder.At("out")).ShouldBeFalse();
    }

    [Fact]
    public void APatchForAnotherBaseIsRefused()
    {
        ScalpelProcess.Run(folder.Path, "edit", ScalpelProcess.TinyModel, "--method", "ft", "--subject", "cat", "--prompt", "The {} sat on the", "--target", "mat", "--out", "a.patch.safetensors").Code.ShouldBe(0);
        Directory.CreateDirectory(folder.At("other"));
        foreach (string file in Directory.EnumerateFiles(ScalpelProcess.TinyModel))
        {
            File.WriteAllBytes(folder.At(Path.Combine("other", Path.GetFileName(file))), File.ReadAllBytes(file));
        }

        string weights = folder.At("other/model.safetensors");
        byte[] bytes = File.ReadAllBytes(weights);
        for (int i = bytes.Length / 4; i < bytes.Length; i += 64)
        {
            bytes[i] ^= 1;
        }

        File.WriteAllBytes(weights, bytes);
        CommandResult result = ScalpelProcess.Run(folder.Path, "patch", "apply", "other", "a.patch.safetensors", "--out", "edited");
        RefusedWith(result, "down_proj");
        Directory.Exists(folder.At("edited")).ShouldBeFalse();
    }

    [Fact]
    public void AnUnknownArchitectureIsNamed()
    {
        Directory.CreateDirectory(folder.At("model"));
        File.Copy(Path.Combine(ScalpelProcess.TinyModel, "model.safetensors"), folder.At("model/model.safetensors"));
        folder.Write("model/config.json", """{"model_type": "hyena", "architectures": ["HyenaForCausalLM"], "hidden_size": 8}""");
        RefusedWith(ScalpelProcess.Run(folder.Path, "generate", "model", "The cat"), "hyena");
    }

    [Fact]
    public void APlaceThatCannotBeWrittenIsNamedAndNothingIsLeft()
    {
        // A file stands where a folder would have to be: refused for every user, also for root.
        folder.Write("file", "x");
        RefusedWith(ScalpelProcess.Run(folder.Path, "edit", ScalpelProcess.TinyModel, "--method", "ft", "--subject", "cat", "--prompt", "The {} sat on the", "--target", "mat", "--out", "file/a.patch.safetensors"), "file/a.patch.safetensors");
        Directory.EnumerateFileSystemEntries(folder.Path).Select(Path.GetFileName).ShouldBe(["file"]);
    }

    // There is no such model: whoever looks at the place first does not get that far.
    [Theory]
    [InlineData("file/a.patch.safetensors", "is a file", "edit", "no-model", "--subject", "cat", "--prompt", "The {} sat on the", "--target", "mat")]
    [InlineData("a.safetensors", ".patch.safetensors", "edit", "no-model", "--subject", "cat", "--prompt", "The {} sat on the", "--target", "mat")]
    [InlineData("a.safetensors", ".patch.safetensors", "tune", "no-model", "--data", "no-data.jsonl")]
    [InlineData("a.safetensors", ".patch.safetensors", "prune", "no-model")]
    [InlineData("a.safetensors", ".patch.safetensors", "merge", "no-model", "no-part", "--method", "linear")]
    [InlineData("file/folder", "is a file", "locate", "no-model", "--subject", "cat", "--prompt", "The {} sat on the")]
    [InlineData("folder", "is a folder", "evaluate", "no-model", "--patch", "no-patch", "--requests", "no-facts")]
    [InlineData("folder.npy", "is a folder", "embed", "no-model", "a text")]
    public void WhereAResultCannotGoIsSaidBeforeTheWork(string place, string finding, params string[] command)
    {
        folder.Write("file", "x");
        Directory.CreateDirectory(folder.At("folder"));
        Directory.CreateDirectory(folder.At("folder.npy"));
        RefusedWith(ScalpelProcess.Run(folder.Path, [.. command, "--out", place]), finding);
    }

    [Fact]
    public void AnExistingResultIsNotReplacedUnlessForced()
    {
        folder.Write("a.patch.safetensors", "mine");
        string[] edit = ["edit", ScalpelProcess.TinyModel, "--method", "ft", "--subject", "cat", "--prompt", "The {} sat on the", "--target", "mat", "--out", "a.patch.safetensors"];
        RefusedWith(ScalpelProcess.Run(folder.Path, edit), "--force");
        File.ReadAllText(folder.At("a.patch.safetensors")).ShouldBe("mine");
        ScalpelProcess.Run(folder.Path, [.. edit, "--force"]).Code.ShouldBe(0);
    }

    static void RefusedWith(CommandResult result, string finding)
    {
        result.Code.ShouldBe(2, result.Error);
        result.Output.ShouldBeEmpty();
        string sentence = result.Error.TrimEnd('\n').Split('\n')[^1];
        sentence.ShouldStartWith("scalpel: ");
        sentence.ShouldContain(finding, Case.Insensitive);
        result.Error.ShouldNotContain("   at Scalpel.");
    }
}
