using System.Security.Cryptography;
using System.Text.Json.Nodes;
using Scalpel.Checkpoints;
using Scalpel.Networks.Layers;
using TorchSharp;
using static TorchSharp.torch;

namespace Scalpel.Networks;

/// <summary>
/// A model in memory: plain tensors under the checkpoint's own names. Matrices that see the same input may share one
/// storage; each name is then a view into it, and a write to the view is seen by the next forward pass.
/// </summary>
public abstract class Network : IDisposable
{
    readonly Dictionary<string, Slot> slots = new(StringComparer.Ordinal);
    readonly Dictionary<string, Tensor> views = new(StringComparer.Ordinal);
    readonly List<Tensor> storages = [];

    /// <summary>Where a named tensor lies: rows <c>[start, start + length)</c> of a storage.</summary>
    readonly record struct Slot(Tensor Storage, long Start, long Length);

    /// <summary>A network with the type of its arithmetic and, if it was loaded, its checkpoint, which it owns.</summary>
    private protected Network(Checkpoint? source, ScalarType dtype)
    {
        Source = source;
        DType = dtype;
    }

    /// <summary>The checkpoint that it was loaded from, open and memory-mapped; null for a network made from a seed.</summary>
    public Checkpoint? Source { get; }

    /// <summary>The type of weights and arithmetic in memory; the checkpoint may store another.</summary>
    public ScalarType DType { get; }

    /// <summary>Content of config.json.</summary>
    public abstract JsonObject ConfigJson { get; }

    /// <summary>
    /// The tensors by the checkpoint's own names and in its own layout. Detached from autograd: ask <see cref="Grad"/> for
    /// gradients. Writing into one in place changes the network.
    /// </summary>
    public IReadOnlyDictionary<string, Tensor> Parameters => views;

    /// <summary>Oddities found while loading, as sentences.</summary>
    public IReadOnlyList<string> Warnings => warnings;

    /// <summary>The patches that are applied, oldest first.</summary>
    internal List<Patches.PatchScope> Patches { get; } = [];

    /// <summary>
    /// Whether tensors are bound for training: their gradients have memory, which backward passes may add to themselves, and
    /// nobody asks autograd for gradients another way.
    /// </summary>
    internal bool TrainsInPlace => Trainings > 0;

    internal int Trainings { get; private set; }

    /// <summary>A large buffer that training passes keep from step to step: memory of that size does not fit where others were.</summary>
    internal Tensor? TrainingMemory { get; set; }

    internal void BeginTraining() => Trainings++;

    internal void EndTraining()
    {
        if (--Trainings == 0)
        {
            TrainingMemory?.Dispose();
            TrainingMemory = null;
        }
    }

    /// <summary>Filled by the loader.</summary>
    private protected readonly List<string> warnings = [];

    /// <summary>SHA-256 of the configuration: of config.json's bytes when there is a checkpoint.</summary>
    public string ConfigHash => Source?.ConfigHash ?? Convert.ToHexStringLower(SHA256.HashData(System.Text.Encoding.UTF8.GetBytes(ConfigJson.ToJsonString())));

    /// <summary>A tensor by name.</summary>
    /// <exception cref="BadInputException">There is none of that name; the nearest names are listed.</exception>
    public Tensor Parameter(string name) => views.TryGetValue(name, out Tensor? view) ? view : throw NoSuch(name);

    /// <summary>SHA-256 of a tensor's bytes as the checkpoint stores them; of the bytes in memory when there is no checkpoint.</summary>
    public string Hash(string name) => Source is not null ? Source.Hash(name) : HashOfMemory(name);

    /// <summary>SHA-256 of a tensor's bytes in memory, which an edit changes.</summary>
    public string HashOfMemory(string name)
    {
        using Tensor contiguous = Parameter(name).contiguous();
        using var sha = IncrementalHash.CreateHash(HashAlgorithmName.SHA256);
        long length = contiguous.numel() * contiguous.element_size();
        const int Chunk = 1 << 22;
        for (long at = 0; at < length; at += Chunk)
        {
            sha.AppendData(StoredTensor.Bytes(contiguous, at, (int)Math.Min(Chunk, length - at)));
        }

        return Convert.ToHexStringLower(sha.GetHashAndReset());
    }

    /// <summary>Lets the next backward passes compute gradients for the named tensors (and for those that share their storage).</summary>
    /// <exception cref="BadInputException">No tensor has one of the names.</exception>
    public void RequireGrad(IEnumerable<string> names)
    {
        foreach (string name in names)
        {
            (slots.TryGetValue(name, out Slot slot) ? slot : throw NoSuch(name)).Storage.requires_grad_(true);
        }
    }

    /// <summary>Drops all gradients and computes none from now on.</summary>
    public void StopGrad()
    {
        ZeroGrad();
        foreach (Tensor storage in storages)
        {
            storage.requires_grad_(false);
        }
    }

    /// <summary>Drops all gradients.</summary>
    public void ZeroGrad()
    {
        foreach (Tensor storage in storages)
        {
            using Tensor? grad = storage.grad;
            if (grad is not null)
            {
                storage.grad = null;
            }
        }
    }

    /// <summary>The gradient of the last backward passes for a tensor, in the tensor's layout; null when none was computed.</summary>
    public Tensor? Grad(string name)
    {
        Slot slot = slots.TryGetValue(name, out Slot found) ? found : throw NoSuch(name);
        using Tensor? grad = slot.Storage.grad;
        return grad is null ? null : slot.Storage.dim() == 0 ? grad.alias() : grad.narrow(0, slot.Start, slot.Length);
    }

    /// <summary>Frees the tensors and closes the checkpoint.</summary>
    public void Dispose()
    {
        DisposeTensors();
        Source?.Dispose();
        GC.SuppressFinalize(this);
    }

    /// <summary>Opens a checkpoint for a network that then owns it; when the network cannot be made, it is closed again.</summary>
    private protected static T Open<T>(string path, Func<Checkpoint, T> load)
    {
        Checkpoint checkpoint = Checkpoint.Open(path);
        try
        {
            return load(checkpoint);
        }
        catch
        {
            checkpoint.Dispose();
            throw;
        }
    }

    /// <summary>Frees the tensors but leaves the checkpoint open.</summary>
    private protected void DisposeTensors()
    {
        foreach (Tensor tensor in views.Values.Concat(storages))
        {
            tensor.Dispose();
        }

        TrainingMemory?.Dispose();
        TrainingMemory = null;
        views.Clear();
        slots.Clear();
        storages.Clear();
    }

    /// <summary>The product whose weight holds the named matrix, and its rows there; null when no adaptable product does.</summary>
    internal (Linear Linear, long Start, long Length)? LinearOf(string name)
    {
        if (!slots.TryGetValue(name, out Slot slot))
        {
            return null;
        }

        Linear? linear = Linears.FirstOrDefault(candidate => ReferenceEquals(candidate.Weight, slot.Storage));
        return linear is null ? null : linear.Transposed ? (linear, 0, linear.Outputs) : (linear, slot.Start, slot.Length);
    }

    /// <summary>The products that adapters can join; a head comes last.</summary>
    private protected virtual IEnumerable<Linear> Linears => [];

    /// <summary>The tensor by which tokens are embedded, and the adapters at work on it; null for a network without one.</summary>
    internal virtual (string Name, List<IEmbeddingAdapter> Adapters)? TokenEmbedding => null;

    /// <summary>Name of the matrix that gives logits or scores, which "all linear layers" leaves out; null when it has none of its own.</summary>
    internal virtual string? HeadName => null;

    /// <summary>The storages that hold the named tensors, with all that lies in each.</summary>
    /// <exception cref="BadInputException">No tensor has one of the names.</exception>
    internal IReadOnlyList<(Tensor Tensor, IReadOnlyList<(string Name, long Start, long Length)> Parts)> Storages(IEnumerable<string> names)
    {
        HashSet<Tensor> wanted = new(ReferenceEqualityComparer.Instance);
        foreach (string name in names)
        {
            wanted.Add((slots.TryGetValue(name, out Slot slot) ? slot : throw NoSuch(name)).Storage);
        }

        return [.. storages.Where(wanted.Contains).Select(storage => (storage, (IReadOnlyList<(string, long, long)>)
            [.. slots.Where(pair => ReferenceEquals(pair.Value.Storage, storage)).OrderBy(pair => pair.Value.Start).Select(pair => (pair.Key, pair.Value.Start, pair.Value.Length))]))];
    }

    /// <summary>Lets a storage and the named views into it use another memory of the same shape and type.</summary>
    internal void Rebind(Tensor storage, Tensor memory)
    {
        using var noGrad = no_grad();
        storage.set_(memory);
        foreach ((string name, Slot slot) in slots)
        {
            if (ReferenceEquals(slot.Storage, storage))
            {
                using Tensor part = memory.dim() == 0 ? memory.alias() : memory.narrow(0, slot.Start, slot.Length);
                views[name].set_(part);
            }
        }
    }

    /// <summary>Makes a tensor that lives as long as the network and holds the named parts, one below the other along axis 0.</summary>
    internal Tensor Own(Tensor storage, params (string Name, long Length)[] parts)
    {
        Tensor owned = storage.DetachFromDisposeScope();
        storages.Add(owned);
        long start = 0;
        foreach ((string name, long length) in parts)
        {
            // Detached once more: a part remembers what it is a part of, and with it memory that a Rebind should free.
            using Tensor detached = owned.detach(), part = detached.dim() == 0 ? detached.alias() : detached.narrow(0, start, length);
            views.Add(name, part.detach().DetachFromDisposeScope());
            slots.Add(name, new Slot(owned, start, length));
            start += length;
        }

        return owned;
    }

    BadInputException NoSuch(string name) =>
        new($"{Source?.Location ?? GetType().Name} has no tensor {name}; the nearest are {string.Join(", ", Nearest.To(name, views.Keys, 3))}.");
}
