using Scalpel.Checkpoints;
using Scalpel.Networks;
using TorchSharp;
using static TorchSharp.torch;

namespace Scalpel.Patches;

public sealed partial class Patch
{
    /// <summary>
    /// The patch for a network in memory. The identity of the base is that of the checkpoint behind the network; without
    /// one, of the tensors in memory.
    /// </summary>
    /// <exception cref="BadInputException">A tensor is not in the network, a delta does not fit, or there is none.</exception>
    public static Patch For(Network network, PatchInfo info, IReadOnlyDictionary<string, Delta> deltas)
    {
        if (network.Source is { } checkpoint)
        {
            return For(checkpoint, info, deltas);
        }

        var bases = deltas.Keys.ToDictionary(name => name, name => new BaseTensor(StoredTensor.TypeOf(network.Parameter(name).dtype), network.Parameter(name).shape, network.HashOfMemory(name)), StringComparer.Ordinal);
        return new Patch(info, network.ConfigHash, bases, deltas);
    }

    /// <summary>
    /// Applies the patch to a network in memory until the returned scope is disposed; then the touched tensors have their
    /// old bits again. Scopes may be disposed in any order. Additive kinds compute in the network's own type, from what is in
    /// memory; the others give the stored bits, widened to the network's type.
    /// </summary>
    /// <param name="network">The network.</param>
    /// <param name="scale">Factor of the additive deltas; others allow only 1.</param>
    /// <param name="force">Whether an additive patch may be applied to another base than its own.</param>
    /// <param name="provided">What the caller provides of <see cref="Requires"/>.</param>
    /// <exception cref="BadInputException">
    /// The patch was made for another base, changes no tensor, changes shapes (apply it to the files and load these), or
    /// requires something that is not provided. The network is as it was.
    /// </exception>
    public IDisposable ApplyTo(Network network, double scale = 1, bool force = false, IReadOnlyCollection<string>? provided = null)
    {
        CheckApplicable(scale, provided);
        CheckBase(network, force);
        var scope = new PatchScope(this, network, scale);
        scope.Apply();
        network.Patches.Add(scope);
        return scope;
    }

    /// <summary>Refuses a scale that the deltas do not have and an unmet requirement.</summary>
    internal void CheckApplicable(double scale, IReadOnlyCollection<string>? provided)
    {
        if (!double.IsFinite(scale))
        {
            throw new BadInputException($"The scale {scale} is no finite number.");
        }

        if (scale != 1 && Deltas.FirstOrDefault(pair => !pair.Value.IsAdditive) is { Key: not null } fixedDelta)
        {
            throw new BadInputException($"The patch changes {fixedDelta.Key} by {fixedDelta.Value.Kind}, which cannot be scaled by {scale}; apply it with scale 1.");
        }

        if (Requires.FirstOrDefault(name => provided is null || !provided.Contains(name)) is { } unmet)
        {
            throw new BadInputException($"The patch requires '{unmet}', without which it has not its effect; it is not applied.");
        }
    }

    void CheckBase(Network network, bool force)
    {
        if (Structure is not null || Undo is not null || Deltas.Values.Any(delta => delta is Append or Keep or Remove))
        {
            throw new BadInputException("The patch changes shapes or configuration, which a network in memory keeps; apply it to the model's files and load those.");
        }

        var missing = Deltas.Keys.Where(name => !network.Parameters.ContainsKey(name) || !BaseTensors.ContainsKey(name)).ToList();
        if (missing.Count > 0)
        {
            bool tied = missing[0] == "lm_head.weight" && network.ConfigJson["tie_word_embeddings"]?.GetValueKind() != System.Text.Json.JsonValueKind.False;
            throw new BadInputException(tied
                ? "The patch changes lm_head.weight, but this model uses its embedding as output head; change the embedding, or untie the two in the checkpoint first (tie_word_embeddings false)."
                : $"The network has no tensor {missing[0]}{More(missing.Count)}; the nearest are {string.Join(", ", Nearest.To(missing[0], network.Parameters.Keys, 3))}.");
        }

        foreach ((string name, BaseTensor target) in BaseTensors)
        {
            if (!network.Parameters[name].shape.SequenceEqual(target.Shape) || Deltas[name] is Replace replace && !replace.Contents.Shape.SequenceEqual(target.Shape))
            {
                throw new BadInputException($"The patch changes {name} of shape [{string.Join(", ", target.Shape)}], in the network it is [{string.Join(", ", network.Parameters[name].shape)}].");
            }
        }

        List<string> other = [.. BaseTensors.Where(pair => !IsBase(network, pair.Key, pair.Value)).Select(pair => pair.Key).Order(StringComparer.Ordinal)];
        if (other.Count > 0 && !(force && IsAdditive))
        {
            throw OtherBase("the network", other, force);
        }
    }

    internal static BadInputException OtherBase(string subject, IReadOnlyList<string> names, bool force) =>
        new($"The patch was made for another base than {subject}: {string.Join(", ", names.Take(8))}{(names.Count > 8 ? $" and {names.Count - 8} more" : "")} differ; " +
            (force ? "it is not of an additive kind, so it cannot be forced." : "get its own base, or add --force, which additive patches allow."));

    // An additive delta asks what the network was loaded from, so that patches stack; an exact one asks what is in memory.
    bool IsBase(Network network, string name, BaseTensor target)
    {
        bool loaded = network.Hash(name) == target.Hash;
        if (loaded && Deltas[name].IsAdditive)
        {
            return true;
        }

        PatchScope? first = network.Patches.Find(scope => scope.Touches(name));
        if (Deltas[name].IsAdditive && network.Source is null && first is not null)
        {
            return HashAs(network, name, first.Original(name), target) == target.Hash;
        }

        return loaded && first is null || HashAs(network, name, network.Parameters[name], target) == target.Hash;
    }

    static string? HashAs(Network network, string name, Tensor parameter, BaseTensor target)
    {
        if (target.Type.IsQuantised())
        {
            return null;
        }

        using var scope = NewDisposeScope();
        Tensor typed = parameter.to_type(StoredTensor.NaturalType(target.Type)), stored = network.Source?.ToFileOrder(name, typed) ?? typed;
        return StoredTensor.TypeOf(stored.dtype) == target.Type ? new Replace(stored).EditedHash : null;
    }

    static string More(int count) => count > 1 ? $" and {count - 1} more" : "";
}

/// <summary>A patch applied to a network in memory.</summary>
sealed class PatchScope(Patch patch, Network network, double scale) : IDisposable
{
    readonly Dictionary<string, Tensor> originals = new(StringComparer.Ordinal);
    bool disposed;

    public bool Touches(string name) => patch.Deltas.ContainsKey(name);

    public Tensor Original(string name) => originals[name];

    public void Apply()
    {
        bool changed = false;
        try
        {
            foreach ((string name, Delta delta) in patch.Deltas)
            {
                using var scope = NewDisposeScope();
                using var quiet = no_grad();
                Tensor parameter = network.Parameters[name];
                Tensor edited = Edited(name, delta, parameter);
                originals[name] = parameter.contiguous().clone().DetachFromDisposeScope();
                changed |= !SameBits(originals[name], edited);
                parameter.copy_(edited);
            }
        }
        catch
        {
            Restore();
            throw;
        }

        if (!changed)
        {
            Restore();
            throw new BadInputException("The patch changes no tensor of this network: every edited value rounds to what is there.");
        }
    }

    public void Dispose()
    {
        if (disposed)
        {
            return;
        }

        // Those applied later go first and come back afterwards, so that the order does not matter.
        int index = network.Patches.IndexOf(this);
        List<PatchScope> later = [.. network.Patches.Skip(index + 1).Where(scope => patch.Deltas.Keys.Any(scope.Touches))];
        if (later.FirstOrDefault(scope => patch.Deltas.Keys.Any(name => scope.Touches(name) && scope.IsBoundToState(name))) is { } bound)
        {
            throw new InvalidOperationException($"A patch of the method {bound.Method} was applied on top of this one and fits only there; dispose that scope first.");
        }

        disposed = true;
        network.Patches.RemoveAt(index);
        foreach (PatchScope scope in Enumerable.Reverse(later))
        {
            scope.Restore();
        }

        Restore();
        foreach (PatchScope scope in later)
        {
            scope.Apply();
        }
    }

    string Method => patch.Info.Method;

    bool IsBoundToState(string name) => patch.Deltas[name] is DenseXor;

    void Restore()
    {
        using var quiet = no_grad();
        foreach ((string name, Tensor original) in originals)
        {
            network.Parameters[name].copy_(original);
            original.Dispose();
        }

        originals.Clear();
    }

    Tensor Edited(string name, Delta delta, Tensor parameter)
    {
        if (delta is not (DenseXor or Replace))
        {
            // Numbers are computed in the type of the network.
            Tensor numbers = parameter.contiguous().clone();
            Edit(numbers, delta);
            return numbers;
        }

        // Bits are those of the stored type, in the order in which the file keeps them.
        BaseTensor target = patch.BaseTensors[name];
        Tensor stored;
        if (delta is Replace replace)
        {
            stored = Contents(replace);
        }
        else
        {
            Tensor typed = target.Type.IsQuantised() ? parameter : parameter.to_type(StoredTensor.NaturalType(target.Type));
            stored = (network.Source?.ToFileOrder(name, typed) ?? typed).contiguous().clone();
            Edit(stored, delta);
        }

        return (network.Source?.FromFileOrder(name, stored) ?? stored).to_type(parameter.dtype);
    }

    static Tensor Contents(Replace replace)
    {
        if (!replace.Contents.Type.IsQuantised())
        {
            return replace.Contents.ToTensor();
        }

        throw new BadInputException($"The patch replaces blocks of {replace.Contents.Type}, which only a file holds; apply it to the model's file.");
    }

    unsafe void Edit(Tensor tensor, Delta delta)
    {
        StorageType type = StoredTensor.TypeOf(tensor.dtype);
        byte* data = StoredTensor.Pointer(tensor);
        var target = new DeltaTarget(type, tensor.shape, (into, at) =>
        {
            if (!into.Overlaps(new Span<byte>(data + at, into.Length)))
            {
                new Span<byte>(data + at, into.Length).CopyTo(into);
            }
        });
        BlockWrite write = delta.Begin(target, scale);
        long blocks = (target.Length + Delta.BlockBytes - 1) / Delta.BlockBytes;
        Parallel.For(0, blocks, new ParallelOptions(), block =>
        {
            long at = block * Delta.BlockBytes;
            write(new Span<byte>(data + at, (int)Math.Min(Delta.BlockBytes, target.Length - at)), at);
        });
    }

    static bool SameBits(Tensor a, Tensor b)
    {
        using Tensor other = b.contiguous();
        long length = a.numel() * a.element_size();
        for (long at = 0; at < length; at += Delta.BlockBytes)
        {
            int count = (int)Math.Min(Delta.BlockBytes, length - at);
            if (!StoredTensor.Bytes(a, at, count).SequenceEqual(StoredTensor.Bytes(other, at, count)))
            {
                return false;
            }
        }

        return true;
    }
}
