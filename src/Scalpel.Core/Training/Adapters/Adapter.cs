using System.Text.RegularExpressions;
using Scalpel.Networks;
using Scalpel.Networks.Layers;
using Scalpel.Patches;
using TorchSharp;
using static TorchSharp.torch;

namespace Scalpel.Training;

/// <summary>Options of a new LoRA or DoRA adapter; names and defaults as in PEFT.</summary>
public sealed record LoraOptions
{
    /// <summary>r. Default 8.</summary>
    public int Rank { get; init; } = 8;

    /// <summary>α; the change is scaled by α/r. Default 8.</summary>
    public double Alpha { get; init; } = 8;

    /// <summary>Whether the scale is α/√r. Default false.</summary>
    public bool RankStabilised { get; init; }

    /// <summary>DoRA: whether magnitude and direction are learned apart. Default false.</summary>
    public bool Magnitudes { get; init; }

    /// <summary>
    /// What is adapted: ends of module paths (<c>q_proj</c>), or <c>all-linear</c> for every linear layer but the head, or one
    /// regular expression for the whole path. Default all-linear.
    /// </summary>
    public IReadOnlyList<string> Targets { get; init; } = ["all-linear"];
}

/// <summary>
/// Small trainable tensors beside a frozen network: LoRA, rsLoRA, DoRA or (IA)³, with full copies of some tensors where a
/// file asks for them. Several may be attached to one network; each has a weight, and scales for the samples of a batch.
/// </summary>
public sealed class Adapter : IDisposable
{
    internal const string Prefix = "base_model.model.";
    readonly List<AdapterModule> modules;
    readonly Dictionary<string, (string BaseName, Tensor Tensor)> full;
    Dictionary<string, Tensor>? tensors;

    internal Adapter(IEnumerable<AdapterModule> modules, IReadOnlyDictionary<string, (string BaseName, Tensor Tensor)>? full = null)
    {
        this.modules = [.. modules];
        this.full = full is null ? [] : new(full, StringComparer.Ordinal);
        if (this.modules.Count == 0 && this.full.Count == 0)
        {
            throw new BadInputException("The adapter holds nothing that changes the network.");
        }

        foreach (AdapterModule module in this.modules)
        {
            foreach ((_, Tensor tensor) in module.Tensors)
            {
                tensor.DetachFromDisposeScope();
            }
        }

        foreach ((_, Tensor tensor) in this.full.Values)
        {
            tensor.DetachFromDisposeScope();
        }
    }

    /// <summary>The tensors by their names in a PEFT file.</summary>
    public IReadOnlyDictionary<string, Tensor> Tensors => tensors ??= modules
        .SelectMany(module => module.Tensors.Select(t => KeyValuePair.Create($"{Prefix}{module.Path}.{t.Suffix}", t.Tensor)))
        .Concat(full.Select(pair => KeyValuePair.Create(pair.Key, pair.Value.Tensor)))
        .ToDictionary(StringComparer.Ordinal);

    /// <summary>
    /// The tensors to train while the adapter is attached to <paramref name="network"/>. Weight decay acts on all but biases.
    /// Tensors that the adapter holds whole train in the network's place for them, and come back when it is detached.
    /// </summary>
    public IReadOnlyList<TrainableTensor> Trainable(Network network) =>
    [
        .. modules.SelectMany(module => module.Tensors.Select(t => new TrainableTensor($"{Prefix}{module.Path}.{t.Suffix}", t.Tensor, !t.Suffix.EndsWith("bias", StringComparison.Ordinal)) { Network = network })),
        .. full.Count == 0 ? [] : TrainableTensor.Of(network, full.Values.Select(item => item.BaseName)),
    ];

    /// <summary>Factor on what the adapter adds. Default 1.</summary>
    public double Weight { get; private set; } = 1;

    /// <summary>One factor for each sample of the batch, [B], on what the adapter changes: 0 leaves the sample to the bare network; null for none. Tensors that the adapter holds whole act on all samples.</summary>
    public Tensor? SampleScales { get; set; }

    internal IReadOnlyList<AdapterModule> Modules => modules;

    /// <summary>A new LoRA or DoRA adapter that changes nothing yet: A random (Kaiming uniform, a = √5), B = 0, magnitudes those of the weights.</summary>
    /// <exception cref="BadInputException">No layer matches a target, or the rank is larger than a matrix.</exception>
    public static Adapter CreateLora(Network network, LoraOptions options, ulong seed)
    {
        if (options.Rank < 1)
        {
            throw new BadInputException($"The rank is {options.Rank}; it must be at least 1.");
        }

        if (!double.IsFinite(options.Alpha) || options.Alpha == 0)
        {
            throw new BadInputException($"Alpha is {options.Alpha}, by which the adapter would change nothing that can be computed; take a number above 0, such as the rank or twice the rank.");
        }

        using var scope = NewDisposeScope();
        using var noGrad = no_grad();
        using var generator = new Generator(seed, CPU);
        double scale = options.Alpha / (options.RankStabilised ? Math.Sqrt(options.Rank) : options.Rank);
        List<AdapterModule> modules = [];
        foreach (string path in Targets(network, options.Targets))
        {
            Tensor weight = Oriented(network, path, out _);
            (long outputs, long inputs) = (weight.shape[0], weight.shape[1]);
            if (options.Rank > Math.Min(outputs, inputs))
            {
                throw new BadInputException($"The rank {options.Rank} is larger than the matrix {path} ([{outputs}, {inputs}]) allows; take at most {Math.Min(outputs, inputs)}.");
            }

            Tensor down = rand([options.Rank, inputs], generator: generator).mul_(2).sub_(1).div_(Math.Sqrt(inputs));
            modules.Add(new LoraModule(path, down, zeros([outputs, options.Rank]), scale, options.Magnitudes ? weight.to_type(ScalarType.Float32).norm(1) : null));
        }

        return new Adapter(modules);
    }

    /// <summary>A new (IA)³ adapter at the places of its paper: keys and values by their outputs, the second matrix of each feed-forward block by its inputs.</summary>
    /// <param name="model">The decoder. Where queries, keys and values are one tensor all of them are scaled, as in PEFT.</param>
    public static Adapter CreateIa3(Decoder model)
    {
        string Path(Role role, int layer, int? expert = null) => model.Role(role, layer, expert).TensorName[..^".weight".Length];
        IEnumerable<int> layers = Enumerable.Range(0, model.Config.Layers);
        return CreateIa3(model, [.. layers.SelectMany(layer => (string[])[Path(Role.Key, layer), Path(Role.Value, layer)]).Distinct()],
            [.. layers.SelectMany(layer => model.Config.Experts == 0 ? [Path(Role.Down, layer)] : Enumerable.Range(0, model.Config.Experts).Select(expert => Path(Role.Down, layer, expert)))]);
    }

    /// <summary>A new (IA)³ adapter: all factors 1.</summary>
    /// <param name="network">The network.</param>
    /// <param name="targets">Ends of module paths whose outputs are scaled.</param>
    /// <param name="feedForward">Ends of module paths whose inputs are scaled instead.</param>
    /// <exception cref="BadInputException">No layer matches a target.</exception>
    public static Adapter CreateIa3(Network network, IReadOnlyList<string> targets, IReadOnlyList<string> feedForward)
    {
        using var scope = NewDisposeScope();
        return new Adapter([.. Targets(network, [.. targets, .. feedForward]).Select(path =>
        {
            Tensor weight = Oriented(network, path, out _);
            bool onInput = feedForward.Any(end => EndsWith(path, end));
            return new Ia3Module(path, onInput ? ones([1, weight.shape[1]]) : ones([weight.shape[0], 1]), onInput);
        })]);
    }

    /// <summary>Puts the adapter to work on a network until the result is disposed.</summary>
    /// <param name="network">The network, whose tensors stay as they are, but for those that the adapter holds whole.</param>
    /// <param name="weight">Factor on what the adapter adds. Default 1.</param>
    /// <exception cref="BadInputException">The network lacks a module, or a shape differs.</exception>
    public IDisposable AttachTo(Network network, double weight = 1)
    {
        Weight = weight;
        var attachment = new Attachment();
        try
        {
            foreach (IGrouping<Linear, (AdapterModule Module, Linear Linear, long Start, long Length)> group in modules
                .Where(module => module is not EmbeddingLoraModule)
                .Select(module =>
                {
                    (Linear linear, long start, long length) = network.LinearOf($"{module.Path}.weight")
                        ?? throw new BadInputException($"The adapter changes {module.Path}, which is no linear layer of this network.");
                    Check(module, linear.Inputs, length);
                    return (module, linear, start, length);
                })
                .GroupBy(item => item.linear, ReferenceEqualityComparer.Instance as IEqualityComparer<Linear>))
            {
                var product = new AdaptedProduct(this, [.. group.Select(item => (item.Module, item.Start, item.Length))]);
                group.Key.Adapters.Add(product);
                Linear linear = group.Key;
                attachment.OnDispose(() => linear.Adapters.Remove(product));
            }

            foreach (EmbeddingLoraModule module in modules.OfType<EmbeddingLoraModule>())
            {
                if (network.TokenEmbedding is not { } embedding || embedding.Name != $"{module.Path}.weight")
                {
                    throw new BadInputException($"The adapter changes {module.Path}, which is not the embedding of this network.");
                }

                Tensor table = network.Parameter(embedding.Name);
                if (module.Down.shape[1] != table.shape[0] || module.Up.shape[0] != table.shape[1])
                {
                    throw new BadInputException($"The adapter's embedding is for {module.Down.shape[1]} tokens of width {module.Up.shape[0]}, the network's has {table.shape[0]} of width {table.shape[1]}.");
                }

                module.Owner = this;
                embedding.Adapters.Add(module);
                attachment.OnDispose(() => embedding.Adapters.Remove(module));
            }

            foreach ((string baseName, Tensor tensor) in full.Values)
            {
                attachment.OnDispose(ReplaceWhole(network, baseName, tensor));
            }

            return attachment;
        }
        catch
        {
            attachment.Dispose();
            throw;
        }
    }

    /// <summary>Lets the network compute without the adapter, where it is attached, until the result is disposed; tensors that it holds whole stay.</summary>
    public IDisposable Suspend()
    {
        double weight = Weight;
        Weight = 0;
        var attachment = new Attachment();
        attachment.OnDispose(() => Weight = weight);
        return attachment;
    }

    /// <summary>The tensors of a network that merging changes, merged in float32 and in their stored orientation, by name.</summary>
    public IEnumerable<(string Name, Tensor Merged)> Merge(Network network)
    {
        foreach (AdapterModule module in modules)
        {
            Tensor merged;
            using (no_grad())
            using (var scope = NewDisposeScope())
            {
                bool transposed = false;
                Tensor weight = module is EmbeddingLoraModule ? network.Parameter($"{module.Path}.weight") : Oriented(network, module.Path, out transposed);
                Tensor sum = module.Merge(weight.to_type(ScalarType.Float32));
                merged = (transposed ? sum.t() : sum).contiguous().MoveToOuterDisposeScope();
            }

            yield return ($"{module.Path}.weight", merged);
            string biasName = $"{module.Path}.bias";
            if (!full.Values.Any(item => item.BaseName == biasName) && network.Parameters.TryGetValue(biasName, out Tensor? bias))
            {
                using var noGrad = no_grad();
                if (module.MergeBias(bias.to_type(ScalarType.Float32)) is { } mergedBias)
                {
                    yield return (biasName, mergedBias);
                }
            }
        }

        foreach ((string name, Tensor tensor) in full.Values)
        {
            yield return (name, tensor.detach().clone());
        }
    }

    /// <summary>The adapter as a patch of the network: low rank stays low rank, DoRA and (IA)³ keep their own kinds, whole tensors are replaced.</summary>
    /// <exception cref="CheckFailedException">It changes nothing.</exception>
    public Patch ToPatch(Network network, PatchInfo info)
    {
        using var scope = NewDisposeScope();
        using var noGrad = no_grad();
        if (full.Count == 0 && modules.All(module => module.IsIdle))
        {
            throw new CheckFailedException($"{info.Method} changes nothing: all of the adapter's tensors have the values that they began with.");
        }

        var deltas = new Dictionary<string, Delta>(StringComparer.Ordinal);
        foreach (AdapterModule module in modules)
        {
            string name = $"{module.Path}.weight";
            bool transposed = module is not EmbeddingLoraModule && network.LinearOf(name) is { Linear.Transposed: true };
            deltas[name] = module switch
            {
                LoraModule { Magnitude: { } magnitude } dora => transposed
                    ? new Dora(PatchTensor.Of(dora.Up.t().contiguous()), PatchTensor.Of(dora.Down.t().contiguous()), PatchTensor.Of(magnitude), 1, dora.Scale)
                    : new Dora(PatchTensor.Of(dora.Down), PatchTensor.Of(dora.Up), PatchTensor.Of(magnitude), 0, dora.Scale),
                LoraModule lora => transposed ? new LowRank(lora.Up.t().contiguous(), lora.Down.t().contiguous(), lora.Scale) : new LowRank(lora.Down, lora.Up, lora.Scale),
                EmbeddingLoraModule embedding => new LowRank(embedding.Up.t().contiguous(), embedding.Down.t().contiguous(), embedding.Scale),
                Ia3Module ia3 => new Scaled(ia3.Factors.view(-1), ia3.OnInput == transposed ? 0 : 1),
                _ => throw new InvalidOperationException(module.GetType().Name),
            };
            string biasName = $"{module.Path}.bias";
            if (network.Parameters.TryGetValue(biasName, out Tensor? bias) && module.MergeBias(bias.to_type(ScalarType.Float32)) is { } merged)
            {
                deltas[biasName] = module is Ia3Module outputs ? new Scaled(outputs.Factors.view(-1), 0) : new DenseAdd(merged - bias.to_type(ScalarType.Float32));
            }
        }

        foreach ((string name, Tensor tensor) in full.Values)
        {
            Delta? delta = network.Source is { } checkpoint ? Delta.Between(checkpoint, name, tensor) : DenseXor.Between(network.Parameter(name), tensor.detach().to_type(network.DType));
            if (delta is not null)
            {
                deltas[name] = delta;
            }
        }

        return Patch.For(network, info, deltas);
    }

    /// <summary>Frees the tensors.</summary>
    public void Dispose()
    {
        modules.ForEach(module => module.Dispose());
        foreach ((_, Tensor tensor) in full.Values)
        {
            tensor.Dispose();
        }
    }

    /// <summary>Module paths that the targets name, in the network's order.</summary>
    /// <exception cref="BadInputException">A target matches no linear layer.</exception>
    internal static IReadOnlyList<string> Targets(Network network, IReadOnlyList<string> targets)
    {
        const string End = ".weight";
        string[] all = [.. network.Parameters.Keys.Where(name => name.EndsWith(End, StringComparison.Ordinal) && network.LinearOf(name) is not null).Select(name => name[..^End.Length])];
        string? head = network.HeadName?[..^End.Length];
        HashSet<string> chosen = [];
        foreach (string target in targets)
        {
            Regex? pattern = target.AsSpan().ContainsAny("*[](|+?\\^$") ? Pattern(target) : null;
            string[] matches = target == "all-linear" ? [.. all.Where(path => path != head && $"{path}{End}" != network.TokenEmbedding?.Name)]
                : [.. all.Where(path => EndsWith(path, target) || pattern is not null && pattern.IsMatch(path))];
            if (matches.Length == 0)
            {
                throw new BadInputException($"The target '{target}' matches no linear layer; the nearest ends are {string.Join(", ", Nearest.To(target, all.Select(path => path[(path.LastIndexOf('.') + 1)..]).Distinct(), 3))}.");
            }

            chosen.UnionWith(matches);
        }

        return [.. all.Where(chosen.Contains)];
    }

    static Regex Pattern(string target)
    {
        try
        {
            return new Regex($"^(?:{target})$", RegexOptions.CultureInvariant, TimeSpan.FromSeconds(2));
        }
        catch (ArgumentException e)
        {
            throw new BadInputException($"The target '{target}' is no regular expression: {e.Message.TrimEnd('.')}.", e);
        }
    }

    /// <summary>The samples' scales in a shape that multiplies <paramref name="x"/> [B, …]; null when there are none.</summary>
    internal Tensor? Strength(Tensor x)
    {
        if (SampleScales is not { } scales)
        {
            return null;
        }

        if (scales.dim() != 1 || scales.shape[0] != x.shape[0])
        {
            throw new BadInputException($"The adapter has scales [{string.Join(", ", scales.shape)}] for a batch of {x.shape[0]}; give one a sample.");
        }

        long[] shape = [x.shape[0], .. Enumerable.Repeat(1L, (int)x.dim() - 1)];
        return scales.view(shape).to_type(x.dtype);
    }

    internal static bool EndsWith(string path, string end) => path == end || path.EndsWith($".{end}", StringComparison.Ordinal);

    static Tensor Oriented(Network network, string path, out bool transposed)
    {
        Tensor weight = network.Parameter($"{path}.weight");
        transposed = network.LinearOf($"{path}.weight") is { Linear.Transposed: true };
        return transposed ? weight.t() : weight;
    }

    static void Check(AdapterModule module, long inputs, long outputs)
    {
        bool fits = module switch
        {
            LoraModule lora => lora.Down.shape[1] == inputs && lora.Up.shape[0] == outputs && lora.Down.shape[0] == lora.Up.shape[1],
            Ia3Module ia3 => ia3.Factors.numel() == (ia3.OnInput ? inputs : outputs),
            _ => false,
        };
        if (!fits)
        {
            throw new BadInputException($"The adapter's tensors of {module.Path} do not fit its matrix [{outputs}, {inputs}]: {string.Join(", ", module.Tensors.Select(t => $"{t.Suffix} [{string.Join(", ", t.Tensor.shape)}]"))}; it belongs to another base.");
        }
    }

    // The network computes with the adapter's values, which may train there; at the end both have their own again.
    static Action ReplaceWhole(Network network, string name, Tensor tensor)
    {
        Tensor parameter = network.Parameter(name);
        if (!parameter.shape.SequenceEqual(tensor.shape))
        {
            throw new BadInputException($"The adapter's {name} has the shape [{string.Join(", ", tensor.shape)}], the network's [{string.Join(", ", parameter.shape)}]; it belongs to another base.");
        }

        using var noGrad = no_grad();
        Tensor original = parameter.clone().DetachFromDisposeScope();
        parameter.copy_(tensor);
        return () =>
        {
            using var none = no_grad();
            tensor.copy_(parameter);
            parameter.copy_(original);
            original.Dispose();
        };
    }

    sealed class Attachment : IDisposable
    {
        readonly Stack<Action> undo = new();

        public void OnDispose(Action action) => undo.Push(action);

        public void Dispose()
        {
            while (undo.TryPop(out Action? action))
            {
                action();
            }
        }
    }
}
