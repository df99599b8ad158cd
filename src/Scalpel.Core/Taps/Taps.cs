using TorchSharp;
using static TorchSharp.torch;

namespace Scalpel.Networks;

/// <summary>Which part of a tap is read or changed; null selects everything along that axis.</summary>
public sealed record TapSelector
{
    /// <summary>Everything.</summary>
    public static TapSelector All { get; } = new();

    /// <summary>Only the last position of each row.</summary>
    public static TapSelector Last { get; } = new() { Positions = [-1] };

    /// <summary>Rows of the batch.</summary>
    public IReadOnlyList<int>? Batch { get; init; }

    /// <summary>Positions on the unpadded sequence, cached tokens included; negative ones count from its end.</summary>
    public IReadOnlyList<int>? Positions { get; init; }

    /// <summary>Attention heads.</summary>
    public IReadOnlyList<int>? Heads { get; init; }

    /// <summary>Indices along the last axis.</summary>
    public IReadOnlyList<int>? Features { get; init; }

    /// <summary>A selector of positions.</summary>
    public static TapSelector At(params int[] positions) => new() { Positions = positions };

    /// <summary>
    /// The last token of a span of each row: <c>Positions</c> of one token that may differ from row to row. Spans are
    /// [from, to) on the unpadded sequence; one span serves every row.
    /// </summary>
    /// <exception cref="BadInputException">A span is empty, or there is none.</exception>
    public static TapSelector LastOf(params (int From, int To)[] spans)
    {
        foreach ((int from, int to) in spans)
        {
            if (from < 0 || to <= from)
            {
                throw new BadInputException($"The span [{from}, {to}) holds no token, so it has no last one; a span is [from, to) with to after from.");
            }
        }

        return spans.Length == 0 ? throw new BadInputException("There is no span to take the last token of; give one, or one for each row.")
            : new TapSelector { LastTokens = [.. spans.Select(span => span.To - 1)] };
    }

    /// <summary>One position a row, or one for all.</summary>
    internal IReadOnlyList<int>? LastTokens { get; init; }

    internal bool IsAll => Batch is null && Positions is null && LastTokens is null && Heads is null && Features is null;
}

/// <summary>In which passes of a generation an edit acts.</summary>
public readonly record struct TapSteps
{
    readonly int? step;

    TapSteps(int step) => this.step = step;

    /// <summary>In every pass.</summary>
    public static TapSteps Every => default;

    /// <summary>Only in the pass over the prompt.</summary>
    public static TapSteps Prompt => new(0);

    /// <summary>Only in the pass that reads the k-th generated token, from 1.</summary>
    public static TapSteps Step(int k) => new(k);

    internal bool Includes(int current) => step is null || step == current;
}

/// <summary>
/// Named activations of one forward pass, read or replaced. Requests on the same tap act in the order in which they were
/// made, so a read sees the edits registered before it. A request that no pass reached is an error, never a silent no-op.
/// Names and shapes: <see cref="Decoder.TapNames"/>.
/// </summary>
public sealed class Taps : IDisposable
{
    readonly Dictionary<string, List<Request>> requests = new(StringComparer.Ordinal);
    readonly Dictionary<string, Tensor> values = new(StringComparer.Ordinal);

    sealed record Request(TapSelector Selector, Func<Tensor, Tensor?, Tensor>? Edit, TapSteps Steps)
    {
        public bool Fired { get; set; }
    }

    /// <summary>The pass of a generation that comes next: 0 for the prompt, k for the k-th generated token.</summary>
    public int Step { get; set; }

    /// <summary>The taps that are asked for.</summary>
    public IEnumerable<string> Names => requests.Keys;

    /// <summary>What was read at a tap in the last pass. Owned by this object; replaced by the next pass.</summary>
    /// <exception cref="BadInputException">It was not asked for or not reached.</exception>
    public Tensor this[string name] => values.TryGetValue(name, out Tensor? value) ? value
        : throw new BadInputException($"The tap {name} was not read; {(requests.ContainsKey(name) ? "no pass has reached it yet" : "ask for it with Read before the pass")}.");

    /// <summary>Asks for whole activations.</summary>
    public Taps Read(params string[] names)
    {
        foreach (string name in names)
        {
            Add(name, new Request(TapSelector.All, null, TapSteps.Every));
        }

        return this;
    }

    /// <summary>Asks for a part of an activation; only that part is kept.</summary>
    public Taps Read(string name, TapSelector selector) => Add(name, new Request(selector, null, TapSteps.Every));

    /// <summary>Changes an activation: <paramref name="edit"/> maps the selected part, [rows, positions, …], to its replacement, which may broadcast.</summary>
    public Taps Edit(string name, Func<Tensor, Tensor> edit, TapSelector? selector = null, TapSteps steps = default) =>
        Add(name, new Request(selector ?? TapSelector.All, (value, _) => edit(value), steps));

    /// <summary>Sets the selected part to a constant.</summary>
    public Taps Set(string name, double constant, TapSelector? selector = null, TapSteps steps = default) =>
        Edit(name, value => full_like(value, constant), selector, steps);

    /// <summary>Replaces the selected part by a given tensor.</summary>
    public Taps Replace(string name, Tensor replacement, TapSelector? selector = null, TapSteps steps = default) =>
        Edit(name, value => replacement.to_type(value.dtype), selector, steps);

    /// <summary>Adds a tensor to the selected part.</summary>
    public Taps Add(string name, Tensor summand, TapSelector? selector = null, TapSteps steps = default) =>
        Edit(name, value => value + summand.to_type(value.dtype), selector, steps);

    /// <summary>Multiplies the selected part.</summary>
    public Taps Scale(string name, double factor, TapSelector? selector = null, TapSteps steps = default) =>
        Edit(name, value => value * factor, selector, steps);

    /// <summary>Makes attention patterns uniform over the keys that are allowed.</summary>
    public Taps Uniform(string name, TapSelector? selector = null, TapSteps steps = default) =>
        name.EndsWith(".attention.pattern", StringComparison.Ordinal)
            ? Add(name, new Request(selector ?? TapSelector.All, (value, allowed) => allowed!.to_type(value.dtype) / allowed!.sum(-1, keepdim: true).clamp(min: 1).to_type(value.dtype), steps))
            : throw new BadInputException($"{name} is no attention pattern, so it cannot be made uniform; the taps layers.l.attention.pattern can.");

    /// <summary>Whether anything asks for a tap.</summary>
    public bool Wants(string name) => requests.ContainsKey(name);

    /// <summary>Frees what was read.</summary>
    public void Dispose()
    {
        foreach (Tensor value in values.Values)
        {
            value.Dispose();
        }

        values.Clear();
    }

    internal void Begin()
    {
        foreach (Request request in requests.Values.SelectMany(list => list))
        {
            request.Fired = !request.Steps.Includes(Step);
        }
    }

    /// <summary>Lets the requests on a tap act; the result is the value with which the pass goes on.</summary>
    /// <param name="name">The tap.</param>
    /// <param name="value">Its value.</param>
    /// <param name="pass">Knows where positions lie among the columns.</param>
    /// <param name="headAxis">Axis of the heads, -1 for none. Positions lie along axis 1, or 2 where heads lie along 1.</param>
    /// <param name="allowed">For patterns: the keys that are allowed, broadcastable to the value.</param>
    internal Tensor At(string name, Tensor value, IPositions? pass, int headAxis = -1, Tensor? allowed = null)
    {
        if (!requests.TryGetValue(name, out List<Request>? list))
        {
            return value;
        }

        foreach (Request request in list.Where(request => request.Steps.Includes(Step)))
        {
            request.Fired = true;
            using var scope = NewDisposeScope();
            if (request.Edit is null)
            {
                Tensor part = request.Selector.IsAll ? value.alias() : Selection.Of(value, request.Selector, pass, headAxis, name).Take(value);
                if (values.Remove(name, out Tensor? old))
                {
                    old.Dispose();
                }

                values.Add(name, part.DetachFromDisposeScope());
            }
            else if (request.Selector.IsAll)
            {
                value = Settled(value, request.Edit(value, allowed).expand(value.shape).to_type(value.dtype));
            }
            else
            {
                Selection selection = Selection.Of(value, request.Selector, pass, headAxis, name);
                if (selection.IsEmpty)
                {
                    continue;
                }

                Tensor part = selection.Take(value);
                Tensor? partAllowed = allowed is null ? null : selection.Take(allowed.expand(value.shape));
                value = Settled(value, selection.Put(value, request.Edit(part, partAllowed).expand(part.shape).to_type(value.dtype)));
            }
        }

        return value;
    }

    // An edit that changed nothing gives way to the value that was there: equal numbers in another layout may be rounded
    // differently further on, and what was not edited must stay as it is to the bit.
    static Tensor Settled(Tensor value, Tensor edited) => !edited.requires_grad && edited.Equals(value) ? value : edited.MoveToOuterDisposeScope();

    internal void End()
    {
        string[] silent = [.. requests.Where(pair => pair.Value.Any(request => !request.Fired)).Select(pair => pair.Key)];
        if (silent.Length > 0)
        {
            throw new BadInputException($"The pass did not reach the taps {string.Join(", ", silent)}; check the layer's number and that the pass covers it.");
        }
    }

    Taps Add(string name, Request request)
    {
        if (!requests.TryGetValue(name, out List<Request>? list))
        {
            requests.Add(name, list = []);
        }

        list.Add(request);
        return this;
    }
}

/// <summary>Where the positions of the unpadded sequences lie among the columns of a pass.</summary>
interface IPositions
{
    /// <summary>Column of a position in a row along an axis of the given width, or null when it is not among this pass's columns.</summary>
    /// <exception cref="BadInputException">The row has no such position.</exception>
    int? Column(int row, int position, long width);
}

/// <summary>A selector made concrete for one value: index tensors, and the way there and back.</summary>
sealed class Selection
{
    readonly Tensor[] index;
    readonly int headAxis;

    Selection(Tensor[] index, int headAxis)
    {
        this.index = index;
        this.headAxis = headAxis;
    }

    public bool IsEmpty => index.Any(axis => axis.numel() == 0);

    public static Selection Of(Tensor value, TapSelector selector, IPositions? pass, int headAxis, string name)
    {
        // Heads are brought to axis 2, so that every value is [rows, positions, (heads,) …, features].
        long[] shape = value.shape;
        int last = shape.Length - 1;
        (long positions, long heads) = headAxis == 1 ? (shape[2], shape[1]) : (shape[1], headAxis == 2 ? shape[2] : 0);
        if (selector.Heads is not null && headAxis < 0)
        {
            throw new BadInputException($"The tap {name} has no heads to select.");
        }

        int[] rows = Checked(selector.Batch, shape[0], "row", name);
        int[] features = Checked(selector.Features, shape[last], "feature", name);
        int[] selected = headAxis < 0 ? [] : Checked(selector.Heads, heads, "head", name);
        var columns = new List<long[]>();
        if (selector.LastTokens is { Count: > 1 } tokens && tokens.Count != shape[0])
        {
            throw new BadInputException($"The tap {name} has {shape[0]} rows, the selector {tokens.Count} spans; give one span for each row, or one for all.");
        }

        foreach (int row in rows)
        {
            IReadOnlyList<int>? at = selector.LastTokens is { } ends ? [ends[ends.Count == 1 ? 0 : row]] : selector.Positions;
            columns.Add(at is null
                ? [.. Enumerable.Range(0, (int)positions).Select(p => (long)p)]
                : [.. at.Select(p => pass is null ? p : pass.Column(row, p, positions)).Where(c => c is not null).Select(c => (long)c!.Value)]);
        }

        int width = columns.Count == 0 ? 0 : columns.Max(c => c.Length);
        if (columns.Any(c => c.Length != width))
        {
            throw new BadInputException($"The tap {name}: the rows hold different numbers of the selected positions in this pass; select per row with Batch.");
        }

        Tensor r = tensor(rows.Select(x => (long)x).ToArray()).view(-1, 1), c = tensor(columns.SelectMany(x => x).ToArray(), dtype: ScalarType.Int64).view(rows.Length, width);
        Tensor f = tensor(features.Select(x => (long)x).ToArray());
        // Advanced indexing puts the broadcast axes in front: [rows, positions, (heads,) features].
        return headAxis < 0
            ? new Selection([r.unsqueeze(-1), c.unsqueeze(-1), f.view(1, 1, -1)], headAxis)
            : new Selection([r.unsqueeze(-1).unsqueeze(-1), c.unsqueeze(-1).unsqueeze(-1), tensor(selected.Select(x => (long)x).ToArray()).view(1, 1, -1, 1), f.view(1, 1, 1, -1)], headAxis);
    }

    public Tensor Take(Tensor value) => Turned(value).index(index);

    public Tensor Put(Tensor value, Tensor part)
    {
        Tensor copy = Turned(value).clone();
        copy.index_put_(part, index);
        return Turned(copy);
    }

    Tensor Turned(Tensor value) => headAxis == 1 ? value.transpose(1, 2) : value;

    static int[] Checked(IReadOnlyList<int>? chosen, long size, string what, string name)
    {
        if (chosen is null)
        {
            return [.. Enumerable.Range(0, (int)size)];
        }

        foreach (int i in chosen)
        {
            if (i < -size || i >= size)
            {
                throw new BadInputException($"The tap {name} has {size} {what}s; there is no {what} {i}.");
            }
        }

        return [.. chosen.Select(i => i < 0 ? i + (int)size : i)];
    }
}
