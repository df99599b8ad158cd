using System.Runtime.InteropServices;
using TorchSharp;
using static TorchSharp.torch;

namespace Scalpel.Training;

/// <summary>
/// TIES as its authors wrote it (<see cref="OfficialTies"/>), tensor by tensor: changes are trimmed over the whole model, so
/// the threshold of each part, and the sign of most entries, are found in passes over all its tensors before any is merged.
/// One tensor is in memory at a time; the result is that of the whole model in one vector, to the bit.
/// </summary>
public sealed class WholeModelTies
{
    readonly float[] thresholds;
    readonly float most;

    WholeModelTies(float[] thresholds, float most) => (this.thresholds, this.most) = (thresholds, most);

    /// <summary>Finds thresholds and the sign of most entries.</summary>
    /// <param name="tensors">Tensors of the model.</param>
    /// <param name="parts">Models or patches that are merged.</param>
    /// <param name="change">The float32 change of a tensor by a part; null when it leaves the tensor as it is. It is freed.</param>
    /// <param name="sizes">Elements of each tensor.</param>
    /// <param name="density">Share of a part's entries that stay.</param>
    /// <param name="run">Progress and cancellation.</param>
    public static WholeModelTies Prepare(int tensors, int parts, Func<int, int, Tensor?> change, IReadOnlyList<long> sizes, double density, RunContext run)
    {
        long width = sizes.Sum(), drop = width - (long)(width * density);
        var thresholds = new float[parts];
        for (int part = 0; part < parts; part++)
        {
            thresholds[part] = drop <= 0 ? 0 : Smallest(drop, tensors, index => change(index, part), sizes, run);
        }

        var ties = new WholeModelTies(thresholds, 0);
        double signs = 0;
        for (int index = 0; index < tensors; index++)
        {
            run.Report("electing signs", index, tensors);
            using var scope = NewDisposeScope();
            if (ties.Trimmed([.. Enumerable.Range(0, parts).Select(part => change(index, part))]) is { } trimmed)
            {
                signs += trimmed.sum([0L]).sign().sum(ScalarType.Float64).ToDouble();
            }
        }

        return new WholeModelTies(thresholds, Math.Sign(signs));
    }

    /// <summary>The merged change of one tensor: of each entry the mean of the parts that agree with the elected sign.</summary>
    /// <param name="changes">The parts' changes; null for none. At least one is given.</param>
    public Tensor Merge(IReadOnlyList<Tensor?> changes)
    {
        using var scope = NewDisposeScope();
        Tensor trimmed = Trimmed(changes)!, sign = trimmed.sum([0L]).sign();
        sign = where(sign.eq(0), most, sign);
        Tensor agrees = where(sign.unsqueeze(0).gt(0), trimmed.gt(0), trimmed.lt(0)).to_type(trimmed.dtype);
        return ((trimmed * agrees).sum([0L]) / agrees.sum([0L]).clamp_min(1)).MoveToOuterDisposeScope();
    }

    Tensor? Trimmed(IReadOnlyList<Tensor?> changes)
    {
        Tensor? any = changes.FirstOrDefault(change => change is not null);
        return any is null ? null : stack([.. changes.Select((change, part) => change is null ? zeros_like(any) : change * change.abs().ge(thresholds[part]).to_type(change.dtype))]);
    }

    // The k-th smallest magnitude: the bits of floats above 0 are ordered as the floats, so their halves are counted in turn.
    static float Smallest(long k, int tensors, Func<int, Tensor?> change, IReadOnlyList<long> sizes, RunContext run)
    {
        uint high = Half(bits => bits >> 16, _ => true), low = Half(bits => bits & 0xFFFF, bits => bits >> 16 == high);
        return BitConverter.UInt32BitsToSingle(high << 16 | low);

        uint Half(Func<uint, uint> bucket, Func<uint, bool> counts)
        {
            long[] histogram = new long[1 << 16];
            for (int index = 0; index < tensors; index++)
            {
                run.Report("finding what is trimmed", index, tensors);
                using var scope = NewDisposeScope();
                if (change(index) is not { } tensor)
                {
                    histogram[0] += counts(0) ? sizes[index] : 0;
                    continue;
                }

                Tensor size = tensor.abs().contiguous();
                foreach (uint bits in MemoryMarshal.Cast<byte, uint>(size.bytes))
                {
                    if (counts(bits))
                    {
                        histogram[bucket(bits)]++;
                    }
                }
            }

            uint at = 0;
            while (k > histogram[at])
            {
                k -= histogram[at++];
            }

            return at;
        }
    }
}
