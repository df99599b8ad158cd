namespace Scalpel.Generation;

/// <summary>How text is generated. The defaults decode greedily.</summary>
public sealed record GenerationOptions
{
    /// <summary>Most tokens to generate. Default 128.</summary>
    public int MaxNewTokens { get; init; } = 128;

    /// <summary>Divides the logits before sampling; 0 takes the most probable token each time (greedy). Default 0.</summary>
    public double Temperature { get; init; }

    /// <summary>Samples among the k most probable tokens; null for all. Default null.</summary>
    public int? TopK { get; init; }

    /// <summary>Samples among the smallest set of most probable tokens whose mass reaches p; null for all. Default null.</summary>
    public double? TopP { get; init; }

    /// <summary>Samples among tokens at least this times as probable as the most probable one; null for all. Default null.</summary>
    public double? MinP { get; init; }

    /// <summary>Divides positive and multiplies negative logits of tokens that occurred in prompt or answer. Default 1, none.</summary>
    public double RepetitionPenalty { get; init; } = 1;

    /// <summary>Texts that end an answer; it is cut before them. Default none.</summary>
    public IReadOnlyList<string> StopStrings { get; init; } = [];

    /// <summary>Seed of the sampling; each row of a batch draws from a stream of its own. Default 0.</summary>
    public ulong Seed { get; init; }

    /// <summary>Tokens that end an answer; null for those that the model's configuration names, empty for none. Default null.</summary>
    public IReadOnlyList<int>? EndIds { get; init; }

    /// <summary>Changes of the logits before penalty and filters, in this order. Default none.</summary>
    public IReadOnlyList<ILogitsProcessor> Processors { get; init; } = [];

    /// <summary>Whether the most probable token is taken each time.</summary>
    public bool Greedy => Temperature == 0;

    /// <summary>Checks ranges, and that no option is without effect.</summary>
    /// <exception cref="BadInputException">One is out of range, or has no effect beside the others.</exception>
    public void Validate()
    {
        Require(MaxNewTokens >= 1, nameof(MaxNewTokens), MaxNewTokens, "at least 1");
        Require(Temperature >= 0 && double.IsFinite(Temperature), nameof(Temperature), Temperature, "0 (greedy) or above");
        Require(TopK is not < 1, nameof(TopK), TopK, "at least 1; leave it out to keep all tokens");
        Require(TopP is null or (>= 0 and <= 1), nameof(TopP), TopP, "between 0 and 1");
        Require(MinP is null or (>= 0 and <= 1), nameof(MinP), MinP, "between 0 and 1");
        Require(RepetitionPenalty > 0 && double.IsFinite(RepetitionPenalty), nameof(RepetitionPenalty), RepetitionPenalty, "above 0");
        Require(!StopStrings.Any(string.IsNullOrEmpty), nameof(StopStrings), "an empty text", "texts of at least one character");
        if (Greedy && (TopK ?? TopP ?? MinP) is not null)
        {
            throw new BadInputException($"{(TopK is not null ? nameof(TopK) : TopP is not null ? nameof(TopP) : nameof(MinP))} has no effect in greedy decoding; give a temperature above 0, or leave it out.");
        }
    }

    static void Require(bool holds, string name, object? found, string expected)
    {
        if (!holds)
        {
            throw new BadInputException(FormattableString.Invariant($"{name} is {found}; it must be {expected}."));
        }
    }
}

/// <summary>What a logits processor may look at.</summary>
/// <param name="Row">Row of the batch.</param>
/// <param name="Step">Tokens generated so far.</param>
/// <param name="PromptLength">Tokens of the row's prompt.</param>
/// <param name="Ids">The row's prompt and the tokens generated so far, without padding.</param>
public readonly record struct LogitsContext(int Row, int Step, int PromptLength, IReadOnlyList<int> Ids);

/// <summary>Changes the logits of the next token; guards do.</summary>
public interface ILogitsProcessor
{
    /// <summary>Changes one row's logits in place; −∞ forbids a token. Called for each row and token, in order.</summary>
    /// <param name="context">Where generation stands.</param>
    /// <param name="logits">[V], those of the tokens that the tokenizer knows.</param>
    void Process(LogitsContext context, Span<float> logits);
}
