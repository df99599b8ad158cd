using System.Text.Json.Nodes;
using Scalpel.Text;

namespace Scalpel.Lab.Parity;

/// <summary>
/// Cases of kind <c>tokenizer</c>: strings, strings with special tokens and pairs, from tokenizer.json, vocab.json with
/// merges.txt, SentencePiece models and GGUF vocabularies. A field that is absent means "the same as ids" (or "as decoded")
/// only where the case records that field at all; SentencePiece's own library parses no special tokens.
/// </summary>
public sealed class TokenizerKind : IParityKind
{
    // The bytes were recorded through a buffer of this size; longer tokens left no trace in them.
    const int LongestRecordedToken = 32;

    /// <inheritdoc/>
    public string Kind => "tokenizer";

    /// <inheritdoc/>
    public void Run(ParityCase parityCase, Comparison comparison)
    {
        var tokenizer = Tokenizer.Load(parityCase.PathOf("model"));
        JsonObject inputs = JsonFiles.Object(parityCase.PathOf("inputs")), expected = JsonFiles.Object(parityCase.PathOf("expected"));
        bool sentencePiece = parityCase.Json["made_with"]?.ToString().StartsWith("sentencepiece", StringComparison.Ordinal) == true;
        foreach (string part in (string[])["strings", "extra"])
        {
            if (expected[part] is not JsonArray records)
            {
                continue;
            }

            JsonArray texts = inputs[part] is JsonValue file
                ? JsonFiles.Array(Path.GetFullPath(Path.Combine(parityCase.Folder, file.GetValue<string>())))
                : inputs[part] as JsonArray ?? throw new BadInputException($"{parityCase.Folder}: expected has '{part}' but inputs has not.");
            RequireSameCount(parityCase, part, texts, records);
            var recorded = new Recorded(
                Parse: !sentencePiece,
                WithSpecial: Holds(records, "ids_with_special") || !(Holds(expected["strings"], "ids_with_special") || Holds(expected["extra"], "ids_with_special")),
                Plain: Holds(expected["strings"], "ids_plain") || Holds(expected["extra"], "ids_plain"));
            for (int i = 0; i < records.Count; i++)
            {
                Compare($"{part}[{i}]", tokenizer, texts[i]!.GetValue<string>(), records[i]!.AsObject(), recorded, comparison);
            }
        }

        if (expected["pairs"] is JsonArray pairs)
        {
            JsonArray texts = inputs["pairs"] as JsonArray ?? throw new BadInputException($"{parityCase.Folder}: expected has 'pairs' but inputs has not.");
            RequireSameCount(parityCase, "pairs", texts, pairs);
            for (int i = 0; i < pairs.Count; i++)
            {
                ComparePair($"pairs[{i}]", tokenizer, texts[i]!.AsArray(), pairs[i]!.AsObject(), comparison);
            }
        }
    }

    static void Compare(string name, Tokenizer tokenizer, string text, JsonObject record, Recorded recorded, Comparison comparison)
    {
        TokenizedText plain = tokenizer.Encode(text, addSpecial: false, parseSpecial: recorded.Parse);
        int[] ids = JsonFiles.Integers(record["ids"]);
        comparison.Sequences($"{name}.ids", plain.Ids, ids);
        if (record["offsets"] is JsonArray offsets)
        {
            comparison.Sequences($"{name}.offsets", plain.Offsets.SelectMany(offset => new[] { offset.From, offset.To }), offsets.SelectMany(JsonFiles.Integers));
        }

        if (recorded.WithSpecial)
        {
            comparison.Sequences($"{name}.ids_with_special", tokenizer.Encode(text, addSpecial: true, parseSpecial: recorded.Parse).Ids, record["ids_with_special"] is { } special ? JsonFiles.Integers(special) : ids);
        }

        if (recorded.Plain)
        {
            comparison.Sequences($"{name}.ids_plain", tokenizer.Encode(text, addSpecial: false, parseSpecial: false).Ids, record["ids_plain"] is { } plainIds ? JsonFiles.Integers(plainIds) : ids);
        }

        if (record["decoded"] is { } decoded)
        {
            comparison.Exact($"{name}.decoded", tokenizer.Decode(ids), decoded.GetValue<string>());
            if (recorded.Parse)
            {
                comparison.Exact($"{name}.decoded_skip_special", tokenizer.Decode(ids, skipSpecial: true), (record["decoded_skip_special"] ?? decoded).GetValue<string>());
            }
        }

        if (record["normalized"] is { } normalized)
        {
            comparison.Exact($"{name}.normalized", tokenizer.Normalize(text), normalized.GetValue<string>());
        }

        if (record["detokenized_hex"] is { } hex)
        {
            byte[] bytes = [.. ids.Select(tokenizer.TokenBytes).Where(token => token.Length <= LongestRecordedToken).SelectMany(token => token)];
            comparison.Exact($"{name}.detokenized_hex", Convert.ToHexStringLower(bytes), hex.GetValue<string>());
        }
    }

    static void ComparePair(string name, Tokenizer tokenizer, JsonArray texts, JsonObject record, Comparison comparison)
    {
        TokenizedText pair = tokenizer.EncodePair(texts[0]!.GetValue<string>(), texts[1]!.GetValue<string>());
        comparison.Sequences($"{name}.ids", pair.Ids, JsonFiles.Integers(record["ids"]));
        if (record["type_ids"] is { } types)
        {
            comparison.Sequences($"{name}.type_ids", pair.TypeIds, JsonFiles.Integers(types));
        }

        if (record["offsets"] is JsonArray offsets)
        {
            comparison.Sequences($"{name}.offsets", pair.Offsets.SelectMany(offset => new[] { offset.From, offset.To }), offsets.SelectMany(JsonFiles.Integers));
        }
    }

    static bool Holds(JsonNode? records, string field) => records is JsonArray array && array.Any(record => record?[field] is not null);

    static void RequireSameCount(ParityCase parityCase, string part, JsonArray texts, JsonArray records)
    {
        if (texts.Count != records.Count)
        {
            throw new BadInputException($"{parityCase.Folder}: inputs has {texts.Count} {part} but expected has {records.Count}.");
        }
    }
}

/// <summary>Which fields a part of a case records.</summary>
readonly record struct Recorded(bool Parse, bool WithSpecial, bool Plain);

/// <summary>JSON files of parity cases.</summary>
static class JsonFiles
{
    public static JsonObject Object(string file) => Node(file) as JsonObject ?? throw new BadInputException($"{file} is not a JSON object.");

    public static JsonArray Array(string file) => Node(file) as JsonArray ?? throw new BadInputException($"{file} is not a JSON array.");

    public static JsonNode Any(string file) => Node(file) ?? throw new BadInputException($"{file} is empty.");

    public static int[] Integers(JsonNode? node) => node is JsonArray array ? [.. array.Select(item => item!.GetValue<int>())] : throw new BadInputException("A list of whole numbers is missing.");

    static JsonNode? Node(string file)
    {
        try
        {
            return JsonNode.Parse(File.ReadAllBytes(file));
        }
        catch (System.Text.Json.JsonException e)
        {
            throw new BadInputException($"{file} is not valid JSON: {e.Message}", e);
        }
    }
}
