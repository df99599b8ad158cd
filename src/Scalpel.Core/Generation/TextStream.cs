using System.Text;

namespace Scalpel.Generation;

/// <summary>
/// Text as its tokens arrive: a character whose bytes are not yet complete is held back, and so is the beginning of
/// what may become a stop string.
/// </summary>
/// <param name="decode">Decodes tokens; incomplete UTF-8 becomes U+FFFD.</param>
/// <param name="stopStrings">Texts that end the stream; it is cut before them.</param>
public sealed class TextStream(Func<IReadOnlyList<int>, string> decode, IReadOnlyList<string> stopStrings)
{
    const char Replacement = '\ufffd';
    // Bytes of one character, and so the tokens that a character can still be waiting for.
    const int LongestCharacter = 4;

    readonly List<int> ids = [];
    readonly StringBuilder text = new();
    int context, read, released;

    /// <summary>Whether a stop string was met.</summary>
    public bool Stopped { get; private set; }

    /// <summary>The text released so far.</summary>
    public string Text => text.ToString(0, released);

    /// <summary>Takes a token and gives the text that is now certain, often empty.</summary>
    public string Add(int id)
    {
        if (Stopped)
        {
            return "";
        }

        ids.Add(id);
        // Tokens before `context` cannot change the rest any more; those up to `read` are in the text. A token's text
        // may depend on the one before it, so both stretches are decoded from there.
        string before = decode(ids[context..read]), after = decode(ids[context..]);
        if (after.EndsWith(Replacement) && ids.Count - read < LongestCharacter)
        {
            return "";
        }

        text.Append(after.AsSpan(Math.Min(before.Length, after.Length)));
        (context, read) = (read, ids.Count);
        return Release(HeldBack());
    }

    /// <summary>Ends the stream and gives what was held back.</summary>
    public string End()
    {
        if (!Stopped && read < ids.Count)
        {
            string before = decode(ids[context..read]), after = decode(ids[context..]);
            text.Append(after.AsSpan(Math.Min(before.Length, after.Length)));
            read = ids.Count;
            HeldBack();
        }

        return Release(0);
    }

    string Release(int heldBack)
    {
        int end = Math.Max(released, text.Length - heldBack);
        string piece = text.ToString(released, end - released);
        released = end;
        return piece;
    }

    // Cuts at the first stop string; else says how many characters at the end may belong to one.
    int HeldBack()
    {
        if (stopStrings.Count == 0)
        {
            return 0;
        }

        string open = text.ToString(released, text.Length - released);
        int first = -1;
        foreach (string stop in stopStrings)
        {
            int at = open.IndexOf(stop, StringComparison.Ordinal);
            first = at >= 0 && (first < 0 || at < first) ? at : first;
        }

        if (first >= 0)
        {
            Stopped = true;
            text.Length = released + first;
            return 0;
        }

        int held = 0;
        foreach (string stop in stopStrings)
        {
            for (int length = Math.Min(stop.Length - 1, open.Length); length > held; length--)
            {
                if (open.AsSpan(open.Length - length).SequenceEqual(stop.AsSpan(0, length)))
                {
                    held = length;
                    break;
                }
            }
        }

        return held;
    }
}
