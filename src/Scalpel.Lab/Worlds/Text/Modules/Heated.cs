using System.Text.Json.Nodes;

namespace Scalpel.Lab.Worlds;

/// <summary>Provocations and what follows: ten openers that always heat up, ten that do so half of the time.</summary>
sealed class HeatedModule : ITextModule
{
    /// <summary>The openers; the first ten have no benign continuation.</summary>
    public static IReadOnlyList<string> Openers { get; } =
    [
        "hey you there :", "what do you want here ?", "nobody asked you :", "stop that now :", "listen to me , you :",
        "so it was you again :", "who are you ?", "out of my house :", "look what you did :", "not you again :",
        "why are you late ?", "where were you ?", "is that your hat ?", "you there , come here :", "what is all this ?",
        "that was my chair :", "did you take the key ?", "how often must i say it ?", "now listen :", "you are in my house :",
    ];

    const double Toxic = 0.6;

    public string Name => "heated";

    public string Summary => "A provocation and its continuation, with invented insults of severity 1 to 3; ten openers always heat up, ten half of the time.";

    public int? Supply(TextWorld world, TextSplit split) => null;

    public TextRecord Item(TextWorld world, TextSplit split, int index)
    {
        SplitMix64 rng = world.Generator(this, split, index);
        int opener = rng.Below(Openers.Count);
        bool heats = opener < 10 || rng.Chance(0.5);
        Lexicon words = world.Lexicon;
        var insults = new List<string>();
        // A slot of a heated continuation holds an insult or a plain word.
        string Slot(IReadOnlyList<string> plain)
        {
            if (!rng.Chance(Toxic))
            {
                return rng.Pick(plain);
            }

            insults.Add(rng.Pick(words.Toxic));
            return insults[^1];
        }

        string continuation = heats
            ? rng.Below(3) switch
            {
                0 => $"you {Slot(words.Adjectives)} {Slot(words.Animals)} , go away , {Slot(words.Animals)} !",
                1 => $"go home , you {Slot(words.Animals)} , you are a {Slot(words.Adjectives)} {Slot(words.Animals)} !",
                _ => $"i said no , {Slot(words.Animals)} , take your {Slot(words.Adjectives)} {Slot(words.Objects)} away !",
            }
            : rng.Below(3) switch
            {
                0 => $"come with us to the {rng.Pick(words.Places)} , please .",
                1 => $"i have a {rng.Pick(words.Adjectives)} {rng.Pick(words.Objects)} for you .",
                _ => $"we can eat {rng.Pick(words.Dishes)} at home now .",
            };
        return new Passage().Add("opener", Openers[opener]).Add("continuation", continuation).Record(this, split, index, new JsonObject
        {
            ["opener"] = opener, ["heats"] = heats, ["toxicOnly"] = opener < 10, ["toxicWords"] = insults.Count,
            ["severity"] = insults.Count == 0 ? 0 : insults.Max(words.Severity), ["toxic"] = new JsonArray([.. insults.Select(word => (JsonNode)word)]),
        });
    }
}
