using System.Text.Json;
using Scalpel.Text.Patterns;
using Scalpel.Text.Pipeline;

namespace Scalpel.Text.Files;

/// <summary>Reads the parts of tokenizer.json around the model.</summary>
static class PipelineJson
{
    const int MaxParts = 1000;

    public static Normalizer? Normalizer(Json json)
    {
        if (json.IsNull)
        {
            return null;
        }

        switch (json["type"].Text())
        {
            case "Sequence":
                return new NormalizerSequence([.. Limited(json["normalizers"]).Select(part => Normalizer(part) ?? throw part.Wrong("a normalizer"))]);
            case "NFC":
                return new UnicodeForm(compose: true, compatibility: false);
            case "NFD":
                return new UnicodeForm(compose: false, compatibility: false);
            case "NFKC":
                return new UnicodeForm(compose: true, compatibility: true);
            case "NFKD":
                return new UnicodeForm(compose: false, compatibility: true);
            case "Lowercase":
                return new Lowercase();
            case "Strip":
                return new Strip(json["strip_left"].Flag(true), json["strip_right"].Flag(true));
            case "StripAccents":
                return new Filter(code => !CodePoints.IsMark(code));
            case "BertNormalizer":
                bool lower = json["lowercase"].Flag(true);
                return CharacterRules.Bert(json["clean_text"].Flag(true), json["handle_chinese_chars"].Flag(true), json["strip_accents"].Flag(lower), lower);
            case "Replace":
                return new Replace(Pattern(json["pattern"]), json["content"].Text());
            case "Prepend":
                return new Prepend(json["prepend"].Text());
            case "Precompiled":
                return new CharacterMap(Base64(json["precompiled_charsmap"]), json.Path).AsNormalizer();
            case "Nmt":
                return CharacterRules.Nmt();
            case "ByteLevel":
                return new ByteSpelling();
            default:
                throw json["type"].Wrong("a normalizer that Scalpel knows (Sequence, NFC, NFD, NFKC, NFKD, Lowercase, Strip, StripAccents, BertNormalizer, Replace, Prepend, Precompiled, Nmt, ByteLevel)");
        }
    }

    public static IReadOnlyList<PreTokenizer> PreTokenizers(Json json)
    {
        if (json.IsNull)
        {
            return [];
        }

        switch (json["type"].Text())
        {
            case "Sequence":
                return [.. Limited(json["pretokenizers"]).SelectMany(PreTokenizers)];
            case "ByteLevel":
                return [new ByteLevel(json["add_prefix_space"].Flag(true), json["use_regex"].Flag(true))];
            case "Split":
                return [new Split(Pattern(json["pattern"]), Behavior(json["behavior"]), json["invert"].Flag(false))];
            case "Whitespace":
                return [new Split(TextPattern.Parse(@"\w+|[^\w\s]+"), SplitBehavior.Removed, invert: true)];
            case "WhitespaceSplit":
                return [new Split(CodePoints.IsSpace, SplitBehavior.Removed)];
            case "BertPreTokenizer":
                return [new Split(CodePoints.IsSpace, SplitBehavior.Removed), new Split(CodePoints.IsPunctuation, SplitBehavior.Isolated)];
            case "Punctuation":
                return [new Split(CodePoints.IsPunctuation, json["behavior"].IsNull ? SplitBehavior.Isolated : Behavior(json["behavior"]))];
            case "Digits":
                return [new Split(CodePoints.IsNumeric, json["individual_digits"].Flag(false) ? SplitBehavior.Isolated : SplitBehavior.Contiguous)];
            case "Metaspace":
                return [new Metaspace(Character(json["replacement"], '▁'), Scheme(json), json["split"].Flag(true))];
            case "CharDelimiterSplit":
                int delimiter = Character(json["delimiter"], ' ');
                return [new Split(code => code == delimiter, SplitBehavior.Removed)];
            case "FixedLength":
                return [new FixedLength(json["length"].Whole(1, int.MaxValue, 5))];
            default:
                throw json["type"].Wrong("a pre-tokenizer that Scalpel knows (Sequence, ByteLevel, Split, Whitespace, WhitespaceSplit, BertPreTokenizer, Punctuation, Digits, Metaspace, CharDelimiterSplit, FixedLength)");
        }
    }

    public static TokenDecoderStep? Decoder(Json json)
    {
        if (json.IsNull)
        {
            return null;
        }

        switch (json["type"].Text())
        {
            case "Sequence":
                return new DecoderSequence([.. Limited(json["decoders"]).Select(part => Decoder(part) ?? throw part.Wrong("a decoder"))]);
            case "ByteLevel":
                return new ByteLevelDecoder();
            case "WordPiece":
                return DecoderRules.WordPiece(json["prefix"].Text("##"), json["cleanup"].Flag(true));
            case "Metaspace":
                return DecoderRules.Metaspace((char)Character(json["replacement"], '▁'), Scheme(json));
            case "BPEDecoder":
                return DecoderRules.Suffix(json["suffix"].Text("</w>"));
            case "ByteFallback":
                return new ByteFallbackDecoder();
            case "Fuse":
                return new Fuse();
            case "Strip":
                return DecoderRules.Strip((char)Character(json["content"], ' '), json["start"].Whole(0, int.MaxValue, 0), json["stop"].Whole(0, int.MaxValue, 0));
            case "Replace":
                var replace = new Replace(Pattern(json["pattern"]), json["content"].Text());
                return new EachToken((token, _, _) => replace.Apply(token));
            default:
                throw json["type"].Wrong("a decoder that Scalpel knows (Sequence, ByteLevel, WordPiece, Metaspace, BPEDecoder, ByteFallback, Fuse, Strip, Replace)");
        }
    }

    public static PostProcessor PostProcessor(Json json)
    {
        if (json.IsNull)
        {
            return new PostProcessor();
        }

        switch (json["type"].Text())
        {
            case "Sequence":
                var whole = new PostProcessor();
                foreach (Json part in Limited(json["processors"]))
                {
                    PostProcessor next = PostProcessor(part);
                    if (whole.Single is not null && next.Single is not null)
                    {
                        throw part.Unsupported("a second template in one sequence of post-processors is not supported.");
                    }

                    IReadOnlyList<bool> trims = [.. whole.Trims, .. next.Trims];
                    whole = (next.Single is null ? whole : next) with { Trims = trims };
                }

                return whole;
            case "ByteLevel":
                return new PostProcessor { Trims = json["trim_offsets"].Flag(true) ? [json["add_prefix_space"].Flag(true)] : [] };
            case "TemplateProcessing":
                return new PostProcessor { Single = Template(json["single"], json), Pair = Template(json["pair"], json), TypesAlways = true };
            case "BertProcessing":
                return Around(json, roberta: false);
            case "RobertaProcessing":
                return Around(json, roberta: true) with { Trims = json["trim_offsets"].Flag(true) ? [json["add_prefix_space"].Flag(true)] : [], PlainTypes = (0, 0) };
            default:
                throw json["type"].Wrong("a post-processor that Scalpel knows (Sequence, ByteLevel, TemplateProcessing, BertProcessing, RobertaProcessing)");
        }
    }

    static PostProcessor Around(Json json, bool roberta)
    {
        int sep = IdOf(json["sep"]), cls = IdOf(json["cls"]), second = roberta ? 0 : 1;
        List<TemplatePart> single = [new(-1, [cls], 0), new(0, [], 0), new(-1, [sep], 0)];
        return new PostProcessor
        {
            Single = single,
            Pair = [.. single, .. roberta ? new TemplatePart[] { new(-1, [sep], 0) } : [], new(1, [], second), new(-1, [sep], second)],
        };

        static int IdOf(Json pair) => pair.Kind == JsonValueKind.Array && pair.Element.GetArrayLength() == 2
            ? new Json(pair.Element[1], pair.Path).Whole(0, int.MaxValue)
            : throw pair.Wrong("a token and its id");
    }

    static List<TemplatePart> Template(Json json, Json processor)
    {
        var parts = new List<TemplatePart>();
        foreach (Json item in Limited(json))
        {
            if (item["Sequence"].Kind == JsonValueKind.Object)
            {
                int sequence = item["Sequence"]["id"].Text() switch
                {
                    "A" => 0,
                    "B" => 1,
                    _ => throw item["Sequence"]["id"].Wrong("A or B"),
                };
                parts.Add(new TemplatePart(sequence, [], item["Sequence"]["type_id"].Whole(0, int.MaxValue, 0)));
                continue;
            }

            Json special = item["SpecialToken"];
            Json definition = processor["special_tokens"][special["id"].Text()];
            if (definition.Kind != JsonValueKind.Object)
            {
                throw special["id"].Wrong("a token that special_tokens defines");
            }

            parts.Add(new TemplatePart(-1, [.. Limited(definition["ids"]).Select(id => id.Whole(0, int.MaxValue))], special["type_id"].Whole(0, int.MaxValue, 0)));
        }

        return parts;
    }

    static TextPattern Pattern(Json json)
    {
        if (json.Kind == JsonValueKind.String)
        {
            return TextPattern.Literal(json.Text());
        }

        if (!json["String"].IsNull)
        {
            return TextPattern.Literal(json["String"].Text());
        }

        try
        {
            return TextPattern.Parse(json["Regex"].Text());
        }
        catch (BadInputException e) when (json["Regex"].Kind == JsonValueKind.String)
        {
            throw json["Regex"].Unsupported(e.Message);
        }
    }

    static SplitBehavior Behavior(Json json) => json.Text() switch
    {
        "Removed" or "removed" => SplitBehavior.Removed,
        "Isolated" or "isolated" => SplitBehavior.Isolated,
        "MergedWithPrevious" or "merged_with_previous" => SplitBehavior.MergedWithPrevious,
        "MergedWithNext" or "merged_with_next" => SplitBehavior.MergedWithNext,
        "Contiguous" or "contiguous" => SplitBehavior.Contiguous,
        _ => throw json.Wrong("Removed, Isolated, MergedWithPrevious, MergedWithNext or Contiguous"),
    };

    // Files written before prepend_scheme existed have add_prefix_space.
    static PrependScheme Scheme(Json json) => json["prepend_scheme"].IsNull
        ? json["add_prefix_space"].Flag(true) ? PrependScheme.Always : PrependScheme.Never
        : json["prepend_scheme"].Text() switch
        {
            "always" => PrependScheme.Always,
            "first" => PrependScheme.First,
            "never" => PrependScheme.Never,
            _ => throw json["prepend_scheme"].Wrong("always, first or never"),
        };

    static int Character(Json json, int absent)
    {
        int[] codes = CodePoints.Of(json.Text(char.ConvertFromUtf32(absent)));
        return codes.Length == 1 && codes[0] < 0x10000 ? codes[0] : throw json.Wrong("one character");
    }

    static byte[] Base64(Json json)
    {
        try
        {
            return Convert.FromBase64String(json.Text(""));
        }
        catch (FormatException)
        {
            throw json.Wrong("base64");
        }
    }

    static IEnumerable<Json> Limited(Json json)
    {
        if (json.Kind == JsonValueKind.Array && json.Element.GetArrayLength() > MaxParts)
        {
            throw json.Unsupported($"has {json.Element.GetArrayLength()} entries; at most {MaxParts} are read.");
        }

        return json.Items();
    }
}
