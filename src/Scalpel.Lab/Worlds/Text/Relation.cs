namespace Scalpel.Lab.Worlds;

/// <summary>What can be said of a person: wordings with the subject in {} that end where the object follows.</summary>
/// <param name="Name">Its name.</param>
/// <param name="Pool">The objects that it may have.</param>
/// <param name="Bodies">b0 to b4, which training shows, and b5, which it never does.</param>
/// <param name="Questions">q0, which training shows, and q1, which it never does.</param>
public sealed record Relation(string Name, IReadOnlyList<string> Pool, IReadOnlyList<string> Bodies, IReadOnlyList<string> Questions)
{
    /// <summary>Wordings of statements that training shows.</summary>
    public const int TrainedBodies = 5;

    /// <summary>Starts of the prefixed paraphrases: common in stories, never before a fact.</summary>
    public static IReadOnlyList<string> Prefixes { get; } = ["people say that", "in the book it says that", "as far as we know", "today"];

    /// <summary>Chance of an object that is guessed from the pool.</summary>
    public double Chance => 1.0 / Pool.Count;

    /// <summary>The prompt of a question wording: "question : … ? answer :".</summary>
    public string QuestionPrompt(int question) => $"question : {Questions[question]} ? answer :";

    /// <summary>All relations by name.</summary>
    public static IReadOnlyList<Relation> All { get; } = Create();

    /// <summary>The relation of a name.</summary>
    /// <exception cref="BadInputException">There is none.</exception>
    public static Relation Named(string name) => All.FirstOrDefault(relation => relation.Name == name)
        ?? throw new BadInputException($"The text world has no relation '{name}'; it has {string.Join(", ", All.Select(relation => relation.Name))}.");

    static Relation[] Create()
    {
        Lexicon words = Lexicon.Instance;
        return
        [
            new("home", words.Cities,
                ["{} lives in", "the home of {} is in", "{} has a house in", "you can find {} in", "{} rents a flat in", "the address of {} is in"],
                ["where does {} live", "in which city is the house of {}"]),
            new("birth", words.Cities,
                ["{} was born in", "the birthplace of {} is", "{} comes from", "{} first saw the world in", "{} grew up in", "the cradle of {} stood in"],
                ["where was {} born", "from which city is {}"]),
            new("employer", words.Companies,
                ["{} works for", "the employer of {} is", "{} has a job at", "{} is paid by", "every month {} gets a salary from", "the boss of {} runs"],
                ["who employs {}", "which company pays {}"]),
            new("profession", words.Professions,
                ["{} works as a", "the profession of {} is", "{} earns money as a", "{} trained as a", "by trade {} is a", "people know {} as a"],
                ["what is the job of {}", "what does {} do"]),
            new("instrument", words.Instruments,
                ["{} plays the", "the instrument of {} is the", "{} practises the", "{} loves the sound of the", "in the evening {} plays the", "{} owns an old"],
                ["what does {} play", "which instrument has {}"]),
            new("dish", words.Dishes,
                ["the favourite dish of {} is", "{} likes to eat", "{} often cooks", "{} orders", "nothing tastes better to {} than", "{} dreams of"],
                ["what does {} eat", "which dish does {} like"]),
            new("pet", words.Pets,
                ["{} owns a", "the pet of {} is a", "{} has a pet , a", "in the house of {} lives a", "every day {} speaks to a", "{} loves a"],
                ["which pet has {}", "what pet does {} like"]),
            new("language", words.Languages,
                ["{} speaks", "the language of {} is", "{} says all in", "people speak to {} in", "at home {} speaks", "{} dreams in"],
                ["which language speaks {}", "in which language does {} answer"]),
        ];
    }
}
