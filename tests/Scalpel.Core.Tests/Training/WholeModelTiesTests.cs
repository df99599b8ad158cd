using CsCheck;
using Scalpel.Training;
using TorchSharp;
using static TorchSharp.torch;

namespace Scalpel.Tests.Training;

public sealed class WholeModelTiesTests
{
    [Fact]
    public void TensorByTensorGivesTheBitsOfTheWholeModelInOneVector()
    {
        Gen.Select(Gen.Int[1, 4], Gen.Int[1, 5], Gen.Double[0.05, 1], Gen.Int[0, 1_000_000]).Sample((parts, tensors, density, seed) =>
        {
            using var scope = NewDisposeScope();
            var random = new Random(seed);
            using var generator = new Generator((ulong)seed, CPU);
            long[] sizes = [.. Enumerable.Range(0, tensors).Select(_ => (long)random.Next(1, 60))];
            // Rounded, so that there are ties and cancellations; some tensors are left alone by a part.
            Tensor?[][] changes = [.. Enumerable.Range(0, parts).Select(_ => (Tensor?[])[.. sizes.Select(size => random.Next(4) == 0 ? null : (randn([size], generator: generator) * 4).round())])];
            Tensor whole = stack([.. changes.Select(part => cat([.. part.Select((tensor, i) => tensor ?? zeros(sizes[i]))]))]);
            Tensor wanted = OfficialTies.Merge(OfficialTies.Trim(whole, density), "dis-mean");
            WholeModelTies ties = WholeModelTies.Prepare(tensors, parts, (index, part) => changes[part][index]?.clone(), sizes, density, RunContext.WithSeed(0));
            long at = 0;
            for (int i = 0; i < tensors; i++, at += sizes[i - 1])
            {
                Tensor?[] given = [.. changes.Select(part => part[i])];
                Tensor merged = given.All(tensor => tensor is null) ? zeros(sizes[i]) : ties.Merge(given);
                merged.Equals(wanted.narrow(0, at, sizes[i])).ShouldBeTrue($"tensor {i}");
            }
        }, iter: 200, threads: 1);
    }
}
