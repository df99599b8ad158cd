using Scalpel.Text.Models;

namespace Scalpel.Text.Pipeline;

/// <summary>How the vocabulary spells its tokens.</summary>
enum TokenSpelling
{
    Text,
    ByteAlphabet,
    Metaspace,
}

/// <summary>Which tokens play which part.</summary>
sealed record SpecialTokens
{
    public string? Bos { get; init; }

    public string? Eos { get; init; }

    public string? Pad { get; init; }

    public string? Unk { get; init; }

    /// <summary>More ids at which generation stops.</summary>
    public IReadOnlyList<int> EndIds { get; init; } = [];

    /// <summary>The tokens by the names under which chat templates know them.</summary>
    public Dictionary<string, string> Texts()
    {
        var texts = new Dictionary<string, string>(StringComparer.Ordinal);
        foreach ((string name, string? text) in (ReadOnlySpan<(string, string?)>)[("bos_token", Bos), ("eos_token", Eos), ("pad_token", Pad), ("unk_token", Unk)])
        {
            if (text is not null)
            {
                texts[name] = text;
            }
        }

        return texts;
    }
}

/// <summary>The parts of which a tokenizer is put together, in the order of their work.</summary>
sealed record TokenizerParts
{
    public IReadOnlyList<AddedToken> AddedTokens { get; init; } = [];

    public Normalizer? Normalizer { get; init; }

    /// <summary>Whether added tokens that are searched in normalised text are normalised themselves.</summary>
    public bool NormalizesAddedTokens { get; init; } = true;

    public IReadOnlyList<PreTokenizer> PreTokenizers { get; init; } = [];

    public required TokenModel Model { get; init; }

    public PostProcessor PostProcessor { get; init; } = new();

    /// <summary>Null: the tokens are joined by spaces.</summary>
    public TokenDecoderStep? Decoder { get; init; }

    public Truncation? Truncation { get; init; }

    public Padding? Padding { get; init; }

    public SpecialTokens Roles { get; init; } = new();

    public TokenSpelling Spelling { get; init; }

    public string? ChatTemplate { get; init; }

    public int? MaxLength { get; init; }
}
