using System.Diagnostics;
using System.Text.Json.Nodes;

namespace Scalpel.EndToEnd;

public sealed class TuneCommandTests : IDisposable
{
    const string Texts = """
        {"text": "the cat sat on the mat"}
        {"text": "a dog ran home"}
        {"text": "the sky is blue today"}
        {"text": "she sings a song"}
        """;

    const string Pairs = """
        {"prompt": "the cat", "chosen": " sat on the mat", "rejected": " ran away"}
        {"prompt": "a dog", "chosen": " ran home", "rejected": " sat on the mat and the mat"}
        {"prompt": "the sky", "chosen": " is blue", "rejected": " is a dog"}
        """;

    const string Judged = """
        {"prompt": "the cat", "completion": " sat on the mat", "label": true}
        {"prompt": "a dog", "completion": " is blue", "label": false}
        {"prompt": "the sky", "completion": " is blue", "label": true}
        """;

    const string Ranked = """
        {"prompt": "the cat", "completions": [" sat on the mat", " ran", " is blue"], "scores": [3, 1, 2]}
        {"prompt": "a dog", "completions": [" ran home", " is blue"], "ranks": [1, 2]}
        """;

    const string Prompts = """
        {"prompt": "the cat", "want": "a"}
        {"prompt": "a dog", "want": "o"}
        """;

    readonly TemporaryFolder folder = new();

    public void Dispose() => folder.Dispose();

    CommandResult Tune(string data, params string[] options)
    {
        folder.Write("data.jsonl", data);
        return ScalpelProcess.Run(folder.Path, ["tune", ScalpelProcess.TinyModel, "--data", "data.jsonl", .. options]);
    }

    JsonNode Tuned(string data, params string[] options)
    {
        CommandResult result = Tune(data, ["--out", "p.patch.safetensors", "--force", "--json", .. options]);
        result.Code.ShouldBe(0, result.Error);
        return JsonNode.Parse(result.Output)!;
    }

    [Fact]
    public void ARunKilledAtTwentyRandomStepsEndsWithTheBytesOfAnUndisturbedOne() => KilledRunsEqual(20, Pairs,
        "--loss", "rpo", "--steps", "400", "--accumulate", "2", "--batch-size", "2", "--save-every", "3", "--ema", "0.9", "--eval-data", "data.jsonl", "--eval-every", "7", "--learning-rate", "1e-3");

    [Fact]
    public void AKilledRunThatSamplesItsAnswersResumesToTheSameBytes() => KilledRunsEqual(3, Prompts,
        "--loss", "rloo", "--reward", "contains:a", "--group", "3", "--max-tokens", "6", "--steps", "60", "--batch-size", "2", "--save-every", "2", "--method", "full", "--optimizer", "lion");

    [Fact]
    public void AKilledRunOfPackedTextsInBFloat16ResumesToTheSameBytes() => KilledRunsEqual(3, Texts,
        "--packing", "--max-length", "24", "--bf16", "--steps", "200", "--save-every", "2", "--method", "full", "--optimizer", "adafactor");

    void KilledRunsEqual(int kills, string data, params string[] options)
    {
        folder.Write("data.jsonl", data);
        string[] Line(string name) => ["tune", ScalpelProcess.TinyModel, "--data", "data.jsonl", "--run", name, "--out", $"{name}.patch.safetensors", "--resume", .. options];
        CommandResult whole = ScalpelProcess.Run(folder.Path, Line("whole"));
        whole.Code.ShouldBe(0, whole.Error);
        long all = File.ReadLines(folder.At("whole/log.jsonl")).Count();
        var random = new Random(7);
        int killed = 0;
        long before = 0;
        string log = folder.At("killed/log.jsonl");
        for (int i = 0; i < kills; i++)
        {
            // Each start takes a few steps, so that the kills spread over the run.
            long until = before + 1 + random.NextInt64(all / kills);
            using Process process = ScalpelProcess.Start(folder.Path, Line("killed"));
            Task<string> drained = process.StandardError.ReadToEndAsync();
            while (!process.HasExited && Lines(log) < until)
            {
                Thread.Sleep(1);
            }

            if (!process.HasExited)
            {
                process.Kill();
                killed++;
            }

            process.WaitForExit();
            before = Math.Min(Lines(log), until);
        }

        killed.ShouldBe(kills);
        CommandResult resumed = ScalpelProcess.Run(folder.Path, Line("killed"));
        resumed.Code.ShouldBe(0, resumed.Error);
        foreach (string name in (string[])["patch.safetensors", "/state.safetensors", "/log.jsonl"])
        {
            (string a, string b) = name[0] == '/' ? ($"whole{name}", $"killed{name}") : ($"whole.{name}", $"killed.{name}");
            File.ReadAllBytes(folder.At(a)).AsSpan().SequenceEqual(File.ReadAllBytes(folder.At(b))).ShouldBeTrue(name);
        }

        // Killed between the last state and the patch.
        File.Delete(folder.At("killed.patch.safetensors"));
        CommandResult again = ScalpelProcess.Run(folder.Path, Line("killed"));
        again.Code.ShouldBe(0, again.Error);
        File.ReadAllBytes(folder.At("killed.patch.safetensors")).AsSpan().SequenceEqual(File.ReadAllBytes(folder.At("whole.patch.safetensors"))).ShouldBeTrue();
    }

    static long Lines(string file)
    {
        try
        {
            using var stream = new FileStream(file, FileMode.Open, FileAccess.Read, FileShare.ReadWrite);
            long lines = 0;
            for (int c; (c = stream.ReadByte()) >= 0;)
            {
                lines += c == '\n' ? 1 : 0;
            }

            return lines;
        }
        catch (IOException)
        {
            return 0;
        }
    }

    [Theory]
    [InlineData(Texts, "nll")]
    [InlineData(Pairs, "dpo")]
    [InlineData(Pairs, "sigmoid:0.8+bco_pair:0.2+sft")]
    [InlineData(Pairs, "kto")]
    [InlineData(Pairs, "cpo")]
    [InlineData(Pairs, "simpo")]
    [InlineData(Pairs, "orpo")]
    [InlineData(Pairs, "slic")]
    [InlineData(Judged, "kto")]
    [InlineData(Ranked, "rrhf")]
    [InlineData(Ranked, "ipo")]
    public void EveryKindOfObjectiveLowersItsLoss(string data, string loss)
    {
        double[] losses = Logged(data, "loss", "--loss", loss, "--steps", "30", "--batch-size", "2", "--seed", "1", "--learning-rate", "5e-3", "--schedule", "constant");
        losses[^1].ShouldBeLessThan(losses[0]);
    }

    // A figure of every step.
    double[] Logged(string data, string figure, params string[] options)
    {
        Tuned(data, ["--run", "run", .. options]);
        return [.. File.ReadLines(folder.At("run/log.jsonl")).Select(line => JsonNode.Parse(line)![figure]!.GetValue<double>())];
    }

    [Theory]
    [InlineData("grpo")]
    [InlineData("dapo")]
    [InlineData("rloo")]
    public void WhatIsRewardedIsSaidMoreOften(string loss)
    {
        double[] rewards = Logged(Prompts, "reward", "--loss", loss, "--reward", "contains:a", "--steps", "40", "--group", "8", "--max-tokens", "6", "--batch-size", "2", "--learning-rate", "1e-2", "--schedule", "constant");
        rewards[^5..].Average().ShouldBeGreaterThan(rewards[..5].Average() + 0.1);
    }

    [Fact]
    public void ARewardModelIsAClassifierThatRewardsAPolicy()
    {
        JsonNode report = Tuned(Pairs, "--loss", "reward", "--steps", "30", "--batch-size", "2", "--learning-rate", "5e-3");
        report["metrics"]!["accuracy"]!.GetValue<double>().ShouldBe(1);
        ScalpelProcess.Run(folder.Path, "patch", "apply", ScalpelProcess.TinyModel, "p.patch.safetensors", "--out", "scorer").Code.ShouldBe(0);
        File.ReadAllText(folder.At("scorer/config.json")).ShouldContain("LlamaForSequenceClassification");
        JsonNode policy = Tuned(Prompts, "--loss", "grpo", "--reward", "model:scorer", "--steps", "2", "--group", "2", "--max-tokens", "4", "--batch-size", "1");
        policy["metrics"]!["reward/model"].ShouldNotBeNull();
        ScalpelProcess.Run(folder.Path, "patch", "revert", "scorer", "--out", "back").Code.ShouldBe(0);
        File.ReadAllBytes(folder.At("back/config.json")).ShouldBe(File.ReadAllBytes(Path.Combine(ScalpelProcess.TinyModel, "config.json")));
    }

    [Theory]
    [InlineData("lora")]
    [InlineData("dora")]
    [InlineData("ia3")]
    [InlineData("full")]
    public void APatchAppliesGeneratesAndIsTakenBackBitForBit(string method)
    {
        Tuned(Texts, "--method", method, "--steps", "20", "--learning-rate", "1e-2", "--bf16");
        ScalpelProcess.Run(folder.Path, "generate", ScalpelProcess.TinyModel, "the cat", "--max-tokens", "4", "--patch", "p.patch.safetensors").Code.ShouldBe(0);
        ScalpelProcess.Run(folder.Path, "patch", "apply", ScalpelProcess.TinyModel, "p.patch.safetensors", "--out", "tuned").Code.ShouldBe(0);
        ScalpelProcess.Run(folder.Path, "patch", "revert", "tuned", "--out", "back").Code.ShouldBe(0);
        File.ReadAllBytes(folder.At("back/model.safetensors")).ShouldBe(File.ReadAllBytes(Path.Combine(ScalpelProcess.TinyModel, "model.safetensors")));
    }

    [Fact]
    public void AccumulatedPassesEqualTheLargeBatch()
    {
        // The same four rows a step: the last loss after the same updates.
        double whole = Tuned(Texts, "--steps", "5", "--batch-size", "4", "--learning-rate", "1e-2")["loss"]!.GetValue<double>();
        double parts = Tuned(Texts, "--steps", "5", "--batch-size", "1", "--accumulate", "4", "--learning-rate", "1e-2")["loss"]!.GetValue<double>();
        parts.ShouldBe(whole, 1e-4);
    }

    [Fact]
    public void AnInterruptedRunLosesNoStep()
    {
        folder.Write("data.jsonl", Texts);
        string[] line = ["tune", ScalpelProcess.TinyModel, "--data", "data.jsonl", "--steps", "2000", "--run", "run", "--save-every", "5000", "--out", "p.patch.safetensors", "--resume"];
        using (Process process = ScalpelProcess.Start(folder.Path, line))
        {
            Task<string> drained = process.StandardError.ReadToEndAsync();
            while (!process.HasExited && Lines(folder.At("run/log.jsonl")) < 20)
            {
                Thread.Sleep(5);
            }

            Process.Start("kill", ["-INT", process.Id.ToString(System.Globalization.CultureInfo.InvariantCulture)]).WaitForExit();
            process.WaitForExit();
            process.ExitCode.ShouldBe(3);
        }

        long steps = Lines(folder.At("run/log.jsonl"));
        File.Exists(folder.At("run/state.safetensors")).ShouldBeTrue();
        string header = System.Text.Encoding.UTF8.GetString(File.ReadAllBytes(folder.At("run/state.safetensors")).AsSpan(8, 4000));
        header.ShouldContain($"\"step\":\"{steps}\"");
    }

    [Fact]
    public void LessMemoryChangesNoLoss()
    {
        double plain = Tuned(Texts, "--steps", "3", "--batch-size", "2", "--learning-rate", "1e-2")["loss"]!.GetValue<double>();
        Tuned(Texts, "--steps", "3", "--batch-size", "2", "--learning-rate", "1e-2", "--gradient-checkpointing")["loss"]!.GetValue<double>().ShouldBe(plain, 1e-5);
    }

    [Fact]
    public void PackedTextsAreLearnedAsPaddedOnes()
    {
        double padded = Tuned(Texts, "--steps", "1", "--batch-size", "4")["loss"]!.GetValue<double>();
        double packed = Tuned(Texts, "--steps", "1", "--batch-size", "1", "--packing", "--max-length", "128")["loss"]!.GetValue<double>();
        packed.ShouldBe(padded, 1e-4);
    }

    [Fact]
    public void EvaluationsThatImproveNoMoreStopTheRunAndAreDrawn()
    {
        folder.Write("held.jsonl", """{"text": "mat cat the on sat home dog"}""");
        JsonNode report = Tuned(Texts, "--steps", "300", "--learning-rate", "3e-2", "--schedule", "constant", "--eval-data", "held.jsonl", "--eval-every", "5", "--patience", "3", "--run", "run");
        report["stopped_early"]!.GetValue<bool>().ShouldBeTrue();
        report["steps"]!.GetValue<int>().ShouldBeLessThan(300);
        string picture = System.Xml.Linq.XDocument.Load(folder.At("run/loss.svg")).ToString();
        picture.ShouldContain("held-out data");
        JsonNode.Parse(File.ReadAllText(folder.At("run/options.json")))!["learning_rate"]!.GetValue<double>().ShouldBe(3e-2);
    }

    [Fact]
    public void ARunThatDivergesKeepsTheLastFiniteWeights()
    {
        CommandResult result = Tune(Texts, "--method", "full", "--optimizer", "sgd", "--learning-rate", "1e30", "--clip", "0", "--schedule", "constant", "--out", "p.patch.safetensors", "--steps", "20", "--save-every", "1", "--run", "run");
        result.Code.ShouldBe(1, result.Error);
        result.Error.ShouldContain("Lower the learning rate");
        File.Exists(folder.At("run/state.safetensors")).ShouldBe(result.Error.Contains("holds the weights before that step", StringComparison.Ordinal));
    }

    [Theory]
    [InlineData("", "no line to train on")]
    [InlineData("{\"texts\": \"a\"}", "its fields are texts")]
    [InlineData("{\"prompt\": \"a\", \"completion\": \"\"}", "has no text 'completion'")]
    [InlineData(Pairs, "learns from texts", "--loss", "nll")]
    [InlineData(Texts, "learns from pairs", "--loss", "dpo")]
    [InlineData(Texts, "the nearest is 'dpo'", "--loss", "dpoo")]
    [InlineData(Texts, "--beta has no effect with the loss nll", "--beta", "0.2")]
    [InlineData(Texts, "--rank has no effect with the method full", "--method", "full", "--rank", "4")]
    [InlineData(Texts, "--resume has no effect with no --run", "--resume")]
    [InlineData(Texts, "matches no linear layer", "--target", "q_projection")]
    [InlineData(Texts, "larger than the matrix", "--rank", "4096")]
    [InlineData(Texts, "is no regular expression", "--target", "q_proj[")]
    [InlineData(Texts, "Alpha is 0", "--alpha", "0")]
    [InlineData(Texts, "--learning-rate is NaN", "--learning-rate", "nan")]
    [InlineData(Texts, "--warmup is 100, but there are 100 steps", "--warmup", "100")]
    [InlineData(Texts, "--clip is -1", "--clip", "-1")]
    [InlineData(Texts, "would hold some of them twice", "--batch-size", "400")]
    [InlineData(Texts, "label smoothing of the loss nll is 1", "--label-smoothing", "1")]
    [InlineData(Pairs, "β of the loss ipo is 0", "--loss", "ipo", "--beta", "0")]
    [InlineData(Pairs, "no effect with the loss dpo", "--label-smoothing", "0.1")]
    [InlineData(Pairs, "no effect with the loss aot", "--loss", "aot", "--divergence", "js_divergence")]
    [InlineData(Pairs, "tail weight of the loss dpo is 2", "--tail-weight", "2")]
    [InlineData(Pairs, "so nothing is learned", "--loss", "sigmoid:0")]
    [InlineData(Judged, "the step has one", "--loss", "kto", "--batch-size", "1")]
    [InlineData(Prompts, "judges answers as a whole", "--loss", "luspo", "--beta", "0.1", "--reward", "length:3")]
    [InlineData(Prompts, "No reward says", "--loss", "grpo")]
    [InlineData(Prompts, "is not a regular expression", "--loss", "grpo", "--reward", "regex:[")]
    [InlineData(Prompts, "looks at the field 'answer'", "--loss", "grpo", "--reward", "field:answer")]
    public void WhatCannotBeLearnedIsOneSentence(string data, string part, params string[] options)
    {
        CommandResult result = Tune(data, ["--out", "p.patch.safetensors", .. options]);
        result.Code.ShouldBe(2, result.Error);
        result.Error.ShouldContain(part);
        File.Exists(folder.At("p.patch.safetensors")).ShouldBeFalse();
    }

    [Fact]
    public void AnswersThatAreAllAlikeTeachNothingAndLeaveNoPatch()
    {
        CommandResult result = Tune(Prompts, "--loss", "grpo", "--reward", "contains:no such text", "--steps", "2", "--max-tokens", "4", "--out", "p.patch.safetensors");
        result.Code.ShouldBe(1, result.Error);
        result.Error.ShouldContain("all answers to a prompt had the same reward");
        File.Exists(folder.At("p.patch.safetensors")).ShouldBeFalse();
    }

    [Fact]
    public void TheReferenceIsScoredOnceForAModelAndItsData()
    {
        folder.Write("data.jsonl", Pairs);
        string line = $"export XDG_CACHE_HOME=cache; scalpel tune '{ScalpelProcess.TinyModel}' --data data.jsonl --loss dpo --steps 1 --out p.patch.safetensors --force";
        CommandResult first = ScalpelProcess.Shell(folder.Path, line);
        first.Code.ShouldBe(0, first.Error);
        string cached = Directory.GetFiles(folder.At("cache/scalpel/reference")).ShouldHaveSingleItem();
        CommandResult second = ScalpelProcess.Shell(folder.Path, line);
        second.Error.ShouldNotContain("scoring by the reference");
        Directory.GetFiles(folder.At("cache/scalpel/reference")).ShouldBe([cached]);
    }
}
