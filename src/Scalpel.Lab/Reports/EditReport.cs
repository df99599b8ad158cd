namespace Scalpel.Lab.Reports;

/// <summary>Everything that the report of an edit shows. Plain data: what computes it knows nothing of the page.</summary>
public sealed record EditReport
{
    /// <summary>What was changed, as a headline: "The Eiffel Tower is in Rome".</summary>
    public required string Title { get; init; }

    /// <summary>What was done, in one or two sentences.</summary>
    public required string Summary { get; init; }

    /// <summary>The verdict: true when every check held, false when one did not, null when nothing was checked.</summary>
    public bool? Holds { get; init; }

    /// <summary>The facts that were edited.</summary>
    public IReadOnlyList<EditedFact> Facts { get; init; } = [];

    /// <summary>Where the fact was found.</summary>
    public IReadOnlyList<HeatMap> HeatMaps { get; init; } = [];

    /// <summary>What the model answered before and after.</summary>
    public IReadOnlyList<AnswerPair> Answers { get; init; } = [];

    /// <summary>Measures before and after.</summary>
    public IReadOnlyList<ScoreRow> Scores { get; init; } = [];

    /// <summary>The tensors that were changed.</summary>
    public IReadOnlyList<TensorChange> Tensors { get; init; } = [];

    /// <summary>Commands that apply the patch, take it back and check it: title and command line.</summary>
    public IReadOnlyList<(string Title, string Command)> Commands { get; init; } = [];

    /// <summary>What the figures come from: model and data hashes, method, options, seed, versions, fingerprint.</summary>
    public IReadOnlyList<(string Name, string Value)> Provenance { get; init; } = [];

    /// <summary>What a reader must know before trusting a figure, as sentences.</summary>
    public IReadOnlyList<string> Caveats { get; init; } = [];
}

/// <summary>A fact before and after.</summary>
/// <param name="Prompt">The filled prompt.</param>
/// <param name="Old">What the model said; null when not known.</param>
/// <param name="Target">What it shall say.</param>
public sealed record EditedFact(string Prompt, string? Old, string Target);

/// <summary>Scores over tokens and layers, one row a token.</summary>
/// <param name="Title">What was restored or measured: "State of the whole block restored".</param>
/// <param name="Tokens">The tokens as text, top to bottom.</param>
/// <param name="Values">One row a token, one value a layer.</param>
/// <param name="Low">The value of an empty cell: the probability with nothing restored.</param>
/// <param name="High">The value of a full cell: the probability in the clean run.</param>
/// <param name="Unit">What a value is: "probability of Paris".</param>
public sealed record HeatMap(string Title, IReadOnlyList<string> Tokens, IReadOnlyList<IReadOnlyList<double>> Values, double Low, double High, string Unit)
{
    /// <summary>Indices of the subject's tokens, which are emphasised.</summary>
    public IReadOnlyList<int> Subject { get; init; } = [];

    /// <summary>The largest value with its token and layer.</summary>
    public (int Token, int Layer, double Value) Peak => (from token in Enumerable.Range(0, Values.Count)
                                                       from layer in Enumerable.Range(0, Values[token].Count)
                                                       orderby Values[token][layer] descending
                                                       select (token, layer, Values[token][layer])).First();

    /// <summary>How full a cell is, 0 to 1.</summary>
    public double Fill(int token, int layer) => High > Low ? Math.Clamp((Values[token][layer] - Low) / (High - Low), 0, 1) : 0;
}

/// <summary>One question asked before and after.</summary>
/// <param name="Kind">prompt, paraphrase, neighbour, unrelated or free text.</param>
/// <param name="Prompt">What was asked.</param>
/// <param name="Before">The answer of the original model.</param>
/// <param name="After">The answer of the edited model.</param>
/// <param name="AsWanted">Whether the answer after is the wanted one; null where none is wanted.</param>
public sealed record AnswerPair(string Kind, string Prompt, string Before, string After, bool? AsWanted = null);

/// <summary>A value with its 95 % interval.</summary>
public readonly record struct Estimate(double Value, double Low, double High);

/// <summary>One measure before and after.</summary>
/// <param name="Name">What is measured: "paraphrase success".</param>
/// <param name="Explanation">How it is measured, in one sentence.</param>
/// <param name="Before">The original model; null for measures of the difference alone.</param>
/// <param name="After">The edited model.</param>
/// <param name="Count">Sample size.</param>
/// <param name="Percent">Whether the values are shares.</param>
public sealed record ScoreRow(string Name, string Explanation, Estimate? Before, Estimate After, long Count, bool Percent);

/// <summary>What a patch does to one tensor.</summary>
/// <param name="Name">The checkpoint's own name.</param>
/// <param name="Layer">Its layer, or null.</param>
/// <param name="Shape">Its shape.</param>
/// <param name="Kind">How the change is stored: "low rank 1".</param>
/// <param name="Norm">Frobenius norm of the change; null when it was not measured.</param>
/// <param name="RelativeNorm">The same over the norm of the original tensor; null when it was not measured.</param>
/// <param name="ShareChanged">Share of the entries whose value differs; null when it was not measured.</param>
public sealed record TensorChange(string Name, int? Layer, IReadOnlyList<long> Shape, string Kind, double? Norm, double? RelativeNorm, double? ShareChanged);
