using TorchSharp;
using static TorchSharp.torch;

namespace Scalpel.Training;

/// <summary>
/// Changes parameters by their gradients. A step goes over the flat buffers of its groups piece by piece, each piece small
/// enough to stay in the processor's cache through all operations, however many tensors there are.
/// </summary>
public abstract class Optimizer : IDisposable
{
    readonly Dictionary<string, Tensor>[] state;

    /// <summary>An optimizer of the given groups, which it does not own.</summary>
    private protected Optimizer(IReadOnlyList<ParameterGroup> groups, double weightDecay)
    {
        if (groups.Count == 0)
        {
            throw new BadInputException("An optimizer needs at least one group of parameters.");
        }

        Groups = groups;
        WeightDecay = weightDecay;
        state = [.. groups.Select(_ => new Dictionary<string, Tensor>(StringComparer.Ordinal))];
    }

    /// <summary>The groups.</summary>
    public IReadOnlyList<ParameterGroup> Groups { get; }

    /// <summary>Steps taken.</summary>
    public long Steps { get; private set; }

    /// <summary>Weight decay of groups without one of their own.</summary>
    public double WeightDecay { get; }

    /// <summary>Moments and the like of one group by the field's names (<c>exp_avg</c>): flat as the group, or per tensor.</summary>
    public IReadOnlyDictionary<string, Tensor> State(int group) => state[group];

    /// <summary>Takes one step with the gradients that the groups hold.</summary>
    /// <param name="rate">The learning rate.</param>
    public void Step(double rate)
    {
        using var noGrad = no_grad();
        Steps++;
        BeforeStep();
        for (int i = 0; i < Groups.Count; i++)
        {
            StepGroup(i, rate * Groups[i].RateFactor, Groups[i].WeightDecay ?? WeightDecay);
        }
    }

    /// <summary>Everything that a later run needs to go on: tensors by <c>{group}.{name}</c>.</summary>
    public IReadOnlyDictionary<string, Tensor> SaveState() => state
        .SelectMany((group, i) => group.Select(pair => KeyValuePair.Create($"{i}.{pair.Key}", pair.Value)))
        .ToDictionary(StringComparer.Ordinal);

    /// <summary>Goes on from a saved state.</summary>
    /// <param name="steps">Steps taken until then.</param>
    /// <param name="tensors">What <see cref="SaveState"/> gave; copied.</param>
    public void LoadState(long steps, IReadOnlyDictionary<string, Tensor> tensors)
    {
        Steps = 0;
        foreach (Dictionary<string, Tensor> group in state)
        {
            Clear(group);
        }

        foreach ((string key, Tensor value) in tensors)
        {
            int dot = key.IndexOf('.', StringComparison.Ordinal);
            if (dot < 0 || !int.TryParse(key.AsSpan(0, dot), out int group) || group < 0 || group >= state.Length)
            {
                throw new BadInputException($"The saved state holds '{key}', which names none of the {state.Length} groups; it belongs to another run.");
            }

            string name = key[(dot + 1)..];
            if (FlatState.Contains(name) && (value.dim() != 1 || value.shape[0] != Groups[group].Length))
            {
                throw new BadInputException($"The saved state's '{key}' has shape [{string.Join(", ", value.shape)}], the group has {Groups[group].Length} elements; it belongs to another run.");
            }

            state[group][name] = value.clone().DetachFromDisposeScope();
        }

        Steps = steps;
        AfterLoad();
    }

    /// <summary>Frees the state.</summary>
    public void Dispose()
    {
        foreach (Dictionary<string, Tensor> group in state)
        {
            Clear(group);
        }

        GC.SuppressFinalize(this);
    }

    /// <summary>Names of the state buffers that are as long as the group, in the order in which <see cref="Update"/> gets them.</summary>
    private protected abstract IReadOnlyList<string> FlatState { get; }

    /// <summary>Initial value of a state buffer.</summary>
    private protected virtual double Initial(string name) => 0;

    /// <summary>Computes what depends on the step's number alone; <see cref="Steps"/> counts this step already.</summary>
    private protected virtual void BeforeStep() { }

    /// <summary>Restores what <see cref="BeforeStep"/> keeps from step to step.</summary>
    private protected virtual void AfterLoad() { }

    /// <summary>Changes a piece of the values in place, and the state with it. May overwrite nothing else.</summary>
    /// <param name="values">[n].</param>
    /// <param name="gradients">[n].</param>
    /// <param name="moments">[n] each, as <see cref="FlatState"/> names them.</param>
    /// <param name="rate">The group's learning rate.</param>
    /// <param name="decay">The group's weight decay.</param>
    private protected abstract void Update(Tensor values, Tensor gradients, Tensor[] moments, double rate, double decay);

    /// <summary>Steps one group; by default <see cref="Update"/> on piece after piece.</summary>
    private protected virtual void StepGroup(int index, double rate, double decay)
    {
        ParameterGroup group = Groups[index];
        Tensor[] moments = [.. FlatState.Select(name => StateOf(index, name, () => full(group.Length, Initial(name), dtype: group.Values.dtype)))];
        for (long at = 0; at < group.Length; at += ParameterGroup.Piece)
        {
            using var scope = NewDisposeScope();
            long length = Math.Min(ParameterGroup.Piece, group.Length - at);
            Tensor values = group.Values.narrow(0, at, length), gradients = group.GradientsAt(at, length);
            Tensor[] parts = [.. moments.Select(moment => moment.narrow(0, at, length))];
            if (group.Mask is null)
            {
                Update(values, gradients, parts, rate, decay);
                continue;
            }

            Tensor before = values.clone();
            Update(values, gradients, parts, rate, decay);
            values.copy_(where(group.Mask.narrow(0, at, length), values, before));
        }
    }

    /// <summary>A state tensor of a group, made when it is first asked for.</summary>
    private protected Tensor StateOf(int group, string name, Func<Tensor> make)
    {
        if (!state[group].TryGetValue(name, out Tensor? tensor))
        {
            tensor = make().DetachFromDisposeScope();
            state[group][name] = tensor;
        }

        return tensor;
    }

    static void Clear(Dictionary<string, Tensor> tensors)
    {
        foreach (Tensor tensor in tensors.Values)
        {
            tensor.Dispose();
        }

        tensors.Clear();
    }
}
