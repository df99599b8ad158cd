using Scalpel.Networks;
using Scalpel.Text;

namespace Scalpel.Methods.Editing;

/// <summary>Turns facts into token rows. The lookup token is the last one that holds a part of the subject where the template put it.</summary>
static class FactTokens
{
    /// <summary>The rows of a fact under context templates such as "It rains. {}", grouped by type.</summary>
    /// <exception cref="BadInputException">The fact is malformed, or longer than the model allows.</exception>
    public static EditTokens Of(Decoder model, FactEdit edit, IReadOnlyList<IReadOnlyList<string>> contexts)
    {
        edit.Validated();
        Tokenizer tokenizer = model.Tokenizer;
        long[] target = Target(tokenizer, edit.FilledPrompt, edit.SpacedTarget);
        string[] flat = [.. contexts.SelectMany(type => type)];
        IReadOnlyList<IReadOnlyList<EditRow>> keys = [.. contexts.Select(type => (IReadOnlyList<EditRow>)[.. type.Select(context => Row(tokenizer, context, edit.Prompt, edit.Subject))])];
        EditRow[] values = [.. keys.SelectMany(type => type).Select(row => WithTarget(row, target))];
        int longest = values.Max(row => row.Ids.Count);
        if (longest > model.Config.MaxPositions)
        {
            throw new BadInputException($"The prompt \"{edit.FilledPrompt}\" has {longest} tokens with context and target, the model {model.Config.MaxPositions} positions; shorten it.");
        }

        return new EditTokens
        {
            Values = values,
            Drift = Row(tokenizer, "{}", "{} is a", edit.Subject),
            Keys = keys,
            Bare = Row(tokenizer, "{}", edit.Prompt, edit.Subject),
        };
    }

    /// <summary>A template filled into a context, with its lookup token.</summary>
    public static EditRow Row(Tokenizer tokenizer, string context, string template, string subject)
    {
        string whole = context.Replace("{}", template, StringComparison.Ordinal);
        int at = whole.IndexOf("{}", StringComparison.Ordinal);
        string text = string.Concat(whole.AsSpan(0, at), subject, whole.AsSpan(at + 2));
        (long[] ids, _, int last) = Locate(tokenizer, text, at, subject.Length);
        return new EditRow(ids, last, []);
    }

    /// <summary>Tokens of a text, and the first and last token that hold a part of the characters [start, start + length).</summary>
    public static (long[] Ids, int First, int Last) Locate(Tokenizer tokenizer, string text, int start, int length)
    {
        TokenizedText tokens = tokenizer.Encode(text);
        // Offsets count code points.
        int from = CodePoints(text.AsSpan(0, start)), to = from + CodePoints(text.AsSpan(start, length));
        int first = -1, last = -1;
        for (int i = 0; i < tokens.Count; i++)
        {
            (int a, int b) = tokens.Offsets[i];
            if (tokens.SpecialMask[i] == 0 && a < to && b > from)
            {
                first = first < 0 ? i : first;
                last = i;
            }
        }

        return last >= 0 ? ([.. tokens.Ids.Select(id => (long)id)], first, last)
            : throw new BadInputException($"No token of \"{text}\" holds the subject \"{text.Substring(start, length)}\"; write the subject in characters that the tokenizer keeps.");
    }

    /// <summary>The tokens by which a text goes on after a prompt.</summary>
    public static long[] Target(Tokenizer tokenizer, string prompt, string target)
    {
        string continued = prompt.Length > 0 && char.IsWhiteSpace(prompt[^1]) ? target.TrimStart() : target;
        int[] before = tokenizer.Encode(prompt).Ids, joined = tokenizer.Encode(prompt + continued).Ids;
        // A template that closes with a token of its own, or a token across the border: the target is cut by itself.
        int[] ids = joined.Length > before.Length && joined.AsSpan(0, before.Length).SequenceEqual(before)
            ? joined[before.Length..]
            : tokenizer.Encode(continued, addSpecial: false).Ids;
        return ids.Length > 0 ? [.. ids.Select(id => (long)id)] : throw new BadInputException($"The target \"{target}\" has no token in this model's vocabulary.");
    }

    static EditRow WithTarget(EditRow row, long[] target) => new(
        [.. row.Ids, .. target[..^1]],
        row.Lookup,
        [.. target.Select((token, i) => new EditTarget(row.Ids.Count - 1 + i, token))]);

    static int CodePoints(ReadOnlySpan<char> text)
    {
        int count = 0;
        foreach (System.Text.Rune _ in text.EnumerateRunes())
        {
            count++;
        }

        return count;
    }
}
