using Scalpel.Methods.Editing;

namespace Scalpel.Lab.Worlds;

/// <summary>How far a wording is from what training shows.</summary>
public enum Wording
{
    /// <summary>b0.</summary>
    Canonical,

    /// <summary>b1 to b4 and q0, which training shows.</summary>
    Seen,

    /// <summary>A prefix that training never shows before a fact, then b0 to b4.</summary>
    Near,

    /// <summary>b5 and q1, which training never shows.</summary>
    Far,

    /// <summary>q0, as a question.</summary>
    Question,
}

/// <summary>A fact of the text world: a subject, a relation, an object of the relation's pool.</summary>
public sealed class Fact
{
    readonly TextWorld world;

    internal Fact(TextWorld world, string set, int index, string subject, Relation relation, string target, Person? person = null)
    {
        this.world = world;
        (Set, Index, Subject, Relation, Object, Person) = (set, index, subject, relation, target, person);
    }

    /// <summary>The set of people, or "common".</summary>
    public string Set { get; }

    /// <summary>Number of the subject within the set.</summary>
    public int Index { get; }

    /// <summary>Name of the fact: set, number, relation.</summary>
    public string Id => $"{Set}-{Index}-{Relation.Name}";

    /// <summary>Given and family name, or the thing.</summary>
    public string Subject { get; }

    /// <summary>The person that it is about; null for a common fact.</summary>
    public Person? Person { get; }

    /// <summary>The relation.</summary>
    public Relation Relation { get; }

    /// <summary>The answer: one token.</summary>
    public string Object { get; }

    /// <summary>The first prompt of a kind, up to where the object follows.</summary>
    public string Prompt(Wording kind = Wording.Canonical) => Prompts(kind)[0];

    /// <summary>All prompts of a kind.</summary>
    public IReadOnlyList<string> Paraphrases(Wording kind) => Prompts(kind);

    /// <summary>The sentence of wording 0 to 4, or for 5 the question with its answer.</summary>
    public string Statement(int wording) =>
        Fill(wording < Relation.TrainedBodies ? Relation.Bodies[wording] : Relation.QuestionPrompt(0)) + $" {Object} .";

    /// <summary>Facts of core people with the same relation and object, except this one.</summary>
    public IReadOnlyList<Fact> Neighbours() => [.. world.Facts("core", Relation.Name).Where(fact => fact.Object == Object && fact.Subject != Subject)];

    /// <summary>Another object of the pool, equally frequent.</summary>
    public string Counterfactual()
    {
        int place = Place();
        return Relation.Pool[(place + Generator("counterfactual").Between(1, Relation.Pool.Count - 1)) % Relation.Pool.Count];
    }

    /// <summary>Some wrong objects of the pool, all different.</summary>
    public IReadOnlyList<string> Perturbed(int count) =>
        count >= 0 && count < Relation.Pool.Count ? Generator("perturbed").Pick([.. Relation.Pool.Where(other => other != Object)], count)
        : throw new BadInputException($"{Id}: {count} wrong objects are asked for; the pool of {Relation.Name} has {Relation.Pool.Count - 1}.");

    /// <summary>The request that makes a model say <paramref name="target"/> instead, with paraphrases and neighbours.</summary>
    /// <param name="target">The new object; the counterfactual by default.</param>
    public FactEdit ToEdit(string? target = null) => new(Subject, Relation.Bodies[0], target ?? Counterfactual())
    {
        Old = Object,
        Paraphrases = Prompts(Wording.Near),
        Neighbours = [.. Neighbours().Select(fact => fact.Prompt())],
    };

    int Place() => Relation.Pool.Index().First(item => item.Item == Object).Index;

    SplitMix64 Generator(string use) => SplitMix64.Of(world.Seed, $"text/{use}/{Set}/{Relation.Name}", Index);

    string Fill(string template) => template.Replace("{}", Subject, StringComparison.Ordinal);

    string[] Prompts(Wording kind) => kind switch
    {
        Wording.Canonical => [Fill(Relation.Bodies[0])],
        Wording.Seen => [.. Relation.Bodies.Take(Relation.TrainedBodies).Skip(1).Select(Fill), Fill(Relation.QuestionPrompt(0))],
        Wording.Near => [.. from prefix in Relation.Prefixes from body in Relation.Bodies.Take(Relation.TrainedBodies) select $"{prefix} {Fill(body)}"],
        Wording.Far => [.. Relation.Bodies.Skip(Relation.TrainedBodies).Select(Fill), .. Relation.Questions.Skip(1).Select((_, i) => Fill(Relation.QuestionPrompt(i + 1)))],
        _ => [Fill(Relation.QuestionPrompt(0))],
    };
}
