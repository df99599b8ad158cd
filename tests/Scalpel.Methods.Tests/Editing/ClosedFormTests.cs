using Scalpel.Methods.Editing;
using TorchSharp;
using static TorchSharp.torch;

namespace Scalpel.Methods.Tests.Editing;

public sealed class ClosedFormTests : IDisposable
{
    const int Width = 12;
    readonly DisposeScope scope = NewDisposeScope();
    readonly Generator generator = new(5, CPU);

    Tensor Draw(params long[] shape) => randn(shape, dtype: ScalarType.Float64, generator: generator);

    Tensor Covariance()
    {
        Tensor a = Draw(Width, 40);
        return a.matmul(a.t()) / 40;
    }

    static double Largest(Tensor tensor) => tensor.abs().max().ToDouble();

    [Fact]
    public void OneFactMovesItsKeyByTheShareOfShermanAndMorrison()
    {
        Tensor covariance = Covariance(), key = Draw(Width, 1), residual = Draw(7, 1);
        const double Lambda = 0.3;
        Tensor factor = ClosedForm.Factor(covariance)!;
        double s = key.t().matmul(ClosedForm.Solve(factor, key)).item<double>() / Lambda;

        Tensor moved = residual.matmul(ClosedForm.Adjusted(covariance, factor, key, Lambda).t()).matmul(key);

        Largest(moved - residual * (s / (1 + s))).ShouldBeLessThan(1e-8);
    }

    [Fact]
    public void AVanishingWeightOfTheCovarianceMovesTheKeyByAllThatIsMissing()
    {
        Tensor covariance = Covariance(), key = Draw(Width, 1), residual = Draw(7, 1);

        Tensor moved = residual.matmul(ClosedForm.Adjusted(covariance, ClosedForm.Factor(covariance), key, 1e-12).t()).matmul(key);

        Largest(moved - residual).ShouldBeLessThan(1e-8);
    }

    [Fact]
    public void KeysThatAreOrthogonalUnderTheInverseCovarianceAreSolvedAsIfAlone()
    {
        Tensor covariance = Covariance();
        Tensor factor = ClosedForm.Factor(covariance)!;
        (Tensor basis, _) = linalg.qr(Draw(Width, 3));
        Tensor keys = factor.matmul(basis);                                 // kᵢᵀ C⁻¹ kⱼ = δᵢⱼ

        Tensor together = ClosedForm.Adjusted(covariance, factor, keys, 0.5);

        for (int i = 0; i < 3; i++)
        {
            Largest(together.narrow(1, i, 1) - ClosedForm.Adjusted(covariance, factor, keys.narrow(1, i, 1), 0.5)).ShouldBeLessThan(1e-10);
        }
    }

    [Fact]
    public void TheSmallSystemAndTheWholeOneAgree()
    {
        Tensor covariance = Covariance(), keys = Draw(Width, 5);

        Largest(ClosedForm.Adjusted(covariance, ClosedForm.Factor(covariance), keys, 2) - ClosedForm.Adjusted(covariance, null, keys, 2)).ShouldBeLessThan(1e-10);
    }

    [Fact]
    public void AChangeInTheNullSpaceLeavesTheKeysOfTextAlone()
    {
        Tensor text = Draw(Width, 4), covariance = text.matmul(text.t()) / 4, keys = Draw(Width, 3);
        Tensor projection = ClosedForm.NullSpace(covariance, 1e-9);

        Tensor adjusted = ClosedForm.Projected(projection, null, keys, 0.1);

        Largest(projection.matmul(projection) - projection).ShouldBeLessThan(1e-10);
        Largest(adjusted.t().matmul(text)).ShouldBeLessThan(1e-10);
        Largest(adjusted - ClosedForm.Projected(projection, zeros_like(covariance), keys, 0.1)).ShouldBeLessThan(1e-10);
    }

    [Fact]
    public void ASingularMatrixHasNoFactor() => ClosedForm.Factor(zeros(3, 3)).ShouldBeNull();

    public void Dispose()
    {
        scope.Dispose();
        generator.Dispose();
    }
}
