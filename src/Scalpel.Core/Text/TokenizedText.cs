namespace Scalpel.Text;

/// <summary>A text, or a pair of texts, in tokens.</summary>
/// <param name="Ids">The ids.</param>
/// <param name="Offsets">For each token the code points [from, to) of its text that it stands for; (0, 0) for added special tokens and padding.</param>
/// <param name="TypeIds">For each token 0 or 1: which text of a pair it belongs to, as the model's template says.</param>
/// <param name="AttentionMask">1 for tokens, 0 for padding.</param>
/// <param name="SpecialMask">1 for tokens that the template or padding added, 0 for those of the text.</param>
public sealed record TokenizedText(int[] Ids, (int From, int To)[] Offsets, int[] TypeIds, int[] AttentionMask, int[] SpecialMask)
{
    /// <summary>How many tokens there are, padding included.</summary>
    public int Count => Ids.Length;

    /// <summary>Tokens that are not padding.</summary>
    public int ValidCount => AttentionMask.Sum();
}

/// <summary>The side at which tokens are cut off or padding is put.</summary>
public enum TextSide
{
    /// <summary>The end.</summary>
    Right,

    /// <summary>The start.</summary>
    Left,
}

/// <summary>Which text of a pair is shortened.</summary>
public enum TruncationStrategy
{
    /// <summary>The longer one until both are equal, then both.</summary>
    LongestFirst,

    /// <summary>The first only.</summary>
    OnlyFirst,

    /// <summary>The second only.</summary>
    OnlySecond,
}

/// <summary>Shortens texts that are too long.</summary>
/// <param name="MaxLength">Most tokens, those of the template included.</param>
/// <param name="Strategy">Which text of a pair is shortened. Default: the longer one.</param>
/// <param name="Side">Where tokens are cut off. Default: the end.</param>
public sealed record Truncation(int MaxLength, TruncationStrategy Strategy = TruncationStrategy.LongestFirst, TextSide Side = TextSide.Right);

/// <summary>Brings texts to one length.</summary>
public sealed record Padding
{
    /// <summary>The length; null for that of the longest text of the batch.</summary>
    public int? Length { get; init; }

    /// <summary>The length is rounded up to a multiple of this; null for none.</summary>
    public int? MultipleOf { get; init; }

    /// <summary>Where padding is put. Default: the end.</summary>
    public TextSide Side { get; init; }

    /// <summary>The id that pads; null for the tokenizer's own padding token.</summary>
    public int? Id { get; init; }

    /// <summary>The type id of padding. Default 0.</summary>
    public int TypeId { get; init; }
}

/// <summary>How a text is turned into tokens.</summary>
public sealed record EncodeOptions
{
    /// <summary>Adds the tokens of the model's template, such as the one that begins a text. Default true.</summary>
    public bool AddSpecial { get; init; } = true;

    /// <summary>Reads special tokens that stand in the text as such; otherwise they are plain text. Default true.</summary>
    public bool ParseSpecial { get; init; } = true;

    /// <summary>Shortening; null for what the tokenizer's own file says.</summary>
    public Truncation? Truncation { get; init; }

    /// <summary>Padding; null for what the tokenizer's own file says.</summary>
    public Padding? Padding { get; init; }
}
