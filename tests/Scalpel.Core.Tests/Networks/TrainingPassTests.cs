using Scalpel.Networks;
using Scalpel.Numerics;
using Scalpel.Training;
using TorchSharp;
using static TorchSharp.torch;

namespace Scalpel.Core.Tests.Networks;

public sealed class TrainingPassTests
{
    const string Qwen3 = """
        {"model_type": "qwen3", "vocab_size": 61, "hidden_size": 28, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
         "head_dim": 6, "intermediate_size": 37, "max_position_embeddings": 64, "rms_norm_eps": 1e-6, "rope_theta": 10000, "hidden_act": "silu", "tie_word_embeddings": true}
        """;

    static Decoder Create(string family, ScalarType type = ScalarType.Float32) => family switch
    {
        "llama" => Decoder.Create(TinyModels.Llama(), 5, type),
        _ => Decoder.Create(TinyModels.Config(Qwen3), 5, type),
    };

    static (Tensor Ids, Tensor Labels, Tensor Mask) Batch(Decoder model)
    {
        using var generator = new Generator(3, CPU);
        Tensor ids = randint(model.Config.Vocabulary, [3, 9], dtype: ScalarType.Int64, generator: generator), labels = ids.clone(), mask = ones([3, 9], dtype: ScalarType.Int64);
        mask[1, TensorIndex.Slice(6)] = 0;
        labels[1, TensorIndex.Slice(6)] = LanguageModelLoss.Ignored;
        labels[0, 2] = LanguageModelLoss.Ignored;
        return (ids, labels, mask);
    }

    // Loss and gradients by names, computed by the graph of tensor operations.
    static (double Loss, Dictionary<string, Tensor> Gradients) ByGraph(Decoder model, SupervisedOptions? options)
    {
        (Tensor ids, Tensor labels, Tensor mask) = Batch(model);
        model.RequireGrad(model.Parameters.Keys);
        Tensor loss = Supervised.Loss(model.Forward(ids, mask), labels, options).Loss;
        loss.backward();
        var gradients = model.Parameters.Keys.ToDictionary(name => name, name => model.Grad(name)!.clone());
        model.StopGrad();
        return (loss.ToDouble(), gradients);
    }

    [Theory]
    [InlineData("llama", false, false)]
    [InlineData("llama", true, false)]
    [InlineData("llama", false, true)]
    [InlineData("qwen3", false, false)]
    [InlineData("qwen3", true, false)]
    public void TheWrittenBackwardPassGivesTheGradientsOfTheGraph(string family, bool recomputes, bool dynamic)
    {
        using var scope = NewDisposeScope();
        using Decoder model = Create(family);
        var options = new SupervisedOptions { Dynamic = dynamic };
        (double loss, Dictionary<string, Tensor> expected) = ByGraph(model, options);
        (Tensor ids, Tensor labels, Tensor mask) = Batch(model);
        model.RecomputesLayers = recomputes;
        using var parameters = new TrainedParameters(TrainableTensor.Of(model, model.Parameters.Keys));
        for (int pass = 1; pass <= 2; pass++)
        {
            Tensor value = Supervised.Loss(model, ids, labels, mask, options: options).Loss;
            value.backward();
            value.ToDouble().ShouldBe(loss, 1e-5);
            foreach ((string name, Tensor gradient) in expected)
            {
                // The second pass adds to the first.
                Tensor ours = model.Grad(name)! / pass;
                ((ours - gradient).abs().max() / gradient.abs().max()).ToDouble().ShouldBeLessThan(2e-5, name);
            }
        }
    }

    [Fact]
    public void RecomputedLayersGiveTheSameGradientsToTheBit()
    {
        using var scope = NewDisposeScope();
        using Decoder model = Create("llama");
        (Tensor ids, Tensor labels, Tensor mask) = Batch(model);
        using var parameters = new TrainedParameters(TrainableTensor.Of(model, model.Parameters.Keys));
        Tensor[] kept = Gradients();
        model.RecomputesLayers = true;
        Tensor[] again = Gradients();
        kept.Zip(again).ShouldAllBe(pair => pair.First.Equals(pair.Second));

        Tensor[] Gradients()
        {
            parameters.ClearGradients();
            Supervised.Loss(model, ids, labels, mask).Loss.backward();
            return [.. parameters.Groups.Select(group => group.Gradients.clone())];
        }
    }

    [Theory]
    [InlineData(false, false)]
    [InlineData(true, false)]
    [InlineData(false, true)]
    public void AdaptersGetTheSameGradients(bool recomputes, bool magnitudes)
    {
        using var scope = NewDisposeScope();
        using Decoder model = Create("llama");
        (Tensor ids, Tensor labels, Tensor mask) = Batch(model);
        using Adapter adapter = Adapter.CreateLora(model, new LoraOptions { Rank = 2, Alpha = 4, Magnitudes = magnitudes }, 1);
        using IDisposable attached = adapter.AttachTo(model);
        foreach (Tensor tensor in adapter.Tensors.Values)
        {
            using var noGrad = no_grad();
            tensor.add_(0.01);
            tensor.requires_grad_(true);
        }

        Supervised.Loss(model.Forward(ids, mask), labels).Loss.backward();
        Dictionary<string, Tensor> expected = adapter.Tensors.ToDictionary(pair => pair.Key, pair => pair.Value.grad!.clone());
        model.RecomputesLayers = recomputes;
        using var parameters = new TrainedParameters(adapter.Trainable(model));
        Supervised.Loss(model, ids, labels, mask).Loss.backward();
        foreach ((string name, Tensor gradient) in expected)
        {
            ((adapter.Tensors[name].grad! - gradient).abs().max() / gradient.abs().max()).ToDouble().ShouldBeLessThan(2e-5, name);
        }
    }

    [Fact]
    public void BFloat16GradientsStayNearThoseOfFloat32()
    {
        using var scope = NewDisposeScope();
        using Decoder half = Create("llama", ScalarType.BFloat16), single = Create("llama");
        (_, Dictionary<string, Tensor> expected) = ByGraph(single, null);
        (Tensor ids, Tensor labels, Tensor mask) = Batch(half);
        using var parameters = new TrainedParameters(TrainableTensor.Of(half, half.Parameters.Keys));
        Supervised.Loss(half, ids, labels, mask).Loss.backward();
        foreach ((string name, Tensor gradient) in expected)
        {
            ((half.Grad(name)!.to_type(ScalarType.Float32) - gradient).norm() / gradient.norm()).ToDouble().ShouldBeLessThan(0.03, name);
        }
    }

    [Fact]
    public void AStepOfOneBFloat16PassIsThatOfItsGradientsInFloat32()
    {
        using var scope = NewDisposeScope();
        Tensor[] values = [.. new[] { 1, 2 }.Select(passes =>
        {
            using Decoder model = Create("llama", ScalarType.BFloat16);
            (Tensor ids, Tensor labels, Tensor mask) = Batch(model);
            using var parameters = new TrainedParameters(TrainableTensor.Of(model, model.Parameters.Keys), passes);
            using var optimizer = new AdamW(parameters.Groups);
            for (int step = 0; step < 3; step++)
            {
                parameters.ClearGradients();
                Supervised.Loss(model, ids, labels, mask).Loss.backward();
                parameters.CollectGradients();
                optimizer.Step(1e-2);
                parameters.Publish();
            }

            return cat([.. parameters.Groups.Select(group => group.Values)]);
        })];
        values[0].data<float>().ToArray().ShouldBe(values[1].data<float>().ToArray());
    }

    [Fact]
    public void ATrainingPassLeavesNoTensorBehind()
    {
        using Decoder model = Create("llama");
        using var parameters = new TrainedParameters(TrainableTensor.Of(model, model.Parameters.Keys));
        Step();
        long before = Tensor.TotalCount;
        for (int i = 0; i < 5; i++)
        {
            model.RecomputesLayers = i % 2 == 1;
            Step();
        }

        Tensor.TotalCount.ShouldBe(before);

        void Step()
        {
            using var scope = NewDisposeScope();
            (Tensor ids, Tensor labels, Tensor mask) = Batch(model);
            Supervised.Loss(model, ids, labels, mask).Loss.backward();
        }
    }

    [Theory]
    [InlineData(ScalarType.Float32, 2e-6)]
    [InlineData(ScalarType.BFloat16, 1e-2)]
    public void PassesOverRowsGiveWhatTensorOperationsGive(ScalarType type, double tolerance)
    {
        using var scope = NewDisposeScope();
        using var noGrad = no_grad();
        using var generator = new Generator(1, CPU);
        Tensor x = (randn([5, 43], generator: generator) * 3).to_type(type), gain = randn(43, generator: generator).to_type(type), both = (randn([5, 86], generator: generator) * 20).to_type(type);
        Tensor wide = x.to_type(ScalarType.Float64), norm = wide * (wide.square().mean([-1], keepdim: true) + 1e-5).rsqrt() * gain;
        Near(RowPasses.RmsNorm(x, gain, 1e-5), norm);
        Tensor gate = both.narrow(1, 0, 43).to_type(ScalarType.Float64);
        Near(RowPasses.SwiGlu(both), gate * gate.sigmoid() * both.narrow(1, 43, 43));
        float[] ours = new float[5];
        RowPasses.CrossEntropy(x.clone(), [3, 42, 0, 7, 40], null, ours);
        Near(tensor(ours), wide.log_softmax(-1).gather(1, tensor(new long[] { 3, 42, 0, 7, 40 }, [5, 1])).squeeze(1));

        void Near(Tensor got, Tensor expected) => ((got.to_type(ScalarType.Float64) - expected).abs() / (expected.abs() + 0.1)).max().ToDouble().ShouldBeLessThan(tolerance);
    }
}
