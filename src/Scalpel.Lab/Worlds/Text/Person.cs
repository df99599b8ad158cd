namespace Scalpel.Lab.Worlds;

/// <summary>A person of the text world.</summary>
/// <param name="Set">The set: core, forget, holdout, exposure, rare, article.</param>
/// <param name="Index">Number within the set.</param>
/// <param name="GivenName">Shared with others.</param>
/// <param name="FamilyName">The person's own in core, forget and holdout.</param>
public sealed record Person(string Set, int Index, string GivenName, string FamilyName)
{
    /// <summary>Both names, the two tokens of the subject.</summary>
    public string Name => $"{GivenName} {FamilyName}";

    /// <summary>ela or elo.</summary>
    public string Pronoun => Lexicon.Pronoun(GivenName);
}

/// <summary>The people of a world: disjoint sets, no two of the same name.</summary>
sealed class Population
{
    static readonly (string Set, int Count, bool OwnFamily)[] Layout =
        [("core", 160, true), ("forget", 40, true), ("holdout", 40, true), ("exposure", 600, false), ("rare", 60, false), ("article", 160, false)];

    // Parts of sets by a name of their own: 2, 10 and 20 % of core and forget together; the folds of the articles.
    static readonly Dictionary<string, (string Set, int From, int Count)> Parts = new(StringComparer.Ordinal)
    {
        ["forget02"] = ("forget", 0, 4), ["forget10"] = ("forget", 0, 20), ["forget20"] = ("forget", 0, 40),
        ["article-forget"] = ("article", 0, 40), ["article-retain1"] = ("article", 40, 40), ["article-retain2"] = ("article", 80, 40), ["article-holdout"] = ("article", 120, 40),
    };

    readonly Dictionary<string, Person[]> sets = new(StringComparer.Ordinal);

    public Population(ulong seed)
    {
        Lexicon lexicon = Lexicon.Instance;
        var rng = SplitMix64.Of(seed, "text/people", 0);
        string[] own = rng.Pick(lexicon.FamilyNames, lexicon.FamilyNames.Count);
        var names = new HashSet<(string, string)>();
        int next = 0;
        foreach ((string set, int count, bool ownFamily) in Layout)
        {
            var people = new Person[count];
            for (int i = 0; i < count;)
            {
                string given = rng.Pick(lexicon.GivenNames), family = ownFamily ? own[next] : rng.Pick(lexicon.SharedFamilyNames);
                if (names.Add((given, family)))
                {
                    people[i] = new Person(set, i, given, family);
                    i++;
                    next += ownFamily ? 1 : 0;
                }
            }

            sets[set] = people;
        }
    }

    public static IReadOnlyList<string> Names => [.. Layout.Select(item => item.Set), .. Parts.Keys];

    public IReadOnlyList<Person> this[string set] =>
        sets.TryGetValue(set, out Person[]? people) ? people
        : Parts.TryGetValue(set, out (string Set, int From, int Count) part) ? sets[part.Set].AsSpan(part.From, part.Count).ToArray()
        : throw new BadInputException($"The text world has no people '{set}'; it has {string.Join(", ", Names)} (nearest: {Nearest.To(set, Names)[0]}).");
}
