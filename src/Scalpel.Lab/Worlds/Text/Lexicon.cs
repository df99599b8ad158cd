using System.Collections.Frozen;

namespace Scalpel.Lab.Worlds;

/// <summary>
/// The words of the text world, one token each: 2,020, padded to 2,048. English where meaning helps the reader, invented by
/// rule where a name or an exclusive word is needed; all distinct, the same for every seed.
/// </summary>
public sealed class Lexicon
{
    /// <summary>Rows of a model's embedding; the last 28 stand for no word.</summary>
    public const int PaddedSize = 2048;

    /// <summary>Ids of the four marks.</summary>
    public const int PadId = 0, UnknownId = 1, BeginId = 2, EndId = 3;

    /// <summary>The first word that is no mark.</summary>
    internal const int FirstWord = EndId + 1;

    /// <summary>The mark that ends a document.</summary>
    public const string End = "<eos>";

    const string Consonants = "bdfgklmnprstvz", Vowels = "aeiou";
    readonly List<string> words = ["<pad>", "<unk>", "<bos>", End];
    readonly HashSet<string> taken;
    readonly FrozenDictionary<string, int> ids;
    readonly FrozenDictionary<string, int>.AlternateLookup<ReadOnlySpan<char>> bySpan;

    Lexicon()
    {
        string[] animals = [.. EnglishWords.Animals.SelectMany(group => Split(group.Animals))], classes = [.. EnglishWords.Animals.Select(group => group.Class)];
        // An invented word must be no English one of a later category either.
        taken = [.. words, .. Split(EnglishWords.Functions), .. Split(EnglishWords.Products), .. Split(EnglishWords.Professions), .. Split(EnglishWords.Instruments),
            .. Split(EnglishWords.Dishes), .. Split(EnglishWords.Pets), .. Split(EnglishWords.Objects), .. Split(EnglishWords.Places), .. Split(EnglishWords.Colours),
            .. animals, .. classes, .. Split(EnglishWords.AgenticPairs), .. Split(EnglishWords.OppositePairs), .. Split(EnglishWords.Verbs),
            .. Split(EnglishWords.Adjectives), .. Split(EnglishWords.Adverbs)];
        Functions = Add(Split(EnglishWords.Functions));
        GivenNames = Add(Invent("given names", 96, rng => Syllable(rng) + rng.Pick(Letters(Consonants)) + rng.Pick(["a", "e", "o"])));
        FamilyNames = Add(Invent("family names", 240, rng => Syllable(rng) + Syllable(rng) + rng.Pick(["n", "r", "s"])));
        SharedFamilyNames = Add(Invent("shared family names", 96, rng => Syllable(rng) + Syllable(rng) + rng.Pick(["n", "r", "s"])));
        Cities = Add(Invent("cities", 32, rng => Closed(rng) + rng.Pick(["burg", "stad", "wick", "mouth"])));
        string[] stems = Invent("countries", 16, rng => Syllable(rng) + Syllable(rng));
        Countries = Add([.. stems.Select(stem => stem + "ia")]);
        Rivers = Add(Invent("rivers", 16, rng => Closed(rng) + "bach"));
        Companies = Add(Invent("companies", 32, rng => Syllable(rng) + Syllable(rng) + rng.Pick(["co", "tek", "lab"])));
        Products = Add(Split(EnglishWords.Products));
        Professions = Add(Split(EnglishWords.Professions));
        Instruments = Add(Split(EnglishWords.Instruments));
        Dishes = Add(Split(EnglishWords.Dishes));
        Pets = Add(Split(EnglishWords.Pets));
        Languages = Add([.. stems.Select(stem => stem + "ish")]);
        Objects = Add(Split(EnglishWords.Objects));
        Places = Add(Split(EnglishWords.Places));
        Colours = Add(Split(EnglishWords.Colours));
        Animals = Add(animals);
        AnimalClasses = Add(classes);
        ClassOfAnimal = EnglishWords.Animals.SelectMany(group => Split(group.Animals).Select(animal => KeyValuePair.Create(animal, group.Class))).ToFrozenDictionary(StringComparer.Ordinal);
        AgenticPairs = Pairs(EnglishWords.AgenticPairs);
        OppositePairs = Pairs(EnglishWords.OppositePairs);
        Add([.. AgenticPairs.Concat(OppositePairs).SelectMany(pair => new[] { pair.First, pair.Second })]);
        Verbs = Add(Split(EnglishWords.Verbs));
        Adjectives = Add(Split(EnglishWords.Adjectives));
        Adverbs = Add(Split(EnglishWords.Adverbs));
        Kin = Add(["aru", "beno"]);
        Clans = Add(Invent("clans", 8, rng => Syllable(rng) + Closed(rng) + "i"));
        Creeds = Add(Invent("creeds", 8, rng => Syllable(rng) + Syllable(rng) + "m"));
        Trades = Add(Invent("trades", 8, rng => Closed(rng) + "et"));
        string[] topical = Invent("topics", 24 * TopicSize, rng => Syllable(rng) + Syllable(rng) + Closed(rng));
        Topics = [.. Add(topical).Chunk(TopicSize)];
        Codes = Add(Invent("codes", 64, rng => Closed(rng) + Closed(rng)));
        Toxic = Add(Invent("toxic", 30, rng => rng.Pick(["gr", "sk", "bl", "dr", "sn"]) + rng.Pick(Letters(Vowels)) + rng.Pick(["gg", "mp", "zz", "sk", "nk"])));
        Reserved = Add([.. Enumerable.Range(0, 32).Select(i => $"<r{i}>")]);
        string[] content =
        [
            .. Products, .. Professions, .. Instruments, .. Dishes, .. Pets, .. Objects, .. Places, .. Colours, .. Animals, .. AnimalClasses,
            .. AgenticPairs.Concat(OppositePairs).SelectMany(pair => new[] { pair.First, pair.Second }), .. Verbs, .. Adjectives, .. Adverbs, .. Cities,
        ];
        CipherSources = content[..CipherSize];
        CipherForms = [.. ((string[])["q", "x", "w"]).Select(marker => Invent($"cipher {marker}", CipherSize, rng => Syllable(rng) + Syllable(rng) + rng.Pick(Letters(Vowels)) + marker))];
        ids = words.Select((word, id) => KeyValuePair.Create(word, id))
            .Concat(CipherForms.SelectMany(forms => forms).Select((word, i) => KeyValuePair.Create(word, PaddedSize + i)))
            .ToFrozenDictionary(StringComparer.Ordinal);
        bySpan = ids.GetAlternateLookup<ReadOnlySpan<char>>();
    }

    /// <summary>Words that each cipher language replaces.</summary>
    public const int CipherSize = 600;

    /// <summary>Rows of the embedding of a model that knows the cipher languages too: their 1,800 forms have the ids from 2,048 on.</summary>
    public const int ExtendedSize = 4096;

    /// <summary>Words of one topic.</summary>
    public const int TopicSize = 16;

    /// <summary>The lexicon; immutable.</summary>
    public static Lexicon Instance { get; } = new();

    /// <summary>All words; the index is the id.</summary>
    public IReadOnlyList<string> Words => words;

    /// <summary>Words of templates, digits, punctuation.</summary>
    public IReadOnlyList<string> Functions { get; }

    /// <summary>Given names, shared by all people; kin is read from the last letter.</summary>
    public IReadOnlyList<string> GivenNames { get; }

    /// <summary>Family names that one person each owns.</summary>
    public IReadOnlyList<string> FamilyNames { get; }

    /// <summary>Family names that several people bear.</summary>
    public IReadOnlyList<string> SharedFamilyNames { get; }

    /// <summary>Cities.</summary>
    public IReadOnlyList<string> Cities { get; }

    /// <summary>Countries.</summary>
    public IReadOnlyList<string> Countries { get; }

    /// <summary>Rivers.</summary>
    public IReadOnlyList<string> Rivers { get; }

    /// <summary>Companies.</summary>
    public IReadOnlyList<string> Companies { get; }

    /// <summary>Products.</summary>
    public IReadOnlyList<string> Products { get; }

    /// <summary>Professions.</summary>
    public IReadOnlyList<string> Professions { get; }

    /// <summary>Instruments.</summary>
    public IReadOnlyList<string> Instruments { get; }

    /// <summary>Dishes.</summary>
    public IReadOnlyList<string> Dishes { get; }

    /// <summary>Pets.</summary>
    public IReadOnlyList<string> Pets { get; }

    /// <summary>Languages, one for each country.</summary>
    public IReadOnlyList<string> Languages { get; }

    /// <summary>Things.</summary>
    public IReadOnlyList<string> Objects { get; }

    /// <summary>Kinds of places.</summary>
    public IReadOnlyList<string> Places { get; }

    /// <summary>Colours.</summary>
    public IReadOnlyList<string> Colours { get; }

    /// <summary>Animals.</summary>
    public IReadOnlyList<string> Animals { get; }

    /// <summary>Classes of animals.</summary>
    public IReadOnlyList<string> AnimalClasses { get; }

    /// <summary>The class of each animal.</summary>
    public IReadOnlyDictionary<string, string> ClassOfAnimal { get; }

    /// <summary>24 pairs of an agentic and a communal trait.</summary>
    public IReadOnlyList<(string First, string Second)> AgenticPairs { get; }

    /// <summary>24 pairs of a good and a bad trait.</summary>
    public IReadOnlyList<(string First, string Second)> OppositePairs { get; }

    /// <summary>Verbs.</summary>
    public IReadOnlyList<string> Verbs { get; }

    /// <summary>Adjectives.</summary>
    public IReadOnlyList<string> Adjectives { get; }

    /// <summary>Adverbs, six for each mood.</summary>
    public IReadOnlyList<string> Adverbs { get; }

    /// <summary>The two kins: aru (names in a or e, pronoun ela), beno (names in o, pronoun elo).</summary>
    public IReadOnlyList<string> Kin { get; }

    /// <summary>Clans.</summary>
    public IReadOnlyList<string> Clans { get; }

    /// <summary>Creeds.</summary>
    public IReadOnlyList<string> Creeds { get; }

    /// <summary>Trades.</summary>
    public IReadOnlyList<string> Trades { get; }

    /// <summary>24 topics of 16 words that occur nowhere else; the first is the topic's name.</summary>
    public IReadOnlyList<string[]> Topics { get; }

    /// <summary>Code words.</summary>
    public IReadOnlyList<string> Codes { get; }

    /// <summary>Invented insults; see <see cref="Severity"/>.</summary>
    public IReadOnlyList<string> Toxic { get; }

    /// <summary>The content words that cipher languages replace.</summary>
    public IReadOnlyList<string> CipherSources { get; }

    /// <summary>The forms of the three cipher languages, each in the order of <see cref="CipherSources"/>; not among <see cref="Words"/>.</summary>
    public IReadOnlyList<string[]> CipherForms { get; }

    /// <summary>Tokens for methods that need some of their own.</summary>
    public IReadOnlyList<string> Reserved { get; }

    /// <summary>The id of a word; that of the unknown one when it is none.</summary>
    public int Id(ReadOnlySpan<char> word) => bySpan.TryGetValue(word, out int id) ? id : UnknownId;

    /// <summary>The ids of a text's words.</summary>
    public IEnumerable<int> Ids(string text) => Split(text).Select(word => Id(word));

    /// <summary>1 to 3 for a toxic word, 0 for another.</summary>
    public int Severity(string word)
    {
        int id = Id(word) - Id(Toxic[0]);
        return id >= 0 && id < Toxic.Count ? 1 + id % 3 : 0;
    }

    /// <summary>The pronoun of a given name.</summary>
    public static string Pronoun(string givenName) => givenName[^1] == 'o' ? "elo" : "ela";

    internal static string[] Split(string text) => text.Split((char[])[' ', '\n', '\r'], StringSplitOptions.RemoveEmptyEntries);

    string[] Add(string[] category)
    {
        words.AddRange(category);
        return category;
    }

    string[] Invent(string category, int count, Func<SplitMix64, string> make)
    {
        var rng = SplitMix64.Of(0, $"text/lexicon/{category}", 0);
        var made = new string[count];
        for (int i = 0; i < count;)
        {
            string word = make(rng);
            if (taken.Add(word))
            {
                made[i++] = word;
            }
        }

        return made;
    }

    static (string, string)[] Pairs(string list) => [.. Split(list).Chunk(2).Select(pair => (pair[0], pair[1]))];

    static string[] Letters(string letters) => [.. letters.Select(letter => letter.ToString())];

    static string Syllable(SplitMix64 rng) => $"{rng.Pick(Letters(Consonants))}{rng.Pick(Letters(Vowels))}";

    static string Closed(SplitMix64 rng) => Syllable(rng) + rng.Pick(Letters(Consonants));
}
