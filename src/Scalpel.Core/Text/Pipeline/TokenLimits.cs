namespace Scalpel.Text.Pipeline;

/// <summary>Shortening and padding.</summary>
static class TokenLimits
{
    public static void Truncate(List<EncodedToken> first, List<EncodedToken>? second, Truncation truncation, int room)
    {
        int total = first.Count + (second?.Count ?? 0), excess = total - room;
        if (excess <= 0)
        {
            return;
        }

        if (room == 0 || (second is null && truncation.Strategy == TruncationStrategy.LongestFirst))
        {
            Cut(first, room, truncation.Side);
            Cut(second, 0, truncation.Side);
            return;
        }

        if (truncation.Strategy == TruncationStrategy.LongestFirst)
        {
            int shorter = Math.Min(first.Count, second!.Count);
            int longer = shorter > room ? shorter : Math.Max(shorter, room - shorter);
            if (shorter + longer > room)
            {
                shorter = room / 2;
                longer = shorter + room % 2;
            }

            bool swapped = first.Count > second.Count;
            Cut(first, swapped ? longer : shorter, truncation.Side);
            Cut(second, swapped ? shorter : longer, truncation.Side);
            return;
        }

        List<EncodedToken>? target = truncation.Strategy == TruncationStrategy.OnlyFirst ? first : second;
        if (target is null)
        {
            throw new BadInputException("Truncation of the second text only was asked for, but there is one text.");
        }

        if (target.Count <= excess)
        {
            throw new BadInputException($"A text of {target.Count} tokens cannot be shortened by {excess}; allow more tokens or shorten the other text too.");
        }

        Cut(target, target.Count - excess, truncation.Side);
    }

    public static TokenizedText Pad(TokenizedText text, int length, int id, Padding padding)
    {
        int missing = length - text.Count;
        return missing <= 0 ? text : new TokenizedText(
            Extend(text.Ids, id), Extend(text.Offsets, (0, 0)), Extend(text.TypeIds, padding.TypeId), Extend(text.AttentionMask, 0), Extend(text.SpecialMask, 1));

        T[] Extend<T>(T[] values, T value) => padding.Side == TextSide.Left
            ? [.. Enumerable.Repeat(value, missing), .. values]
            : [.. values, .. Enumerable.Repeat(value, missing)];
    }

    static void Cut(List<EncodedToken>? tokens, int length, TextSide side)
    {
        if (tokens is not null && tokens.Count > length)
        {
            tokens.RemoveRange(side == TextSide.Left ? 0 : length, tokens.Count - length);
        }
    }
}
