using System.Text;
using System.Text.Json.Nodes;
using Scalpel.Text;

namespace Scalpel.Lab.Parity;

/// <summary>
/// Cases of kind <c>tokenizer</c>: strings, strings with special tokens and pairs, from tokenizer.json, vocab.json with
/// merges.txt, SentencePiece models and GGUF vocabularies.
/// </summary>
public sealed class TokenizerKind : IParityKind
{
    /// <inheritdoc/>
    public string Kind => "tokenizer";

    /// <inheritdoc/>
    public void Run(ParityCase parityCase, Comparison comparison)
    {
        var tokenizer = Tokenizer.Load(ModelFile(parityCase));
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
            for (int i = 0; i < records.Count; i++)
            {
                Compare($"{part}[{i}]", tokenizer, texts[i]!.GetValue<string>(), records[i]!.AsObject(), !sentencePiece, comparison);
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

    // A folder with one SentencePiece model or a model folder with tokenizer.json: both are read by their folder.
    static string ModelFile(ParityCase parityCase) => parityCase.PathOf("model");

    static void Compare(string name, Tokenizer tokenizer, string text, JsonObject record, bool parse, Comparison comparison)
    {
        TokenizedText plain = tokenizer.Encode(text, addSpecial: false, parseSpecial: parse);
        int[] ids = JsonFiles.Integers(record["ids"]);
        comparison.Sequences($"{name}.ids", plain.Ids, ids);
        if (record["offsets"] is JsonArray offsets)
        {
            comparison.Sequences($"{name}.offsets", plain.Offsets.SelectMany(offset => new[] { offset.From, offset.To }), offsets.SelectMany(JsonFiles.Integers));
        }

        comparison.Sequences($"{name}.ids_with_special", tokenizer.Encode(text, addSpecial: true, parseSpecial: parse).Ids, record["ids_with_special"] is { } special ? JsonFiles.Integers(special) : ids);
        if (parse)
        {
            comparison.Sequences($"{name}.ids_plain", tokenizer.Encode(text, addSpecial: false, parseSpecial: false).Ids, record["ids_plain"] is { } plainIds ? JsonFiles.Integers(plainIds) : ids);
        }

        if (record["decoded"] is { } decoded)
        {
            comparison.Exact($"{name}.decoded", tokenizer.Decode(ids), decoded.GetValue<string>());
            comparison.Exact($"{name}.decoded_skip_special", tokenizer.Decode(ids, skipSpecial: true), (record["decoded_skip_special"] ?? decoded).GetValue<string>());
        }

        if (record["normalized"] is { } normalized)
        {
            comparison.Exact($"{name}.normalized", tokenizer.Normalize(text), normalized.GetValue<string>());
        }

        if (record["detokenized_hex"] is { } hex)
        {
            byte[] bytes = [.. ids.SelectMany(tokenizer.TokenBytes)];
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

    static void RequireSameCount(ParityCase parityCase, string part, JsonArray texts, JsonArray records)
    {
        if (texts.Count != records.Count)
        {
            throw new BadInputException($"{parityCase.Folder}: inputs has {texts.Count} {part} but expected has {records.Count}.");
        }
    }
}

/// <summary>JSON files of parity cases.</summary>
static class JsonFiles
{
    public static JsonObject Object(string file) => Node(file) as JsonObject ?? throw new BadInputException($"{file} is not a JSON object.");

    public static JsonArray Array(string file) => Node(file) as JsonArray ?? throw new BadInputException($"{file} is not a JSON array.");

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
