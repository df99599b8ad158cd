namespace Scalpel.Methods.Editing;

/// <summary>One tokenised text of an edit.</summary>
/// <param name="Ids">Token ids.</param>
/// <param name="Lookup">Index of the token at which the fact is looked up: the subject's last.</param>
/// <param name="Targets">For each position whose next token counts, that position and the token.</param>
public sealed record EditRow(IReadOnlyList<long> Ids, int Lookup, IReadOnlyList<EditTarget> Targets)
{
    /// <summary>How many tokens are no padding; what follows them is masked. Default: all.</summary>
    public int Valid { get; init; } = Ids.Count;
}

/// <summary>A token that the model shall predict at a position of a row.</summary>
public readonly record struct EditTarget(int Position, long Token);

/// <summary>A fact as token rows: what the search for its target vector and the keys need.</summary>
public sealed record EditTokens
{
    /// <summary>Every context with the prompt and all but the last target token; the first is the bare prompt's.</summary>
    public required IReadOnlyList<EditRow> Values { get; init; }

    /// <summary>"{subject} is a": its prediction at the lookup token shall stay.</summary>
    public required EditRow Drift { get; init; }

    /// <summary>Contexts with the prompt alone, by type of context: keys are averaged within a type, then over types.</summary>
    public required IReadOnlyList<IReadOnlyList<EditRow>> Keys { get; init; }

    /// <summary>The bare prompt.</summary>
    public required EditRow Bare { get; init; }
}
