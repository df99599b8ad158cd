using Scalpel.Checkpoints;
using Scalpel.Text;

namespace Scalpel.Lab.Worlds;

/// <summary>
/// A small world of people, places and things that is written about: texts whose truth is known, for language models to be
/// trained on and for methods to be measured on. Everything follows from the seed, on every machine.
/// </summary>
public sealed class TextWorld
{
    /// <summary>Changes whenever any text of the world changes.</summary>
    public const int Version = 1;

    static readonly Dictionary<string, string[]> RelationsOfSet = new(StringComparer.Ordinal)
    {
        ["exposure"] = ["home", "employer"], ["rare"] = ["home", "employer", "profession", "dish"], ["article"] = ["home", "profession", "pet", "language"],
    };

    static readonly string[] MainRelations = ["home", "birth", "employer", "profession", "instrument", "dish"];
    readonly Population people;
    readonly Dictionary<string, Fact[]> facts = new(StringComparer.Ordinal);

    TextWorld(ulong seed)
    {
        Seed = seed;
        people = new Population(seed);
        foreach (string set in (string[])["core", "forget", "holdout", "exposure", "rare", "article"])
        {
            facts[set] = Assign(set);
        }

        facts["common"] = [.. CommonFacts.Create(this)];
    }

    /// <summary>The world of a seed. Seed 1 is for development, 11 to 13 for figures that are reported.</summary>
    public static TextWorld Create(ulong seed) => new(seed);

    /// <summary>Its seed.</summary>
    public ulong Seed { get; }

    /// <summary>The words.</summary>
    public Lexicon Lexicon => Lexicon.Instance;

    /// <summary>The people of a set: core, forget (forget02, forget10, forget20), holdout, exposure, rare, article and its four folds.</summary>
    /// <exception cref="BadInputException">There is no such set.</exception>
    public IReadOnlyList<Person> People(string set) => people[set];

    /// <summary>The facts of a set of people, or the "common" ones; person by person, relation by relation.</summary>
    /// <param name="set">The set.</param>
    /// <param name="relation">Only those of this relation.</param>
    /// <exception cref="BadInputException">There is no such set, or it has no such relation.</exception>
    public IReadOnlyList<Fact> Facts(string set, string? relation = null)
    {
        IReadOnlyList<Fact> all;
        if (set == "common")
        {
            all = facts[set];
        }
        else
        {
            IReadOnlyList<Person> members = people[set];
            Fact[] whole = facts[members[0].Set];
            all = members.Count == people[members[0].Set].Count ? whole : [.. whole.Where(fact => members.Contains(fact.Person))];
        }

        if (relation is null)
        {
            return all;
        }

        Fact[] chosen = [.. all.Where(fact => fact.Relation.Name == relation)];
        return chosen.Length > 0 ? chosen
            : throw new BadInputException($"The {set} facts have no relation '{relation}'; they have {string.Join(", ", all.Select(fact => fact.Relation.Name).Distinct())}.");
    }

    /// <summary>The first items of a module.</summary>
    /// <param name="module">Name of the module.</param>
    /// <param name="split">Which of its splits.</param>
    /// <param name="count">How many.</param>
    /// <exception cref="BadInputException">There is no such module, or it has fewer items.</exception>
    public IReadOnlyList<TextRecord> Module(string module, TextSplit split, int count)
    {
        ITextModule found = TextModules.Named(module);
        int? supply = found.Supply(this, split);
        if (count < 0 || count > supply)
        {
            throw new BadInputException($"{count} items of {module} ({split.ToString().ToLowerInvariant()}) are asked for; there are {supply}.");
        }

        return [.. Enumerable.Range(0, count).Select(i => found.Item(this, split, i))];
    }

    /// <summary>The training stream of a mixture.</summary>
    /// <param name="mixture">What it holds.</param>
    /// <param name="exclude">A set of people whose facts are left out; null for none.</param>
    /// <exception cref="BadInputException">The shares do not sum to 1, a name is unknown, or the set is not in the mixture.</exception>
    public TextCorpus Corpus(TextMixture mixture, string? exclude = null) => new(this, mixture, exclude);

    /// <summary>A tokenizer of the world's texts; what a base model uses is that of words.</summary>
    public Tokenizer Tokenizer(TokenizerKind kind = TokenizerKind.Words) => WorldTokenizer.Create(this, kind);

    /// <summary>A base model of the world: one that comes with Scalpel or lies in the cache, else it is trained, which takes minutes.</summary>
    /// <param name="name">Its name: text-S, …; see <see cref="BaseRecipe.All"/>.</param>
    /// <param name="run">Cache folder, progress, cancellation.</param>
    /// <param name="options">What to leave out, and how to build.</param>
    /// <returns>The open checkpoint, which the caller owns.</returns>
    /// <exception cref="BadInputException">There is no such base or set.</exception>
    /// <exception cref="CheckFailedException">The gates do not hold after the last step.</exception>
    public Checkpoint Base(string name, RunContext run, BaseBuildOptions? options = null) => Checkpoint.Open(BaseFolder(name, run, options));

    /// <summary>As <see cref="Base"/>, but only the folder.</summary>
    public string BaseFolder(string name, RunContext run, BaseBuildOptions? options = null) => BaseBuild.Folder(this, BaseRecipe.Named(name), options ?? new(), run);

    /// <summary>The generator of an item.</summary>
    internal SplitMix64 Generator(ITextModule module, TextSplit split, int index) =>
        SplitMix64.Of(Seed, $"text/{module.Name}/{(int)split}", index);

    // A random permutation modulo the pool: every object equally often.
    Fact[] Assign(string set)
    {
        IReadOnlyList<Person> members = people[set];
        string[] relations = RelationsOfSet.GetValueOrDefault(set, MainRelations);
        int[][] orders = [.. relations.Select(relation => SplitMix64.Of(Seed, $"text/facts/{set}/{relation}", 0).Permutation(members.Count))];
        return
        [
            .. from person in members
               from r in Enumerable.Range(0, relations.Length)
               let relation = Relation.Named(relations[r])
               select new Fact(this, set, person.Index, person.Name, relation, relation.Pool[orders[r][person.Index] % relation.Pool.Count], person),
        ];
    }
}
