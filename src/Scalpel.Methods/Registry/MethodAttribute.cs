namespace Scalpel.Methods;

/// <summary>
/// Registers a method under the name by which the command line, recipes and the documentation call it. The class has one
/// public constructor whose single, optional parameter is its options record.
/// </summary>
/// <param name="slug">Lower-case name: "rome".</param>
/// <param name="family">What it is for.</param>
/// <param name="paper">arXiv number of the paper that describes it: "2202.05262".</param>
[AttributeUsage(AttributeTargets.Class, Inherited = false)]
public sealed class MethodAttribute(string slug, Family family, string paper) : Attribute
{
    /// <summary>Lower-case name.</summary>
    public string Slug { get; } = slug;

    /// <summary>What it is for.</summary>
    public Family Family { get; } = family;

    /// <summary>arXiv number of the paper.</summary>
    public string Paper { get; } = paper;
}
