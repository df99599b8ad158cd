namespace Scalpel.Text.Models;

/// <summary>A token that a model found in a piece: its id and the code points [from, to) of the piece.</summary>
readonly record struct ModelToken(int Id, int From, int To);

/// <summary>Turns pieces of text into tokens of a vocabulary. Safe for use by several threads at once.</summary>
abstract class TokenModel
{
    protected TokenModel(Vocabulary vocabulary) => Vocabulary = vocabulary;

    public Vocabulary Vocabulary { get; }

    /// <summary>Appends the tokens of a piece that is not empty.</summary>
    public abstract void Tokenize(ReadOnlySpan<int> piece, List<ModelToken> tokens);
}

/// <summary>The tokens of a model by id and by text.</summary>
sealed class Vocabulary
{
    readonly Dictionary<string, int> ids;
    readonly Dictionary<string, int>.AlternateLookup<ReadOnlySpan<char>> byText;
    readonly string?[] texts;
    readonly bool distinct = true;

    public Vocabulary(Dictionary<string, int> ids, int count)
    {
        this.ids = ids;
        byText = ids.GetAlternateLookup<ReadOnlySpan<char>>();
        texts = new string?[count];
        foreach ((string text, int id) in ids)
        {
            texts[id] = text;
        }
    }

    /// <summary>A vocabulary in order of id, in which a text may occur again; the first id wins.</summary>
    public Vocabulary(string[] texts)
    {
        ids = new Dictionary<string, int>(texts.Length, StringComparer.Ordinal);
        for (int i = 0; i < texts.Length; i++)
        {
            ids.TryAdd(texts[i], i);
        }

        byText = ids.GetAlternateLookup<ReadOnlySpan<char>>();
        this.texts = texts;
        distinct = ids.Count == texts.Length;
    }

    /// <summary>One more than the largest id.</summary>
    public int Count => texts.Length;

    /// <summary>Whether the token of an id is also the one that its text gives.</summary>
    public bool Names(int id, ReadOnlySpan<char> text) => Text(id) is { } own && text.SequenceEqual(own) && (distinct || ids[own] == id);

    public int? Id(string text) => ids.TryGetValue(text, out int id) ? id : null;

    public bool TryId(ReadOnlySpan<char> text, out int id) => byText.TryGetValue(text, out id);

    /// <summary>The token of this text, given as code points.</summary>
    public bool TryId(ReadOnlySpan<int> codes, out int id)
    {
        if (codes.Length > 512)
        {
            return ids.TryGetValue(Pipeline.CodePoints.Text(codes), out id);
        }

        Span<char> units = stackalloc char[2 * codes.Length];
        return byText.TryGetValue(units[..Pipeline.CodePoints.Write(codes, units)], out id);
    }

    public string? Text(int id) => id >= 0 && id < texts.Length ? texts[id] : null;

    public IEnumerable<KeyValuePair<string, int>> All => ids;

    /// <summary>For each byte the id of its token &lt;0xNN&gt;, or -1.</summary>
    public int[] ByteTokens()
    {
        var tokens = new int[256];
        for (int value = 0; value < 256; value++)
        {
            tokens[value] = Id($"<0x{value:X2}>") ?? -1;
        }

        return tokens;
    }
}
