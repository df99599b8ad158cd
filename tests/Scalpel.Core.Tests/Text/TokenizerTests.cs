using Scalpel.Checkpoints;
using Scalpel.Checkpoints.Gguf;
using Scalpel.Text;
using Scalpel.Text.Files;

namespace Scalpel.Tests.Text;

public sealed class TokenizerTests
{
    [Fact]
    public void TheSmallRealModelsTokenizerReadsItsChatMarksAndSplitsDigits()
    {
        using Checkpoint checkpoint = Checkpoint.Open(Repository.SmolLM2);
        Tokenizer tokenizer = Tokenizer.Load(checkpoint);
        TokenizedText tokens = tokenizer.Encode("<|im_start|>user\nIs it 42?<|im_end|>");
        tokens.Ids[0].ShouldBe(1);
        tokens.Ids[^1].ShouldBe(2);
        tokens.Ids.Select(tokenizer.IdToToken).ShouldContain("4");
        tokenizer.Decode(tokens.Ids).ShouldBe("<|im_start|>user\nIs it 42?<|im_end|>");
        tokenizer.Decode(tokens.Ids, skipSpecial: true).ShouldBe("user\nIs it 42?");
        tokenizer.VocabularySize.ShouldBe(49152);
        tokenizer.EosIds.ShouldContain(2);
        tokenizer.ChatTemplateSource.ShouldNotBeNull();
    }

    [Fact]
    public void AnEmptyTokenInAByteLevelVocabularyIsCarriedAlong()
    {
        string file = Path.Combine(Directory.CreateTempSubdirectory("scalpel tokenizer ").FullName, "tokenizer.json");
        File.WriteAllText(file, """{"pre_tokenizer": {"type": "ByteLevel"}, "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "": 3, "ab": 2}, "merges": ["a b"]}}""");
        Tokenizer tokenizer = Tokenizer.Load(file);
        tokenizer.Encode("ab").Ids.ShouldBe([2]);
        tokenizer.IdToToken(3).ShouldBe("");
        Directory.Delete(Path.GetDirectoryName(file)!, recursive: true);
    }

    [Fact]
    public void AGgufFilesOwnVocabularyGivesTheSameTokens()
    {
        using GgufFile file = GgufFile.Open(Directory.GetFiles(Repository.SmolLM2, "*.gguf").Single());
        var inner = new Tokenizer(GgufVocabulary.Read(file));
        Tokenizer outer = Tokenizer.Load(Repository.SmolLM2);
        foreach (string text in (string[])["The Eiffel Tower is 324 m high.", "naïve 𝒜𝒷 世界 🙂", "<|im_start|>user\nhi<|im_end|>\n", "  two  spaces\n\n\tand tabs "])
        {
            inner.Encode(text).Ids.ShouldBe(outer.Encode(text).Ids);
            inner.Encode(text).Offsets.ShouldBe(outer.Encode(text).Offsets);
            inner.Decode(inner.Encode(text).Ids).ShouldBe(text);
        }
    }

    [Fact]
    public void StreamedTokensGiveTheWholeTextAndNeverHalfACharacter()
    {
        Tokenizer tokenizer = Tokenizer.Load(Repository.SmolLM2);
        const string Text = "Ünïcödé 🙂🙃 世界 — done";
        TokenDecoder decoder = tokenizer.StartDecoding();
        string streamed = "";
        foreach (int id in tokenizer.Encode(Text).Ids)
        {
            string part = decoder.Add(id);
            part.ShouldNotContain('\uFFFD');
            streamed += part;
        }

        (streamed + decoder.Finish()).ShouldBe(Text);
    }

    [Fact]
    public void ATokenizerWithMoreTokensThanTheModelHasRowsIsRefusedWithBothNumbers()
    {
        using Checkpoint checkpoint = Checkpoint.Open(Repository.SmolLM2);
        checkpoint.Config["vocab_size"] = 1000;
        Should.Throw<BadInputException>(() => Tokenizer.Load(checkpoint)).Message.ShouldSatisfyAllConditions(
            message => message.ShouldContain("49152"), message => message.ShouldContain("1000"));
    }
}
