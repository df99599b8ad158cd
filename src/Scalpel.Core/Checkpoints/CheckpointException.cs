namespace Scalpel.Checkpoints;

/// <summary>What is wrong with a checkpoint file.</summary>
public enum CheckpointProblem
{
    /// <summary>The file ends before its own header says.</summary>
    Truncated,

    /// <summary>The header's length or a count in it cannot be.</summary>
    HeaderSize,

    /// <summary>The header is not what the format asks for.</summary>
    HeaderSyntax,

    /// <summary>A name occurs twice.</summary>
    Duplicate,

    /// <summary>A storage type is unknown or not supported.</summary>
    Type,

    /// <summary>A shape overflows or contradicts the stored size.</summary>
    Shape,

    /// <summary>The tensors overlap, leave holes, or reach beyond the file.</summary>
    Layout,

    /// <summary>The sharded index and its files disagree.</summary>
    Index,

    /// <summary>The file is of a kind that is refused: pickle, another byte order, an unknown version.</summary>
    Format,

    /// <summary>Something that must be there is not: a file, a tensor, a key.</summary>
    Missing,
}

/// <summary>A checkpoint file that is malformed, hostile or of a kind that Scalpel refuses.</summary>
/// <param name="path">The file.</param>
/// <param name="problem">What is wrong.</param>
/// <param name="message">The finding and the expectation.</param>
/// <param name="tensor">The tensor concerned, if one is.</param>
/// <param name="offset">The byte concerned, or -1.</param>
public sealed class CheckpointException(string path, CheckpointProblem problem, string message, string? tensor = null, long offset = -1)
    : BadInputException(Sentence(path, message, tensor, offset))
{
    /// <summary>The file.</summary>
    public string Path { get; } = path;

    /// <summary>What is wrong.</summary>
    public CheckpointProblem Problem { get; } = problem;

    /// <summary>The tensor concerned, if one is.</summary>
    public string? Tensor { get; } = tensor;

    /// <summary>The byte concerned, or -1.</summary>
    public long Offset { get; } = offset;

    static string Sentence(string path, string message, string? tensor, long offset) =>
        path + (tensor is null ? "" : $", tensor {Shorten(tensor)}") + (offset < 0 ? "" : $", byte {offset}") + ": " + message;

    static string Shorten(string name) => name.Length <= 120 ? name : name[..120] + "…";
}
