namespace Scalpel.Text;

/// <summary>
/// Decodes tokens that arrive one by one: gives text as soon as it is final and keeps back what may still change, such as
/// the first bytes of a character. Not safe for use by several threads.
/// </summary>
public sealed class TokenDecoder
{
    readonly Tokenizer tokenizer;
    readonly bool skipSpecial;
    readonly List<int> window = [];
    int read;

    internal TokenDecoder(Tokenizer tokenizer, bool skipSpecial)
    {
        this.tokenizer = tokenizer;
        this.skipSpecial = skipSpecial;
    }

    /// <summary>Takes one more token; returns the text that is final now, often empty.</summary>
    public string Add(int id)
    {
        window.Add(id);
        string text = tokenizer.Decode(window, skipSpecial);
        // An incomplete character ends in U+FFFD: the next token may complete it. A real one is at most four bytes long.
        if (text.EndsWith('\uFFFD') && window.Count - read < 5)
        {
            return "";
        }

        string before = tokenizer.Decode(window.Take(read), skipSpecial);
        // What stands before is decoded again with each token, since a decoder may treat the first one specially.
        window.RemoveRange(0, read);
        read = window.Count;
        return text.Length > before.Length ? text[before.Length..] : "";
    }

    /// <summary>The text kept back, with U+FFFD for characters that were never completed; the decoder is empty afterwards.</summary>
    public string Finish()
    {
        string text = tokenizer.Decode(window, skipSpecial), before = tokenizer.Decode(window.Take(read), skipSpecial);
        window.Clear();
        read = 0;
        return text.Length > before.Length ? text[before.Length..] : "";
    }
}
