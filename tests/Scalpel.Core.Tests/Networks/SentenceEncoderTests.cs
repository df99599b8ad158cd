using Scalpel.Checkpoints;
using Scalpel.Networks;
using Scalpel.Tests;
using Scalpel.Text;
using TorchSharp;
using static TorchSharp.torch;

namespace Scalpel.Core.Tests.Networks;

public sealed class SentenceEncoderTests : IDisposable
{
    static readonly string[] Texts = ["a b c", "d", "a b c d e f g h"];
    readonly string folder = Directory.CreateTempSubdirectory("scalpel sentences ").FullName;

    public void Dispose() => Directory.Delete(folder, recursive: true);

    [Theory]
    [InlineData("bert-base-a")]
    [InlineData("roberta-base-a")]
    [InlineData("distilbert-base-a")]
    public void EachPoolingIsItsFormulaOverTheTokensOfTheText(string model)
    {
        WriteModel(model);
        foreach (string name in (string[])["cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"])
        {
            WriteModules($$"""{"pooling_mode": "{{name}}"}""");
            using SentenceEncoder encoder = SentenceEncoder.Load(folder);
            using var scope = NewDisposeScope();
            Tensor vectors = encoder.Encode(Texts, batch: 2);
            vectors.shape.ShouldBe([Texts.Length, encoder.Width]);
            for (int i = 0; i < Texts.Length; i++)
            {
                // Alone, so without padding.
                (Tensor ids, Tensor mask, Tensor types) = encoder.Batch(encoder.Tokenize([Texts[i]]));
                Tensor states = encoder.Encoder.Forward(ids, mask, types)[0];
                long count = states.shape[0];
                Tensor place = arange(1, count + 1, dtype: ScalarType.Float32).unsqueeze(1);
                Tensor expected = name switch
                {
                    "cls" => states[0],
                    "max" => states.amax([0]),
                    "mean" => states.mean([0]),
                    "mean_sqrt_len_tokens" => states.sum(0L) / Math.Sqrt(count),
                    "weightedmean" => (states * place).sum(0L) / place.sum(),
                    _ => states[count - 1],
                };
                TinyModels.Difference(vectors[i], expected).ShouldBeLessThan(1e-5, $"{name}, text {i}");
            }
        }
    }

    [Fact]
    public void OldFlagsAndSeveralPoolingsStandSideBySideInTheOrderOfTheFormat()
    {
        WriteModel("bert-base-a");
        WriteModules("""{"pooling_mode_mean_tokens": true, "pooling_mode_cls_token": true, "pooling_mode_max_tokens": false}""");
        using SentenceEncoder both = SentenceEncoder.Load(folder), cls = SentenceEncoder.Load(folder, pooling: "cls"), mean = SentenceEncoder.Load(folder, pooling: "mean");
        using Tensor all = both.Encode(Texts), first = cls.Encode(Texts), second = mean.Encode(Texts), expected = cat([first, second], 1);
        both.PoolingName.ShouldBe("cls+mean");
        both.Width.ShouldBe(64);
        TinyModels.Difference(all, expected).ShouldBe(0);
    }

    [Fact]
    public void ADenseLayerAndTheDivisionByTheLengthFollow()
    {
        WriteModel("bert-base-a");
        WriteModules("""{"pooling_mode": "mean"}""", "Dense", "Normalize");
        using Tensor weight = randn(5, 32), bias = randn(5);
        WriteDense("""{"in_features": 32, "out_features": 5, "bias": true, "activation_function": "torch.nn.modules.activation.Tanh"}""", weight, bias);
        using SentenceEncoder encoder = SentenceEncoder.Load(folder);
        using var scope = NewDisposeScope();
        (Tensor ids, Tensor mask, Tensor types) = encoder.Batch(encoder.Tokenize(Texts));
        Tensor expected = (encoder.Pool(encoder.Encoder.Forward(ids, mask, types), mask).matmul(weight.t()) + bias).tanh();
        expected = expected / expected.norm(1, keepdim: true, p: 2);
        Tensor vectors = encoder.Encode(Texts);
        encoder.Normalizes.ShouldBeTrue();
        vectors.shape.ShouldBe([3, 5]);
        TinyModels.Difference(vectors, expected).ShouldBeLessThan(1e-5);
    }

    [Fact]
    public void APromptComesBeforeTheTextAndNeedNotCountInThePooling()
    {
        WriteModel("bert-base-a");
        File.WriteAllText(Path.Combine(folder, "config_sentence_transformers.json"), """{"prompts": {"query": "g h ", "none": ""}, "default_prompt_name": "query"}""");
        WriteModules("""{"pooling_mode": "mean"}""");
        using (SentenceEncoder encoder = SentenceEncoder.Load(folder))
        {
            using Tensor prompted = encoder.Encode(["a b"]), plain = encoder.Encode(["g h a b"], prompt: "none"), bare = encoder.Encode(["a b"], prompt: "none");
            TinyModels.Difference(prompted, plain).ShouldBe(0);
            TinyModels.Difference(prompted, bare).ShouldBeGreaterThan(1e-3);
            Should.Throw<BadInputException>(() => encoder.Tokenize(["a"], "passage")).Message.ShouldContain("query, none");
        }

        WriteModules("""{"pooling_mode": "mean", "include_prompt": false}""");
        using (SentenceEncoder encoder = SentenceEncoder.Load(folder))
        {
            using var scope = NewDisposeScope();
            (Tensor ids, Tensor mask, Tensor types) = encoder.Batch(encoder.Tokenize(["a b"]));
            // [CLS] g h | a b [SEP]
            Tensor expected = encoder.Encoder.Forward(ids, mask, types)[0].narrow(0, 3, 3).mean([0]);
            TinyModels.Difference(encoder.Encode(["a b"])[0], expected).ShouldBeLessThan(1e-5);
        }
    }

    [Fact]
    public void TextsAreTrimmedCutAndIfAskedForBroughtToLowerCase()
    {
        WriteModel("roberta-base-a");
        WriteModules("""{"pooling_mode": "cls"}""");
        File.WriteAllText(Path.Combine(folder, "sentence_roberta_config.json"), """{"max_seq_length": 6, "do_lower_case": true}""");
        using SentenceEncoder encoder = SentenceEncoder.Load(folder);
        encoder.MaxTokens.ShouldBe(6);
        TokenizedText[] texts = [.. encoder.Tokenize(["  A b ", "a b c d e f g h", "a b"])];
        texts[0].Ids.ShouldBe(texts[2].Ids);
        texts[1].Count.ShouldBe(6);
        texts[1].Ids[^1].ShouldBe(texts[0].Ids[^1]);
    }

    [Fact]
    public void WithoutModulesItIsTheMeanAndSaysThatNothingWasDeclared()
    {
        WriteModel("bert-base-a");
        using SentenceEncoder encoder = SentenceEncoder.Load(folder);
        encoder.IsDeclared.ShouldBeFalse();
        encoder.PoolingName.ShouldBe("mean");
        encoder.Normalizes.ShouldBeFalse();
        encoder.MaxTokens.ShouldBe(40);
    }

    [Fact]
    public void TheRealEncoderPutsLikeMeaningsTogetherWhateverTheBatch()
    {
        using SentenceEncoder encoder = SentenceEncoder.Load(Path.Combine(Repository.Root, "assets", "models", "all-MiniLM-L6-v2"));
        string[] texts = ["A man is eating food.", "Someone has lunch.", "Interest rates were raised by a quarter of a percentage point.", "The central bank tightened monetary policy on Thursday."];
        using var scope = NewDisposeScope();
        Tensor vectors = encoder.Encode(texts), single = encoder.Encode(texts, batch: 1);
        TinyModels.Difference(vectors, single).ShouldBeLessThan(1e-6);
        float[,] cosine = new float[4, 4];
        for (int a = 0; a < 4; a++)
        {
            for (int b = 0; b < 4; b++)
            {
                cosine[a, b] = (vectors[a] * vectors[b]).sum().item<float>();
            }
        }

        Math.Min(cosine[0, 1], cosine[2, 3]).ShouldBeGreaterThan(Math.Max(Math.Max(cosine[0, 2], cosine[0, 3]), Math.Max(cosine[1, 2], cosine[1, 3])) + 0.2f);
    }

    [Fact]
    public void EncodingLeavesNoTensorBehind()
    {
        WriteModel("bert-base-a");
        WriteModules("""{"pooling_mode": "weightedmean"}""", "Normalize");
        using SentenceEncoder encoder = SentenceEncoder.Load(folder);
        encoder.Encode(Texts).Dispose();
        GC.Collect();
        GC.WaitForPendingFinalizers();
        long before = Tensor.TotalCount;
        encoder.Encode(Texts, batch: 1).Dispose();
        Tensor.TotalCount.ShouldBe(before);
    }

    [Theory]
    [InlineData("""[]""", "begins with Transformer, Pooling")]
    [InlineData("""{}""", "is not a JSON list")]
    [InlineData("""[1, 2]""", "not an object")]
    [InlineData("""[{"type": "sentence_transformers.models.Transformer", "path": ""}, {"type": "x.Pooling", "path": "../elsewhere"}]""", "not a folder beside")]
    [InlineData("""[{"type": "x.Transformer", "path": ""}, {"type": "x.Pooling", "path": "1_Pooling"}, {"type": "x.Chaos", "path": ""}]""", "'Chaos' is not known")]
    [InlineData("""[{"type": "x.Transformer", "path": ""}, {"type": "x.Pooling", "path": "nowhere"}]""", "nowhere")]
    public void AMalformedListOfModulesIsNamed(string modules, string finding)
    {
        WriteModel("bert-base-a");
        WriteModules("""{"pooling_mode": "mean"}""");
        File.WriteAllText(Path.Combine(folder, "modules.json"), modules);
        Should.Throw<BadInputException>(() => SentenceEncoder.Load(folder)).Message.ShouldContain(finding);
    }

    [Theory]
    [InlineData("""{"pooling_mode": "median"}""", "'median' is not known")]
    [InlineData("""{"pooling_mode_mean_tokens": false}""", "switches every pooling off")]
    [InlineData("""{"pooling_mode_mean_tokens": "yes"}""", "true or false")]
    public void AMalformedPoolingIsNamed(string pooling, string finding)
    {
        WriteModel("bert-base-a");
        WriteModules(pooling);
        Should.Throw<BadInputException>(() => SentenceEncoder.Load(folder)).Message.ShouldContain(finding);
    }

    [Theory]
    [InlineData("""{"in_features": 31, "out_features": 5}""", "31")]
    [InlineData("""{"in_features": 32, "out_features": 6}""", "linear.weight")]
    [InlineData("""{"in_features": 32, "out_features": 5, "activation_function": "os.system"}""", "'system' is not known")]
    public void ADenseLayerThatDoesNotFitIsNamed(string config, string finding)
    {
        WriteModel("bert-base-a");
        WriteModules("""{"pooling_mode": "mean"}""", "Dense");
        using Tensor weight = zeros(5, 32), bias = zeros(5);
        WriteDense(config, weight, bias);
        Should.Throw<BadInputException>(() => SentenceEncoder.Load(folder)).Message.ShouldContain(finding);
    }

    [Fact]
    public void NoTextAndUnknownPoolingsAreRefused()
    {
        WriteModel("bert-base-a");
        using SentenceEncoder encoder = SentenceEncoder.Load(folder);
        Should.Throw<BadInputException>(() => encoder.Encode([])).Message.ShouldContain("at least one");
        Should.Throw<BadInputException>(() => SentenceEncoder.Load(folder, pooling: "median")).Message.ShouldContain("weightedmean");
    }

    void WriteModel(string name)
    {
        foreach (string file in Directory.EnumerateFiles(Repository.Reference("encoders-vision", "_models", name)))
        {
            File.Copy(file, Path.Combine(folder, Path.GetFileName(file)));
        }

        (string begin, string pad, string end, string unknown) = name.StartsWith("roberta") ? ("<s>", "<pad>", "</s>", "<unk>") : ("[CLS]", "[PAD]", "[SEP]", "[UNK]");
        string[] special = name.StartsWith("roberta") ? [begin, pad, end, unknown] : [pad, unknown, begin, end];
        string[] tokens = [.. special, .. "abcdefgh".Select(letter => letter.ToString())];
        string vocabulary = string.Join(", ", tokens.Select((token, id) => $"\"{token}\": {id}"));
        string added = string.Join(", ", special.Select((token, id) => $$"""{"id": {{id}}, "content": "{{token}}", "special": true, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false}"""));
        int first = Array.IndexOf(tokens, begin), last = Array.IndexOf(tokens, end);
        File.WriteAllText(Path.Combine(folder, "tokenizer.json"), $$"""
            {"version": "1.0", "truncation": null, "padding": {"strategy": {"Fixed": 32}, "direction": "Right", "pad_to_multiple_of": null, "pad_id": {{Array.IndexOf(tokens, pad)}}, "pad_type_id": 0, "pad_token": "{{pad}}"},
             "added_tokens": [{{added}}], "normalizer": null, "pre_tokenizer": {"type": "WhitespaceSplit"}, "decoder": null,
             "post_processor": {"type": "TemplateProcessing",
               "single": [{"SpecialToken": {"id": "{{begin}}", "type_id": 0} }, {"Sequence": {"id": "A", "type_id": 0} }, {"SpecialToken": {"id": "{{end}}", "type_id": 0} }],
               "pair": [{"Sequence": {"id": "A", "type_id": 0} }, {"Sequence": {"id": "B", "type_id": 1} }],
               "special_tokens": {"{{begin}}": {"id": "{{begin}}", "ids": [{{first}}], "tokens": ["{{begin}}"]}, "{{end}}": {"id": "{{end}}", "ids": [{{last}}], "tokens": ["{{end}}"] } } },
             "model": {"type": "WordLevel", "unk_token": "{{unknown}}", "vocab": { {{vocabulary}} } } }
            """);
    }

    void WriteModules(string pooling, params string[] after)
    {
        string[] types = ["Transformer", "Pooling", .. after];
        string[] paths = ["", "1_Pooling", .. after.Select((type, i) => $"{i + 2}_{type}")];
        File.WriteAllText(Path.Combine(folder, "modules.json"), $"[{string.Join(", ", types.Zip(paths, (type, path) => $$"""{"type": "sentence_transformers.models.{{type}}", "path": "{{path}}"}"""))}]");
        Directory.CreateDirectory(Path.Combine(folder, "1_Pooling"));
        File.WriteAllText(Path.Combine(folder, "1_Pooling", "config.json"), pooling);
    }

    void WriteDense(string config, Tensor weight, Tensor bias)
    {
        Directory.CreateDirectory(Path.Combine(folder, "2_Dense"));
        File.WriteAllText(Path.Combine(folder, "2_Dense", "config.json"), config);
        SafeTensorsWriter.Write(Path.Combine(folder, "2_Dense", "model.safetensors"), new Dictionary<string, Tensor> { ["linear.weight"] = weight, ["linear.bias"] = bias });
    }
}
