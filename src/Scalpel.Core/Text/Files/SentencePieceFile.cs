using System.Buffers.Binary;
using System.Text;
using Scalpel.Text.Pipeline;

namespace Scalpel.Text.Files;

/// <summary>Reads SentencePiece's own model file, a protocol buffer.</summary>
static class SentencePieceFile
{
    const int MaxBytes = 256 << 20;

    public static TokenizerParts Read(string file)
    {
        byte[] bytes;
        try
        {
            if (new FileInfo(file).Length > MaxBytes)
            {
                throw new BadInputException($"{file} is larger than {MaxBytes} bytes, which no tokenizer is.");
            }

            bytes = File.ReadAllBytes(file);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            throw new BadInputException($"{file} cannot be read: {e.Message}", e);
        }

        var texts = new List<string>();
        var scores = new List<float>();
        var types = new List<PieceType>();
        int modelType = 1, bos = 1, eos = 2, pad = -1;
        bool byteFallback = false, prefix = true, collapse = true;
        string surface = " \u2047 ";
        byte[] map = [];
        var message = new ProtocolBuffer(bytes, file);
        while (message.Next())
        {
            if (message.Field is < 1 or > 3 || message.Wire != 2)
            {
                continue;
            }

            var inner = new ProtocolBuffer(message.Content.ToArray(), file);
            switch (message.Field)
            {
                case 1:
                    (string text, float score, int type) = ("", 0, 1);
                    while (inner.Next())
                    {
                        switch (inner.Field)
                        {
                            case 1:
                                text = Encoding.UTF8.GetString(inner.Content);
                                break;
                            case 2:
                                score = inner.Single;
                                break;
                            case 3:
                                type = (int)inner.Number;
                                break;
                        }
                    }

                    texts.Add(text);
                    scores.Add(score);
                    types.Add(type is >= 1 and <= 6 ? (PieceType)type : throw new BadInputException($"{file}: the token {texts.Count - 1} is of the unknown type {type}."));
                    break;
                case 2:
                    while (inner.Next())
                    {
                        switch (inner.Field)
                        {
                            case 3:
                                modelType = (int)inner.Number;
                                break;
                            case 35:
                                byteFallback = inner.Number != 0;
                                break;
                            case 41:
                                bos = (int)inner.Number;
                                break;
                            case 42:
                                eos = (int)inner.Number;
                                break;
                            case 43:
                                pad = (int)inner.Number;
                                break;
                            case 44:
                                surface = Encoding.UTF8.GetString(inner.Content);
                                break;
                            case 24 when inner.Number != 0:
                                throw new BadInputException($"{file}: white space as a suffix is not supported.");
                        }
                    }

                    break;
                default:
                    while (inner.Next())
                    {
                        switch (inner.Field)
                        {
                            case 2:
                                map = inner.Content.ToArray();
                                break;
                            case 3:
                                prefix = inner.Number != 0;
                                break;
                            case 4:
                                collapse = inner.Number != 0;
                                break;
                        }
                    }

                    break;
            }
        }

        if (texts.Count == 0)
        {
            throw new BadInputException($"{file} holds no tokens; a SentencePiece model was expected.");
        }

        if (modelType is not (1 or 2))
        {
            throw new BadInputException($"{file} is a SentencePiece model of type {modelType}; unigram (1) and BPE (2) are read.");
        }

        TokenizerParts parts = new SentencePieceParts
        {
            Texts = [.. texts],
            Scores = [.. scores],
            Types = [.. types],
            Unigram = modelType == 1,
            CharacterMap = map,
            AddPrefix = prefix,
            CollapseSpaces = collapse,
            ByteFallback = byteFallback,
            UnknownSurface = surface,
        }.Build(file);
        return parts with { Roles = new SpecialTokens { Bos = TextOf(bos), Eos = TextOf(eos), Pad = TextOf(pad), Unk = TextOf(types.IndexOf(PieceType.Unknown)) } };

        string? TextOf(int id) => id >= 0 && id < texts.Count ? texts[id] : null;
    }
}

/// <summary>Walks the fields of a protocol buffer.</summary>
sealed class ProtocolBuffer(byte[] bytes, string file)
{
    int at, begin, length;

    public int Field { get; private set; }

    public int Wire { get; private set; }

    public long Number { get; private set; }

    public float Single => Wire == 5 ? BinaryPrimitives.ReadSingleLittleEndian(bytes.AsSpan(begin, 4)) : throw Malformed();

    public ReadOnlySpan<byte> Content => Wire == 2 ? bytes.AsSpan(begin, length) : throw Malformed();

    public bool Next()
    {
        if (at >= bytes.Length)
        {
            return false;
        }

        ulong key = Varint();
        Field = (int)Math.Min(key >> 3, int.MaxValue);
        Wire = (int)(key & 7);
        Number = 0;
        switch (Wire)
        {
            case 0:
                Number = (long)Varint();
                return true;
            case 1:
                length = 8;
                break;
            case 2:
                ulong claimed = Varint();
                length = claimed <= (ulong)(bytes.Length - at) ? (int)claimed : throw Malformed();
                break;
            case 5:
                length = 4;
                break;
            default:
                throw Malformed();
        }

        begin = at;
        at += length;
        return at <= bytes.Length ? true : throw Malformed();
    }

    ulong Varint()
    {
        ulong value = 0;
        for (int shift = 0; shift < 64 && at < bytes.Length; shift += 7)
        {
            byte part = bytes[at++];
            value |= (ulong)(part & 0x7F) << shift;
            if (part < 0x80)
            {
                return value;
            }
        }

        throw Malformed();
    }

    BadInputException Malformed() => new($"{file} is no SentencePiece model, or it is cut off (byte {at}).");
}
