namespace Scalpel.Text;

/// <summary>A token that stands beside the model's vocabulary and is found in the text before the model sees it.</summary>
/// <param name="Id">Its id.</param>
/// <param name="Content">Its text.</param>
public sealed record AddedToken(int Id, string Content)
{
    /// <summary>A control token: dropped by <c>Decode(skipSpecial)</c>, read as plain text when special tokens are not parsed.</summary>
    public bool Special { get; init; }

    /// <summary>Found only where no letter or digit adjoins.</summary>
    public bool SingleWord { get; init; }

    /// <summary>Takes the white space before it.</summary>
    public bool StripLeft { get; init; }

    /// <summary>Takes the white space behind it.</summary>
    public bool StripRight { get; init; }

    /// <summary>Searched in the normalised text instead of the original.</summary>
    public bool Normalized { get; init; }
}
