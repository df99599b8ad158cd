using Scalpel.Networks;
using Scalpel.Training;
using TorchSharp;
using static TorchSharp.torch;

namespace Scalpel.Bench.Works;

/// <summary>One training step on 4 × 128 tokens with AdamW: of all weights, or of a LoRA adapter of rank 8 on all linear layers.</summary>
class SmolLM2SftStep : IWork, ITrainingTask
{
    readonly Decoder model;
    readonly Adapter? adapter;
    readonly IDisposable? attached;
    readonly TrainedParameters parameters;
    readonly Optimizer optimizer;
    readonly Tensor ids;

    public SmolLM2SftStep() : this(ScalarType.Float32, lora: false) { }

    protected SmolLM2SftStep(ScalarType type, bool lora)
    {
        model = Decoder.Load(Repository.SmolLM2, type);
        adapter = lora ? Adapter.CreateLora(model, new LoraOptions { Rank = 8, Alpha = 16 }, 0) : null;
        attached = adapter?.AttachTo(model);
        parameters = new TrainedParameters(adapter?.Trainable(model) ?? TrainableTensor.Of(model, model.Parameters.Keys));
        optimizer = new AdamW(parameters.Groups, new AdamWOptions());
        ids = tensor(Enumerable.Range(0, 512).Select(i => (long)(i * 7919 % 49152)).ToArray(), [4, 128]);
    }

    public static string Name => "smollm2_sft_step";

    public void Run()
    {
        using var scope = NewDisposeScope();
        parameters.ClearGradients();
        Loss(0, 0).Loss.backward();
        parameters.CollectGradients();
        GradientClipping.ByNorm(parameters.Groups, 1);
        optimizer.Step(1e-5);
        parameters.Publish();
    }

    public Objective Loss(long step, int part) => Supervised.Loss(model, ids, ids);

    public void Dispose()
    {
        attached?.Dispose();
        optimizer.Dispose();
        parameters.Dispose();
        adapter?.Dispose();
        ids.Dispose();
        model.Dispose();
    }
}

/// <summary>The step of all weights with products in bfloat16 and master values in float32.</summary>
sealed class SmolLM2SftStepBFloat16() : SmolLM2SftStep(ScalarType.BFloat16, lora: false), IWork
{
    public static new string Name => "smollm2_sft_step_bf16";
}

/// <summary>The step of an adapter.</summary>
sealed class SmolLM2LoraStep() : SmolLM2SftStep(ScalarType.Float32, lora: true), IWork
{
    public static new string Name => "smollm2_lora_step";
}
