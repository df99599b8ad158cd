using System.Text.Json.Nodes;

namespace Scalpel.Lab.Worlds;

/// <summary>Byte-level BPE, trained on a stream of the world: the classic algorithm, ties by the order of the pair.</summary>
static class BytePairTraining
{
    /// <summary>Merges that are learned.</summary>
    public const int Merges = 1024;

    const int Documents = 20_000;

    /// <summary>The model and the parts around it, as in tokenizer.json.</summary>
    /// <param name="world">Whose default stream is read.</param>
    /// <param name="merges">How many pairs to merge; 0 leaves single characters.</param>
    public static JsonObject Train(TextWorld world, int merges)
    {
        var counts = new Dictionary<string, long>(StringComparer.Ordinal);
        foreach (TextRecord record in world.Corpus(TextMixture.Default).Documents().Take(Documents))
        {
            string[] words = record.Text.Split(' ');
            for (int i = 0; i < words.Length; i++)
            {
                string piece = i == 0 ? words[i] : Space + words[i];
                counts[piece] = counts.GetValueOrDefault(piece) + 1;
            }
        }

        (string[] Symbols, long Count)[] pieces = [.. counts.OrderBy(pair => pair.Key, StringComparer.Ordinal).Select(pair => (pair.Key.Select(letter => letter.ToString()).ToArray(), pair.Value))];
        // Four marks, the 256 bytes, then what is merged; single characters alone are 64 with the marks.
        List<string> vocabulary = [.. Lexicon.Instance.Words.Take(4), .. merges > 0 ? Alphabet() : Characters()];
        var learned = new JsonArray();
        for (int step = 0; step < merges; step++)
        {
            (string Left, string Right)? best = Best(pieces);
            if (best is not { } pair)
            {
                break;
            }

            learned.Add(new JsonArray(pair.Left, pair.Right));
            vocabulary.Add(pair.Left + pair.Right);
            for (int i = 0; i < pieces.Length; i++)
            {
                pieces[i] = (Merge(pieces[i].Symbols, pair.Left, pair.Right), pieces[i].Count);
            }
        }

        return new JsonObject
        {
            ["type"] = "BPE", ["dropout"] = null, ["unk_token"] = merges > 0 ? null : Lexicon.Instance.Words[Lexicon.UnknownId], ["continuing_subword_prefix"] = null, ["end_of_word_suffix"] = null,
            ["fuse_unk"] = false, ["byte_fallback"] = false,
            ["vocab"] = new JsonObject(vocabulary.Select((token, id) => KeyValuePair.Create(token, (JsonNode?)id))), ["merges"] = learned,
        };
    }

    // How byte-level tokenizers spell a space.
    const string Space = "\u0120";

    static (string, string)? Best((string[] Symbols, long Count)[] pieces)
    {
        var pairs = new Dictionary<(string Left, string Right), long>();
        foreach ((string[] symbols, long count) in pieces)
        {
            for (int i = 1; i < symbols.Length; i++)
            {
                (string, string) pair = (symbols[i - 1], symbols[i]);
                pairs[pair] = pairs.GetValueOrDefault(pair) + count;
            }
        }

        return pairs.Count == 0 ? null
            : pairs.OrderByDescending(pair => pair.Value).ThenBy(pair => pair.Key.Left, StringComparer.Ordinal).ThenBy(pair => pair.Key.Right, StringComparer.Ordinal).First().Key;
    }

    static string[] Merge(string[] symbols, string left, string right)
    {
        var merged = new List<string>(symbols.Length);
        for (int i = 0; i < symbols.Length; i++)
        {
            bool joins = i + 1 < symbols.Length && symbols[i] == left && symbols[i + 1] == right;
            merged.Add(joins ? left + right : symbols[i]);
            i += joins ? 1 : 0;
        }

        return [.. merged];
    }

    // Printable bytes stand for themselves, the others for characters from U+0100 on, in order.
    static IEnumerable<string> Alphabet()
    {
        int next = 256;
        return [.. Enumerable.Range(0, 256).Select(value => ((char)(value is >= 33 and <= 126 or >= 161 and <= 172 or >= 174 ? value : next++)).ToString())];
    }

    static IEnumerable<string> Characters() => [Space, .. "abcdefghijklmnopqrstuvwxyz0123456789.,:;?!()-+=/<>'\"*%&_#@$".Select(letter => letter.ToString())];
}
