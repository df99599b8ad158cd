using System.Text.Json.Nodes;
using Scalpel.Checkpoints;
using Scalpel.Networks;
using Scalpel.Networks.Layers;
using Scalpel.Tests;
using TorchSharp;
using static TorchSharp.torch;

namespace Scalpel.Core.Tests.Networks;

public sealed class DecoderTests
{
    public static TheoryData<string> Models => TinyModels.All;

    [Fact]
    public void TheBalanceOfExpertsCountsTheTokensOfTheMaskOnly()
    {
        using var scope = NewDisposeScope();
        Tensor logits = randn(2, 5, 4), mask = ones([2, 5], dtype: ScalarType.Bool);
        float all = LanguageModelLoss.Balance([logits, logits * 2], 2, null).item<float>();
        LanguageModelLoss.Balance([logits, logits * 2], 2, mask).item<float>().ShouldBe(all, 1e-6f);
        Tensor padded = cat([logits, randn(2, 3, 4)], 1), tokens = cat([mask, zeros([2, 3], dtype: ScalarType.Bool)], 1);
        LanguageModelLoss.Balance([padded, cat([logits * 2, randn(2, 3, 4)], 1)], 2, tokens).item<float>().ShouldBe(all, 1e-6f);
    }

    [Fact]
    public void ActivationsAndNormHaveTheirKnownValues()
    {
        using var scope = NewDisposeScope();
        Tensor one = ones([1]);
        Activation.GeluTanh.Apply(one).item<float>().ShouldBe(0.841192f, 1e-6f);
        Activation.Gelu.Apply(one).item<float>().ShouldBe(0.841345f, 1e-6f);
        Activation.Silu.Apply(one).item<float>().ShouldBe(0.731059f, 1e-6f);
        new Norm(NormKind.Rms, ones([4]), null, 1e-5).Apply(tensor(new float[] { 1, 2, 3, 4 })).data<float>().ToArray().ShouldBe([.365148f, .730296f, 1.095444f, 1.460593f], 1e-6);
    }

    [Theory]
    [InlineData(false, new[] { -1.984111f, 1.959901f, 2.462378f, 4.019800f })]
    [InlineData(true, new[] { -1.142640f, 1.922076f, 2.959851f, 4.029800f })]
    public void RotaryTurnsPairsByPositionTimesFrequency(bool interleaved, float[] expected)
    {
        using var scope = NewDisposeScope();
        var rotary = new RotaryConfig { Base = 1e4, Dimensions = 4, Interleaved = interleaved };
        (Tensor cos, Tensor sin) = rotary.Angles(tensor(new long[] { 1 }, [1, 1]), ScalarType.Float32);
        rotary.Turn(tensor(new float[] { 1, 2, 3, 4 }, [1, 1, 1, 4]), cos, sin).flatten().data<float>().ToArray().ShouldBe(expected, 1e-5);
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void RotaryProductsDependOnTheDifferenceOfPositionsOnly(bool interleaved)
    {
        using var scope = NewDisposeScope();
        var rotary = new RotaryConfig { Base = 1e4, Dimensions = 8, Interleaved = interleaved };
        Tensor q = randn([1, 1, 1, 8]), k = randn([1, 1, 1, 8]);
        Tensor At(Tensor x, long position)
        {
            (Tensor cos, Tensor sin) = rotary.Angles(tensor(new[] { position }, [1, 1]), ScalarType.Float32);
            return rotary.Turn(x, cos, sin);
        }

        float near = (At(q, 5) * At(k, 2)).sum().item<float>(), far = (At(q, 105) * At(k, 102)).sum().item<float>();
        far.ShouldBe(near, 1e-4f);
    }

    [Fact]
    public void Llama3ScalingKeepsShortWavesAndStretchesLongOnes()
    {
        double[] theta = new RotaryConfig { Base = 5e5, Dimensions = 128, Scaling = RotaryScaling.Llama3, Factor = 8, LowFrequencyFactor = 1, HighFrequencyFactor = 4, OriginalLength = 8192 }.Frequencies(1);
        theta[0].ShouldBe(1);
        theta[30].ShouldBe(1.3718936e-3, 1e-9);
        theta[40].ShouldBe(3.4281e-5, 1e-9);
    }

    [Fact]
    public void GroupedAttentionEqualsRepeatedKeyAndValueRows()
    {
        using var scope = NewDisposeScope();
        using Decoder grouped = Decoder.Create(TinyModels.Llama(), 1), full = Decoder.Create(TinyModels.Llama(keyHeads: 4), 2);
        foreach ((string name, Tensor value) in grouped.Parameters)
        {
            bool repeat = name.Contains("k_proj", StringComparison.Ordinal) || name.Contains("v_proj", StringComparison.Ordinal);
            full.Parameter(name).copy_(repeat ? value.view(2, 8, 32).repeat_interleave(2, 0).view(32, 32) : value);
        }

        Tensor ids = TinyModels.Ids(grouped, 2, 9);
        TinyModels.Difference(grouped.Forward(ids), full.Forward(ids)).ShouldBeLessThan(1e-6);
    }

    [Fact]
    public void EqualExpertsAreADenseMlpAndAllExpertsASoftmaxMixture()
    {
        using var scope = NewDisposeScope();
        using var noGrad = no_grad();
        using Decoder dense = Decoder.Create(TinyModels.Llama(), 1), mixture = Decoder.Create(Mixture(2), 2), all = Decoder.Create(Mixture(4), 2);
        foreach ((string name, Tensor value) in mixture.Parameters)
        {
            string of = name.Replace("block_sparse_moe.experts.", "mlp.", StringComparison.Ordinal);
            of = System.Text.RegularExpressions.Regex.Replace(of, @"mlp\.\d\.(w\d)", match => "mlp." + match.Groups[1].Value switch { "w1" => "gate_proj", "w2" => "down_proj", _ => "up_proj" });
            if (!name.EndsWith("block_sparse_moe.gate.weight", StringComparison.Ordinal))
            {
                value.copy_(dense.Parameter(of));
            }
        }

        Tensor ids = TinyModels.Ids(dense, 2, 9);
        TinyModels.Difference(dense.Forward(ids), mixture.Forward(ids)).ShouldBeLessThan(1e-5);
        using Taps taps = new Taps().Read("layers.0.moe.router_logits", "layers.0.moe.router_weights");
        all.Forward(ids, taps: taps);
        TinyModels.Difference(taps["layers.0.moe.router_logits"].softmax(-1), taps["layers.0.moe.router_weights"]).ShouldBeLessThan(1e-6);
    }

    [Fact]
    public void AWindowAsLongAsTheTextIsFullAttentionAndAWindowOfOneSeesItselfOnly()
    {
        using var scope = NewDisposeScope();
        using Decoder model = TinyModels.Load("mistral");
        Tensor ids = TinyModels.Ids(model, 1, 9);
        DecoderConfig config = model.Config;
        Tensor With(int? window)
        {
            model.Config = config with { Window = [.. config.Window.Select(_ => window)] };
            return model.Forward(ids);
        }

        TinyModels.Difference(With(9), With(null)).ShouldBeLessThan(1e-6);
        TinyModels.Difference(With(8), With(null)).ShouldBeGreaterThan(1e-4);
        Tensor alone = With(1);
        for (int t = 0; t < 9; t++)
        {
            TinyModels.Difference(model.Forward(ids.narrow(1, t, 1)), alone.narrow(1, t, 1)).ShouldBeLessThan(1e-5);
        }
    }

    [Fact]
    public void ALayerWithoutTheCausalMaskSeesLaterTokens()
    {
        using var scope = NewDisposeScope();
        using Decoder model = TinyModels.Load("llama");
        model.Config = model.Config with { Causal = [false, true] };
        using Taps taps = new Taps().Read("layers.0.attention.pattern", "layers.1.attention.pattern");
        model.Forward(TinyModels.Ids(model, 1, 5), taps: taps);
        taps["layers.0.attention.pattern"].min().item<float>().ShouldBeGreaterThan(0);
        taps["layers.1.attention.pattern"][0, 0, 0, 1].item<float>().ShouldBe(0);
    }

    [Theory]
    [MemberData(nameof(Models))]
    public void PaddingOnEitherSideDoesNotChangeLogits(string name)
    {
        using var scope = NewDisposeScope();
        using var noGrad = no_grad();
        using Decoder model = TinyModels.Load(name);
        Tensor ids = TinyModels.Ids(model, 1, 7), padding = full([1, 3], 1, dtype: ScalarType.Int64), one = ones([1, 7], dtype: ScalarType.Int64), zero = zeros([1, 3], dtype: ScalarType.Int64);
        Tensor plain = model.Forward(ids), left = model.Forward(cat([padding, ids], 1), cat([zero, one], 1)), right = model.Forward(cat([ids, padding], 1), cat([one, zero], 1));
        TinyModels.Difference(plain, left.narrow(1, 3, 7)).ShouldBeLessThan(2e-5);
        TinyModels.Difference(plain, right.narrow(1, 0, 7)).ShouldBeLessThan(2e-5);
    }

    [Theory]
    [MemberData(nameof(Models))]
    public void SavingAndLoadingGivesTheSameBits(string name)
    {
        using var scope = NewDisposeScope();
        using var noGrad = no_grad();
        string folder = Path.Combine(Path.GetTempPath(), $"scalpel {Guid.NewGuid():n}");
        using Decoder model = TinyModels.Load(name);
        try
        {
            model.Save(folder);
            using Decoder again = Decoder.Load(folder);
            Tensor ids = TinyModels.Ids(model, 1, 7);
            model.Forward(ids).Equals(again.Forward(ids)).ShouldBeTrue();
            again.Parameters.Keys.Order().ShouldBe(model.Parameters.Keys.Order());
            again.Parameters.ShouldAllBe(pair => pair.Value.Equals(model.Parameter(pair.Key)));
        }
        finally
        {
            Directory.Delete(folder, recursive: true);
        }
    }

    [Theory]
    [MemberData(nameof(Models))]
    public void GradientsAreThoseOfFiniteDifferences(string name)
    {
        using var scope = NewDisposeScope();
        using Decoder model = TinyModels.Load(name, ScalarType.Float64);
        Tensor ids = TinyModels.Ids(model, 2, 7);
        string[] names = [.. model.Parameters.Keys];
        model.RequireGrad(names);
        using (LanguageModelLoss loss = model.Loss(ids, ids))
        {
            loss.Mean().backward();
        }

        Dictionary<string, Tensor> gradients = names.ToDictionary(each => each, each => model.Grad(each)!.clone());
        model.StopGrad();
        using var noGrad = no_grad();
        var random = new Random(1);
        for (int i = 0; i < 20; i++)
        {
            string each = names[random.Next(names.Length)];
            Tensor flat = model.Parameter(each).view(-1);
            long at = random.NextInt64(flat.numel());
            double Loss(double step)
            {
                flat[at] += step;
                using LanguageModelLoss loss = model.Loss(ids, ids);
                double value = loss.Mean().ToDouble();
                flat[at] -= step;
                return value;
            }

            double numeric = (Loss(1e-4) - Loss(-1e-4)) / 2e-4, analytic = gradients[each].reshape(-1)[at].ToDouble();
            analytic.ShouldBe(numeric, 1e-6 + 1e-3 * Math.Abs(numeric), $"{each}[{at}]");
        }
    }

    [Fact]
    public void TheChunkedLossIsThatOfTheWholeLogits()
    {
        using var scope = NewDisposeScope();
        using Decoder model = TinyModels.Load("llama");
        Tensor ids = TinyModels.Ids(model, 2, 9), labels = ids.clone();
        labels[0, 3] = LanguageModelLoss.Ignored;
        labels[1, 8] = LanguageModelLoss.Ignored;
        using LanguageModelLoss chunked = model.Loss(ids, labels), whole = LanguageModelLoss.OfLogits(model.Forward(ids), labels);
        TinyModels.Difference(chunked.Tokens, whole.Tokens).ShouldBeLessThan(1e-6);
        chunked.Count.ShouldBe(14);
        chunked.Tokens[0, 2].item<float>().ShouldBe(0);
        chunked.CountPerSequence().data<long>().ToArray().ShouldBe([7, 7]);
        chunked.PerSequence().sum().item<float>().ShouldBe(chunked.Sum().item<float>(), 1e-4f);
        Should.Throw<BadInputException>(() => model.Loss(ids, full_like(ids, LanguageModelLoss.Ignored)).Mean());
        Should.Throw<BadInputException>(() => model.Loss(ids, labels.narrow(1, 0, 3)));
    }

    [Fact]
    public void TheLossFallsWhenAModelLearnsASequence()
    {
        using var scope = NewDisposeScope();
        using Decoder model = Decoder.Create(TinyModels.Llama(), 3);
        Tensor ids = TinyModels.Ids(model, 1, 12);
        string[] names = [.. model.Parameters.Keys];
        var losses = new List<double>();
        for (int step = 0; step < 30; step++)
        {
            model.ZeroGrad();
            model.RequireGrad(names);
            using LanguageModelLoss loss = model.Loss(ids, ids);
            Tensor mean = loss.Mean();
            mean.backward();
            losses.Add(mean.ToDouble());
            using var noGrad = no_grad();
            foreach (string name in names)
            {
                model.Parameter(name).sub_(model.Grad(name)! * 0.5);
            }
        }

        losses[^1].ShouldBeLessThan(losses[0] / 2);
    }

    [Fact]
    public void EqualSeedsGiveEqualModels()
    {
        using Decoder one = Decoder.Create(TinyModels.Llama(), 7), two = Decoder.Create(TinyModels.Llama(), 7), other = Decoder.Create(TinyModels.Llama(), 8);
        one.Parameters.ShouldAllBe(pair => pair.Value.Equals(two.Parameter(pair.Key)));
        one.Parameter("model.embed_tokens.weight").Equals(other.Parameter("model.embed_tokens.weight")).ShouldBeFalse();
    }

    [Fact]
    public void ANewModelHasTheDeviationThatItsConfigurationNames()
    {
        using Decoder usual = Decoder.Create(TinyModels.Llama(), 7), wide = Decoder.Create(TinyModels.Llama() with { InitializerRange = 0.1 }, 7);
        usual.Parameter("model.embed_tokens.weight").std().item<float>().ShouldBe(0.02f, 0.002f);
        foreach ((string name, Tensor value) in usual.Parameters.Where(pair => pair.Value.dim() == 2))
        {
            TinyModels.Difference(value * 5, wide.Parameter(name)).ShouldBeLessThan(1e-6, name);
        }
    }

    [Fact]
    public void SmolLM2HasItsKnownNumberOfParameters()
    {
        using Decoder model = Decoder.Load(Repository.SmolLM2, ScalarType.BFloat16);
        model.Parameters.Values.Sum(tensor => tensor.numel()).ShouldBe(134_515_008);
    }

    [Theory]
    [InlineData("""{"model_type": "llamma"}""", "'llamma'")]
    [InlineData("""{"hidden_size": 8}""", "model_type")]
    [InlineData("""{"model_type": "llama", "num_hidden_layers": 1}""", "hidden_size")]
    [InlineData("""{"model_type": "llama", "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 3, "intermediate_size": 8, "vocab_size": 9}""", "3 key/value heads")]
    [InlineData("""{"model_type": "llama", "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 8, "vocab_size": 9, "rope_scaling": {"rope_type": "longrope", "factor": 2}}""", "'longrope'")]
    [InlineData("""{"model_type": "llama", "hidden_size": "wide"}""", "hidden_size")]
    [InlineData("""{"model_type": "llama", "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 8, "vocab_size": 9, "initializer_range": -1}""", "initializer_range is -1")]
    [InlineData("""{"model_type": "llama", "hidden_size": 32, "num_hidden_layers": 2000000000, "num_attention_heads": 4}""", "2000000000 layers")]
    public void AConfigurationThatIsNotKnownIsRefusedByName(string json, string expected) =>
        Should.Throw<BadInputException>(() => TinyModels.Config(json)).Message.ShouldContain(expected);

    [Fact]
    public void ATensorOfAnotherShapeAndMissingTensorsAreNamed()
    {
        using var folder = new ChangedModel("llama");
        folder.Rewrite(config => config["hidden_size"] = 40);
        string wrong = Should.Throw<CheckpointException>(() => Decoder.Load(folder.Path)).Message;
        wrong.ShouldContain("model.embed_tokens.weight");
        wrong.ShouldContain("[67, 32]");
        wrong.ShouldContain("[67, 40]");
        folder.Rewrite(config => { config["hidden_size"] = 32; config["num_hidden_layers"] = 3; });
        string missing = Should.Throw<CheckpointException>(() => Decoder.Load(folder.Path)).Message;
        missing.ShouldContain("lacks 9 tensors");
        missing.ShouldContain("model.layers.2.self_attn.q_proj.weight");
    }

    [Fact]
    public void AConfigurationThatPromisesMoreThanTheCheckpointHoldsTakesNoMemory()
    {
        using var folder = new ChangedModel("llama");
        folder.Rewrite(config => config["vocab_size"] = 2_000_000_000);
        Should.Throw<CheckpointException>(() => Decoder.Load(folder.Path)).Message.ShouldContain("[2000000000, 32]");
        folder.Rewrite(config => { config["vocab_size"] = 67; config["num_hidden_layers"] = 4096; });
        Should.Throw<CheckpointException>(() => Decoder.Load(folder.Path)).Message.ShouldContain("lacks 36846 tensors");
    }

    [Theory]
    [InlineData("llama")]
    [InlineData("starcoder2")]
    public void ManyPositionsAtOnceGiveTheLogitsOfFew(string name)
    {
        using var scope = NewDisposeScope();
        using var noGrad = no_grad();
        using Decoder model = TinyModels.Load(name);
        Tensor ids = TinyModels.Ids(model, 1, 300), whole = model.Forward(ids);
        using var cache = new KeyValueCache(model.Config.Layers);
        Tensor pieces = cat([.. Enumerable.Range(0, 10).Select(i => model.Forward(ids.narrow(1, 30 * i, 30), cache: cache))], 1);
        TinyModels.Difference(whole, pieces).ShouldBeLessThan(1e-4);
        using Taps taps = new Taps().Read(TapsTests.TapsOf(model));
        model.Forward(ids, taps: taps).Equals(whole).ShouldBeTrue();
    }

    [Fact]
    public void TokensOutsideOfVocabularyOrPositionsAreRefused()
    {
        using var scope = NewDisposeScope();
        using Decoder model = TinyModels.Load("gpt2");
        Should.Throw<BadInputException>(() => model.Forward(tensor(new long[] { 1, 61 }, [1, 2]))).Message.ShouldContain("token id 61");
        Should.Throw<BadInputException>(() => model.Forward(tensor(new long[] { -1 }, [1, 1]))).Message.ShouldContain("token id -1");
        Should.Throw<BadInputException>(() => model.Forward(TinyModels.Ids(model, 1, model.Config.MaxPositions + 1))).Message.ShouldContain($"{model.Config.MaxPositions} positions");
        Should.Throw<BadInputException>(() => model.Forward(zeros([1, 0], dtype: ScalarType.Int64)));
    }

    [Fact]
    public void AClassifierIsNoLanguageModelAndTheReverse()
    {
        using var scope = NewDisposeScope();
        using Decoder classifier = Decoder.Load(TinyModels.PathOf("llama-classifier")), model = TinyModels.Load("llama");
        Tensor ids = TinyModels.Ids(model, 2, 5);
        classifier.Classify(ids).shape.ShouldBe([2, 3]);
        Should.Throw<BadInputException>(() => classifier.Loss(ids, ids)).Message.ShouldContain("classifier");
        Should.Throw<BadInputException>(() => model.Classify(ids)).Message.ShouldContain("no classifier");
    }

    static DecoderConfig Mixture(int perToken) => TinyModels.Config($$"""
        {"model_type": "mixtral", "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 48,
         "vocab_size": 50, "max_position_embeddings": 64, "num_local_experts": 4, "num_experts_per_tok": {{perToken}}, "rope_theta": 10000, "rms_norm_eps": 1e-6}
        """);

    /// <summary>A copy of a model's folder whose config.json can be changed.</summary>
    sealed class ChangedModel : IDisposable
    {
        public ChangedModel(string name)
        {
            foreach (string file in Directory.EnumerateFiles(TinyModels.PathOf(name)))
            {
                File.Copy(file, System.IO.Path.Combine(Path, System.IO.Path.GetFileName(file)));
            }
        }

        public string Path { get; } = Directory.CreateTempSubdirectory("scalpel ").FullName;

        public void Rewrite(Action<JsonObject> change)
        {
            string file = System.IO.Path.Combine(Path, "config.json");
            JsonObject config = JsonNode.Parse(File.ReadAllText(file))!.AsObject();
            change(config);
            File.WriteAllText(file, config.ToJsonString());
        }

        public void Dispose() => Directory.Delete(Path, recursive: true);
    }
}
