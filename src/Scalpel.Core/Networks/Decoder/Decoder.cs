using System.Text.Json.Nodes;
using Scalpel.Networks.Layers;
using Scalpel.Numerics;
using TorchSharp;
using static TorchSharp.torch;

namespace Scalpel.Networks;

/// <summary>For which positions a pass computes logits.</summary>
public readonly record struct LogitsAt
{
    /// <summary>All: [B, T, V].</summary>
    public static LogitsAt All => default;

    /// <summary>The last column: [B, 1, V].</summary>
    public static LogitsAt Last => Columns(-1);

    /// <summary>Columns of this pass, negative ones from its end; null for all.</summary>
    internal int[]? Chosen { get; private init; }

    /// <summary>The given columns of the pass (not positions of the unpadded sequence): [B, n, V].</summary>
    public static LogitsAt Columns(params int[] columns) => new() { Chosen = columns };
}

/// <summary>
/// A causal language model of any of the families of <see cref="DecoderConfig.Families"/>: one network, driven by its
/// configuration, over tensors under the checkpoint's own names.
/// </summary>
public sealed partial class Decoder : Network
{
    /// <summary>The hyper-parameters. Change <see cref="DecoderConfig.Causal"/> or windows with <c>with</c> to unmask layers.</summary>
    public DecoderConfig Config { get; set; }

    /// <inheritdoc/>
    public override JsonObject ConfigJson => Config.Json;

    /// <summary>One forward pass.</summary>
    /// <param name="ids">Token ids, int64 [B, T].</param>
    /// <param name="mask">
    /// 1 for tokens, 0 for padding on either side, [B, T]; null when all are tokens. Higher numbers keep sequences apart that
    /// are packed into one row: a token sees tokens of its own number. Give their positions too.
    /// </param>
    /// <param name="positions">Positions, int64 [B, T]; by default the tokens of each row counted from 0, after those in the cache.</param>
    /// <param name="cache">Tokens read before; the pass adds its own.</param>
    /// <param name="taps">Activations to read or replace.</param>
    /// <param name="logits">For which columns the head is computed.</param>
    /// <returns>Logits [B, T or chosen columns, V] in the network's type; labels stand for V where a classifier takes the head's place.</returns>
    /// <exception cref="BadInputException">An id is outside of the vocabulary, there are more tokens than learned positions, a tap does not exist, or the cache holds other rows.</exception>
    public Tensor Forward(Tensor ids, Tensor? mask = null, Tensor? positions = null, KeyValueCache? cache = null, Taps? taps = null, LogitsAt logits = default)
    {
        using var scope = NewDisposeScope();
        using Pass pass = Prepare(ids, mask, positions, cache, taps);
        Tensor hidden = Embed(ids, pass);
        hidden = RunLayers(hidden, 0, Config.Layers, pass);
        Tensor result = Logits(hidden, pass, logits);
        pass.End();
        return result.MoveToOuterDisposeScope();
    }

    /// <summary>What the layers of a pass share; for those who run its pieces themselves.</summary>
    public Pass Prepare(Tensor ids, Tensor? mask = null, Tensor? positions = null, KeyValueCache? cache = null, Taps? taps = null)
    {
        if (ids.dim() != 2 || ids.numel() == 0)
        {
            throw new BadInputException($"A pass needs at least one token in each row; the ids have the shape [{string.Join(", ", ids.shape)}].");
        }

        taps?.Begin();
        foreach (string name in taps?.Names ?? [])
        {
            CheckTap(name);
        }

        cache?.Begin(Config, (int)ids.shape[0], (int)ids.shape[1]);
        return new Pass(Config, DType, (int)ids.shape[0], (int)ids.shape[1], mask, positions, cache, taps, senses is null ? null : ids);
    }

    /// <summary>The residual stream into layer 0, [B, T, d].</summary>
    public Tensor Embed(Tensor ids, Pass pass)
    {
        using var scope = NewDisposeScope();
        long lowest = ids.min().item<long>(), highest = ids.max().item<long>();
        if (lowest < 0 || highest >= Config.Vocabulary)
        {
            throw new BadInputException($"The token id {(lowest < 0 ? lowest : highest)} is outside of the model's {Config.Vocabulary} tokens; is the tokenizer that of this model?");
        }

        Tensor x = EmbeddingOf(ids);
        if (Config.EmbeddingScale != 1)
        {
            // Rounded to the arithmetic's type first, as the family's reference does.
            x = x * tensor(Config.EmbeddingScale, dtype: DType);
        }

        if (position is not null)
        {
            long last = pass.Positions.max().item<long>();
            if (last >= Config.MaxPositions)
            {
                throw new BadInputException($"The text has {last + 1} tokens, the model {Config.MaxPositions} positions; shorten the text.");
            }

            x = x + position.index_select(0, pass.Positions.flatten()).unflatten(0, pass.Positions.shape);
        }

        return pass.At("embedding.output", x).MoveToOuterDisposeScope();
    }

    // Rows of the embedding, adapters included, [B, T, d].
    Tensor EmbeddingOf(Tensor ids)
    {
        Tensor x = Rows(ids);
        foreach (IEmbeddingAdapter adapter in embeddingAdapters)
        {
            x = adapter.Apply(ids, x);
        }

        return x;
    }

    /// <summary>Runs layers <paramref name="from"/> to <paramref name="to"/> (exclusive) on the residual stream [B, T, d].</summary>
    public Tensor RunLayers(Tensor hidden, int from, int to, Pass pass)
    {
        if (HasTape(pass))
        {
            return RunTape(hidden, from, to, pass);
        }

        Tensor x = hidden;
        for (int l = from; l < to; l++)
        {
            Tensor next = Block(l, x, pass);
            if (!ReferenceEquals(x, hidden))
            {
                x.Dispose();
            }

            x = next;
        }

        return x;
    }

    /// <summary>Final norm and head for the chosen columns of the residual stream [B, T, d]: [B, columns, V].</summary>
    public Tensor Logits(Tensor hidden, Pass pass, LogitsAt at = default)
    {
        using var scope = NewDisposeScope();
        if (pass.Taps is not null && TapsTheEnd(pass.Taps))
        {
            return Choose(pass.At("logits", ApplyHead(StatesOfHead(hidden, pass))), at).MoveToOuterDisposeScope();
        }

        (Tensor states, Func<Tensor, Tensor> toLogits) = BeforeHead(hidden, pass);
        return toLogits(Choose(states, at)).MoveToOuterDisposeScope();
    }

    // States of which some may be chosen before the rest of the way to their logits: the residual stream, whose norm is each
    // state's own, or the weighed senses, which need all earlier states.
    (Tensor States, Func<Tensor, Tensor> ToLogits) BeforeHead(Tensor hidden, Pass pass) => senses is null ? (hidden, Unembed) : (StatesOfHead(hidden, pass), ApplyHead);

    // What the head reads, [B, T, d]: the normalised residual stream, or the senses that it weighs.
    Tensor StatesOfHead(Tensor hidden, Pass pass)
    {
        Tensor states = pass.At("final_norm.output", Normalise(finalNorm, hidden, pass, "final_norm.scale"));
        return senses is null ? states : WeighedSenses(states, pass);
    }

    /// <summary>The logits of some cells of a batch, counted row by row: [cells, V].</summary>
    /// <param name="hidden">The residual stream, [B, T, d].</param>
    /// <param name="cells">int64 [cells], of 0 to B·T − 1.</param>
    /// <param name="pass">The pass that it comes from.</param>
    internal Tensor LogitsOfCells(Tensor hidden, Tensor cells, Pass pass)
    {
        using var scope = NewDisposeScope();
        (Tensor states, Func<Tensor, Tensor> toLogits) = BeforeHead(hidden, pass);
        return toLogits(states.flatten(0, 1).index_select(0, cells)).MoveToOuterDisposeScope();
    }

    /// <summary>Final norm, with a scale of its own, and head, applied to any state of the residual stream [.., d]: the logit lens.</summary>
    /// <exception cref="BadInputException">The head does not read the residual stream (Backpack).</exception>
    public Tensor Unembed(Tensor hidden)
    {
        RequirePlainHead("The logit lens");
        using var scope = NewDisposeScope();
        return ApplyHead(finalNorm.Apply(hidden)).MoveToOuterDisposeScope();
    }

    Tensor ApplyHead(Tensor states)
    {
        Tensor logits = head.Apply(states);
        return Config.LogitCap is { } cap ? (logits / cap).tanh() * cap : logits;
    }

    static Tensor Choose(Tensor x, LogitsAt at)
    {
        if (at.Chosen is not { } columns)
        {
            return x;
        }

        long count = x.shape[1];
        return columns.Length == 1
            ? x.narrow(1, columns[0] < 0 ? columns[0] + count : columns[0], 1)
            : x.index_select(1, tensor(columns.Select(c => c < 0 ? c + count : c).ToArray()));
    }

    Tensor Block(int l, Tensor input, Pass pass)
    {
        using var scope = NewDisposeScope();
        DecoderLayer layer = layers[l];
        Tensor x = pass.At(l, "input", input);
        Tensor normed = layer.AttentionNorm is null ? x : pass.At(l, "attention_norm.output", Normalise(layer.AttentionNorm, x, pass, $"layers.{l}.attention_norm.scale"));
        Tensor attention = Attention(l, layer, normed, pass);
        Tensor result;
        if (Config.Block is BlockKind.ParallelOneNorm or BlockKind.ParallelTwoNorms)
        {
            Tensor second = layer.MlpNorm is null ? normed : pass.At(l, "mlp_norm.output", Normalise(layer.MlpNorm, x, pass, $"layers.{l}.mlp_norm.scale"));
            result = x + attention + MlpOutput(l, layer, second, pass);
        }
        else
        {
            Tensor middle = pass.At(l, "middle", x + attention);
            Tensor second = layer.MlpNorm is null ? middle : pass.At(l, "mlp_norm.output", Normalise(layer.MlpNorm, middle, pass, $"layers.{l}.mlp_norm.scale"));
            result = middle + MlpOutput(l, layer, second, pass);
        }

        return pass.At(l, "output", result).MoveToOuterDisposeScope();
    }

    Tensor Normalise(Norm norm, Tensor x, Pass pass, string scale)
    {
        if (pass.Taps is null || !pass.Taps.Wants(scale))
        {
            return norm.Apply(x);
        }

        Tensor before = norm.Scale(x), after = pass.At(scale, before);
        return Unchanged(before, after) ? norm.Apply(x) : norm.Apply(x, after);
    }

    // Reading a tap must not change a bit: the fused arithmetic stays in use unless an edit changed a value or gradients
    // are to flow through the tap.
    static bool Unchanged(Tensor before, Tensor after) => !after.requires_grad && (ReferenceEquals(before, after) || before.Equals(after));

    Tensor Attention(int l, DecoderLayer layer, Tensor x, Pass pass)
    {
        using var scope = NewDisposeScope();
        (Tensor query, Tensor key, Tensor value) = QueryKeyValue(l, layer, layer.QueryKeyValue.Apply(x), pass);       // [B, T, heads, e]
        (Tensor keys, Tensor values) = (key.transpose(1, 2), value.transpose(1, 2));                       // [B, K, T, e]
        if (pass.Cache is not null)
        {
            (keys, values) = pass.Cache.Append(l, keys, values);                                           // [B, K, S, e]
        }

        Tensor mixed = Mix(l, query.transpose(1, 2), keys, values, pass);                                  // [B, H, T, e]
        Tensor heads = pass.At(l, "attention.head_value", mixed.transpose(1, 2), headAxis: 2);             // [B, T, H, e]
        Tensor output = (pass.Wants(l, "attention.head_output") ? HeadSum(l, layer, heads, pass) : null) ?? layer.Output.Apply(heads.flatten(2));
        if (layer.AfterAttentionNorm is not null)
        {
            output = layer.AfterAttentionNorm.Apply(output);
        }

        return pass.At(l, "attention.output", output).MoveToOuterDisposeScope();
    }

    // [B, H, T, e] and twice [B, K, S, e] → [B, H, T, e].
    Tensor Mix(int l, Tensor queries, Tensor keys, Tensor values, Pass pass)
    {
        if (SharesProducts(l, pass))
        {
            return Shared(l, queries, keys, values, pass);
        }

        (keys, values) = (Ungrouped(l, "attention.key_ungrouped", keys, pass), Ungrouped(l, "attention.value_ungrouped", values, pass));
        bool tapped = pass.Wants(l, "attention.score") || pass.Wants(l, "attention.pattern");
        Tensor? pattern = NeedsPattern(pass) || tapped ? Pattern(l, queries, keys, pass) : null;
        return pattern is not null ? pattern.matmul(values) : Fused(l, queries, keys, values, pass);
    }

    (Tensor Query, Tensor Key, Tensor Value) QueryKeyValue(int l, DecoderLayer layer, Tensor all, Pass pass)
    {
        int h = Config.Heads, k = Config.KeyValueHeads, e = Config.HeadSize;
        Tensor query, key, value;
        if (names.Layout == QueryKeyValueLayout.FusedPerHead)
        {
            Tensor three = all.Split(h, 3, e);                                                   // [B, T, H, 3, e]
            (query, key, value) = (three.select(3, 0), three.select(3, 1), three.select(3, 2));
        }
        else
        {
            (query, key, value) = (all.Part(0, h * e).Split(h, e), all.Part(h * e, k * e).Split(k, e), all.Part((h + k) * e, k * e).Split(k, e));
        }

        if (TurnsInPlace(l) && pass.Taps is null && !all.requires_grad)
        {
            TurnInPlace(l, all, pass, back: false);
            return (query, key, value);
        }

        query = pass.At(l, "attention.query_raw", query, headAxis: 2);
        key = pass.At(l, "attention.key_raw", key, headAxis: 2);
        if (Config.ClipQueryKeyValue is { } bound)
        {
            (query, key, value) = (query.clamp(-bound, bound), key.clamp(-bound, bound), value.clamp(-bound, bound));
        }

        (query, key) = Config.QueryKeyNorm switch
        {
            QueryKeyNorm.PerHead => (layer.QueryNorm!.Apply(query), layer.KeyNorm!.Apply(key)),
            QueryKeyNorm.AllHeads => (layer.QueryNorm!.Apply(query.flatten(2)).Split(h, e), layer.KeyNorm!.Apply(key.flatten(2)).Split(k, e)),
            _ => (query, key),
        };
        query = pass.At(l, "attention.query", pass.Turn(l, query), headAxis: 2);
        key = pass.At(l, "attention.key", pass.Turn(l, key), headAxis: 2);
        return (query, key, pass.At(l, "attention.value", value, headAxis: 2));
    }

    // Whether nothing but a rotation stands between the product and queries and keys.
    bool TurnsInPlace(int l) => Config is { QueryKeyNorm: QueryKeyNorm.None, ClipQueryKeyValue: null } && names.Layout == QueryKeyValueLayout.Separate
        && RowPasses.Covers(DType) && (Config.Rotary.Count == 0 || !Config.Rotary[Config.RotaryOfLayer[l]].Interleaved);

    // Turns the queries and keys of [q; k; v], [.., (H + 2K)·e].
    void TurnInPlace(int l, Tensor all, Pass pass, bool back)
    {
        if (pass.AnglesOf(l) is { } angles)
        {
            RowPasses.Rotate(all, Config.Heads + Config.KeyValueHeads, Config.HeadSize, angles.Cos, angles.Sin, back);
        }
    }

    // [B, K, S, e] → [B, H, S, e]: query head h reads key/value head ⌊h/(H/K)⌋.
    Tensor Ungrouped(int l, string tap, Tensor grouped, Pass pass)
    {
        int share = Config.Heads / Config.KeyValueHeads;
        Tensor full = share == 1 ? grouped : grouped.unsqueeze(2).expand(-1, -1, share, -1, -1).flatten(1, 2);
        return pass.Wants(l, tap) ? pass.At(l, tap, full.transpose(1, 2), headAxis: 2).transpose(1, 2) : full;
    }

    double Scale(int l) => Config.ScaleByInverseLayer ? Config.AttentionScale / (l + 1) : Config.AttentionScale;

    // A few queries after a cache, and heads that share keys and values.
    bool SharesProducts(int l, Pass pass) =>
        Config.Heads > Config.KeyValueHeads && pass.Past > 0 && pass.Count <= 16 && !NeedsPattern(pass)
        && !((string[])["key_ungrouped", "value_ungrouped", "score", "pattern"]).Any(leaf => pass.Wants(l, $"attention.{leaf}"));

    // The heads of a group become rows of one product, so that keys and values are not repeated for each.
    Tensor Shared(int l, Tensor query, Tensor key, Tensor value, Pass pass)
    {
        int share = Config.Heads / Config.KeyValueHeads;
        double factor = Scale(l) * Math.Sqrt(Config.HeadSize);
        Tensor rows = query.unflatten(1, [Config.KeyValueHeads, share]).flatten(2, 3);                     // [B, K, share·T, e]
        Tensor? mask = pass.IsFree(l) ? null : pass.Mask(l).Additive.repeat(1, 1, share, 1);               // [B or 1, 1, share·T, S]
        Tensor mixed = nn.functional.scaled_dot_product_attention(Math.Abs(factor - 1) < 1e-12 ? rows : rows * factor, key, value, attn_mask: mask);
        return mixed.unflatten(2, [share, pass.Count]).flatten(1, 2);                                      // [B, H, T, e]
    }

    Tensor Fused(int l, Tensor query, Tensor key, Tensor value, Pass pass)
    {
        // The fused product divides by √e; any other scale is put into the query.
        double factor = Scale(l) * Math.Sqrt(Config.HeadSize);
        Tensor q = Math.Abs(factor - 1) < 1e-12 ? query : query * factor;
        if (!pass.IsPlainCausal(l) || pass.Count == 1)
        {
            return pass.IsFree(l) ? nn.functional.scaled_dot_product_attention(q, key, value)
                : nn.functional.scaled_dot_product_attention(q, key, value, attn_mask: pass.Mask(l).Additive);
        }

        if (pass.Count < 2 * CausalRows)
        {
            return nn.functional.scaled_dot_product_attention(q, key, value, is_casual: true);
        }

        // The fused product computes masked blocks too; rows taken a block at a time see no later keys to begin with.
        // Without a graph they are laid side by side as the output's product wants them, [B, T, H, e].
        bool graph = is_grad_enabled() && (q.requires_grad || key.requires_grad || value.requires_grad);
        Tensor? whole = graph ? null : empty([q.shape[0], q.shape[2], q.shape[1], value.shape[3]], dtype: q.dtype);
        var blocks = new List<Tensor>();
        Tensor mask = pass.Mask(l).Additive;                                                               // [1, 1, T, T]
        for (int start = 0; start < pass.Count; start += CausalRows)
        {
            int rows = Math.Min(CausalRows, pass.Count - start), end = start + rows;
            Tensor allowed = mask.narrow(2, start, rows).narrow(3, 0, end);
            Tensor block = nn.functional.scaled_dot_product_attention(q.narrow(2, start, rows), key.narrow(2, 0, end), value.narrow(2, 0, end), attn_mask: allowed);
            if (whole is null)
            {
                blocks.Add(block);
            }
            else
            {
                whole.narrow(1, start, rows).copy_(block.transpose(1, 2));
            }
        }

        return whole?.transpose(1, 2) ?? cat(blocks, 2);
    }

    const int CausalRows = 128;

    // The fused product knows no soft cap, and its backward pass is wrong for rows that may attend to nothing.
    bool NeedsPattern(Pass pass) => Config.ScoreCap is not null || pass.BeginsWithPadding && is_grad_enabled();

    // The pattern [B, H, T, S] with its taps; null when the fused product gives the same, as no edit changed anything.
    Tensor? Pattern(int l, Tensor query, Tensor key, Pass pass)
    {
        Tensor scores = query.matmul(key.transpose(-1, -2)) * Scale(l);                                   // [B, H, T, S]
        if (Config.ScoreCap is { } cap)
        {
            scores = (scores / cap).tanh() * cap;
        }

        (Tensor allowed, Tensor additive) = pass.Mask(l);
        Tensor score = scores + additive, editedScore = pass.At(l, "attention.score", score, headAxis: 1);
        Tensor wide = DType == ScalarType.Float64 ? editedScore : editedScore.to_type(ScalarType.Float32);
        Tensor pattern = wide.softmax(-1).to_type(DType), edited = pass.At(l, "attention.pattern", pattern, headAxis: 1, allowed);
        return !NeedsPattern(pass) && Unchanged(score, editedScore) && Unchanged(pattern, edited) ? null : edited;
    }

    // The sum of what each head adds for itself, [B, T, H, d] before it; null when no edit changed anything.
    Tensor? HeadSum(int l, DecoderLayer layer, Tensor heads, Pass pass)
    {
        Tensor matrix = layer.Output.Transposed ? layer.Output.Weight : layer.Output.Weight.t();          // [H·e, d]
        Tensor parts = einsum("bthe,hed->bthd", heads, matrix.unflatten(0, [Config.Heads, Config.HeadSize]));
        Tensor edited = pass.At(l, "attention.head_output", parts, headAxis: 2);
        if (Unchanged(parts, edited))
        {
            return null;
        }

        Tensor sum = edited.sum(2);
        return layer.Output.Bias is null ? sum : sum + layer.Output.Bias;
    }

    Tensor MlpOutput(int l, DecoderLayer layer, Tensor x, Pass pass)
    {
        using var scope = NewDisposeScope();
        Tensor output = layer.Router is null ? Feed(layer.Mlps[0], x, pass, (leaf, value) => pass.At(l, "mlp." + leaf, value)) : Mixture(l, layer, x, pass);
        if (layer.AfterMlpNorm is not null)
        {
            output = layer.AfterMlpNorm.Apply(layer.Router is null ? pass.At(l, "mlp.down", output) : output);
        }

        return pass.At(l, "mlp.output", output).MoveToOuterDisposeScope();
    }

    /// <summary>The tap, below <c>layers.l.</c>, of what the down projection gives.</summary>
    internal string DownTap => names.AfterMlpNorm is null ? "mlp.output" : "mlp.down";

    /// <summary>What is added to the residual stream for an output of layer l's down projection: it itself, or normalised where the family does so.</summary>
    internal Tensor MlpSummand(int l, Tensor down) => layers[l].AfterMlpNorm?.Apply(down) ?? down;

    Tensor Feed(Mlp mlp, Tensor x, Pass pass, Func<string, Tensor, Tensor> at)
    {
        Tensor up = mlp.Up.Apply(x), activation;
        if (Config.Gated)
        {
            Tensor both = up, gate = at("gate", up.Part(0, Config.Inner));
            up = at("up", up.Part(Config.Inner, Config.Inner));
            if (LayerTape.IsExplicit(this) && !(gate.requires_grad || up.requires_grad))
            {
                activation = RowPasses.SwiGlu(pass.Taps is null ? both : cat([gate, up], -1));
            }
            else
            {
                activation = Config.Activation.Apply(gate);
                activation = activation.requires_grad || up.requires_grad ? activation * up : activation.mul_(up);
            }
        }
        else
        {
            activation = Config.Activation.Apply(at("up", up));
        }

        return mlp.Down.Apply(at("activation", activation));
    }

    // Tokens are gathered per expert; each token's outputs are added with the router's weights, renormalised over its experts.
    Tensor Mixture(int l, DecoderLayer layer, Tensor x, Pass pass)
    {
        Tensor scores = pass.At(l, "moe.router_logits", layer.Router!.Apply(x));                          // [B, T, E]
        pass.KeepRouterLogits(scores);
        Tensor probability = (DType == ScalarType.Float64 ? scores : scores.to_type(ScalarType.Float32)).softmax(-1);
        (Tensor best, Tensor which) = probability.topk(Config.ExpertsPerToken, -1);
        Tensor weight = zeros_like(probability).scatter(-1, which, best / best.sum(-1, keepdim: true));
        weight = pass.At(l, "moe.router_weights", weight.to_type(x.dtype));
        Tensor flat = x.flatten(0, 1), output = zeros_like(flat), perToken = weight.flatten(0, 1);
        for (int j = 0; j < Config.Experts; j++)
        {
            Tensor column = perToken.select(1, j), rows = column.detach().nonzero().squeeze(-1);
            string tap = $"moe.experts.{j}.";
            if (rows.numel() > 0 || pass.Taps?.Names.Any(name => name.StartsWith($"layers.{l}.{tap}", StringComparison.Ordinal)) == true)
            {
                Tensor result = Feed(layer.Mlps[j], flat.index_select(0, rows), pass, (leaf, value) => AtExpert(l, tap + leaf, value, rows, pass));
                output = output.index_add(0, rows, result * column.index_select(0, rows).unsqueeze(-1), 1);
            }
        }

        return output.view_as(x);
    }

    // Taps of an expert are [B, T, f], 0 at tokens that do not go to it; edits there have no effect.
    static Tensor AtExpert(int l, string leaf, Tensor value, Tensor rows, Pass pass)
    {
        if (!pass.Wants(l, leaf))
        {
            return value;
        }

        Tensor spread = zeros([pass.Batch * pass.Count, value.shape[^1]], dtype: value.dtype).index_copy(0, rows, value).unflatten(0, [pass.Batch, pass.Count]);
        Tensor edited = pass.At(l, leaf, spread);
        return Unchanged(spread, edited) ? value : edited.flatten(0, 1).index_select(0, rows);
    }

    /// <summary>The taps of this network; <c>{l}</c> stands for a layer, <c>{j}</c> for an expert.</summary>
    public IReadOnlyList<string> TapNames => tapNames ??= [.. AllTapNames()];

    IReadOnlyList<string>? tapNames;

    IEnumerable<string> AllTapNames()
    {
        yield return "embedding.output";
        string[] leaves =
        [
            "input", "output",
            .. Config.Block is BlockKind.ParallelOneNorm or BlockKind.ParallelTwoNorms ? Array.Empty<string>() : ["middle"],
            .. names.AttentionNorm is null ? Array.Empty<string>() : ["attention_norm.output", "attention_norm.scale"],
            .. names.MlpNorm is null ? Array.Empty<string>() : ["mlp_norm.output", "mlp_norm.scale"],
            .. new[] { "query_raw", "key_raw", "query", "key", "value", "key_ungrouped", "value_ungrouped", "score", "pattern", "head_value", "head_output", "output" }.Select(leaf => $"attention.{leaf}"),
            .. Config.Experts > 0 ? new[] { "moe.router_logits", "moe.router_weights", "moe.experts.{j}.gate", "moe.experts.{j}.up", "moe.experts.{j}.activation" }
                : Config.Gated ? ["mlp.gate", "mlp.up", "mlp.activation"] : ["mlp.up", "mlp.activation"],
            .. names.AfterMlpNorm is null || Config.Experts > 0 ? Array.Empty<string>() : ["mlp.down"],
            "mlp.output",
        ];
        foreach (string leaf in leaves)
        {
            yield return $"layers.{{l}}.{leaf}";
        }

        yield return "final_norm.output";
        yield return "final_norm.scale";
        if (senses is not null)
        {
            yield return "senses";
            yield return "sense_weights";
        }

        yield return "logits";
    }

    void CheckTap(string name)
    {
        string[] parts = name.Split('.');
        string general = name;
        if (parts is ["layers", var number, ..] && int.TryParse(number, out int l))
        {
            if (l < 0 || l >= Config.Layers)
            {
                throw new BadInputException($"The tap {name} does not exist: the model has layers 0 to {Config.Layers - 1}.");
            }

            general = string.Join('.', ["layers", "{l}", .. parts[2..]]);
            if (parts is [_, _, "moe", "experts", var expert, _] && int.TryParse(expert, out int j) && j >= 0 && j < Config.Experts)
            {
                general = $"layers.{{l}}.moe.experts.{{j}}.{parts[5]}";
            }
        }

        if (!TapNames.Contains(general))
        {
            throw new BadInputException($"{Config.ModelType} has no tap {name}; it has {string.Join(", ", TapNames)}.");
        }
    }
}
