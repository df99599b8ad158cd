using System.Diagnostics.CodeAnalysis;
using Scalpel.Networks;
using TorchSharp;
using static TorchSharp.torch;

namespace Scalpel.Methods.Editing;

/// <summary>
/// Facts whose vectors are searched together. Rows are laid out so that all lookup tokens stand in one column: what precedes
/// it lies, padded, in a frozen cache; the columns from it on are what a step computes, from the layer after the
/// edited one.
/// </summary>
sealed class VectorBatch : IDisposable
{
    const double Beta1 = 0.9, Beta2 = 0.999, Epsilon = 1e-8;

    readonly Decoder model;
    readonly VectorSearch search;
    readonly FoundFact[] facts;
    readonly KeyValueCache cache;
    List<int> active;
    EditRow[] rows = [];
    Tensor ids, mask, positions, hidden, delta, first, second;
    // Where the MLP's output is normalised before it is added: the down projection's output at the lookup token and what
    // the normalised sum is added to, [R, 1, d]. Else null: δ adds to the block's output.
    Tensor? down, middle;
    Selected selected;
    Pass pass;
    int step;

    /// <summary>The growing result of one fact.</summary>
    sealed class FoundFact(EditTokens tokens)
    {
        public EditTokens Tokens => tokens;
        public List<double[]> Losses { get; } = [];
        public Tensor Initial { get; set; } = null!;
        public double InitialNorm { get; set; }
        public Tensor? Delta { get; set; }
        public Tensor? DriftBefore { get; set; }
        public int Updates { get; set; }
    }

    /// <summary>Which states the loss reads, for the rows of the moment.</summary>
    /// <param name="TargetCells">Flat cells (row · columns + column) with a target.</param>
    /// <param name="TargetTokens">Their tokens.</param>
    /// <param name="TargetWeights">1/(contexts · tokens of the target).</param>
    /// <param name="TargetFacts">Index of the fact of each.</param>
    /// <param name="DriftCells">Cell of each fact's drift row.</param>
    /// <param name="RowFacts">Index of the fact of each row.</param>
    sealed record Selected(Tensor TargetCells, Tensor TargetTokens, Tensor TargetWeights, Tensor TargetFacts, Tensor DriftCells, Tensor RowFacts) : IDisposable
    {
        public void Dispose()
        {
            foreach (Tensor index in (Tensor[])[TargetCells, TargetTokens, TargetWeights, TargetFacts, DriftCells, RowFacts])
            {
                index.Dispose();
            }
        }
    }

    public VectorBatch(Decoder model, IReadOnlyList<EditTokens> edits, VectorSearch search)
    {
        this.model = model;
        this.search = search;
        facts = [.. edits.Select(edit => new FoundFact(edit))];
        active = [.. Enumerable.Range(0, facts.Length)];
        cache = new KeyValueCache(model.Config.CacheLayers);
        using var scope = NewDisposeScope();
        Prefix();
        delta = Own(zeros([facts.Length, model.Config.Width]));
        first = Own(zeros_like(delta));
        second = Own(zeros_like(delta));
        selected = Select();
        pass = model.Prepare(ids, mask, positions, cache);
    }

    /// <summary>Facts still searched.</summary>
    public int Active => active.Count;

    /// <summary>Mean loss of the last evaluation.</summary>
    public double MeanLoss => facts.Average(fact => fact.Losses.Count == 0 ? 0 : fact.Losses[^1][0]);

    /// <summary>Evaluates the loss of the active facts and, unless it is the last evaluation, takes a step of Adam.</summary>
    public void Step(bool last)
    {
        using var inner = NewDisposeScope();
        using Tensor parameter = delta.detach().requires_grad_(!last);
        (Tensor nll, Tensor drift, Tensor decay) = Loss(parameter);
        Tensor total = nll + drift + decay;
        var keep = new List<int>();
        double[] totals = Doubles(total), nlls = Doubles(nll), drifts = Doubles(drift), decays = Doubles(decay);
        for (int i = 0; i < active.Count; i++)
        {
            FoundFact fact = facts[active[i]];
            if (!double.IsFinite(totals[i]))
            {
                throw new BadInputException($"The search for the target vector met a loss of {totals[i]} in step {step + 1}; lower the learning rate (now {search.LearningRate}).");
            }

            fact.Losses.Add([totals[i], nlls[i], drifts[i], decays[i]]);
            if (totals[i] < search.StopLoss || last)
            {
                fact.Delta = delta[i].clone().DetachFromDisposeScope();
            }
            else
            {
                keep.Add(i);
            }
        }

        step++;
        if (keep.Count == 0)
        {
            active = [];
            return;
        }

        total.sum().backward();
        Tensor gradient = parameter.grad ?? throw new InvalidOperationException("The loss does not depend on δ.");
        using (no_grad())
        {
            Update(gradient);
        }

        keep.ForEach(i => facts[active[i]].Updates++);
        if (keep.Count < active.Count)
        {
            Compact(keep);
        }
    }

    /// <summary>The results in the order of the facts; owned by the caller.</summary>
    public IEnumerable<FoundVector> Results() => facts.Select(fact =>
    {
        Tensor initial = fact.Initial, found = fact.Delta!;
        (fact.Initial, fact.Delta) = (null!, null);
        return new FoundVector(initial, found, fact.Losses, fact.Updates);
    });

    public void Dispose()
    {
        foreach (FoundFact fact in facts)
        {
            fact.Initial?.Dispose();
            fact.Delta?.Dispose();
            fact.DriftBefore?.Dispose();
        }

        pass.Dispose();
        cache.Dispose();
        selected.Dispose();
        foreach (Tensor? owned in (Tensor?[])[ids, mask, positions, hidden, down, middle, delta, first, second])
        {
            owned?.Dispose();
        }
    }

    // Adam as torch.optim.Adam computes it, then the projection onto the ball of each fact.
    void Update(Tensor gradient)
    {
        first.mul_(Beta1).add_(gradient, 1 - Beta1);
        second.mul_(Beta2).addcmul_(gradient, gradient, 1 - Beta2);
        double correction1 = 1 - Math.Pow(Beta1, step), correction2 = 1 - Math.Pow(Beta2, step);
        Tensor denominator = second.sqrt().div_(Math.Sqrt(correction2)).add_(Epsilon);
        delta.addcdiv_(first, denominator, -search.LearningRate / correction1);
        Tensor limit = tensor(active.Select(f => (float)(search.ClampNormFactor * facts[f].InitialNorm)).ToArray()).unsqueeze(1);
        Tensor norm = delta.norm(1, keepdim: true, p: 2f);
        delta.copy_(torch.where(norm > limit, delta * limit / norm, delta));
    }

    (Tensor Nll, Tensor Drift, Tensor Decay) Loss(Tensor parameter)
    {
        int width = model.Config.Width, layers = model.Config.Layers, columns = (int)hidden.shape[1];
        Tensor summand = parameter.to_type(model.DType).index_select(0, selected.RowFacts).unsqueeze(1);
        Tensor x = down is null ? hidden.narrow(1, 0, 1) + summand : middle! + model.MlpSummand(search.Layer, down + summand); // [R, 1, d]
        x = columns == 1 ? x : cat([x, hidden.narrow(1, 1, columns - 1)], 1);                        // [R, S, d]
        int lossLayer = Math.Clamp(search.LossLayer ?? layers - 1, search.Layer, layers - 1);
        Tensor read = model.RunLayers(x, search.Layer + 1, lossLayer + 1, pass);
        Tensor end = model.RunLayers(read, lossLayer + 1, layers, pass);
        Tensor states = cat([read.reshape(-1, width).index_select(0, selected.TargetCells), end.reshape(-1, width).index_select(0, selected.DriftCells)]);
        Tensor log = model.Unembed(states).to_type(ScalarType.Float32).log_softmax(-1);               // [targets + facts, V]
        long targets = selected.TargetCells.shape[0];
        Tensor likelihood = log.narrow(0, 0, targets).gather(1, selected.TargetTokens.unsqueeze(1)).squeeze(1);
        Tensor nll = zeros([active.Count]).index_add(0, selected.TargetFacts, -likelihood * selected.TargetWeights, 1);
        Tensor now = log.narrow(0, targets, active.Count);
        if (facts[active[0]].DriftBefore is null)
        {
            for (int i = 0; i < active.Count; i++)
            {
                facts[active[i]].DriftBefore = now[i].detach().clone().DetachFromDisposeScope();
            }
        }

        // KL(now ‖ before), the direction of the official code.
        Tensor before = stack(active.Select(f => facts[f].DriftBefore!));
        Tensor drift = (now.exp() * (now - before)).sum(-1) * search.DriftFactor;
        Tensor squared = tensor(active.Select(f => (float)(facts[f].InitialNorm * facts[f].InitialNorm)).ToArray());
        Tensor decay = parameter.norm(1, p: 2f) / squared * search.WeightDecay;
        return (nll, drift, decay);
    }

    // What does not depend on δ: the cache of all tokens before the lookup, and the edited block's output from it on.
    [MemberNotNull(nameof(ids), nameof(mask), nameof(positions), nameof(hidden))]
    void Prefix()
    {
        using var noGrad = no_grad();
        rows = [.. facts.SelectMany(fact => fact.Tokens.Values.Append(fact.Tokens.Drift))];
        int before = rows.Max(row => row.Lookup), after = rows.Max(row => row.Ids.Count - row.Lookup);
        if (before > 0)
        {
            using var inner = NewDisposeScope();
            // Padding stands between prefix and lookup token, or, where a window counts columns, before the prefix.
            bool windows = model.Config.Window.Any(window => window is not null);
            (Tensor prefixIds, Tensor prefixMask, Tensor prefixPositions) = Columns(before, (row, c) => windows ? c - (before - row.Lookup) : c < row.Lookup ? c : -1);
            using Pass prefix = model.Prepare(prefixIds, prefixMask, prefixPositions, cache);
            model.RunLayers(model.Embed(prefixIds, prefix), 0, model.Config.Layers, prefix);
            prefix.End();
        }

        cache.Frozen = true;
        (Tensor suffixIds, Tensor suffixMask, Tensor suffixPositions) = Columns(after, (row, c) => row.Lookup + c);
        (ids, mask, positions) = (Own(suffixIds), Own(suffixMask), Own(suffixPositions));
        bool normalised = search.Site == VectorSite.MlpOutput && model.DownTap != "mlp.output";
        using var taps = new Taps();
        string layer = $"layers.{search.Layer}.", tap = layer + (search.Site == VectorSite.MlpOutput ? model.DownTap : "output");
        taps.Read(tap);
        if (normalised)
        {
            taps.Read(layer + "middle");
        }

        using (var inner = NewDisposeScope())
        using (Pass pass = model.Prepare(ids, mask, positions, cache, taps))
        {
            hidden = Own(model.RunLayers(model.Embed(ids, pass), 0, search.Layer + 1, pass));
            pass.End();
            if (normalised)
            {
                down = Own(taps[tap].narrow(1, 0, 1).clone());
                middle = Own(taps[layer + "middle"].narrow(1, 0, 1).clone());
            }
        }

        for (int f = 0, row = 0; f < facts.Length; row += facts[f].Tokens.Values.Count + 1, f++)
        {
            facts[f].Initial = taps[tap][row, 0].to_type(ScalarType.Float32).clone().DetachFromDisposeScope();
            using Tensor norm = facts[f].Initial.norm();
            facts[f].InitialNorm = norm.ToDouble();
        }
    }

    (Tensor Ids, Tensor Mask, Tensor Positions) Columns(int count, Func<EditRow, int, int> index)
    {
        var id = new long[rows.Length, count];
        var valid = new long[rows.Length, count];
        var position = new long[rows.Length, count];
        for (int r = 0; r < rows.Length; r++)
        {
            for (int c = 0; c < count; c++)
            {
                int i = index(rows[r], c);
                position[r, c] = Math.Clamp(i, 0, rows[r].Ids.Count - 1);
                id[r, c] = rows[r].Ids[(int)position[r, c]];
                valid[r, c] = i >= 0 && i < rows[r].Valid ? 1 : 0;
            }
        }

        return (tensor(id), tensor(valid), tensor(position));
    }

    Selected Select()
    {
        var cells = new List<long>();
        var tokens = new List<long>();
        var weights = new List<float>();
        var targetFacts = new List<long>();
        var drifts = new List<long>();
        var rowFacts = new List<long>();
        long columns = hidden.shape[1], row = 0;
        for (int i = 0; i < active.Count; i++)
        {
            EditTokens edit = facts[active[i]].Tokens;
            foreach (EditRow value in edit.Values)
            {
                foreach (EditTarget target in value.Targets)
                {
                    cells.Add((row * columns) + target.Position - value.Lookup);
                    tokens.Add(target.Token);
                    weights.Add(1f / (edit.Values.Count * value.Targets.Count));
                    targetFacts.Add(i);
                }

                rowFacts.Add(i);
                row++;
            }

            drifts.Add(row * columns);
            rowFacts.Add(i);
            row++;
        }

        return new Selected(Own(tensor(cells.ToArray())), Own(tensor(tokens.ToArray())), Own(tensor(weights.ToArray())), Own(tensor(targetFacts.ToArray())), Own(tensor(drifts.ToArray())), Own(tensor(rowFacts.ToArray())));
    }

    // Facts that are done leave the batch.
    void Compact(List<int> keep)
    {
        var kept = new List<int>();
        for (int i = 0, row = 0; i < active.Count; i++)
        {
            int count = facts[active[i]].Tokens.Values.Count + 1;
            if (keep.Contains(i))
            {
                kept.AddRange(Enumerable.Range(row, count));
            }

            row += count;
        }

        using Tensor rowIndex = tensor(kept.Select(r => (long)r).ToArray()), factIndex = tensor(keep.Select(i => (long)i).ToArray());
        if (cache.Length > 0)
        {
            cache.Reorder(kept);
        }

        Keep(ref ids, rowIndex);
        Keep(ref mask, rowIndex);
        Keep(ref positions, rowIndex);
        Keep(ref hidden, rowIndex);
        if (down is not null && middle is not null)
        {
            Keep(ref down, rowIndex);
            Keep(ref middle, rowIndex);
        }

        Keep(ref delta, factIndex);
        Keep(ref first, factIndex);
        Keep(ref second, factIndex);
        active = [.. keep.Select(i => active[i])];
        selected.Dispose();
        selected = Select();
        pass.Dispose();
        pass = model.Prepare(ids, mask, positions, cache);
    }

    static void Keep(ref Tensor tensor, Tensor index)
    {
        Tensor chosen = Own(tensor.index_select(0, index));
        tensor.Dispose();
        tensor = chosen;
    }

    static Tensor Own(Tensor tensor) => tensor.DetachFromDisposeScope();

    static double[] Doubles(Tensor tensor) => [.. tensor.detach().to_type(ScalarType.Float64).data<double>()];
}
