using CsCheck;
using Scalpel.Networks.Layers;
using Scalpel.Numerics;
using TorchSharp;
using static TorchSharp.torch;

namespace Scalpel.Tests.Numerics;

public class MatrixProductTests
{
    static readonly Gen<(int Rows, int Depth, int Columns, bool LeftTurned, bool RightTurned)> Shapes =
        Gen.Select(Gen.Frequency((1, Gen.Int[1, 30]), (1, Gen.Int[31, 150])), Gen.Frequency((9, Gen.Int[1, 130]), (1, Gen.Int[700, 1700])), Gen.Int[1, 300], Gen.Bool, Gen.Bool);

    // [rows, columns], stored as such or turned.
    static Tensor Random(long rows, long columns, bool turned, ulong seed)
    {
        using var generator = new Generator(seed, CPU);
        return turned ? randn([columns, rows], generator: generator).t() : randn([rows, columns], generator: generator);
    }

    [Fact]
    public void ProductsAreExactToTheBitsThatTheOrderOfSumsAllows() => Shapes.Sample(
        shape =>
        {
            using var scope = NewDisposeScope();
            Tensor left = Random(shape.Rows, shape.Depth, shape.LeftTurned, 1), right = Random(shape.Depth, shape.Columns, shape.RightTurned, 2);
            Tensor wideLeft = left.to_type(ScalarType.Float64), wideRight = right.to_type(ScalarType.Float64);
            Tensor exact = wideLeft.mm(wideRight), bound = (wideLeft.abs().mm(wideRight.abs()) * ((shape.Depth + 2) * Math.Pow(2, -24))) + 1e-30;
            Tensor frame = Random(shape.Rows, shape.Columns + 5, false, 3), result = frame.narrow(1, 2, shape.Columns), before = frame.clone();

            MatrixProduct.Of(left, right).sub(exact).abs().le(bound).all().ToBoolean().ShouldBeTrue();
            MatrixProduct.Into(result, left, right, add: true);
            Tensor sum = before.narrow(1, 2, shape.Columns);
            result.sub(sum + exact).abs().le(bound + sum.abs() * 1e-6 + exact.abs() * 1e-6).all().ToBoolean().ShouldBeTrue();
            MatrixProduct.Into(result, left, right, add: false);
            result.sub(exact).abs().le(bound).all().ToBoolean().ShouldBeTrue();

            // What stands beside the result is left alone.
            frame.narrow(1, 0, 2).Equals(before.narrow(1, 0, 2)).ShouldBeTrue();
            frame.narrow(1, shape.Columns + 2, 3).Equals(before.narrow(1, shape.Columns + 2, 3)).ShouldBeTrue();
        },
        iter: 120, threads: 1);

    [Fact]
    public void ARowDoesNotDependOnTheRowsBesideIt()
    {
        using var scope = NewDisposeScope();
        Tensor left = Random(1300, 800, false, 1), right = Random(800, 130, true, 2), some = left.narrow(0, 700, 100);
        if (MatrixProduct.Covers(some, right))
        {
            MatrixProduct.Of(some, right).Equals(MatrixProduct.Of(left, right).narrow(0, 700, 100)).ShouldBeTrue();
        }
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void TheGradientByTheInputOfAFrozenProductIsThatOfTheGraph(bool transposed)
    {
        using var scope = NewDisposeScope();
        Tensor weight = transposed ? Random(50, 70, false, 1) : Random(70, 50, false, 1), bias = Random(1, 70, false, 2).squeeze(0);
        Tensor above = Random(4 * 9, 70, false, 3).view(4, 9, 70), first = Random(4 * 9, 50, false, 4).view(4, 9, 50).requires_grad_(true), second = first.detach().clone().requires_grad_(true);
        Tensor y = new Linear(weight, bias, transposed).Product(first), expected = nn.functional.linear(second, transposed ? weight.t() : weight, bias);
        y.shape.ShouldBe(expected.shape);
        y.allclose(expected, rtol: 1e-5, atol: 1e-4).ShouldBeTrue();
        y.backward([above]);
        expected.backward([above]);
        first.grad!.allclose(second.grad!, rtol: 1e-5, atol: 1e-4).ShouldBeTrue();
    }

    [Fact]
    public void TheGradientByAWeightIsThatOfTheGraph()
    {
        using var scope = NewDisposeScope();
        Tensor weight = Random(70, 50, false, 1).requires_grad_(true), x = Random(40, 50, false, 4);
        new Linear(weight, null).Product(x).sum().backward();
        weight.grad!.allclose(x.sum(0L).expand(70, 50), rtol: 1e-5, atol: 1e-4).ShouldBeTrue();
    }
}
