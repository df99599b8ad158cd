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
        data.Layout.ShouldBe(TuningLayout.Messages);
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

    [Theory]
    [InlineData("""{"text": "a b"}""", TuningLayout.Text)]
    [InlineData("""{"prompt": "a", "completion": " b"}""", TuningLayout.PromptCompletion)]
    [InlineData("""{"prompt": [{"role": "user", "content": "a"}], "completion": [{"role": "assistant", "content": "b"}]}""", TuningLayout.PromptCompletion)]
    [InlineData("""{"instruction": "say b", "input": "", "output": "b"}""", TuningLayout.PromptCompletion)]
    [InlineData("""{"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}""", TuningLayout.Messages)]
    [InlineData("""{"prompt": "a", "chosen": " b", "rejected": " c"}""", TuningLayout.Pairs)]
    [InlineData("""{"chosen": "Human: a Assistant: b", "rejected": "Human: a Assistant: c"}""", TuningLayout.Pairs)]
    [InlineData("""{"chosen": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}], "rejected": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "c"}]}""", TuningLayout.Pairs)]
    [InlineData("""{"prompt": "a", "completions": [" b", " c"], "ranks": [1, 2]}""", TuningLayout.Ranking)]
    [InlineData("""{"prompt": "a", "completion": " b", "label": false}""", TuningLayout.Judged)]
    [InlineData("""{"prompt": "a", "answer": 3}""", TuningLayout.Prompts)]
    public void TheLayoutsOfTheFieldAreDetected(string line, TuningLayout layout)
    {
        using TuningData data = Read(line);
        data.Layout.ShouldBe(layout);
        data.Count.ShouldBe(1);
        if (layout is TuningLayout.Pairs or TuningLayout.Ranking)
        {
            PreferencePair pair = data.Pairs[0];
            Tokens.Decode(pair.Chosen.Select(id => (int)id), skipSpecial: true).Trim().ShouldBe("b");
            Tokens.Decode(pair.Rejected.Select(id => (int)id), skipSpecial: true).Trim().ShouldBe("c");
        }
    }

    [Fact]
    public async Task TablesParquetAndTextGiveTheSameRowsAsLines()
    {
        string folder = Directory.CreateTempSubdirectory().FullName;
        try
        {
            string[] prompts = ["The sky is", "A \"quoted\" line,\nof two"], completions = [" blue.", " here"];
            string csv = Path.Combine(folder, "a.csv"), tsv = Path.Combine(folder, "a.tsv"), parquet = Path.Combine(folder, "a.parquet"), text = Path.Combine(folder, "a.txt");
            File.WriteAllText(csv, "prompt,completion\r\n" + string.Concat(prompts.Zip(completions, (p, c) => $"\"{p.Replace("\"", "\"\"", StringComparison.Ordinal)}\",\"{c}\"\r\n")));
            File.WriteAllText(tsv, "prompt\tcompletion\n" + string.Concat(prompts.Zip(completions, (p, c) => $"\"{p.Replace("\"", "\"\"", StringComparison.Ordinal)}\"\t\"{c}\"\n")));
            var schema = new Parquet.Schema.ParquetSchema(new Parquet.Schema.DataField<string>("prompt"), new Parquet.Schema.DataField<string>("completion"));
            using (FileStream stream = File.Create(parquet))
            {
                await Parquet.Serialization.ParquetSerializer.SerializeUntypedAsync([.. prompts.Zip(completions, (p, c) => (IDictionary<string, object?>)new Dictionary<string, object?> { ["prompt"] = p, ["completion"] = c })], schema, stream, cancellationToken: TestContext.Current.CancellationToken);
            }

            File.WriteAllText(text, "First paragraph\nof two lines.\n\n\nSecond one.\n");
            using TuningData lines = Read(string.Join('\n', prompts.Zip(completions, (p, c) => System.Text.Json.JsonSerializer.Serialize(new { prompt = p, completion = c }))));
            foreach (string path in (string[])[csv, tsv, parquet])
            {
                using TuningData data = TuningData.Read(path, Tokens, 2048);
                data.Rows.Select(row => string.Join(' ', row.Ids)).ShouldBe(lines.Rows.Select(row => string.Join(' ', row.Ids)), path);
            }

            using TuningData paragraphs = TuningData.Read(text, Tokens, 2048);
            paragraphs.Rows.Select(row => Tokens.Decode(row.Ids.Select(id => (int)id), skipSpecial: true)).ShouldBe(["First paragraph\nof two lines.", "Second one."]);
        }
        finally
        {
            Directory.Delete(folder, recursive: true);
        }
    }

    [Theory]
    [InlineData("a.csv", "prompt,completion\na,b\nc,d,e\n", "line 3")]
    [InlineData("a.csv", "prompt,completion\na,\"b\n", "line 2")]
    [InlineData("a.csv", "x,y\na,b\n", "its fields are x, y")]
    [InlineData("a.parquet", "no parquet", "not a Parquet file")]
    [InlineData("a.json", "[{\"text\": \"a\"}]", "begins with a list")]
    [InlineData("a.jsonl", "{\"prompt\": \"a\", \"completions\": [\"b\", \"c\"], \"scores\": [1]}", "line 1: there are 2 completions but not as many numbers")]
    [InlineData("a.jsonl", "{\"prompt\": \"a\", \"completion\": \"b\", \"label\": 3}", "line 1: 'label' must be true")]
    [InlineData("a.jsonl", "{\"prompt\": \"a\", \"chosen\": \" b\", \"rejected\": \" b\"}", "two answers that differ")]
    [InlineData("a.jsonl", "{\"messages\": [{\"role\": \"user\", \"content\": \"a\"}]}", "the last has 'user'")]
    [InlineData("a.jsonl", "{\"text\": \"a\"}\n{\"text\": \"a\\ud800\"}", "line 2 holds a text that is no Unicode")]
    [InlineData("a.jsonl", "{\"text\": \"\u00FF\"}", "line 1 holds a text that is no Unicode")]
    [InlineData("a.jsonl", "{\"text\": \"a\", \"text\": \"b\"}", "Duplicate property 'text'")]
    [InlineData("a.txt", "a\n\u00FF", "not UTF-8 text")]
    [InlineData("a.csv", "text\n\u00FF", "not UTF-8 text")]
    [InlineData("a.csv", "text,text\na,b", "two columns of the name 'text'")]
    public void AFileThatCannotBeLearnedIsOneSentence(string name, string content, string part)
    {
        string folder = Directory.CreateTempSubdirectory().FullName, path = Path.Combine(folder, name);
        try
        {
            // Bytes as characters, so that they need not be UTF-8.
            File.WriteAllText(path, content, System.Text.Encoding.Latin1);
            BadInputException error = Should.Throw<BadInputException>(() => TuningData.Read(path, Tokens, 2048));
            error.Message.ShouldContain(part);
            error.Message.ShouldStartWith(path);
        }
        finally
        {
            Directory.Delete(folder, recursive: true);
        }
    }

    [Fact]
    public void PackedSequencesKeepTheirBoundariesPositionsAndTokens()
    {
        string[] texts = [.. Enumerable.Range(1, 9).Select(n => string.Join(' ', Enumerable.Repeat("word", 3 * n)))];
        using TuningData data = Read(string.Join('\n', texts.Select(text => $"{{\"text\": \"{text}\"}}")));
        IReadOnlyList<TokenRow> packed = data.Packed(32);
        packed.Sum(row => row.Ids.Count).ShouldBe((int)data.Tokens);
        packed.Count.ShouldBeLessThan(9);
        packed.ShouldAllBe(row => row.Lengths.Sum() == row.Ids.Count && row.Ids.Count <= 32);
        // What is learned is the same, but for nothing more: a sequence's first token follows nothing.
        packed.Sum(row => row.Labels.Count(label => label != TokenScores.Ignored)).ShouldBe((int)data.Learned);
        using TokenBatch batch = TokenBatch.Padded(packed, 0);
        batch.Positions.max().item<long>().ShouldBe(data.Longest - 1);
    }

    [Fact]
    public void RowsBeyondWhatIsKeptAreReadAgain()
    {
        using TuningData data = Read(string.Join('\n', Enumerable.Range(0, 5000).Select(i => $"{{\"text\": \"number {i}\"}}")));
        data.Count.ShouldBe(5000);
        Tokens.Decode(data.Rows[4999].Ids.Select(id => (int)id), skipSpecial: true).ShouldBe("number 4999");
    }
}
