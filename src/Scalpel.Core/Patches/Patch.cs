using System.Security.Cryptography;
using Scalpel.Checkpoints;
using Tensor = TorchSharp.torch.Tensor;

namespace Scalpel.Patches;

/// <summary>
/// The change of a model: a delta for each tensor that it touches, by the checkpoint's own names, with the identity of the
/// base, how it came to be, and the evidence for it. Immutable. A patch that was loaded keeps its file mapped until it is
/// disposed; one that was made holds managed memory only.
/// </summary>
public sealed partial class Patch : IDisposable
{
    /// <summary>What every patch file's name ends with.</summary>
    public const string Suffix = ".patch.safetensors";

    readonly SafeTensorsFile? file;

    /// <summary>Puts a patch together.</summary>
    /// <param name="info">How it came to be.</param>
    /// <param name="baseConfigHash">SHA-256 of the base's configuration.</param>
    /// <param name="baseTensors">The base's tensors that it touches; a tensor that it adds is missing here.</param>
    /// <param name="deltas">The changes by tensor name.</param>
    /// <exception cref="BadInputException">It changes nothing, or a delta does not fit its tensor.</exception>
    public Patch(PatchInfo info, string baseConfigHash, IReadOnlyDictionary<string, BaseTensor> baseTensors, IReadOnlyDictionary<string, Delta> deltas)
        : this(info, baseConfigHash, baseTensors, deltas, null, "The patch")
    {
    }

    Patch(PatchInfo info, string baseConfigHash, IReadOnlyDictionary<string, BaseTensor> baseTensors, IReadOnlyDictionary<string, Delta> deltas, SafeTensorsFile? file, string subject)
    {
        this.file = file;
        Info = info;
        BaseConfigHash = baseConfigHash;
        BaseTensors = baseTensors;
        Deltas = deltas;
        foreach ((string name, Delta delta) in deltas)
        {
            if (!baseTensors.TryGetValue(name, out BaseTensor? target))
            {
                if (delta is not Replace)
                {
                    throw new BadInputException($"{subject} changes {name} by {delta.Kind} but names no base tensor; only replace can add a tensor.");
                }
            }
            else if (delta.Mismatch(target) is { } mismatch)
            {
                throw new BadInputException($"{subject}, tensor {name}: the delta {mismatch}.");
            }
        }
    }

    /// <summary>How it came to be.</summary>
    public PatchInfo Info { get; private init; }

    /// <summary>SHA-256 of the base's configuration.</summary>
    public string BaseConfigHash { get; }

    /// <summary>The base's tensors that it touches, by name.</summary>
    public IReadOnlyDictionary<string, BaseTensor> BaseTensors { get; }

    /// <summary>The changes, by tensor name.</summary>
    public IReadOnlyDictionary<string, Delta> Deltas { get; }

    /// <summary>Changes of configuration and vocabulary; null when there are none.</summary>
    public PatchStructure? Structure { get; init; }

    /// <summary>What must be there for the patch to have its effect: a sampler, a hook. It is not applied without.</summary>
    public IReadOnlyList<string> Requires { get; init; } = [];

    /// <summary>The signature; null when it is not signed.</summary>
    public PatchSignature? Signature { get; private init; }

    /// <summary>Whether all of its deltas add: it can be scaled and forced on another base.</summary>
    public bool IsAdditive => Structure is null && Deltas.Values.All(delta => delta.IsAdditive);

    /// <summary>SHA-256 of all that the patch file says but the signature: what is signed.</summary>
    public string ContentHash => field ??= ComputeContentHash();

    internal UndoRecord? Undo { get; init; }

    /// <summary>The patch for a checkpoint, whose touched tensors are hashed.</summary>
    /// <exception cref="BadInputException">A tensor is not in the checkpoint, a delta does not fit, or there is none.</exception>
    public static Patch For(Checkpoint checkpoint, PatchInfo info, IReadOnlyDictionary<string, Delta> deltas)
    {
        var bases = new Dictionary<string, BaseTensor>(StringComparer.Ordinal);
        foreach ((string name, Delta delta) in deltas)
        {
            if (delta is Replace && !checkpoint.Tensors.ContainsKey(name))
            {
                continue;
            }

            TensorEntry entry = checkpoint.Entry(name);
            bases[name] = new BaseTensor(entry.Type, entry.Shape, checkpoint.Hash(name));
        }

        return new Patch(info, checkpoint.ConfigHash, bases, deltas);
    }

    /// <summary>The patch that gives tensors of a checkpoint new values; those that round to what is stored are left out.</summary>
    /// <param name="checkpoint">The base.</param>
    /// <param name="info">How it came to be.</param>
    /// <param name="changes">Names and new values, of the stored shapes; asked for one after the other and freed.</param>
    /// <exception cref="CheckFailedException">No stored bit changes.</exception>
    public static Patch Of(Checkpoint checkpoint, PatchInfo info, IEnumerable<(string Name, Tensor After)> changes)
    {
        var deltas = new Dictionary<string, Delta>(StringComparer.Ordinal);
        foreach ((string name, Tensor after) in changes)
        {
            using (after)
            {
                if (Delta.Between(checkpoint, name, after) is { } delta)
                {
                    deltas[name] = delta;
                }
            }
        }

        return deltas.Count > 0 ? For(checkpoint, info, deltas)
            : throw new CheckFailedException($"{info.Method} changes no stored bit of {checkpoint.Location}: every new value rounds to what is there.");
    }

    /// <summary>The same patch with other information, such as the evidence of an evaluation. The signature is dropped.</summary>
    public Patch With(PatchInfo info) => Copy(info, null);

    /// <summary>The same patch, signed.</summary>
    /// <param name="key">A private key on the curve P-256.</param>
    public Patch Sign(ECDsa key)
    {
        byte[] value = key.SignHash(Convert.FromHexString(ContentHash), DSASignatureFormat.IeeeP1363FixedFieldConcatenation);
        return Copy(Info, new PatchSignature(Fingerprint(key), Convert.ToBase64String(value)));
    }

    /// <summary>Checks the signature, offline.</summary>
    /// <param name="key">The public key that the reader trusts.</param>
    /// <exception cref="CheckFailedException">It is not signed, signed by another key, or changed since.</exception>
    public void VerifySignature(ECDsa key)
    {
        if (Signature is null)
        {
            throw new CheckFailedException("The patch is not signed.");
        }

        string fingerprint = Fingerprint(key);
        if (Signature.Signer != fingerprint)
        {
            throw new CheckFailedException($"The patch is signed by the key {Signature.Signer}, not by {fingerprint}.");
        }

        byte[] value = new byte[64];
        if (!Convert.TryFromBase64String(Signature.Value, value, out int length) || length != 64
            || !key.VerifyHash(Convert.FromHexString(ContentHash), value, DSASignatureFormat.IeeeP1363FixedFieldConcatenation))
        {
            throw new CheckFailedException("The signature does not hold: the patch was changed after it was signed.");
        }
    }

    /// <summary>Names of the touched tensors that <paramref name="checkpoint"/> lacks or holds with other bytes, type or shape.</summary>
    public IReadOnlyList<string> Differences(Checkpoint checkpoint) =>
    [
        .. Deltas.Keys.Where(name => BaseTensors.TryGetValue(name, out BaseTensor? target)
            ? !checkpoint.Tensors.TryGetValue(name, out TensorEntry? entry) || entry.Type != target.Type || !entry.Shape.SequenceEqual(target.Shape) || checkpoint.Hash(name) != target.Hash
            : checkpoint.Tensors.ContainsKey(name)).Order(StringComparer.Ordinal),
    ];

    /// <summary>A touched tensor after the change, in the type in which the checkpoint gives it.</summary>
    /// <param name="checkpoint">The base.</param>
    /// <param name="name">A name of <see cref="Deltas"/>.</param>
    /// <exception cref="BadInputException">The change is one of shape, or of bits that only a file holds.</exception>
    public Tensor Edited(Checkpoint checkpoint, string name)
    {
        Delta delta = Deltas[name];
        StorageType type = checkpoint.Entry(name).Type;
        if (delta is Append or Keep or Remove or SetRows or Replace || delta is DenseXor && type.IsQuantised())
        {
            throw new BadInputException($"The patch changes {name} by {delta.Kind}, which is done to a model's files; apply the patch and take the resulting folder.");
        }

        using Tensor before = checkpoint.Read(name);
        PatchTensor start = PatchTensor.Of(before);
        BlockWrite write = delta.Begin(new DeltaTarget(start.Type, start.Shape, (into, at) => start.Bytes(at, into.Length).CopyTo(into)), 1);
        Tensor edited = TorchSharp.torch.empty_like(before);
        for (long at = 0; at < start.Length; at += Delta.BlockBytes)
        {
            write(StoredTensor.Bytes(edited, at, (int)Math.Min(Delta.BlockBytes, start.Length - at)), at);
        }

        return edited;
    }

    /// <summary>Closes the file that it was loaded from, if it was.</summary>
    public void Dispose() => file?.Dispose();

    // The copy shares the mapping; disposing either closes it for both.
    Patch Copy(PatchInfo info, PatchSignature? signature) =>
        new(info, BaseConfigHash, BaseTensors, Deltas, file, "The patch") { Structure = Structure, Requires = Requires, Undo = Undo, Signature = signature };

    string ComputeContentHash()
    {
        using var sha = IncrementalHash.CreateHash(HashAlgorithmName.SHA256);
        using var stream = new HashStream(sha);
        PatchFile.Write(stream, this, signed: false);
        return Convert.ToHexStringLower(sha.GetHashAndReset());
    }

    static string Fingerprint(ECDsa key)
    {
        if (key.KeySize != 256)
        {
            throw new BadInputException($"The key has {key.KeySize} bits; an ECDSA key on the curve P-256 was expected (openssl ecparam -name prime256v1 -genkey -noout).");
        }

        return Convert.ToHexStringLower(SHA256.HashData(key.ExportSubjectPublicKeyInfo()));
    }

    /// <summary>A stream that only hashes what is written to it.</summary>
    sealed class HashStream(IncrementalHash sha) : Stream
    {
        public override bool CanRead => false;

        public override bool CanSeek => false;

        public override bool CanWrite => true;

        public override long Length => throw new NotSupportedException();

        public override long Position { get => throw new NotSupportedException(); set => throw new NotSupportedException(); }

        public override void Write(ReadOnlySpan<byte> buffer) => sha.AppendData(buffer);

        public override void Write(byte[] buffer, int offset, int count) => sha.AppendData(buffer, offset, count);

        public override void Flush() { }

        public override int Read(byte[] buffer, int offset, int count) => throw new NotSupportedException();

        public override long Seek(long offset, SeekOrigin origin) => throw new NotSupportedException();

        public override void SetLength(long value) => throw new NotSupportedException();
    }

    /// <summary>Writes the patch file: the same patch gives the same bytes. Atomic.</summary>
    /// <param name="path">A name that ends with <see cref="Suffix"/>.</param>
    /// <param name="overwrite">Whether an existing file may be replaced.</param>
    /// <param name="store">Where to write; the disk by default.</param>
    /// <exception cref="BadInputException">The name has another ending, the file exists, or it cannot be written.</exception>
    public void Save(string path, bool overwrite = false, FileStore? store = null)
    {
        if (!path.EndsWith(Suffix, StringComparison.Ordinal))
        {
            throw new BadInputException($"{path} does not end with {Suffix}, by which patches are told from models; choose such a name.");
        }

        if (!overwrite && File.Exists(path))
        {
            throw new BadInputException($"{path} exists already; choose another name or add --force to replace it.");
        }

        AtomicFile.Write(path, stream => PatchFile.Write(stream, this, signed: true), store);
    }

    /// <summary>Reads and checks a patch file. Its tensors stay on the disk until they are needed.</summary>
    /// <exception cref="BadInputException">It is missing, malformed, or not a patch.</exception>
    public static Patch Load(string path)
    {
        SafeTensorsFile file = SafeTensorsFile.Open(path);
        try
        {
            PatchFile.Contents read = PatchFile.Read(file);
            return new Patch(read.Info, read.BaseConfigHash, read.BaseTensors, read.Deltas, file, path)
            {
                Structure = read.Structure,
                Requires = read.Requires,
                Signature = read.Signature,
                Undo = read.Undo,
            };
        }
        catch
        {
            file.Dispose();
            throw;
        }
    }
}
