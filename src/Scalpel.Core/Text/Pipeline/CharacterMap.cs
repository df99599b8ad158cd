using System.Buffers.Binary;
using System.Globalization;
using System.Text;

namespace Scalpel.Text.Pipeline;

/// <summary>SentencePiece's precompiled map of characters: a double-array trie over UTF-8 bytes and the texts to which it leads.</summary>
sealed class CharacterMap
{
    readonly uint[] units;
    readonly byte[] texts;
    readonly Dictionary<int, int[]> replacements = [];

    /// <summary>Reads the map; an empty one maps nothing.</summary>
    /// <exception cref="BadInputException">Its own size is a lie.</exception>
    public CharacterMap(ReadOnlySpan<byte> blob, string path)
    {
        if (blob.Length == 0)
        {
            units = [];
            texts = [];
            return;
        }

        long size = blob.Length < 4 ? long.MaxValue : BinaryPrimitives.ReadUInt32LittleEndian(blob);
        if (size % 4 != 0 || size > blob.Length - 4)
        {
            throw new BadInputException($"{path}: the map of characters is cut off or malformed.");
        }

        units = new uint[size / 4];
        for (int i = 0; i < units.Length; i++)
        {
            units[i] = BinaryPrimitives.ReadUInt32LittleEndian(blob[(4 + 4 * i)..]);
        }

        texts = blob[(4 + (int)size)..].ToArray();
        // Every text that a leaf may name is read now, so that using the map changes nothing in it.
        int begin = 0;
        for (int i = 0; i < texts.Length; i++)
        {
            if (texts[i] == 0)
            {
                replacements[begin] = CodePoints.Of(Encoding.UTF8.GetString(texts, begin, i - begin));
                begin = i + 1;
            }
        }
    }

    /// <summary>The map as tokenizer.json means it: applied to whole graphemes, then to single characters.</summary>
    public Normalizer AsNormalizer() => new GraphemeNormalizer(this);

    /// <summary>What the text begins with is replaced by; null when the map has nothing for it.</summary>
    /// <param name="text">The text.</param>
    /// <param name="longest">The longest match; otherwise the shortest, as the reference for tokenizer.json takes it.</param>
    /// <param name="consumed">Code points that are replaced.</param>
    public int[]? Match(ReadOnlySpan<int> text, bool longest, out int consumed)
    {
        consumed = 0;
        int[]? found = null;
        if (units.Length == 0)
        {
            return null;
        }

        Span<byte> utf8 = stackalloc byte[4];
        long node = Offset(units[0]);
        for (int i = 0; i < text.Length; i++)
        {
            int n = new Rune(text[i]).EncodeToUtf8(utf8);
            for (int b = 0; b < n; b++)
            {
                node ^= utf8[b];
                if (utf8[b] == 0 || node >= units.Length || (units[node] & 0x800000FF) != utf8[b])
                {
                    return found;
                }

                uint unit = units[node];
                node ^= Offset(unit);
                if ((unit >> 8 & 1) != 0 && node < units.Length)
                {
                    int leaf = (int)(units[node] & 0x7FFFFFFF);
                    if ((b == n - 1 || !longest) && Replacement(leaf) is { } replacement)
                    {
                        found = replacement;
                        consumed = i + 1;
                        if (!longest)
                        {
                            return found;
                        }
                    }
                }
            }
        }

        return found;
    }

    static uint Offset(uint unit) => (unit >> 10) << (int)((unit & (1u << 9)) >> 6);

    int[]? Replacement(int leaf)
    {
        if (replacements.TryGetValue(leaf, out int[]? known))
        {
            return known;
        }

        if (leaf >= texts.Length)
        {
            return null;
        }

        int end = Array.IndexOf(texts, (byte)0, leaf);
        return CodePoints.Of(Encoding.UTF8.GetString(texts, leaf, (end < 0 ? texts.Length : end) - leaf));
    }

    sealed class GraphemeNormalizer(CharacterMap map) : Normalizer
    {
        protected override bool Changes(ReadOnlySpan<int> text) => true;

        protected override void Rewrite(ReadOnlySpan<int> text, Rewriter rewriter)
        {
            var output = new List<(int Code, int Change)>(text.Length + 8);
            string units = CodePoints.Text(text);
            int at = 0;
            for (int unit = 0; unit < units.Length;)
            {
                int length = StringInfo.GetNextTextElementLength(units.AsSpan(unit));
                int count = 0, bytes = 0;
                foreach (Rune rune in units.AsSpan(unit, length).EnumerateRunes())
                {
                    count++;
                    bytes += rune.Utf8SequenceLength;
                }

                unit += length;
                ReadOnlySpan<int> grapheme = text.Slice(at, count);
                at += count;
                if (bytes < 6 && map.Match(grapheme, longest: false, out _) is { } whole)
                {
                    Put(count, whole, output);
                    continue;
                }

                foreach (int code in grapheme)
                {
                    if (map.Match([code], longest: false, out _) is { } one)
                    {
                        Put(1, one, output);
                    }
                    else
                    {
                        output.Add((code, 0));
                    }
                }
            }

            foreach ((int code, int change) in output)
            {
                rewriter.Write(code, change);
            }
        }
    }

    /// <summary>Notes that <paramref name="consumed"/> code points become others.</summary>
    public static void Put(int consumed, int[] replacement, List<(int Code, int Change)> output)
    {
        int more = replacement.Length - consumed;
        for (int i = 0; i < replacement.Length; i++)
        {
            output.Add((replacement[i], more > 0 && i >= consumed ? 1 : 0));
        }

        if (more < 0 && output.Count > 0)
        {
            output[^1] = output[^1] with { Change = output[^1].Change + more };
        }
    }
}

/// <summary>How SentencePiece normalises: by its map, spaces collapsed and shown as ▁, one put in front.</summary>
sealed class SentencePieceNormalizer(CharacterMap map, PieceList userDefined, bool addPrefix, bool collapse) : Normalizer
{
    protected override bool Changes(ReadOnlySpan<int> text) => true;

    protected override void Rewrite(ReadOnlySpan<int> text, Rewriter rewriter)
    {
        var output = new List<(int Code, int Change)>(text.Length + 8);
        int at = 0, skipped = 0;
        bool afterSpace = collapse, started = false;
        while (at < text.Length)
        {
            ReadOnlySpan<int> rest = text[at..];
            int consumed = userDefined.Match(rest);
            int[] replacement = consumed > 0 ? rest[..consumed].ToArray() : map.Match(rest, longest: true, out consumed) ?? [rest[0]];
            consumed = Math.Max(consumed, 1);
            at += consumed;
            int drop = 0;
            while (afterSpace && drop < replacement.Length && replacement[drop] == ' ')
            {
                drop++;
            }

            replacement = [.. replacement[drop..].Select(code => code == ' ' ? '▁' : code)];
            if (replacement.Length == 0)
            {
                if (started)
                {
                    CharacterMap.Put(consumed, [], output);
                }
                else
                {
                    skipped += consumed;
                }

                continue;
            }

            if (!started)
            {
                started = true;
                rewriter.Skip(skipped);
                if (addPrefix)
                {
                    output.Add(('▁', 1));
                }
            }

            CharacterMap.Put(consumed, replacement, output);
            afterSpace = collapse && replacement[^1] == '▁';
        }

        while (collapse && output.Count > 0 && output[^1].Code == '▁')
        {
            output.RemoveAt(output.Count - 1);
        }

        foreach ((int code, int change) in output)
        {
            rewriter.Write(code, change);
        }
    }
}

/// <summary>Texts that are kept as they are, found at the start of what is left.</summary>
sealed class PieceList(IEnumerable<string> texts)
{
    readonly int[][] pieces = [.. texts.Select(CodePoints.Of).Where(piece => piece.Length > 0).OrderByDescending(piece => piece.Length)];

    /// <summary>Length of the longest that the text begins with, or 0.</summary>
    public int Match(ReadOnlySpan<int> text)
    {
        foreach (int[] piece in pieces)
        {
            if (text.StartsWith(piece))
            {
                return piece.Length;
            }
        }

        return 0;
    }
}
