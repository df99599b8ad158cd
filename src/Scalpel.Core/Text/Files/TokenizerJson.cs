using System.Buffers;
using System.Runtime.InteropServices;
using System.Text.Json;
using System.Text.Unicode;
using Scalpel.Checkpoints;
using Scalpel.Text.Models;
using Scalpel.Text.Pipeline;

namespace Scalpel.Text.Files;

/// <summary>Reads tokenizer.json: models, and through <see cref="PipelineJson"/> everything around them.</summary>
static class TokenizerJson
{
    const int MaxBytes = 512 << 20, MaxDepth = 32, MaxId = 50_000_000;

    /// <summary>Reads a file.</summary>
    /// <exception cref="BadInputException">It is malformed, lies, or uses something that is not supported.</exception>
    public static TokenizerParts Read(string file)
    {
        using JsonDocument document = Open(file);
        var root = new Json(document.RootElement, file);
        if (root.Kind != JsonValueKind.Object)
        {
            throw root.Wrong("an object with a model");
        }

        TokenModel model = Model(root["model"]);
        IReadOnlyList<PreTokenizer> preTokenizers = PipelineJson.PreTokenizers(root["pre_tokenizer"]);
        TokenDecoderStep? decoder = PipelineJson.Decoder(root["decoder"]);
        return new TokenizerParts
        {
            Model = model,
            AddedTokens = AddedTokens(root["added_tokens"], model.Vocabulary),
            Normalizer = PipelineJson.Normalizer(root["normalizer"]),
            PreTokenizers = preTokenizers,
            PostProcessor = PipelineJson.PostProcessor(root["post_processor"]),
            Decoder = decoder,
            Truncation = Truncation(root["truncation"]),
            Padding = Padding(root["padding"]),
            Spelling = Spelling(root["decoder"]),
            Roles = new SpecialTokens { Unk = root["model"]["unk_token"] is { Kind: JsonValueKind.String } unk ? unk.Text() : null },
        };
    }

    public static JsonDocument Open(string file)
    {
        try
        {
            if (new FileInfo(file).Length > MaxBytes)
            {
                throw new BadInputException($"{file} is larger than {MaxBytes} bytes, which no tokenizer is.");
            }

            byte[] bytes = File.ReadAllBytes(file);
            JsonFile.RequireUnicode(file, bytes);
            return JsonDocument.Parse(bytes, new JsonDocumentOptions { MaxDepth = MaxDepth });
        }
        catch (JsonException e)
        {
            throw new BadInputException($"{file} is not valid JSON: {e.Message}", e);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            throw new BadInputException($"{file} cannot be read: {e.Message}", e);
        }
    }

    static TokenModel Model(Json json)
    {
        if (json.Kind != JsonValueKind.Object)
        {
            throw json.Wrong("an object");
        }

        // Old files name no type; then the merges tell.
        string type = json["type"].IsNull ? json["merges"].IsNull ? json["vocab"].Kind == JsonValueKind.Array ? "Unigram" : "WordPiece" : "BPE" : json["type"].Text();
        return type switch
        {
            "BPE" => BytePair(json),
            "WordPiece" => new WordPieceModel(Vocabulary(json["vocab"]), json["unk_token"].Text("[UNK]"), json["continuing_subword_prefix"].Text("##"), json["max_input_chars_per_word"].Whole(0, int.MaxValue, 100)),
            "WordLevel" => new WordLevelModel(Vocabulary(json["vocab"]), json["unk_token"].Text("<unk>")),
            "Unigram" => Unigram(json),
            _ => throw json["type"].Wrong("BPE, WordPiece, WordLevel or Unigram"),
        };
    }

    static BytePairModel BytePair(Json json)
    {
        if (!json["dropout"].IsNull && json["dropout"].Number() != 0)
        {
            throw json["dropout"].Unsupported("dropout makes the same text give other tokens each time; set it to null.");
        }

        Vocabulary vocabulary = Vocabulary(json["vocab"]);
        var options = new BytePairOptions
        {
            UnknownToken = json["unk_token"].IsNull ? null : json["unk_token"].Text(),
            ContinuingSubwordPrefix = json["continuing_subword_prefix"].Text(""),
            EndOfWordSuffix = json["end_of_word_suffix"].Text(""),
            FuseUnknown = json["fuse_unk"].Flag(false),
            ByteFallback = json["byte_fallback"].Flag(false),
            IgnoreMerges = json["ignore_merges"].Flag(false),
        };
        if (options.UnknownToken is { } unknown && vocabulary.Id(unknown) is null)
        {
            throw json["unk_token"].Wrong("a token of the vocabulary");
        }

        Json list = json["merges"];
        if (list.Kind != JsonValueKind.Array)
        {
            throw list.Wrong("an array");
        }

        var merges = new MergeTable(vocabulary, options.ContinuingSubwordPrefix, list.Path, list.Element.GetArrayLength());
        char[] characters = new char[1024];
        foreach (JsonElement merge in list.Element.EnumerateArray())
        {
            if (merge.ValueKind == JsonValueKind.Array && merge.GetArrayLength() == 2)
            {
                merges.Add(Text(merge[0]), Text(merge[1]));
            }
            else if (Plain(merge, characters) is { Length: > 0 } plain)
            {
                merges.Add(plain);
            }
            else
            {
                merges.Add(Text(merge));
            }
        }

        // Tens of thousands: where one stands is put into words only when it is wrong.
        string Text(JsonElement merge) => new Json(merge, list.Path).TryText() ?? new Json(merge, merges.Next).Text();
        return new BytePairModel(vocabulary, merges.Pairs, options);
    }

    // A string without escapes, without making a string of it; empty when it is another or longer.
    static ReadOnlySpan<char> Plain(JsonElement value, Span<char> into)
    {
        if (value.ValueKind != JsonValueKind.String)
        {
            return [];
        }

        ReadOnlySpan<byte> raw = JsonMarshal.GetRawUtf8Value(value)[1..^1];
        return raw.Length <= into.Length && raw.IndexOf((byte)'\\') < 0 && Utf8.ToUtf16(raw, into, out _, out int length, replaceInvalidSequences: false) == OperationStatus.Done
            ? into[..length] : [];
    }

    static UnigramModel Unigram(Json json)
    {
        if (json["vocab"].Kind != JsonValueKind.Array)
        {
            throw json["vocab"].Wrong("an array of tokens with their scores");
        }

        int count = json["vocab"].Element.GetArrayLength();
        var texts = new string[count];
        var scores = new double[count];
        double lowest = double.PositiveInfinity;
        int i = 0;
        foreach (Json item in json["vocab"].Items())
        {
            if (item.Kind != JsonValueKind.Array || item.Element.GetArrayLength() != 2)
            {
                throw item.Wrong("a token and its score");
            }

            texts[i] = new Json(item.Element[0], item.Path).Text();
            scores[i] = new Json(item.Element[1], item.Path).Number();
            lowest = Math.Min(lowest, scores[i]);
            i++;
        }

        int unknown = json["unk_id"].Whole(0, Math.Max(0, count - 1), -1);
        return new UnigramModel(new Vocabulary(texts), scores, unknown, json["byte_fallback"].Flag(false), lowest, singlePrecision: false);
    }

    public static Vocabulary Vocabulary(Json json)
    {
        if (json.Kind != JsonValueKind.Object)
        {
            throw json.Wrong("an object of tokens and ids");
        }

        var ids = new Dictionary<string, int>(json.Element.GetPropertyCount(), StringComparer.Ordinal);
        int largest = -1;
        foreach (JsonProperty property in json.Element.EnumerateObject())
        {
            string name = Name(property, json);
            // Ids may leave gaps, but a vocabulary mostly of gaps is a lie about its size.
            int id = property.Value.ValueKind == JsonValueKind.Number && property.Value.TryGetInt32(out int value) && value >= 0 && value <= MaxId
                ? value
                : throw new Json(property.Value, $"{json.Path}.{Shorten(name)}").Wrong("an id");
            ids[name] = id;
            largest = Math.Max(largest, id);
        }

        return largest < 4L * ids.Count + 100_000
            ? new Vocabulary(ids, largest + 1)
            : throw new BadInputException($"{json.Path} has {ids.Count} tokens but an id {largest}; ids go up to about the number of tokens.");
    }

    static string Name(JsonProperty property, Json json)
    {
        try
        {
            return property.Name;
        }
        catch (InvalidOperationException)
        {
            throw new BadInputException($"{json.Path} has a token that is not valid Unicode.");
        }
    }

    static List<AddedToken> AddedTokens(Json json, Vocabulary vocabulary)
    {
        var tokens = new List<AddedToken>();
        if (json.IsNull)
        {
            return tokens;
        }

        var ids = new Dictionary<int, string>();
        var contents = new HashSet<string>(StringComparer.Ordinal);
        foreach (Json item in json.Items())
        {
            var token = new AddedToken(item["id"].Whole(0, MaxId), item["content"].Text())
            {
                Special = item["special"].Flag(false),
                SingleWord = item["single_word"].Flag(false),
                StripLeft = item["lstrip"].Flag(false),
                StripRight = item["rstrip"].Flag(false),
                Normalized = item["normalized"].Flag(!item["special"].Flag(false)),
            };
            if (ids.TryGetValue(token.Id, out string? other) && other != token.Content)
            {
                throw item.Unsupported($"the id {token.Id} is given to '{Shorten(other)}' and to '{Shorten(token.Content)}'; an id has one token.");
            }

            ids[token.Id] = token.Content;
            if (token.Content.Length > 0 && contents.Add(token.Content))
            {
                // The reference trusts the vocabulary where both name an id.
                tokens.Add(vocabulary.Id(token.Content) is { } id ? token with { Id = id } : token);
            }
        }

        int most = vocabulary.Count + tokens.Count + 100_000;
        AddedToken? liar = tokens.Find(token => token.Id > 4L * most);
        return liar is null
            ? [.. tokens.OrderBy(token => token.Id)]
            : throw json.Unsupported($"'{Shorten(liar.Content)}' has the id {liar.Id}, far beyond the {vocabulary.Count} tokens of the vocabulary.");
    }

    static Truncation? Truncation(Json json) => json.IsNull ? null : new Truncation(
        json["max_length"].Whole(0, int.MaxValue),
        json["strategy"].Text("LongestFirst") switch
        {
            "LongestFirst" or "longest_first" => TruncationStrategy.LongestFirst,
            "OnlyFirst" or "only_first" => TruncationStrategy.OnlyFirst,
            "OnlySecond" or "only_second" => TruncationStrategy.OnlySecond,
            _ => throw json["strategy"].Wrong("LongestFirst, OnlyFirst or OnlySecond"),
        },
        Side(json["direction"]));

    static Padding? Padding(Json json) => json.IsNull ? null : new Padding
    {
        Length = json["strategy"] is { Kind: JsonValueKind.Object } strategy ? strategy["Fixed"].Whole(0, 1 << 24) : null,
        MultipleOf = json["pad_to_multiple_of"].IsNull ? null : json["pad_to_multiple_of"].Whole(0, 1 << 24),
        Side = Side(json["direction"]),
        Id = json["pad_id"].Whole(0, int.MaxValue, 0),
        TypeId = json["pad_type_id"].Whole(0, int.MaxValue, 0),
    };

    static TextSide Side(Json json) => json.Text("Right") switch
    {
        "Right" or "right" => TextSide.Right,
        "Left" or "left" => TextSide.Left,
        _ => throw json.Wrong("Left or Right"),
    };

    static TokenSpelling Spelling(Json decoder)
    {
        IEnumerable<Json> steps = decoder["decoders"].Kind == JsonValueKind.Array ? decoder["decoders"].Items() : [decoder];
        foreach (Json step in steps)
        {
            switch (step["type"].Kind == JsonValueKind.String ? step["type"].Text() : "")
            {
                case "ByteLevel":
                    return TokenSpelling.ByteAlphabet;
                case "Metaspace" or "ByteFallback":
                    return TokenSpelling.Metaspace;
            }
        }

        return TokenSpelling.Text;
    }

    internal static string Shorten(string text) => text.Length <= 60 ? text : text[..60] + "…";
}

/// <summary>Gathers merges in order of rank.</summary>
sealed class MergeTable(Vocabulary vocabulary, string continuation, string path, int count = 0)
{
    char[] buffer = new char[256];

    public PairTable Pairs { get; } = new(count);

    int rank, last = -2;

    public string Next => $"{path}[{rank}]";

    /// <summary>Adds a merge in the form "left right".</summary>
    public void Add(ReadOnlySpan<char> merge)
    {
        int space = merge.Length < 2 ? -1 : merge[1..].IndexOf(' ') + 1;
        if (space <= 0 || space == merge.Length - 1 || merge[(space + 1)..].Contains(' '))
        {
            throw new BadInputException($"{Next} is '{TokenizerJson.Shorten(merge.ToString())}', expected two tokens with a space between.");
        }

        Add(merge[..space], merge[(space + 1)..]);
    }

    public void Add(ReadOnlySpan<char> left, ReadOnlySpan<char> right)
    {
        int skip = right.StartsWith(continuation, StringComparison.Ordinal) ? continuation.Length : 0, length = left.Length + right.Length - skip;
        if (buffer.Length < length)
        {
            buffer = new char[2 * length];
        }

        left.CopyTo(buffer);
        right[skip..].CopyTo(buffer.AsSpan(left.Length));
        ReadOnlySpan<char> joined = buffer.AsSpan(0, length);
        // As a rule what a merge makes is the token after that of the merge before.
        int whole = last + 1;
        if (!vocabulary.TryId(left, out int first) || !vocabulary.TryId(right, out int second)
            || !vocabulary.Names(whole, joined) && !vocabulary.TryId(joined, out whole))
        {
            throw new BadInputException($"{Next} joins '{TokenizerJson.Shorten(left.ToString())}' and '{TokenizerJson.Shorten(right.ToString())}', but the vocabulary lacks one of them or what they become.");
        }

        Pairs.Set(first, second, rank++, whole);
        last = whole;
    }
}
