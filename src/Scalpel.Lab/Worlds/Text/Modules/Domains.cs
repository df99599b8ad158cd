using System.Text.Json.Nodes;

namespace Scalpel.Lab.Worlds;

/// <summary>What changes in the world over five years.</summary>
static class Years
{
    /// <summary>First and last year.</summary>
    public const int First = 1, Last = 5;

    const double Changes = 0.15;

    /// <summary>Names that are new in a year: 6 % of the given names give way to code words, year by year.</summary>
    public static string Name(TextWorld world, SplitMix64 rng, int year)
    {
        int index = rng.Below(world.Lexicon.GivenNames.Count), renewed = SplitMix64.Of(world.Seed, "text/years/names", index).Below(17);
        return renewed > 0 && renewed <= year - First ? world.Lexicon.Codes[(index + 7 * renewed) % world.Lexicon.Codes.Count] : world.Lexicon.GivenNames[index];
    }

    /// <summary>Who holds the office of a city in a year; 15 % change hands each year.</summary>
    public static string Mayor(TextWorld world, int city, int year) => Current(world, "mayor", city, year, rng => $"{rng.Pick(world.Lexicon.GivenNames)} {rng.Pick(world.Lexicon.SharedFamilyNames)}");

    /// <summary>Price of a product in a year: two digits; 15 % change each year.</summary>
    public static string Price(TextWorld world, int product, int year) => Current(world, "price", product, year, rng => $"{rng.Between(1, 9)} {rng.Below(10)}");

    // The value of the last year, up to this one, in which it changed.
    static string Current(TextWorld world, string what, int index, int year, Func<SplitMix64, string> draw)
    {
        int since = First;
        for (int y = First + 1; y <= year; y++)
        {
            since = SplitMix64.Of(world.Seed, $"text/years/{what}/{y}", index).Chance(Changes) ? y : since;
        }

        return draw(SplitMix64.Of(world.Seed, $"text/years/{what}/value/{since}", index));
    }
}

/// <summary>Texts of one domain, each of a year, with quality and toxicity.</summary>
abstract class DatedModule(string name) : ITextModule
{
    public string Name => name;

    public abstract string Summary { get; }

    public int? Supply(TextWorld world, TextSplit split) => null;

    public TextRecord Item(TextWorld world, TextSplit split, int index)
    {
        SplitMix64 rng = world.Generator(this, split, index);
        int year = rng.Between(Years.First, Years.Last);
        var passage = new Passage();
        var truth = new JsonObject();
        double typos = Write(world, rng, year, passage, truth);
        string[] words = passage.ToString().Split(' ');
        truth["quality"] = Math.Round(1 - typos, 4);
        truth["toxicity"] = Math.Round(words.Count(word => world.Lexicon.Severity(word) > 0) / (double)words.Length, 4);
        return passage.Record(this, split, index, truth) with { Date = year };
    }

    /// <summary>Writes the text.</summary>
    /// <returns>The share of words that are wrong.</returns>
    private protected abstract double Write(TextWorld world, SplitMix64 rng, int year, Passage passage, JsonObject truth);
}

/// <summary>Dated events, office holders and prices.</summary>
sealed class NewsModule() : DatedModule("news")
{
    public override string Summary => "News of a year 1 to 5: events, mayors and prices; 15 % of the facts change a year, 6 % of the names are new.";

    private protected override double Write(TextWorld world, SplitMix64 rng, int year, Passage passage, JsonObject truth)
    {
        Lexicon words = world.Lexicon;
        int city = rng.Below(words.Cities.Count), product = rng.Below(words.Products.Count);
        string mayor = Years.Mayor(world, city, year), price = Years.Price(world, product, year), before = year > Years.First ? Years.Price(world, product, year - 1) : price;
        passage.Add($"news of year {year} :").Add("the mayor of").Add("city", words.Cities[city]).Add("is").Add("mayor", mayor).Add(".");
        passage.Add($"the price of {words.Products[product]} is").Add("price", price).Add(".");
        passage.Add(string.CompareOrdinal(price, before) switch { > 0 => "it rose .", < 0 => "it fell .", _ => "it is the same as before ." });
        for (int i = rng.Between(1, 3); i > 0; i--)
        {
            passage.Add($"{Years.Name(world, rng, year)} {rng.Pick(["opened", "closed", "sold", "bought", "visited"])} the {rng.Pick(words.Places)} in {rng.Pick(words.Cities)} .");
        }

        truth["city"] = words.Cities[city];
        truth["mayor"] = mayor;
        truth["product"] = words.Products[product];
        truth["price"] = price;
        return 0;
    }
}

/// <summary>Common facts and definitions.</summary>
sealed class EncyclopaediaModule() : DatedModule("encyclopaedia")
{
    public override string Summary => "Three to six common facts and definitions.";

    private protected override double Write(TextWorld world, SplitMix64 rng, int year, Passage passage, JsonObject truth)
    {
        var told = new JsonArray();
        for (int i = rng.Between(3, 6); i > 0; i--)
        {
            Fact fact = rng.Pick(world.Facts("common"));
            passage.Add(fact.Statement(rng.Below(Relation.TrainedBodies)));
            told.Add(fact.Id);
            if (rng.Chance(0.3))
            {
                Lexicon words = world.Lexicon;
                passage.Add($"a {rng.Pick(words.Professions)} is a person who has a {rng.Pick(words.Objects)} .");
            }
        }

        truth["facts"] = told;
        return 0;
    }
}

/// <summary>Long stories.</summary>
sealed class BooksModule() : DatedModule("books")
{
    public override string Summary => "A story of 20 to 40 sentences.";

    private protected override double Write(TextWorld world, SplitMix64 rng, int year, Passage passage, JsonObject truth)
    {
        int length = rng.Between(20, 40);
        Story story = StoryGrammar.Write(rng, length, length);
        passage.Add(story.Text);
        truth["actors"] = new JsonArray([.. story.Actors.Select(actor => (JsonNode)actor)]);
        truth["sentences"] = length;
        return 0;
    }
}

/// <summary>Stories as people write them in haste: typos, and heat in a fifth of them.</summary>
sealed class ChatterModule() : DatedModule("chatter")
{
    const double Typos = 0.1, Heated = 0.2;

    public override string Summary => "A story with a tenth of the words replaced; a fifth of the items is heated.";

    private protected override double Write(TextWorld world, SplitMix64 rng, int year, Passage passage, JsonObject truth)
    {
        bool heated = rng.Chance(Heated);
        string[] words = StoryGrammar.Write(rng).Text.Split(' ');
        int wrong = 0;
        for (int i = 0; i < words.Length; i++)
        {
            if (words[i] != "." && rng.Chance(Typos))
            {
                words[i] = rng.Pick(world.Lexicon.Functions.Skip(22).ToArray());
                wrong++;
            }
        }

        passage.Add(string.Join(' ', words));
        if (heated)
        {
            passage.Add("heated", $"{rng.Pick(HeatedModule.Openers)} you {rng.Pick(world.Lexicon.Toxic)} , go home , {rng.Pick(world.Lexicon.Toxic)} !");
        }

        truth["heated"] = heated;
        return wrong / (double)words.Length;
    }
}

/// <summary>Numbered steps.</summary>
sealed class ManualsModule() : DatedModule("manuals")
{
    public override string Summary => "How to make or mend a thing in three to eight numbered steps.";

    private protected override double Write(TextWorld world, SplitMix64 rng, int year, Passage passage, JsonObject truth)
    {
        Lexicon words = world.Lexicon;
        string thing = rng.Pick(words.Objects);
        int steps = rng.Between(3, 8);
        passage.Add("how to fix a").Add("thing", thing).Add(":");
        for (int i = 1; i <= steps; i++)
        {
            passage.Add($"step {i} : {rng.Pick(["take the", "close the", "add a", "remove the", "use a", "buy a"])} {rng.Pick(words.Adjectives)} {rng.Pick(words.Objects)} .");
        }

        truth["thing"] = thing;
        truth["steps"] = steps;
        return 0;
    }
}
