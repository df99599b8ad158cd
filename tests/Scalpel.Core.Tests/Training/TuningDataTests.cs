using Scalpel.Text;
using Scalpel.Training;

namespace Scalpel.Tests.Training;

public sealed class TuningDataTests : IDisposable
{
    static readonly Tokenizer Tokens = Tokenizer.Load(Repository.SmolLM2);
    readonly string file = Path.GetTempFileName();

    public void Dispose() => File.Delete(file);

    TuningData Read(string lines, int limit = 2048, int? maxLength = null)
    {
        File.WriteAllText(file, lines);
        return TuningData.Read(file, Tokens, limit, maxLength);
    }

    [Fact]
    public void OnlyTheCompletionIsLearnedAndOneEndTokenClosesIt()
    {
        TokenRow row = Read("""{"prompt": "The sky is", "completion": " blue."}""").Rows[0];
        int first = row.Labels.ToList().FindIndex(label => label != TokenScores.Ignored);
        Tokens.Decode(row.Ids.Take(first).Select(id => (int)id)).ShouldBe("The sky is");
        row.Ids[^1].ShouldBe((long)Tokens.EosId!);
        row.Ids.Count(id => id == Tokens.EosId).ShouldBe(1);
        row.Labels.Skip(first).ShouldBe(row.Ids.Skip(first));
    }

    [Fact]
    public void OfAChatTheLastAnswerIsLearned()
    {
        TuningData data = Read("""{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello there"}]}""");
        data.Layout.ShouldBe("messages");
        Tokens.Decode(data.Rows[0].Labels.Where(label => label != TokenScores.Ignored).Select(id => (int)id), skipSpecial: true).Trim().ShouldBe("Hello there");
    }

    [Fact]
    public void BothAnswersOfAPairFollowTheSamePrompt()
    {
        PreferencePair pair = Read("""{"prompt": "The sky is", "chosen": " green", "rejected": " blue"}""").Pairs[0];
        Tokens.Decode(pair.Prompt.Select(id => (int)id)).ShouldBe("The sky is");
        pair.Chosen.Count.ShouldBe(2);
        pair.Rejected[^1].ShouldBe((long)Tokens.EosId!);
    }

    [Theory]
    [InlineData("", "no line to train on")]
    [InlineData("{\"text\": \"a\"}\nnot json", "line 2")]
    [InlineData("{\"text\": \"a\"}\n{\"prompt\": \"a\", \"completion\": \"b\"}", "line 2")]
    [InlineData("{\"prompt\": \"a\", \"completion\": 3}", "line 1 has no text 'completion'")]
    public void ABadLineIsNamed(string lines, string part) => Should.Throw<BadInputException>(() => Read(lines)).Message.ShouldContain(part);

    [Fact]
    public void LongRowsAreCountedAndCutOnlyWhenAsked()
    {
        string lines = $"{{\"text\": \"{string.Join(' ', Enumerable.Repeat("word", 50))}\"}}";
        Should.Throw<BadInputException>(() => Read(lines, limit: 20)).Message.ShouldContain("1 of 1 rows");
        TuningData data = Read(lines, maxLength: 20);
        data.Shortened.ShouldBe(1);
        data.Rows[0].Ids.Count.ShouldBe(20);
    }
}
