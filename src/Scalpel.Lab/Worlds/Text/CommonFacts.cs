namespace Scalpel.Lab.Worlds;

/// <summary>What everybody of the world knows: of cities, companies, animals, things, and of landmarks.</summary>
static class CommonFacts
{
    static readonly Lexicon Words = Lexicon.Instance;

    /// <summary>The relations, the landmarks' last.</summary>
    public static IReadOnlyList<Relation> Relations { get; } =
    [
        Of("city-country", Words.Countries, "{} lies in", "{} is a city in", "in which country lies {}"),
        Of("country-language", Words.Languages, "people in {} speak", "the language of {} is", "which language do people in {} speak"),
        Of("city-river", Words.Rivers, "the river of {} is the", "through {} runs the", "which river runs through {}"),
        Of("company-product", Words.Products, "{} makes", "the company {} sells", "what does {} make"),
        Of("company-city", Words.Cities, "{} has an office in", "the company {} was born in", "in which city is the office of {}"),
        Of("animal-class", Words.AnimalClasses, "a {} is a kind of", "every {} is a", "of which kind is a {}"),
        Of("animal-place", Words.Places, "a {} lives near the", "you often find a {} at the", "where does a {} live"),
        Of("object-place", Words.Places, "a {} is kept in the", "you find a {} in the", "where is a {} kept"),
        Of("landmark", Words.Cities, "the {} stands in", "the {} was built in", "where does the {} stand"),
    ];

    /// <summary>300 facts, then 40 of landmarks.</summary>
    public static IReadOnlyList<Fact> Create(TextWorld world)
    {
        var facts = new List<Fact>();
        IReadOnlyList<string>[] subjects = [Words.Cities, Words.Countries, Words.Cities, Words.Companies, Words.Companies, Words.Animals, Words.Animals, [.. Words.Objects.Take(76)], Landmarks(world.Seed)];
        for (int i = 0; i < subjects.Length; i++)
        {
            Relation relation = Relations[i];
            int[] order = SplitMix64.Of(world.Seed, $"text/common/{relation.Name}", 0).Permutation(subjects[i].Count);
            for (int j = 0; j < order.Length; j++)
            {
                string subject = subjects[i][j];
                string target = relation.Name == "animal-class" ? Words.ClassOfAnimal[subject]
                    : relation.Name == "country-language" ? Words.Languages[j]
                    : relation.Pool[order[j] % relation.Pool.Count];
                facts.Add(new Fact(world, "common", j, subject, relation, target));
            }
        }

        return facts;
    }

    static string[] Landmarks(ulong seed)
    {
        var rng = SplitMix64.Of(seed, "text/landmarks", 0);
        string[] adjectives = rng.Pick(Words.Adjectives, Words.Places.Count);
        return [.. Words.Places.Select((place, i) => $"{adjectives[i]} {place}")];
    }

    // Five wordings as for people: the two bodies by turns.
    static Relation Of(string name, IReadOnlyList<string> pool, string first, string second, string question) =>
        new(name, pool, [first, second, first, second, first], [question]);
}
