using System.Globalization;
using TorchSharp;
using static TorchSharp.torch;

namespace Scalpel.Networks;

/// <summary>What a matrix is for, whatever its family calls it.</summary>
public enum Role
{
#pragma warning disable CS1591 // The field's own words.
    Embedding, Position, Query, Key, Value, Output, Gate, Up, Down, Router, Head,
#pragma warning restore CS1591
}

/// <summary>
/// A matrix of a network in the orientation [out, in], whichever way and under whichever name the checkpoint stores it.
/// What is written through it lands in the right place of the right tensor and nowhere else.
/// </summary>
public sealed class RoleView
{
    readonly Tensor parameter;
    readonly bool transposed;
    readonly long[]? rows;

    internal RoleView(string tensorName, Tensor parameter, bool transposed, long[]? rows)
    {
        TensorName = tensorName;
        this.parameter = parameter;
        this.transposed = transposed;
        this.rows = rows;
    }

    /// <summary>The checkpoint's own name of the tensor that holds the matrix.</summary>
    public string TensorName { get; }

    /// <summary>Whether the matrix is the whole of its tensor.</summary>
    public bool IsWhole => rows is null;

    /// <summary>Whether the checkpoint stores it as [in, out].</summary>
    public bool Transposed => transposed;

    /// <summary>Rows out of the tensor's [out, in] orientation that make up this matrix; null for all.</summary>
    public IReadOnlyList<long>? Rows => rows;

    /// <summary>A copy of the matrix, [out, in].</summary>
    public Tensor Read()
    {
        using var scope = NewDisposeScope();
        Tensor oriented = Oriented();
        return (rows is null ? oriented.contiguous().clone() : oriented.index_select(0, tensor(rows))).MoveToOuterDisposeScope();
    }

    /// <summary>Replaces the matrix, [out, in], in the network's memory.</summary>
    public void Write(Tensor matrix)
    {
        using var scope = NewDisposeScope();
        using var noGrad = no_grad();
        Tensor oriented = Oriented();
        if (rows is null)
        {
            oriented.copy_(matrix);
        }
        else
        {
            oriented.index_copy_(0, tensor(rows), matrix.to_type(oriented.dtype));
        }
    }

    /// <summary>A change of the matrix, [out, in], as a change of the whole tensor in its stored orientation.</summary>
    public Tensor ToStored(Tensor change)
    {
        using var scope = NewDisposeScope();
        Tensor whole = change;
        if (rows is not null)
        {
            whole = zeros(Oriented().shape, dtype: change.dtype).index_copy(0, tensor(rows), change);
        }

        return (transposed ? whole.t().contiguous() : whole.alias()).MoveToOuterDisposeScope();
    }

    /// <summary>Factors of a change up·down of the matrix (up [out, r], down [r, in]) as factors of the change of the stored tensor.</summary>
    public (Tensor Down, Tensor Up) ToStored(Tensor down, Tensor up)
    {
        using var scope = NewDisposeScope();
        Tensor tall = rows is null ? up : zeros([Oriented().shape[0], up.shape[1]], dtype: up.dtype).index_copy(0, tensor(rows), up);
        return transposed
            ? (tall.t().contiguous().MoveToOuterDisposeScope(), down.t().contiguous().MoveToOuterDisposeScope())
            : (down.alias().MoveToOuterDisposeScope(), tall.alias().MoveToOuterDisposeScope());
    }

    Tensor Oriented() => transposed ? parameter.t() : parameter.alias();
}

public sealed partial class Decoder
{
    /// <summary>The matrix that plays a role.</summary>
    /// <param name="role">The role.</param>
    /// <param name="layer">Its layer; ignored for embedding, position and head.</param>
    /// <param name="expert">The expert, for gate, up and down of a mixture.</param>
    /// <exception cref="BadInputException">The family has no such matrix, or a mixture was asked without an expert.</exception>
    public RoleView Role(Role role, int layer = 0, int? expert = null)
    {
        if (layer < 0 || layer >= Config.Layers)
        {
            throw new BadInputException($"There is no layer {layer}: the model has layers 0 to {Config.Layers - 1}.");
        }

        string block = prefix + string.Format(CultureInfo.InvariantCulture, names.Block, layer);
        int queryRows = Config.Heads * Config.HeadSize, keyRows = Config.KeyValueHeads * Config.HeadSize;
        return role switch
        {
            Networks.Role.Embedding => View(prefix + names.Embedding, false, null),
            Networks.Role.Position when names.Position is not null => View(prefix + names.Position, false, null),
            Networks.Role.Head => Parameters.ContainsKey($"{names.Head}.weight") ? View(names.Head, false, null) : View(prefix + names.Embedding, false, null),
            Networks.Role.Query => Attention(0, 0, queryRows),
            Networks.Role.Key => Attention(1, queryRows, keyRows),
            Networks.Role.Value => Attention(2, queryRows + keyRows, keyRows),
            Networks.Role.Output => View(block + names.Output, names.Transposed, null),
            Networks.Role.Router when Config.Experts > 0 => View(block + names.Router, false, null),
            Networks.Role.Gate when Config.Gated => Fed("w1", 0),
            Networks.Role.Up => Fed("w3", 1),
            Networks.Role.Down => Config.Experts > 0 ? View(Expert("w2"), false, null) : View(block + names.Down, names.Transposed, null),
            _ => throw new BadInputException($"{Config.ModelType} has no matrix in the role {role}."),
        };

        RoleView Attention(int part, int start, int count) => names.Layout switch
        {
            QueryKeyValueLayout.Separate => View(block + names.QueryKeyValue[part], false, null),
            QueryKeyValueLayout.Fused => View(block + names.QueryKeyValue[0], names.Transposed, [.. Enumerable.Range(start, count).Select(r => (long)r)]),
            _ => View(block + names.QueryKeyValue[0], false, [.. from h in Enumerable.Range(0, Config.Heads) from i in Enumerable.Range(0, Config.HeadSize) select ((h * 3L) + part) * Config.HeadSize + i]),
        };

        RoleView Fed(string name, int part) =>
            Config.Experts > 0 ? View(Expert(name), false, null)
            : !Config.Gated ? View(block + names.Up, names.Transposed, null)
            : names.GateUp.Length == 2 ? View(block + names.GateUp[part], false, null)
            : View(block + names.GateUp[0], false, [.. Enumerable.Range(part * Config.Inner, Config.Inner).Select(r => (long)r)]);

        string Expert(string name) => expert is { } j && j >= 0 && j < Config.Experts
            ? block + string.Format(CultureInfo.InvariantCulture, names.Experts, j) + name
            : throw new BadInputException($"{Config.ModelType} has {Config.Experts} experts in each layer; say which one (0 to {Config.Experts - 1}).");

        RoleView View(string name, bool transposed, long[]? rows) => new($"{name}.weight", Parameter($"{name}.weight"), transposed, rows);
    }
}
