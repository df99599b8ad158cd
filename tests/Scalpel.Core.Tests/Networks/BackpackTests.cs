using System.Text.Json.Nodes;
using Scalpel.Checkpoints;
using Scalpel.Generation;
using Scalpel.Networks;
using TorchSharp;
using static TorchSharp.torch;

namespace Scalpel.Core.Tests.Networks;

public sealed class BackpackTests
{
    static DecoderConfig Config(int layers = 3, int width = 24, int senses = 4, int vocabulary = 50, int positions = 32, int heads = 4) => TinyModels.Config($$"""
        {"model_type": "backpack", "n_embd": {{width}}, "n_layer": {{layers}}, "n_head": {{heads}}, "n_positions": {{positions}}, "vocab_size": {{vocabulary}},
         "num_senses": {{senses}}, "initializer_range": 0.2, "architectures": ["BackpackGPT2LMHeadModel"]}
        """);

    static Decoder Tiny()
    {
        Decoder model = Decoder.Create(Config(), 3);
        using var noGrad = no_grad();
        foreach ((string name, Tensor value) in model.Parameters)
        {
            // Gains and biases that are not what they start as, so that a forgotten one shows.
            if (value.dim() == 1)
            {
                using var generator = new Generator((ulong)name.Length, CPU);
                using Tensor noise = randn(value.shape, generator: generator);
                value.add_(noise.mul_(0.3));
            }
        }

        return model;
    }

    [Fact]
    public void TheDefaultsAreThoseOfThePublicModel()
    {
        DecoderConfig config = TinyModels.Config("""{"model_type": "backpack", "n_embd": 768, "n_layer": 12, "n_head": 12}""");
        (config.Senses, config.SenseInner, config.MaxPositions, config.Vocabulary, config.ScaleByInverseLayer, config.TiedHead).ShouldBe((16, 3072, 512, 50264, true, true));
        Should.Throw<BadInputException>(() => TinyModels.Config("""{"model_type": "backpack", "n_embd": 8, "n_layer": 1, "n_head": 1, "num_senses": 9}""")).Message.ShouldContain("num_senses is 9");
    }

    [Fact]
    public void TheBaseOfTheTextWorldHasItsNumberOfParameters()
    {
        using Decoder model = Decoder.Create(Config(layers: 4, width: 128, senses: 8, vocabulary: 2048, positions: 128), 1);
        model.Parameters.Values.Sum(value => value.numel()).ShouldBe(1_828_736);
    }

    [Fact]
    public void LogitsAreTheWeighedSumOfSensesComputedStepByStep()
    {
        using var scope = NewDisposeScope();
        using var noGrad = no_grad();
        using Decoder model = Tiny();
        Tensor ids = TinyModels.Ids(model, 2, 9);
        TinyModels.Difference(model.Forward(ids), StepByStep(model, model.Parameters, ids)).ShouldBeLessThan(2e-5);
        using Taps taps = new Taps().Read("senses", "sense_weights");
        model.Forward(ids, taps: taps);
        taps["senses"].shape.ShouldBe([2, 4, 9, 24]);
        taps["sense_weights"].shape.ShouldBe([2, 4, 9, 9]);
        TinyModels.Difference(taps["sense_weights"].sum(-1), ones([2, 4, 9])).ShouldBeLessThan(1e-6);
        taps["sense_weights"].triu(1).abs().max().item<float>().ShouldBe(0);
    }

    [Fact]
    public void AChangeOfOneSenseOfOneWordChangesTheLogitsByItsWeights()
    {
        using var scope = NewDisposeScope();
        using var noGrad = no_grad();
        using Decoder model = Tiny();
        Tensor ids = TinyModels.Ids(model, 2, 9), delta = randn(24), before = model.Forward(ids);
        long word = ids[0, 3].item<long>();
        const int Sense = 2;
        using Taps weights = new Taps().Read("sense_weights");
        model.Forward(ids, taps: weights);
        Tensor here = ids.eq(word).to_type(ScalarType.Float32);                                            // [B, T]
        Tensor mass = (weights["sense_weights"].select(1, Sense) * here.unsqueeze(1)).sum(-1);             // [B, T]
        Tensor expected = mass.unsqueeze(-1) * model.Parameter("backpack.gpt2_model.wte.weight").matmul(delta);
        using Taps changed = new Taps().Edit("senses", senses => senses + here.view(2, 1, 9, 1) * (arange(4) == Sense).view(1, 4, 1, 1) * delta);
        TinyModels.Difference(model.Forward(ids, taps: changed) - before, expected).ShouldBeLessThan(2e-5);
        using Taps nothing = new Taps().Edit("senses", senses => senses + zeros(24));
        model.Forward(ids, taps: nothing).Equals(before).ShouldBeTrue();
    }

    [Fact]
    public void PaddingOnTheLeftAndACacheChangeNothing()
    {
        using var scope = NewDisposeScope();
        using var noGrad = no_grad();
        using Decoder model = Tiny();
        Tensor ids = TinyModels.Ids(model, 2, 9), whole = model.Forward(ids);
        Tensor mask = cat([zeros([2, 3], dtype: ScalarType.Int64), ones([2, 9], dtype: ScalarType.Int64)], 1);
        Tensor padded = model.Forward(cat([zeros([2, 3], dtype: ScalarType.Int64), ids], 1), mask);
        TinyModels.Difference(padded.narrow(1, 3, 9), whole).ShouldBeLessThan(2e-5);
        using KeyValueCache cache = KeyValueCache.For(model.Config, 2);
        Tensor parts = cat([model.Forward(ids.narrow(1, 0, 4), cache: cache), model.Forward(ids.narrow(1, 4, 1), cache: cache), model.Forward(ids.narrow(1, 5, 4), cache: cache)], 1);
        TinyModels.Difference(parts, whole).ShouldBeLessThan(2e-5);
        cache.Truncate(6);
        cache.Reorder([1, 0]);
        Tensor swapped = model.Forward(cat([ids.narrow(0, 1, 1), ids.narrow(0, 0, 1)], 0).narrow(1, 6, 3), cache: cache);
        TinyModels.Difference(swapped[0], whole[1].narrow(0, 6, 3)).ShouldBeLessThan(2e-5);
        using KeyValueCache layersOnly = new(model.Config.Layers);
        Should.Throw<BadInputException>(() => model.Forward(ids, cache: layersOnly)).Message.ShouldContain("make a cache for this model");
    }

    [Fact]
    public void GradientsAreThoseOfTheComputationStepByStep()
    {
        using var scope = NewDisposeScope();
        using Decoder model = Tiny();
        Tensor ids = TinyModels.Ids(model, 2, 9);
        model.RequireGrad(model.Parameters.Keys);
        model.Loss(ids, ids).Mean().backward();
        Dictionary<string, Tensor> leaves = model.Parameters.ToDictionary(pair => pair.Key, pair => pair.Value.detach().clone().requires_grad_(true));
        Tensor log = StepByStep(model, leaves, ids).narrow(1, 0, 8).log_softmax(-1);
        (-log.gather(2, ids.narrow(1, 1, 8).unsqueeze(-1)).mean()).backward();
        foreach (string name in model.Parameters.Keys)
        {
            TinyModels.Difference(model.Grad(name)!, leaves[name].grad!).ShouldBeLessThan(2e-5, name);
        }
    }

    [Fact]
    public void AFolderGivesBackTheSameModelAndItsOtherNamesOfTheEmbeddingAreKnown()
    {
        string folder = Path.Combine(Directory.CreateTempSubdirectory("scalpel ").FullName, "model");
        using var scope = NewDisposeScope();
        using var noGrad = no_grad();
        using Decoder model = Tiny();
        Tensor ids = TinyModels.Ids(model, 1, 7), expected = model.Forward(ids);
        model.Save(folder);
        Dictionary<string, Tensor> stored = model.Parameters.ToDictionary();
        Tensor words = model.Parameter("backpack.gpt2_model.wte.weight");
        stored["lm_head.weight"] = words.clone();
        stored["backpack.word_embeddings.weight"] = words.clone();
        stored["backpack.position_embeddings.weight"] = model.Parameter("backpack.gpt2_model.wpe.weight").clone();
        SafeTensorsWriter.Write(Path.Combine(folder, "model.safetensors"), stored, new Dictionary<string, string>());
        using Decoder again = Decoder.Load(folder);
        again.Forward(ids).Equals(expected).ShouldBeTrue();
        again.Warnings.ShouldBeEmpty();
        using Decoder half = Decoder.Load(folder, ScalarType.BFloat16);
        double spread = expected.std().ToDouble();
        TinyModels.Difference(half.Forward(ids).to_type(ScalarType.Float32), expected).ShouldBeLessThan(0.2 * Math.Max(1, spread));
        Directory.Delete(Path.GetDirectoryName(folder)!, recursive: true);
    }

    [Fact]
    public void ItGeneratesTheTokensOfItsLogits()
    {
        using var scope = NewDisposeScope();
        using var noGrad = no_grad();
        using Decoder model = Tiny();
        int[][] prompts = [[5, 9, 12], [7, 8, 30, 31, 4]];
        var generator = new TextGenerator(model, new GenerationOptions { MaxNewTokens = 6, EndIds = [], Temperature = 0 });
        int[][] made = new int[2][];
        foreach (GenerationStep step in generator.Steps(prompts))
        {
            for (int row = 0; row < 2; row++)
            {
                int[] text = [.. prompts[row], .. made[row] ?? []];
                Tensor logits = model.Forward(tensor([.. text.Select(id => (long)id)], [1, text.Length]), logits: LogitsAt.Last);
                step.Tokens[row].ShouldBe((int)logits.argmax(-1).item<long>());
                made[row] = [.. made[row] ?? [], step.Tokens[row]!.Value];
            }
        }
    }

    [Fact]
    public void WhatReadsTheResidualStreamByTheHeadIsRefused()
    {
        using var scope = NewDisposeScope();
        using Decoder model = Tiny();
        Should.Throw<BadInputException>(() => model.Unembed(zeros([1, 24]))).Message.ShouldContain("sums of the senses");
        Should.Throw<BadInputException>(() => model.LogitDirection(3)).Message.ShouldContain("sums of the senses");
        using Decoder other = TinyModels.Load("gpt2");
        using Taps senses = new Taps().Read("senses");
        Should.Throw<BadInputException>(() => other.Forward(TinyModels.Ids(other, 1, 3), taps: senses)).Message.ShouldContain("has no tap senses");
    }

    // The published formulas with plain tensor operations and nothing of the network's code.
    static Tensor StepByStep(Decoder model, IReadOnlyDictionary<string, Tensor> weights, Tensor ids)
    {
        int count = (int)ids.shape[1], width = model.Config.Width, senses = model.Config.Senses, heads = model.Config.Heads;
        Tensor Of(string name) => weights[$"backpack.{name}"];
        Tensor Conv(string name, Tensor x) => x.matmul(Of($"{name}.weight")) + Of($"{name}.bias");
        Tensor Normal(string name, Tensor x) => nn.functional.layer_norm(x, [width], Of($"{name}.weight"), Of($"{name}.bias"), 1e-5);
        Tensor Gelu(Tensor x) => 0.5 * x * (1 + (Math.Sqrt(2 / Math.PI) * (x + 0.044715 * x * x * x)).tanh());
        Tensor Feed(string name, Tensor x) => Conv($"{name}.c_proj", Gelu(Conv($"{name}.c_fc", x)));
        Tensor later = ones([count, count], dtype: ScalarType.Bool).triu(1);
        Tensor Attend(Tensor q, Tensor k, double scale) => (q.matmul(k.transpose(-1, -2)) * scale).masked_fill(later, double.NegativeInfinity).softmax(-1);

        Tensor words = Of("gpt2_model.wte.weight")[ids];
        Tensor x = words + Of("gpt2_model.wpe.weight").narrow(0, 0, count);
        for (int l = 0; l < model.Config.Layers; l++)
        {
            string block = $"gpt2_model.h.{l}";
            Tensor[] three = [.. Conv($"{block}.attn.c_attn", Normal($"{block}.ln_1", x)).chunk(3, -1).Select(part => part.unflatten(2, [heads, width / heads]).transpose(1, 2))];
            Tensor mixed = Attend(three[0], three[1], 1 / Math.Sqrt((double)width / heads) / (l + 1)).matmul(three[2]).transpose(1, 2).flatten(2);
            x = x + Conv($"{block}.attn.c_proj", mixed);
            x = x + Feed($"{block}.mlp", Normal($"{block}.ln_2", x));
        }

        Tensor states = Normal("gpt2_model.ln_f", x);
        Tensor residual = Normal("sense_network.ln", words) + words;
        residual = Feed("sense_network.block.mlp", Normal("sense_network.block.ln_1", residual)) + residual;
        Tensor vectors = Feed("sense_network.final_mlp", Normal("sense_network.block.ln_2", residual)).view(ids.shape[0], count, senses, width).transpose(1, 2);
        Tensor both = states.matmul(Of("sense_weight_net.c_attn.weight").t()) + Of("sense_weight_net.c_attn.bias");
        Tensor[] halves = [.. both.view(ids.shape[0], count, 2, senses, width / senses).unbind(2).Select(part => part.transpose(1, 2))];
        Tensor mixture = Attend(halves[0], halves[1], 1 / Math.Sqrt((double)width / senses));
        return mixture.matmul(vectors).sum(1).matmul(Of("gpt2_model.wte.weight").t());
    }
}
