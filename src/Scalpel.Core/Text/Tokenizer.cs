using System.Text;
using Scalpel.Checkpoints;
using Scalpel.Text.Files;
using Scalpel.Text.Models;
using Scalpel.Text.Pipeline;

namespace Scalpel.Text;

/// <summary>
/// A model's tokenizer: text to token ids and back, as the reference computes it, offsets in Unicode code points included.
/// Reads <c>tokenizer.json</c>, <c>vocab.json</c> with <c>merges.txt</c>, <c>tokenizer.model</c> (SentencePiece), <c>vocab.txt</c>
/// and the metadata of GGUF files. Immutable, and safe for use by several threads.
/// </summary>
public sealed class Tokenizer
{
    readonly TokenizerParts parts;
    readonly TokenFinder original = new(), normalized = new();
    readonly Dictionary<string, AddedToken> byContent = new(StringComparer.Ordinal);
    readonly Dictionary<int, AddedToken> byId = [];

    internal Tokenizer(TokenizerParts parts)
    {
        this.parts = parts;
        foreach (AddedToken token in parts.AddedTokens)
        {
            byContent[token.Content] = token;
            byId[token.Id] = token;
            if (token.Normalized && parts.Normalizer is not null)
            {
                normalized.Add(token, CodePoints.Of(parts.NormalizesAddedTokens ? Normalize(token.Content) : token.Content));
            }
            else
            {
                original.Add(token, CodePoints.Of(token.Content));
            }
        }

        VocabularySize = Math.Max(parts.Model.Vocabulary.Count, parts.AddedTokens.Count == 0 ? 0 : parts.AddedTokens.Max(token => token.Id) + 1);
        SpecialTokens roles = parts.Roles;
        BosId = IdOf(roles.Bos);
        EosId = IdOf(roles.Eos);
        PadId = IdOf(roles.Pad);
        UnkId = IdOf(roles.Unk);
        EosIds = EndIds();
    }

    /// <summary>One more than the largest id, added tokens included. The model's embedding may have more rows.</summary>
    public int VocabularySize { get; }

    /// <summary>The token that begins a text; null when the tokenizer names none.</summary>
    public int? BosId { get; }

    /// <summary>The token that ends a text; null when the tokenizer names none.</summary>
    public int? EosId { get; }

    /// <summary>The token that pads; null when the tokenizer names none.</summary>
    public int? PadId { get; }

    /// <summary>The token for what the vocabulary lacks; null when the tokenizer names none.</summary>
    public int? UnkId { get; }

    /// <summary>The tokens at which generation stops: <see cref="EosId"/> and those that generation_config.json or the GGUF file names.</summary>
    public IReadOnlyList<int> EosIds { get; }

    /// <summary>Most tokens that the tokenizer's configuration allows; null when it does not say.</summary>
    public int? MaxLength => parts.MaxLength;

    /// <summary>The tokens beside the model's vocabulary, in order of id.</summary>
    public IReadOnlyList<AddedToken> AddedTokens => parts.AddedTokens;

    /// <summary>The text of the chat template; null when the model has none.</summary>
    public string? ChatTemplateSource => parts.ChatTemplate;

    /// <summary>The template that turns a conversation into text; null when the model has none.</summary>
    /// <exception cref="BadInputException">The template is malformed or uses something that is not supported.</exception>
    public ChatTemplate? ChatTemplate => field ??= parts.ChatTemplate is { } source ? ChatTemplate.Parse(source, parts.Roles.Texts()) : null;

    /// <summary>The tokens of a conversation, by the model's own chat template.</summary>
    /// <exception cref="BadInputException">The model has no chat template, or it refuses the conversation.</exception>
    public TokenizedText EncodeChat(IEnumerable<ChatMessage> messages, ChatTemplateOptions? options = null) =>
        // The template writes every special token itself.
        Encode((ChatTemplate ?? throw new BadInputException("This model has no chat template; give the prompt as plain text.")).Render(messages, options), addSpecial: false);

    /// <summary>Shortening that the tokenizer's file asks for; null for none.</summary>
    public Truncation? Truncation => parts.Truncation;

    /// <summary>Padding that the tokenizer's file asks for; null for none.</summary>
    public Padding? Padding => parts.Padding;

    /// <summary>Reads the tokenizer of a checkpoint: the files in its folder, or a GGUF file's metadata.</summary>
    /// <exception cref="BadInputException">There is none, it is malformed, or it has more tokens than the model has embedding rows.</exception>
    public static Tokenizer Load(Checkpoint checkpoint) => TokenizerFiles.Load(checkpoint);

    /// <summary>Reads a tokenizer from a folder or one of its files: tokenizer.json, vocab.json, tokenizer.model, vocab.txt, a GGUF file.</summary>
    /// <exception cref="BadInputException">Nothing of the kind is there, or it is malformed.</exception>
    public static Tokenizer Load(string path) => TokenizerFiles.Load(path);

    /// <summary>The id of a token by its text in the vocabulary; null when there is none.</summary>
    public int? TokenToId(string token) => byContent.TryGetValue(token, out AddedToken? added) ? added.Id : parts.Model.Vocabulary.Id(token);

    /// <summary>The text of a token in the vocabulary's own spelling; null when there is none of that id.</summary>
    public string? IdToToken(int id) => byId.TryGetValue(id, out AddedToken? added) ? added.Content : parts.Model.Vocabulary.Text(id);

    /// <summary>Whether a token is a special one.</summary>
    public bool IsSpecial(int id) => byId.TryGetValue(id, out AddedToken? added) && added.Special;

    /// <summary>The text as the model sees it before it is cut: normalised.</summary>
    public string Normalize(string text)
    {
        AlignedText aligned = AlignedText.Of(text);
        var piece = new Piece(0, aligned.Count, 0);
        if (parts.Normalizer is not null)
        {
            (aligned, piece) = parts.Normalizer.Apply(aligned, piece);
        }

        return CodePoints.Text(aligned.Slice(piece));
    }

    /// <summary>Turns a text into tokens.</summary>
    /// <param name="text">The text.</param>
    /// <param name="addSpecial">Adds the tokens of the model's template. Default true.</param>
    /// <param name="parseSpecial">Reads special tokens in the text as such; otherwise as plain text. Default true.</param>
    public TokenizedText Encode(string text, bool addSpecial = true, bool parseSpecial = true) =>
        Encode(text, new EncodeOptions { AddSpecial = addSpecial, ParseSpecial = parseSpecial });

    /// <summary>Turns a text into tokens.</summary>
    public TokenizedText Encode(string text, EncodeOptions options) => EncodeBatch([text], options)[0];

    /// <summary>Turns two texts into one sequence of tokens, by the template for pairs.</summary>
    public TokenizedText EncodePair(string first, string second, EncodeOptions? options = null)
    {
        options ??= new EncodeOptions();
        TokenizedText tokens = Finish(Tokens(first, options), Tokens(second, options), options);
        return Pad([tokens], options.Padding ?? parts.Padding)[0];
    }

    /// <summary>Turns texts into tokens; padded to one length when padding is asked for.</summary>
    public IReadOnlyList<TokenizedText> EncodeBatch(IReadOnlyList<string> texts, EncodeOptions? options = null)
    {
        options ??= new EncodeOptions();
        var result = new List<TokenizedText>(texts.Count);
        foreach (string text in texts)
        {
            result.Add(Finish(Tokens(text, options), null, options));
        }

        return Pad(result, options.Padding ?? parts.Padding);
    }

    /// <summary>Turns tokens into text. Ids that the vocabulary lacks are left out.</summary>
    /// <param name="ids">The ids.</param>
    /// <param name="skipSpecial">Leaves special tokens out. Default false.</param>
    public string Decode(IEnumerable<int> ids, bool skipSpecial = false)
    {
        var tokens = new List<string>();
        foreach (int id in ids)
        {
            if (IdToToken(id) is { } token && !(skipSpecial && IsSpecial(id)))
            {
                tokens.Add(token);
            }
        }

        if (tokens.Count == 0)
        {
            return "";
        }

        return parts.Decoder is null ? string.Join(' ', tokens) : string.Concat(parts.Decoder.Apply(tokens));
    }

    /// <summary>Starts the decoding of tokens that arrive one by one.</summary>
    /// <param name="skipSpecial">Leaves special tokens out. Default false.</param>
    public TokenDecoder StartDecoding(bool skipSpecial = false) => new(this, skipSpecial);

    /// <summary>The bytes that a token stands for, without regard to its neighbours; special tokens give their text.</summary>
    public byte[] TokenBytes(int id)
    {
        string token = IdToToken(id) ?? "";
        if (byId.ContainsKey(id) || parts.Spelling == TokenSpelling.Text)
        {
            return Encoding.UTF8.GetBytes(token);
        }

        if (parts.Spelling == TokenSpelling.ByteAlphabet)
        {
            var bytes = new List<byte>();
            ByteLevelDecoder.Append(token, bytes);
            return [.. bytes];
        }

        return ByteFallbackDecoder.ByteOf(token) is { } value ? [value] : Encoding.UTF8.GetBytes(token.Replace('▁', ' '));
    }

    List<EncodedToken> Tokens(string text, EncodeOptions options)
    {
        AlignedText aligned = AlignedText.Of(text);
        var pieces = new Pieces(aligned, aligned.Count == 0 ? [] : [new Piece(0, aligned.Count, 0)]);
        pieces = original.Apply(pieces, options.ParseSpecial);
        if (parts.Normalizer is not null)
        {
            pieces = normalized.Apply(NormalizePieces(pieces), options.ParseSpecial);
        }

        foreach (PreTokenizer preTokenizer in parts.PreTokenizers)
        {
            pieces = preTokenizer.Apply(pieces);
        }

        var tokens = new List<EncodedToken>(aligned.Count / 3 + 4);
        var found = new List<ModelToken>();
        foreach (Piece piece in pieces.List)
        {
            if (!piece.IsText)
            {
                tokens.Add(new EncodedToken(piece.Token, piece.Origin, piece.End, piece.From, piece.To));
                continue;
            }

            if (piece.Length == 0)
            {
                continue;
            }

            found.Clear();
            parts.Model.Tokenize(pieces.Text.Slice(piece), found);
            foreach (ModelToken token in found)
            {
                int from = piece.From + token.From, last = piece.From + Math.Max(token.To - 1, token.From);
                tokens.Add(new EncodedToken(token.Id, pieces.Text.Start(from), pieces.Text.End(last)));
            }
        }

        return tokens;
    }

    Pieces NormalizePieces(Pieces pieces)
    {
        var target = new AlignedText(pieces.Text.Count + 16);
        var list = new List<Piece>(pieces.List.Count);
        foreach (Piece piece in pieces.List)
        {
            if (!piece.IsText)
            {
                list.Add(piece);
                continue;
            }

            (AlignedText text, Piece rewritten) = parts.Normalizer!.Apply(pieces.Text, piece);
            int begin = target.Count;
            ReadOnlySpan<int> codes = text.Slice(rewritten);
            for (int i = 0; i < codes.Length; i++)
            {
                target.Add(codes[i], text.Start(rewritten.From + i), text.End(rewritten.From + i));
            }

            if (target.Count > begin)
            {
                list.Add(new Piece(begin, target.Count, piece.Origin));
            }
        }

        return new Pieces(target, list);
    }

    TokenizedText Finish(List<EncodedToken> first, List<EncodedToken>? second, EncodeOptions options)
    {
        PostProcessor processor = parts.PostProcessor;
        if ((options.Truncation ?? parts.Truncation) is { } truncation)
        {
            int room = truncation.MaxLength - (options.AddSpecial ? processor.Added(second is not null) : 0);
            if (room < 0)
            {
                throw new BadInputException($"A truncation to {truncation.MaxLength} tokens leaves no room: the template alone adds {processor.Added(second is not null)}.");
            }

            TokenLimits.Truncate(first, second, truncation, room);
        }

        foreach (bool keepPrefix in processor.Trims)
        {
            PostProcessor.Trim(first, keepPrefix, id => IdToToken(id) ?? "");
            if (second is not null)
            {
                PostProcessor.Trim(second, keepPrefix, id => IdToToken(id) ?? "");
            }
        }

        return processor.Apply(first, second, options.AddSpecial);
    }

    IReadOnlyList<TokenizedText> Pad(List<TokenizedText> texts, Padding? padding)
    {
        if (padding is null || texts.Count == 0)
        {
            return texts;
        }

        int id = padding.Id ?? PadId ?? throw new BadInputException("This tokenizer has no padding token; name one in Padding.Id.");
        int length = padding.Length ?? texts.Max(text => text.Count);
        if (padding.MultipleOf is { } multiple && multiple > 0)
        {
            length = (length + multiple - 1) / multiple * multiple;
        }

        return [.. texts.Select(text => TokenLimits.Pad(text, length, id, padding))];
    }

    int? IdOf(string? token) => token is null ? null : TokenToId(token);

    List<int> EndIds()
    {
        var ids = new List<int>();
        foreach (int id in parts.Roles.EndIds.Prepend(EosId ?? -1))
        {
            if (id >= 0 && id < VocabularySize && !ids.Contains(id))
            {
                ids.Add(id);
            }
        }

        return ids;
    }
}
