using System.Text.Json.Nodes;

namespace Scalpel.Lab.Worlds;

/// <summary>Four domains whose vocabularies are mostly disjoint, for mixtures of experts.</summary>
sealed class MoeDomainsModule : ITextModule
{
    static readonly string[] Domains = ["facts", "stories", "questions", "lists"];

    const double Own = 0.7;

    public string Name => "moe-domains";

    public string Summary => "Facts, stories, questions or lists; 70 % of the content words belong to one domain only.";

    public int? Supply(TextWorld world, TextSplit split) => null;

    public TextRecord Item(TextWorld world, TextSplit split, int index)
    {
        SplitMix64 rng = world.Generator(this, split, index);
        int domain = rng.Below(Domains.Length);
        Lexicon words = world.Lexicon;
        // A quarter of each category is a domain's own; the last eighth is everybody's.
        string Word(IReadOnlyList<string> category)
        {
            int shared = category.Count / 8, own = (category.Count - shared) / Domains.Length;
            return rng.Chance(Own) ? category[domain * own + rng.Below(own)] : category[^(1 + rng.Below(shared))];
        }

        var passage = new Passage();
        string answer = "";
        switch (domain)
        {
            case 0:
                for (int i = rng.Between(2, 4); i > 0; i--)
                {
                    passage.Add($"the {Word(words.Adjectives)} {Word(words.Objects)} is kept in the {Word(words.Places)} .");
                }

                break;
            case 1:
                for (int i = rng.Between(2, 5); i > 0; i--)
                {
                    passage.Add($"{Word(words.GivenNames)} saw the {Word(words.Animals)} at the {Word(words.Places)} .");
                }

                break;
            case 2:
                string thing = Word(words.Objects);
                answer = words.Places[(words.Objects.Index().First(item => item.Item == thing).Index + 3) % words.Places.Count];
                passage.Add($"question : where is the {thing} ? answer :").Add("answer", answer).Add(".");
                break;
            default:
                passage.Add("list :").Add("items", string.Join(" , ", Enumerable.Range(0, rng.Between(4, 9)).Select(_ => Word(words.Objects)))).Add(".");
                break;
        }

        return passage.Record(this, split, index, new JsonObject { ["domain"] = Domains[domain], ["answer"] = answer.Length > 0 ? answer : null }) with { Domain = Domains[domain] };
    }
}
