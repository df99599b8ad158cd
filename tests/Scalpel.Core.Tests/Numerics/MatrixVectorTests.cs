using Scalpel.Checkpoints;
using Scalpel.Numerics;
using TorchSharp;
using static TorchSharp.torch;

namespace Scalpel.Tests.Numerics;

public unsafe class MatrixVectorTests
{
    static readonly (int Outputs, int Inputs)[] Sizes = [(1, 1), (3, 5), (7, 31), (16, 32), (33, 64), (65, 127), (130, 129), (576, 96), (2500, 33), (40, 700)];

    public static TheoryData<VectorPath, ScalarType, bool> Cases()
    {
        var cases = new TheoryData<VectorPath, ScalarType, bool>();
        foreach (VectorPath path in Enum.GetValues<VectorPath>())
        {
            foreach (ScalarType type in new[] { ScalarType.Float32, ScalarType.BFloat16 })
            {
                cases.Add(path, type, false);
                cases.Add(path, type, true);
            }
        }

        return cases;
    }

    [Theory, MemberData(nameof(Cases))]
    public void AgreesWithLibtorchToTheBitsThatTheOrderOfSumsAllows(VectorPath path, ScalarType type, bool transposed)
    {
        using var pool = new WorkerPool(2);
        foreach ((int outputs, int inputs) in Sizes)
        {
            foreach (int batch in new[] { 1, 2, 3, 4, 8 })
            {
                using var scope = NewDisposeScope();
                Tensor stored = Random(transposed ? [inputs, outputs] : [outputs, inputs], type, outputs + inputs);
                Tensor bias = Random([outputs], type, inputs), x = Random([batch, inputs], ScalarType.Float32, batch);
                Tensor wide = (transposed ? stored.t() : stored).to_type(ScalarType.Float64), wideX = x.to_type(ScalarType.Float64);
                Tensor exact = wideX.mm(wide.t()) + bias.to_type(ScalarType.Float64);
                Tensor bound = (wideX.abs().mm(wide.abs().t()) + bias.to_type(ScalarType.Float64).abs()) * ((inputs + 1) * Math.Pow(2, -24)) + 1e-30;

                Tensor y = Product([new Matrix(stored, bias, transposed)], x, path, pool);
                Tensor excess = (y.to_type(ScalarType.Float64) - exact).abs() / bound;
                excess.max().ToDouble().ShouldBeLessThanOrEqualTo(1, $"{outputs}×{inputs}, batch {batch}");
            }
        }
    }

    [Theory, MemberData(nameof(Cases))]
    public void TheNumberOfThreadsDoesNotChangeABit(VectorPath path, ScalarType type, bool transposed)
    {
        using var scope = NewDisposeScope();
        using var pool = new WorkerPool(2);
        Tensor stored = Random(transposed ? [301, 1999] : [1999, 301], type, 1), x = Random([3, 301], ScalarType.Float32, 2);
        Matrix[] matrices = [new Matrix(stored, null, transposed)];
        Same(Product(matrices, x, path, pool), Product(matrices, x, path, null)).ShouldBeTrue();
    }

    [Theory, MemberData(nameof(Cases))]
    public void MatricesWithASharedInputGiveTheirResultsBesideEachOther(VectorPath path, ScalarType type, bool transposed)
    {
        using var scope = NewDisposeScope();
        using var pool = new WorkerPool(2);
        Tensor x = Random([2, 70], ScalarType.Float32, 2);
        Matrix[] matrices = [.. new[] { 90, 1, 200 }.Select(n => new Matrix(Random(transposed ? [70, n] : [n, 70], type, n), Random([n], type, n + 1), transposed))];
        Tensor together = Product(matrices, x, path, pool);
        Tensor apart = cat([.. matrices.Select(matrix => Product([matrix], x, path, null))], 1);
        Same(together, apart).ShouldBeTrue();
    }

    [Theory, MemberData(nameof(Cases))]
    public void NotANumberAndInfinityComeThrough(VectorPath path, ScalarType type, bool transposed)
    {
        using var scope = NewDisposeScope();
        for (int at = 0; at < 75; at += 37)
        {
            Tensor stored = ones(transposed ? [75, 6] : [6, 75], type), x = ones(1, 75);
            (transposed ? stored[at, 2] : stored[2, at]).fill_(double.PositiveInfinity);
            (transposed ? stored[at, 4] : stored[4, at]).fill_(double.NaN);
            float[] y = Product([new Matrix(stored, null, transposed)], x, path, null).data<float>().ToArray();
            y.ShouldBe([75, 75, float.PositiveInfinity, 75, float.NaN, 75]);
            x[0, at].fill_(0);
            Product([new Matrix(stored, null, transposed)], x, path, null)[0, 2].ToSingle().ShouldBe(float.NaN);
        }
    }

    [Theory, MemberData(nameof(Cases))]
    public void EmptyMatricesGiveTheBiasOrNothing(VectorPath path, ScalarType type, bool transposed)
    {
        using var scope = NewDisposeScope();
        using var pool = new WorkerPool(2);
        Tensor noInputs = zeros(transposed ? [0, 3] : [3, 0], type), bias = tensor([1f, 2f, 3f]);
        Product([new Matrix(noInputs, bias, transposed)], zeros(2, 0), path, pool).data<float>().ToArray().ShouldBe([1, 2, 3, 1, 2, 3]);
        Product([new Matrix(zeros(transposed ? [4, 0] : [0, 4], type), null, transposed)], ones(1, 4), path, pool).numel().ShouldBe(0);
    }

    [Theory, MemberData(nameof(Cases))]
    public void ViewsAtOddAddressesAreRead(VectorPath path, ScalarType type, bool transposed)
    {
        using var scope = NewDisposeScope();
        Tensor storage = Random([40, 51], type, 3), view = storage.narrow(0, 3, 20).narrow(1, 7, 37);
        Tensor x = Random([1, transposed ? 20 : 37], ScalarType.Float32, 4);
        using var copy = view.clone();
        Same(Product([new Matrix(view, null, transposed)], x, path, null), Product([new Matrix(copy.contiguous(), null, transposed)], x, path, null)).ShouldBeTrue();
    }

    [Fact]
    public void TensorsOfEitherTypeAreMultipliedAndRoundedOnce()
    {
        using var scope = NewDisposeScope();
        Tensor weight = Random([20, 16], ScalarType.BFloat16, 1), x = Random([2, 3, 16], ScalarType.BFloat16, 2);
        Tensor y = MatrixVector.Multiply(x, new Matrix(weight));
        y.shape.ShouldBe([2, 3, 20]);
        Tensor expected = x.to_type(ScalarType.Float64).matmul(weight.to_type(ScalarType.Float64).t());
        (y.to_type(ScalarType.Float64) - expected).abs().div(expected.abs() + 1e-3).max().ToDouble().ShouldBeLessThan(1 / 256.0);
    }

    [Fact]
    public void MatricesThatCannotBeReadAreRefused()
    {
        using var scope = NewDisposeScope();
        Should.Throw<ArgumentException>(() => new Matrix(zeros(3)));
        Should.Throw<ArgumentException>(() => new Matrix(zeros(3, 4).t()));
        Should.Throw<ArgumentException>(() => new Matrix(zeros([3, 4], ScalarType.Float64)));
        Should.Throw<ArgumentException>(() => new Matrix(zeros(3, 4), zeros(4)));
        Should.Throw<ArgumentException>(() => MatrixVector.Multiply(zeros(1, 3), new Matrix(zeros(3, 4))));
        Should.Throw<ArgumentException>(() => Product([new Matrix(zeros(3, 4)), new Matrix(zeros([3, 4], ScalarType.BFloat16))], zeros(1, 4), VectorPath.Plain, null));
    }

    static Tensor Product(Matrix[] matrices, Tensor x, VectorPath path, WorkerPool? pool)
    {
        Tensor y = full([x.shape[0], matrices.Sum(matrix => (long)matrix.Outputs)], float.NaN, ScalarType.Float32);
        MatrixVector.Multiply(matrices, (float*)StoredTensor.Pointer(x), (int)x.shape[0], (float*)StoredTensor.Pointer(y), pool, path);
        return y;
    }

    static bool Same(Tensor a, Tensor b) => a.bytes.SequenceEqual(b.bytes);

    static Tensor Random(long[] shape, ScalarType type, int seed)
    {
        using var generator = new Generator((ulong)seed, CPU);
        return randn(shape, generator: generator).to_type(type);
    }
}
