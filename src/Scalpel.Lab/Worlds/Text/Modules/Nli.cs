using System.Text.Json.Nodes;

namespace Scalpel.Lab.Worlds;

/// <summary>What a small world's people may be: everyone lives in one city, has one animal, holds one object or none.</summary>
/// <param name="Attribute">city, country, animal, class or object.</param>
/// <param name="Person">Whose.</param>
/// <param name="Value">Which.</param>
/// <param name="Holds">False when it is denied.</param>
public sealed record Claim(string Attribute, string Person, string Value, bool Holds)
{
    /// <summary>The sentence without its full stop.</summary>
    public string Sentence => Attribute switch
    {
        "city" or "country" => Holds ? $"{Person} lives in {Value}" : $"{Person} does not live in {Value}",
        "animal" or "class" => Holds ? $"{Person} has a {Value}" : $"{Person} does not have a {Value}",
        _ => Holds ? $"{Person} took the {Value}" : $"{Person} has not the {Value}",
    };
}

/// <summary>Premises and a hypothesis: follows, contradicts or stays open by the ontology of cities and animals.</summary>
sealed class NliModule : ITextModule
{
    static readonly string[] Labels = ["true", "false", "unknown"];

    public string Name => "nli";

    public string Summary => "One to three premises and a hypothesis; the label true, false or unknown holds in all models of the ontology.";

    public int? Supply(TextWorld world, TextSplit split) => null;

    public TextRecord Item(TextWorld world, TextSplit split, int index)
    {
        SplitMix64 rng = world.Generator(this, split, index);
        string wanted = rng.Pick(Labels);
        int premises = rng.Between(1, 3);
        string[] people = rng.Pick(world.Lexicon.GivenNames, 4);
        var claims = new List<Claim>();
        for (int i = 0; i < premises; i++)
        {
            claims.Add(Premise(rng, world, people[i], i == 0 ? null : claims[^1].Attribute));
        }

        Claim about = rng.Pick(claims);
        (Claim hypothesis, int steps) = Hypothesis(rng, world, about, wanted, people[3]);
        string premise = string.Join(" . ", claims.Select(claim => claim.Sentence));
        // The label is what the ontology says, whatever was aimed at.
        string label = Label(world, claims, hypothesis);
        return new Passage().Add("premise :").Add("premise", premise).Add(". hypothesis :").Add("hypothesis", hypothesis.Sentence).Add(". label :").Add("label", label).Add(".")
            .Record(this, split, index, new JsonObject
            {
                ["label"] = label, ["premises"] = premises, ["steps"] = steps, ["difficulty"] = premises - 1 + 2 * steps, ["negation"] = !hypothesis.Holds,
                ["claims"] = new JsonArray([.. claims.Select(Json)]), ["hypothesis"] = Json(hypothesis),
            });
    }

    /// <summary>The label by the rules: each attribute of a person has one value, a city one country, an animal one class.</summary>
    public static string Label(TextWorld world, IReadOnlyList<Claim> premises, Claim hypothesis)
    {
        foreach (Claim claim in premises)
        {
            if (claim.Person != hypothesis.Person || !claim.Holds)
            {
                continue;
            }

            bool? holds = (claim.Attribute, hypothesis.Attribute) switch
            {
                ("city", "city") or ("animal", "animal") or ("object", "object") => claim.Value == hypothesis.Value,
                ("city", "country") => Country(world, claim.Value) == hypothesis.Value,
                ("animal", "class") => world.Lexicon.ClassOfAnimal[claim.Value] == hypothesis.Value,
                _ => null,
            };
            if (holds is { } known)
            {
                return known == hypothesis.Holds ? "true" : "false";
            }
        }

        return "unknown";
    }

    /// <summary>The country of a city, as the common facts tell it.</summary>
    public static string Country(TextWorld world, string city) => world.Facts("common").First(fact => fact.Relation.Name == "city-country" && fact.Subject == city).Object;

    static Claim Premise(SplitMix64 rng, TextWorld world, string person, string? not)
    {
        string attribute = rng.Pick([.. ((string[])["city", "animal", "object"]).Where(candidate => candidate != not)]);
        return new Claim(attribute, person, rng.Pick(Pool(world, attribute)), true);
    }

    static (Claim Claim, int Steps) Hypothesis(SplitMix64 rng, TextWorld world, Claim about, string wanted, string stranger)
    {
        bool climb = about.Attribute != "object" && rng.Chance(0.5), negate = rng.Chance(0.25);
        string attribute = climb ? about.Attribute == "city" ? "country" : "class" : about.Attribute;
        string right = attribute switch { "country" => Country(world, about.Value), "class" => world.Lexicon.ClassOfAnimal[about.Value], _ => about.Value };
        string wrong = rng.Pick([.. Pool(world, attribute).Where(other => other != right)]);
        if (wanted == "unknown")
        {
            // About another person, or about another attribute of this one.
            string other = about.Attribute == "city" ? "animal" : "city";
            return rng.Chance(0.5) ? (new Claim(attribute, stranger, right, !negate), climb ? 1 : 0) : (new Claim(other, about.Person, rng.Pick(Pool(world, other)), !negate), 0);
        }

        return (new Claim(attribute, about.Person, (wanted == "true") != negate ? right : wrong, !negate), (climb ? 1 : 0) + (negate ? 1 : 0));
    }

    static IReadOnlyList<string> Pool(TextWorld world, string attribute) => attribute switch
    {
        "city" => world.Lexicon.Cities,
        "country" => world.Lexicon.Countries,
        "animal" => world.Lexicon.Animals,
        "class" => world.Lexicon.AnimalClasses,
        _ => world.Lexicon.Objects,
    };

    static JsonNode Json(Claim claim) => new JsonObject { ["attribute"] = claim.Attribute, ["person"] = claim.Person, ["value"] = claim.Value, ["holds"] = claim.Holds };
}
