namespace Scalpel.Text.Pipeline;

/// <summary>A part of a template: one of the two texts, or fixed tokens.</summary>
/// <param name="Sequence">0 for the first text, 1 for the second, -1 for fixed tokens.</param>
/// <param name="Ids">The fixed tokens.</param>
/// <param name="TypeId">The type id of its tokens.</param>
sealed record TemplatePart(int Sequence, int[] Ids, int TypeId);

/// <summary>What is done with tokens before they are handed out: offsets trimmed, special tokens put around.</summary>
sealed record PostProcessor
{
    /// <summary>For each trimming of white space from offsets: whether the space put in front is kept.</summary>
    public IReadOnlyList<bool> Trims { get; init; } = [];

    /// <summary>The template for one text; null for none.</summary>
    public IReadOnlyList<TemplatePart>? Single { get; init; }

    /// <summary>The template for two texts; null for none.</summary>
    public IReadOnlyList<TemplatePart>? Pair { get; init; }

    /// <summary>Type ids of the two texts where no template is applied.</summary>
    public (int First, int Second) PlainTypes { get; init; } = (0, 1);

    /// <summary>Whether the template's type ids hold even when its tokens are left out.</summary>
    public bool TypesAlways { get; init; }

    public int Added(bool pair) => (pair ? Pair : Single)?.Sum(part => part.Ids.Length) ?? 0;

    public TokenizedText Apply(List<EncodedToken> first, List<EncodedToken>? second, bool addSpecial)
    {
        IReadOnlyList<TemplatePart>? template = second is null ? Single : Pair;
        if (template is null || !addSpecial)
        {
            (int a, int b) = TypesAlways && template is not null
                ? (template.FirstOrDefault(part => part.Sequence == 0)?.TypeId ?? 0, template.FirstOrDefault(part => part.Sequence == 1)?.TypeId ?? 1)
                : PlainTypes;
            IReadOnlyList<TemplatePart>? order = TypesAlways ? template?.Where(part => part.Sequence >= 0).ToList() : null;
            template = order ?? (second is null ? [new(0, [], a)] : [new(0, [], a), new(1, [], b)]);
        }

        var ids = new List<int>();
        var offsets = new List<(int, int)>();
        var types = new List<int>();
        var special = new List<int>();
        foreach (TemplatePart part in template)
        {
            foreach (int id in part.Ids)
            {
                ids.Add(id);
                offsets.Add((0, 0));
                types.Add(part.TypeId);
                special.Add(1);
            }

            if (part.Sequence >= 0)
            {
                foreach (EncodedToken token in part.Sequence == 0 ? first : second ?? [])
                {
                    ids.Add(token.Id);
                    offsets.Add((token.From, token.To));
                    types.Add(part.TypeId);
                    special.Add(0);
                }
            }
        }

        int[] mask = new int[ids.Count];
        Array.Fill(mask, 1);
        return new TokenizedText([.. ids], [.. offsets], [.. types], mask, [.. special]);
    }

    /// <summary>Takes white space off the offsets of tokens that hold it.</summary>
    public static void Trim(List<EncodedToken> tokens, bool keepPrefix, Func<int, string> textOf)
    {
        for (int i = 0; i < tokens.Count; i++)
        {
            (int id, int from, int to, int leading, int trailing) = tokens[i];
            string text = textOf(id);
            for (int j = 0; j < text.Length && IsSpace(text[j]); j++)
            {
                leading++;
            }

            for (int j = text.Length - 1; j >= 0 && IsSpace(text[j]); j--)
            {
                trailing++;
            }

            if (leading > 0)
            {
                // One space at the start may be the one put in front; more of them were in the text.
                if (keepPrefix && leading == 1 && (i == 0 || from == 0))
                {
                    leading = 0;
                }

                from = Math.Min(from + leading, to);
            }

            if (trailing > 0 && to >= trailing)
            {
                to = Math.Max(to - trailing, from);
            }

            tokens[i] = new EncodedToken(id, from, to);
        }

        static bool IsSpace(char unit) => unit == 'Ġ' || char.IsWhiteSpace(unit);
    }
}

/// <summary>A token of a text: its id, the code points [from, to) of the original, and for an added token the white space that it took on either side.</summary>
readonly record struct EncodedToken(int Id, int From, int To, int Left = 0, int Right = 0);
