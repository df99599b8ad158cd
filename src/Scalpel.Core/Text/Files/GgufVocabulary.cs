using Scalpel.Checkpoints.Gguf;
using Scalpel.Text.Models;
using Scalpel.Text.Patterns;
using Scalpel.Text.Pipeline;

namespace Scalpel.Text.Files;

/// <summary>Reads the tokenizer in the metadata of a GGUF file, and works as llama.cpp does with it.</summary>
static class GgufVocabulary
{
    const string Llama3 = @"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
    const string Qwen2 = @"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
    const string Falcon = @"[\p{P}\$\+<=>\^~\|`]+";

    public static TokenizerParts Read(GgufFile file)
    {
        string[] texts = file.Get<string[]>("tokenizer.ggml.tokens")
            ?? throw new BadInputException($"{file.Path} has no tokenizer.ggml.tokens; this GGUF file holds no tokenizer.");
        string model = file.Get<string>("tokenizer.ggml.model") ?? "";
        PieceType[] types = Types(file, texts.Length);
        bool bos = file.Get("tokenizer.ggml.add_bos_token", model is "llama" or "bert" || (model == "gpt2" && Pre(file) is "llama3" or "llama-v3" or "llama-bpe"));
        bool eos = file.Get("tokenizer.ggml.add_eos_token", model is "bert" or "t5");
        TokenizerParts parts = model switch
        {
            "llama" or "t5" => SentencePiece(file, texts, types, model == "t5"),
            "gpt2" => BytePair(file, texts, types),
            "bert" => WordPiece(texts, types),
            _ => throw new BadInputException($"{file.Path}: tokenizer.ggml.model is '{model}'; llama, gpt2, bert and t5 are read."),
        };
        string? Role(string key) => file.Integer($"tokenizer.ggml.{key}_token_id") is { } id && id >= 0 && id < texts.Length ? texts[id] : null;
        var roles = new SpecialTokens
        {
            Bos = Role("bos") ?? (model == "bert" ? Role("cls") : null),
            Eos = Role("eos") ?? (model == "bert" ? Role("seperator") ?? Role("separator") : null),
            Pad = Role("padding"),
            Unk = Role("unknown"),
            EndIds = EndIds(file, texts, types),
        };
        return parts with
        {
            Roles = roles,
            ChatTemplate = file.Get<string>("tokenizer.chat_template"),
            PostProcessor = Around(bos ? roles.Bos : null, eos ? roles.Eos : null, texts, file.Path),
        };
    }

    static TokenizerParts SentencePiece(GgufFile file, string[] texts, PieceType[] types, bool unigram)
    {
        float[] scores = file.Get<float[]>("tokenizer.ggml.scores") ?? throw new BadInputException($"{file.Path} has no tokenizer.ggml.scores, which a SentencePiece vocabulary needs.");
        return scores.Length != texts.Length
            ? throw new BadInputException($"{file.Path} has {texts.Length} tokens but {scores.Length} scores.")
            : new SentencePieceParts
            {
                Texts = texts,
                Scores = scores,
                Types = types,
                Unigram = unigram,
                CharacterMap = Bytes(file, "tokenizer.ggml.precompiled_charsmap"),
                AddPrefix = file.Get("tokenizer.ggml.add_space_prefix", true),
                CollapseSpaces = file.Get("tokenizer.ggml.remove_extra_whitespaces", false),
                ByteFallback = types.Contains(PieceType.Byte),
                SplitFirst = true,
            }.Build(file.Path);
    }

    static TokenizerParts BytePair(GgufFile file, string[] texts, PieceType[] types)
    {
        string[] list = file.Get<string[]>("tokenizer.ggml.merges") ?? throw new BadInputException($"{file.Path} has no tokenizer.ggml.merges, which a byte-pair vocabulary needs.");
        var vocabulary = new Vocabulary(texts);
        var merges = new MergeTable(vocabulary, "", $"{file.Path}, tokenizer.ggml.merges");
        foreach (string merge in list)
        {
            merges.Add(merge);
        }

        string pre = Pre(file);
        return new TokenizerParts
        {
            Model = new BytePairModel(vocabulary, merges.Pairs, new BytePairOptions { IgnoreMerges = pre is "llama3" or "llama-v3" or "llama-bpe" or "falcon3" or "tekken" }),
            AddedTokens = Added(texts, types),
            PreTokenizers = [.. Splits(pre, file.Path), new ByteLevel(addPrefixSpace: file.Get("tokenizer.ggml.add_space_prefix", false), useRegex: false)],
            Decoder = new ByteLevelDecoder(),
            Spelling = TokenSpelling.ByteAlphabet,
        };
    }

    static IEnumerable<PreTokenizer> Splits(string pre, string path)
    {
        string[] expressions = pre switch
        {
            "gpt-2" or "gpt2" or "phi-2" or "jina-es" or "jina-de" or "gigachat" or "jina-v2-es" or "jina-v2-de" or "a.x-4.0" or "mellum" or "roberta-bpe" or "olmo" or "dbrx" or "exaone4" => [ByteLevel.Expression],
            "smollm" or "starcoder" or "refact" or "command-r" or "codeshell" or "exaone" or "minerva-7b" => [@"\p{N}", ByteLevel.Expression],
            "llama3" or "llama-v3" or "llama-bpe" or "falcon3" or "falcon-h1" or "pixtral" or "smaug-bpe" => [Llama3],
            "qwen2" or "deepseek-r1-qwen" or "stablelm2" or "hunyuan" or "megrez" or "kormo" => [Qwen2],
            "falcon" => [Falcon, ByteLevel.Expression, @"[0-9][0-9][0-9]"],
            "mpt" or "olmo2" or "default" or "" => [ByteLevel.Expression],
            _ => throw new BadInputException($"{path}: tokenizer.ggml.pre is '{pre}', which Scalpel does not know; put the model's tokenizer.json beside the file."),
        };
        return expressions.Select(expression => new Split(TextPattern.Parse(expression), SplitBehavior.Isolated));
    }

    // BERT's GGUF vocabularies mark the start of a word by ▁ instead of continuations by ##.
    static TokenizerParts WordPiece(string[] texts, PieceType[] types)
    {
        string[] spelled = [.. texts.Select((text, id) => types[id] != PieceType.Normal || text.StartsWith('[') ? text : text.StartsWith('▁') ? text[1..] : "##" + text)];
        return new TokenizerParts
        {
            Model = new WordPieceModel(new Vocabulary(spelled), "[UNK]", "##", int.MaxValue),
            AddedTokens = Added(texts, types),
            Normalizer = CharacterRules.Bert(cleanText: true, chinese: true, stripAccents: true, lowercase: true),
            PreTokenizers = [new Split(CodePoints.IsSpace, SplitBehavior.Removed), new Split(CodePoints.IsPunctuation, SplitBehavior.Isolated)],
            Decoder = DecoderRules.WordPiece("##", cleanUp: true),
        };
    }

    static List<AddedToken> Added(string[] texts, PieceType[] types) =>
        [.. from id in Enumerable.Range(0, texts.Length)
            where texts[id].Length > 0 && types[id] is PieceType.Control or PieceType.Unknown or PieceType.UserDefined
            select new AddedToken(id, texts[id]) { Special = types[id] != PieceType.UserDefined }];

    static PieceType[] Types(GgufFile file, int count)
    {
        int[]? types = file.Get<int[]>("tokenizer.ggml.token_type");
        if (types is null)
        {
            return [.. Enumerable.Repeat(PieceType.Normal, count)];
        }

        return types.Length == count && Array.TrueForAll(types, type => type is >= 0 and <= 6)
            ? [.. types.Select(type => (PieceType)Math.Max(type, 1))]
            : throw new BadInputException($"{file.Path}: tokenizer.ggml.token_type has {types.Length} entries from 0 to 6 expected, one for each of {count} tokens.");
    }

    // llama.cpp stops at what ends a turn of the well-known families, whatever the file says of eos.
    static List<int> EndIds(GgufFile file, string[] texts, PieceType[] types)
    {
        string[] ends = ["<|eot_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>", "<|endoftext|>", "<|eom_id|>", "<EOT>", "<|end_of_text|>"];
        var ids = new List<int>();
        foreach (string key in (string[])["eot", "eom"])
        {
            if (file.Integer($"tokenizer.ggml.{key}_token_id") is { } id && id >= 0 && id < texts.Length)
            {
                ids.Add((int)id);
            }
        }

        ids.AddRange(from end in ends let id = Array.IndexOf(texts, end) where id >= 0 && types[id] is PieceType.Control or PieceType.UserDefined select id);
        return ids;
    }

    static PostProcessor Around(string? bos, string? eos, string[] texts, string path)
    {
        TemplatePart[] before = bos is null ? [] : [new(-1, [IdOf(bos)], 0)], after = eos is null ? [] : [new(-1, [IdOf(eos)], 0)];
        if (before.Length + after.Length == 0)
        {
            return new PostProcessor();
        }

        return new PostProcessor { Single = [.. before, new(0, [], 0), .. after], Pair = [.. before, new(0, [], 0), .. after, .. before, new(1, [], 1), .. after] };

        int IdOf(string token) => Array.IndexOf(texts, token) is >= 0 and int id ? id : throw new BadInputException($"{path}: '{token}' is no token.");
    }

    static string Pre(GgufFile file) => file.Get<string>("tokenizer.ggml.pre") ?? "default";

    static byte[] Bytes(GgufFile file, string key) => file.Metadata.GetValueOrDefault(key) switch
    {
        null => [],
        byte[] bytes => bytes,
        sbyte[] signed => (byte[])(Array)signed,
        _ => throw new BadInputException($"{file.Path}: {key} is not an array of bytes."),
    };
}
