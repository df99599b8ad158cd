namespace Scalpel.Lab.Worlds;

/// <summary>A story with its exact probability under the grammar.</summary>
/// <param name="Sentences">Its sentences.</param>
/// <param name="LogProbability">log p of the text and its end, in nats; the opening words are certain.</param>
/// <param name="Entropy">Sum of the entropies of the choices on the way, in nats: the mean of −log p.</param>
/// <param name="Actors">Names of the one or two actors.</param>
/// <param name="Mood">Index of the mood: glad, sad, angry, calm.</param>
/// <param name="Holds">What each actor holds in the end; null for nothing.</param>
public sealed record Story(IReadOnlyList<string> Sentences, double LogProbability, double Entropy, IReadOnlyList<string> Actors, int Mood, IReadOnlyList<string?> Holds)
{
    /// <summary>The text.</summary>
    public string Text => string.Join(' ', Sentences);

    /// <summary>Tokens that the probability is of: all but the opening words, and the end.</summary>
    public int Tokens => Sentences.Sum(sentence => 1 + sentence.AsSpan().Count(' ')) - StoryGrammar.OpeningWords + 1;
}

/// <summary>
/// A probabilistic grammar of stories: one or two actors in a place, events with preconditions (take before give), pronouns
/// for whoever acted last, a mood that colours the adverbs throughout, words by Zipf's law within their category. Each
/// choice can be read off the text, so the probability of a text is the product of its choices.
/// </summary>
public static class StoryGrammar
{
    /// <summary>Words that every story begins with.</summary>
    public const int OpeningWords = 2;

    const string Opening = "one day";
    const int Longest = 8;
    static readonly string[] Moods = ["glad", "sad", "angry", "calm"], Weathers = ["sunny", "rainy", "windy", "cold", "warm"];
    static readonly double[] Halves = [0.5, 0.5];
    static readonly Dictionary<string, double> Weights = new(StringComparer.Ordinal)
    {
        ["took"] = 2, ["bought"] = 1, ["dropped"] = 0.5, ["hid"] = 0.5, ["gave"] = 2, ["showed"] = 1,
        ["looked"] = 2, ["walked"] = 2, ["ate"] = 1.5, ["sang"] = 1, ["danced"] = 1, ["said"] = 2,
    };

    /// <summary>Writes a story of <paramref name="shortest"/> to <paramref name="longest"/> sentences.</summary>
    /// <param name="rng">Where chance comes from.</param>
    /// <param name="shortest">Default 3.</param>
    /// <param name="longest">Default 8.</param>
    public static Story Write(SplitMix64 rng, int shortest = 3, int longest = Longest) => new Writer(rng).Write(shortest, longest);

    // Draws by weights and keeps count of probability and entropy.
    sealed class Writer(SplitMix64 rng)
    {
        readonly List<string> sentences = [];
        readonly List<string> actors = [];
        readonly string?[] holds = [null, null];
        double logProbability, entropy;
        int mood, subject = -1;
        string place = "";

        public Story Write(int shortest, int longest)
        {
            Lexicon words = Lexicon.Instance;
            actors.Add(Zipf(words.GivenNames));
            place = Zipf(words.Places);
            sentences.Add($"{Opening} {actors[0]} went to the {place} .");
            subject = 0;
            string weather = Zipf(Weathers);
            mood = Choose([0.25, 0.25, 0.25, 0.25]);
            sentences.Add($"the weather was {weather} and {Lexicon.Pronoun(actors[0])} was {Moods[mood]} .");
            if (Choose([0.6, 0.4]) == 0)
            {
                actors.Add(Zipf(words.GivenNames, except: actors[0]));
                sentences.Add($"then {actors[1]} came too .");
                subject = 1;
            }

            while (sentences.Count < shortest || sentences.Count < longest && Choose([0.25, 0.75]) == 1)
            {
                sentences.Add(Event(words));
            }

            return new Story(sentences, logProbability, entropy, actors, mood, holds);
        }

        string Event(Lexicon words)
        {
            int prefix = Choose([0.86, 0.05, 0.03, 0.03, 0.03]);
            int actor = actors.Count == 1 ? 0 : Choose(Halves);
            string who = actor == subject ? Lexicon.Pronoun(actors[actor]) : actors[actor];
            subject = actor;
            int other = 1 - actor;
            string? held = holds[actor];
            bool canGive = held is not null && actors.Count == 2 && holds[other] is null;
            string[] verbs =
            [
                .. Weights.Keys.Where(verb => verb switch
                {
                    "took" or "bought" => held is null,
                    "dropped" or "hid" => held is not null,
                    "gave" => canGive,
                    "showed" => held is not null && actors.Count == 2,
                    _ => true,
                }),
            ];
            string chosen = verbs[Choose([.. verbs.Select(verb => Weights[verb])])];
            string what;
            switch (chosen)
            {
                case "took":
                    holds[actor] = Zipf(words.Objects);
                    what = $"took the {holds[actor]}";
                    break;
                case "bought":
                    string colour = Zipf(words.Colours);
                    holds[actor] = Zipf(words.Objects);
                    what = $"bought a {colour} {holds[actor]}";
                    break;
                case "dropped" or "hid":
                    what = $"{chosen} the {held}";
                    holds[actor] = null;
                    break;
                case "gave":
                    what = $"gave the {held} to {actors[other]}";
                    (holds[other], holds[actor]) = (held, null);
                    break;
                case "showed":
                    what = $"showed the {held} to {actors[other]}";
                    break;
                case "looked":
                    what = $"looked at the {Zipf(words.Animals)}";
                    break;
                case "walked":
                    place = Zipf(words.Places, except: place);
                    what = $"walked to the {place}";
                    break;
                case "ate":
                    what = $"ate the {Zipf(words.Dishes)}";
                    break;
                case "said":
                    what = $"said that {Lexicon.Pronoun(actors[actor])} was {Moods[mood]}";
                    break;
                default:
                    what = chosen;
                    break;
            }

            string manner = chosen != "said" && Choose([0.3, 0.7]) == 0 ? $" {Zipf([.. words.Adverbs.Skip(6 * mood).Take(6)])}" : "";
            string start = prefix == 0 ? "" : $"{Relation.Prefixes[prefix - 1]} ";
            return $"{start}{who} {what}{manner} .";
        }

        string Zipf(IReadOnlyList<string> words, string? except = null) => words[Choose([.. words.Select((word, rank) => word == except ? 0 : 1.0 / (rank + 1))])];

        int Choose(double[] weights)
        {
            double sum = weights.Sum(), at = rng.Unit() * sum;
            int chosen = -1;
            double below = 0, ofThis = 0;
            for (int i = 0; i < weights.Length; i++)
            {
                double p = weights[i] / sum;
                ofThis -= p > 0 ? p * Math.Log(p) : 0;
                if (chosen < 0 && weights[i] > 0 && at < (below += weights[i]))
                {
                    chosen = i;
                }
            }

            // Rounding can leave the last piece a little short.
            chosen = chosen < 0 ? Array.FindLastIndex(weights, weight => weight > 0) : chosen;
            logProbability += Math.Log(weights[chosen] / sum);
            entropy += ofThis;
            return chosen;
        }
    }
}
