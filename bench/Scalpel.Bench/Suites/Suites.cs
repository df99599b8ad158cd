using BenchmarkDotNet.Attributes;
using Scalpel.Generation;
using Scalpel.Networks;
using Scalpel.Numerics;
using Scalpel.Patches;
using Scalpel.Text;
using TorchSharp;
using static TorchSharp.torch;

namespace Scalpel.Bench.Suites;

/// <summary>The product of a weight matrix with one vector: the whole of decoding.</summary>
[MemoryDiagnoser]
public class MatrixVectorSuite : IDisposable
{
    readonly WorkerPool pool = new(2);
    readonly Tensor input = randn(1, 576);
    Tensor? weight;
    Matrix matrix;

    /// <summary>Rows of the matrix.</summary>
    [Params(576, 3072, 49152)]
    public int Outputs { get; set; }

    /// <summary>Type of the weights.</summary>
    [Params(ScalarType.Float32, ScalarType.BFloat16)]
    public ScalarType Type { get; set; }

    /// <summary>Makes the matrix.</summary>
    [GlobalSetup]
    public void Prepare()
    {
        weight = randn(Outputs, 576).to_type(Type);
        matrix = new Matrix(weight);
    }

    /// <summary>One product.</summary>
    [Benchmark]
    public void Multiply() => MatrixVector.Multiply(input, matrix, pool).Dispose();

    /// <summary>Frees the tensors.</summary>
    [GlobalCleanup]
    public void Dispose()
    {
        weight?.Dispose();
        input.Dispose();
        pool.Dispose();
        GC.SuppressFinalize(this);
    }
}

/// <summary>Text to tokens and back.</summary>
[MemoryDiagnoser]
public class TokenizerSuite
{
    readonly Tokenizer tokenizer = Tokenizer.Load(Repository.SmolLM2);
    readonly string text = string.Concat(Enumerable.Repeat("The Eiffel Tower stands in Paris, and 1,234 visitors saw it on Tuesday. ", 50));

    /// <summary>3,600 characters.</summary>
    [Benchmark]
    public int Encode() => tokenizer.Encode(text).Ids.Length;
}

/// <summary>What a model does: a token after a cache, and a patch on and off.</summary>
public class ModelSuite : IDisposable
{
    readonly Decoder model = Decoder.Load(Repository.SmolLM2);
    readonly Patch patch;

    /// <summary>Loads the model and makes a patch of one matrix.</summary>
    public ModelSuite()
    {
        using var scope = NewDisposeScope();
        const string Name = "model.layers.5.mlp.down_proj.weight";
        patch = Patch.For(model, new PatchInfo { Method = "bench" }, new Dictionary<string, Delta> { [Name] = new DenseAdd(ones_like(model.Parameter(Name))) });
    }

    /// <summary>16 tokens greedily after a prompt of four.</summary>
    [Benchmark]
    public void Decode16() => new TextGenerator(model, new() { MaxNewTokens = 16, EndIds = [] }).Generate([[1, 2, 3, 4]]);

    /// <summary>A dense difference of [576, 1536], applied and taken back.</summary>
    [Benchmark]
    public void ApplyAndRevert() => patch.ApplyTo(model).Dispose();

    /// <summary>Frees the model.</summary>
    [GlobalCleanup]
    public void Dispose()
    {
        model.Dispose();
        GC.SuppressFinalize(this);
    }
}

/// <summary>One training step on 4 × 128 tokens.</summary>
public class TrainingSuite : IDisposable
{
    readonly Works.SmolLM2SftStep step = new();

    /// <summary>Forward, backward, clipping and AdamW.</summary>
    [Benchmark]
    public void Step() => step.Run();

    /// <summary>Frees the model.</summary>
    [GlobalCleanup]
    public void Dispose()
    {
        step.Dispose();
        GC.SuppressFinalize(this);
    }
}
