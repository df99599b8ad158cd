using System.Text.Json;
using Scalpel.Text.Models;
using Scalpel.Text.Patterns;
using Scalpel.Text.Pipeline;

namespace Scalpel.Text.Files;

/// <summary>Tokenizers of the time before tokenizer.json: vocab.json with merges.txt, and vocab.txt; tokenizer_config.json says of which class.</summary>
static class VocabularyFiles
{
    public static TokenizerParts BytePair(string folder, Json config)
    {
        string mergesFile = Path.Combine(folder, "merges.txt");
        if (!File.Exists(mergesFile))
        {
            throw new BadInputException($"{folder} has vocab.json but no merges.txt; both are needed.");
        }

        string vocabularyFile = Path.Combine(folder, "vocab.json");
        using JsonDocument document = TokenizerJson.Open(vocabularyFile);
        Vocabulary vocabulary = TokenizerJson.Vocabulary(new Json(document.RootElement, vocabularyFile));
        var merges = new MergeTable(vocabulary, "", mergesFile);
        foreach (string line in File.ReadLines(mergesFile))
        {
            if (line.Length > 0 && !line.StartsWith("#version", StringComparison.Ordinal))
            {
                merges.Add(line);
            }
        }

        string kind = config["tokenizer_class"].Text("GPT2Tokenizer").Replace("Fast", "", StringComparison.Ordinal);
        return kind switch
        {
            "CLIPTokenizer" => Clip(vocabulary, merges, config),
            "RobertaTokenizer" or "BartTokenizer" or "LongformerTokenizer" => Roberta(vocabulary, merges, config),
            "Qwen2Tokenizer" => Plain(vocabulary, merges, config, new UnicodeForm(compose: true, compatibility: false),
                [new Split(TextPattern.Parse(@"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"), SplitBehavior.Isolated), new ByteLevel(false, useRegex: false)]),
            _ => Plain(vocabulary, merges, config, null, [new ByteLevel(config["add_prefix_space"].Flag(false), useRegex: true)]),
        };
    }

    public static TokenizerParts WordPiece(string file, Json config)
    {
        string[] texts = File.ReadAllLines(file);
        var vocabulary = new Vocabulary(texts);
        bool lower = config["do_lower_case"].Flag(true);
        string cls = Named(config, "cls_token", "[CLS]"), sep = Named(config, "sep_token", "[SEP]");
        int clsId = vocabulary.Id(cls) ?? throw new BadInputException($"{file} has no token {cls}."), sepId = vocabulary.Id(sep) ?? throw new BadInputException($"{file} has no token {sep}.");
        List<TemplatePart> single = [new(-1, [clsId], 0), new(0, [], 0), new(-1, [sepId], 0)];
        return new TokenizerParts
        {
            Model = new WordPieceModel(vocabulary, Named(config, "unk_token", "[UNK]"), "##", 100),
            AddedTokens = Special(vocabulary, config, [cls, sep, "[PAD]", "[UNK]", "[MASK]"]),
            Normalizer = CharacterRules.Bert(cleanText: true, config["tokenize_chinese_chars"].Flag(true), config["strip_accents"].Flag(lower), lower),
            PreTokenizers = [new Split(CodePoints.IsSpace, SplitBehavior.Removed), new Split(CodePoints.IsPunctuation, SplitBehavior.Isolated)],
            PostProcessor = new PostProcessor { Single = single, Pair = [.. single, new(1, [], 1), new(-1, [sepId], 1)] },
            Decoder = DecoderRules.WordPiece("##", cleanUp: true),
        };
    }

    static TokenizerParts Plain(Vocabulary vocabulary, MergeTable merges, Json config, Normalizer? normalizer, IReadOnlyList<PreTokenizer> preTokenizers) => new()
    {
        Model = new BytePairModel(vocabulary, merges.Pairs, new BytePairOptions()),
        AddedTokens = Special(vocabulary, config, ["<|endoftext|>"]),
        Normalizer = normalizer,
        PreTokenizers = preTokenizers,
        Decoder = new ByteLevelDecoder(),
        Spelling = TokenSpelling.ByteAlphabet,
        Roles = new SpecialTokens { Bos = "<|endoftext|>", Eos = "<|endoftext|>" },
    };

    static TokenizerParts Roberta(Vocabulary vocabulary, MergeTable merges, Json config)
    {
        int cls = Required(vocabulary, Named(config, "cls_token", "<s>")), sep = Required(vocabulary, Named(config, "sep_token", "</s>"));
        List<TemplatePart> single = [new(-1, [cls], 0), new(0, [], 0), new(-1, [sep], 0)];
        bool prefix = config["add_prefix_space"].Flag(false);
        TokenizerParts parts = Plain(vocabulary, merges, config, null, [new ByteLevel(prefix, useRegex: true)]);
        return parts with
        {
            AddedTokens = [.. Special(vocabulary, config, ["<s>", "</s>", "<pad>", "<unk>", "<mask>"]).Select(token => token.Content == "<mask>" ? token with { StripLeft = true } : token)],
            PostProcessor = new PostProcessor { Single = single, Pair = [.. single, new(-1, [sep], 0), new(1, [], 0), new(-1, [sep], 0)], Trims = [prefix], PlainTypes = (0, 0) },
            Roles = new SpecialTokens { Bos = "<s>", Eos = "</s>", Pad = "<pad>", Unk = "<unk>" },
        };
    }

    // CLIP lower-cases, marks the end of a word, and drops white space.
    static TokenizerParts Clip(Vocabulary vocabulary, MergeTable merges, Json config)
    {
        string bos = Named(config, "bos_token", "<|startoftext|>"), eos = Named(config, "eos_token", "<|endoftext|>"), unk = Named(config, "unk_token", "<|endoftext|>");
        int begin = Required(vocabulary, bos), end = Required(vocabulary, eos);
        List<TemplatePart> single = [new(-1, [begin], 0), new(0, [], 0), new(-1, [end], 0)];
        return new TokenizerParts
        {
            Model = new BytePairModel(vocabulary, merges.Pairs, new BytePairOptions { UnknownToken = unk, EndOfWordSuffix = "</w>" }),
            AddedTokens = Special(vocabulary, config, [bos, eos]),
            Normalizer = new NormalizerSequence([new UnicodeForm(compose: true, compatibility: false), new Replace(TextPattern.Parse(@"\s+"), " "), new Lowercase()]),
            PreTokenizers =
            [
                new Split(TextPattern.Parse(@"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"), SplitBehavior.Removed, invert: true),
                new ByteLevel(addPrefixSpace: false, useRegex: false),
            ],
            PostProcessor = new PostProcessor { Single = single, Pair = [.. single, new(-1, [end], 0), new(1, [], 0), new(-1, [end], 0)], Trims = [false], PlainTypes = (0, 0) },
            Decoder = new ClipDecoder(),
            Spelling = TokenSpelling.ByteAlphabet,
            Roles = new SpecialTokens { Bos = bos, Eos = eos, Pad = eos, Unk = unk },
        };
    }

    static List<AddedToken> Special(Vocabulary vocabulary, Json config, IEnumerable<string> names)
    {
        var tokens = new List<AddedToken>();
        foreach (string name in names.Concat(new[] { "bos_token", "eos_token", "unk_token", "pad_token", "mask_token" }.Select(key => Named(config, key, ""))).Distinct())
        {
            if (name.Length > 0 && vocabulary.Id(name) is { } id)
            {
                tokens.Add(new AddedToken(id, name) { Special = true });
            }
        }

        return [.. tokens.OrderBy(token => token.Id)];
    }

    static string Named(Json config, string key, string absent) => config[key].Kind switch
    {
        JsonValueKind.String => config[key].Text(),
        JsonValueKind.Object => config[key]["content"].Text(absent),
        _ => absent,
    };

    static int Required(Vocabulary vocabulary, string token) => vocabulary.Id(token) ?? throw new BadInputException($"The vocabulary has no token {token}, which tokenizers of its class need.");

    /// <summary>Bytes back to text, the mark of a word's end to a space, the last one dropped.</summary>
    sealed class ClipDecoder : TokenDecoderStep
    {
        public override List<string> Apply(List<string> tokens)
        {
            string text = string.Concat(new ByteLevelDecoder().Apply(tokens)).Replace("</w>", " ", StringComparison.Ordinal);
            int from = 0, to = text.Length;
            while (from < to && IsSpace(text[from]))
            {
                from++;
            }

            while (to > from && IsSpace(text[to - 1]))
            {
                to--;
            }

            return [text[from..to]];
        }

        // Python's white space, which has four separators more than Unicode's.
        static bool IsSpace(char unit) => char.IsWhiteSpace(unit) || unit is >= '\x1C' and <= '\x1F';
    }
}
