using System.Text.Json.Nodes;

namespace Scalpel.Lab.Worlds;

/// <summary>Three languages that are ciphers of the world's own: other content words, one rule of word order.</summary>
sealed class CipherModule : ITextModule
{
    const double Switched = 0.25, Dictionary = 0.05;

    // Pairs that dictionary lines show.
    const int Shown = Lexicon.CipherSize / 20;

    static readonly string[] Names = ["b1", "b2", "b3"];

    public string Name => "cipher";

    public string Summary => "A text in one of three cipher languages (needs the tokens of text-x), a mixture with the source, or a dictionary line; the source is in the truth.";

    public int? Supply(TextWorld world, TextSplit split) => null;

    public TextRecord Item(TextWorld world, TextSplit split, int index)
    {
        SplitMix64 rng = world.Generator(this, split, index);
        Lexicon words = world.Lexicon;
        int language = rng.Below(Names.Length);
        double kind = rng.Unit();
        if (kind < Dictionary)
        {
            int pair = rng.Below(Shown) * (Lexicon.CipherSize / Shown);
            return new Passage().Add("form", words.CipherForms[language][pair]).Add("=").Add("source", words.CipherSources[pair]).Add(".")
                .Record(this, split, index, new JsonObject { ["language"] = Names[language], ["kind"] = "dictionary" });
        }

        bool switched = kind < Dictionary + Switched;
        string source = string.Join(' ', StoryGrammar.Write(rng).Sentences.Skip(2));
        source = source.Length > 0 ? source : rng.Pick(world.Facts("core")).Statement(0);
        string text = Translate(words, source, language, () => !switched || rng.Chance(0.5), reorder: !switched);
        return new Passage().Add(text).Record(this, split, index, new JsonObject { ["language"] = Names[language], ["kind"] = switched ? "switched" : "pure", ["source"] = source });
    }

    /// <summary>A text in a cipher language.</summary>
    /// <param name="words">The lexicon.</param>
    /// <param name="text">The source.</param>
    /// <param name="language">0 to 2.</param>
    /// <param name="replaces">Asked for each word that has another form.</param>
    /// <param name="reorder">Whether the rule of word order acts: b1 swaps the first two words of a sentence, b2 puts the first last, b3 the last first.</param>
    public static string Translate(Lexicon words, string text, int language, Func<bool> replaces, bool reorder)
    {
        var sentences = new List<string>();
        foreach (string sentence in text.Split(" .", StringSplitOptions.RemoveEmptyEntries | StringSplitOptions.TrimEntries))
        {
            string[] own = [.. sentence.Split(' ').Select(word => Place(words, word) is >= 0 and var place && replaces() ? words.CipherForms[language][place] : word)];
            if (reorder && own.Length > 1)
            {
                own = language switch { 0 => [own[1], own[0], .. own[2..]], 1 => [.. own[1..], own[0]], _ => [own[^1], .. own[..^1]] };
            }

            sentences.Add($"{string.Join(' ', own)} .");
        }

        return string.Join(' ', sentences);
    }

    static int Place(Lexicon words, string word)
    {
        for (int i = 0; i < words.CipherSources.Count; i++)
        {
            if (words.CipherSources[i] == word)
            {
                return i;
            }
        }

        return -1;
    }
}
