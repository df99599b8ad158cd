using System.Globalization;
using Scalpel.Checkpoints;
using Scalpel.Checkpoints.Gguf;
using Scalpel.Text.Models;
using Scalpel.Text.Patterns;
using Scalpel.Text.Pipeline;

namespace Scalpel.Text.Files;

/// <summary>Finds the files of a tokenizer and puts together what they say.</summary>
static class TokenizerFiles
{
    const string Main = "tokenizer.json";

    public static Tokenizer Load(Checkpoint checkpoint)
    {
        Tokenizer tokenizer = Find(checkpoint.Folder) is { } file && !(checkpoint is GgufCheckpoint && Path.GetFileName(file) != Main)
            ? Load(file)
            : checkpoint is GgufCheckpoint gguf
                ? new Tokenizer(GgufVocabulary.Read(gguf.File))
                : throw Missing(checkpoint.Folder);
        if (long.TryParse(checkpoint.Config["vocab_size"]?.ToString(), CultureInfo.InvariantCulture, out long rows))
        {
            RequireRows(tokenizer, rows, checkpoint.Location);
        }

        return tokenizer;
    }

    public static Tokenizer Load(string path)
    {
        string file = Directory.Exists(path) ? Find(path) ?? throw Missing(path) : path;
        if (!File.Exists(file))
        {
            throw new BadInputException($"{path} does not exist; give a model folder, tokenizer.json, vocab.json, tokenizer.model, vocab.txt or a GGUF file.");
        }

        string name = Path.GetFileName(file), folder = Path.GetDirectoryName(Path.GetFullPath(file))!;
        if (name.EndsWith(".gguf", StringComparison.OrdinalIgnoreCase))
        {
            using GgufFile gguf = GgufFile.Open(file);
            return new Tokenizer(GgufVocabulary.Read(gguf));
        }

        TokenizerParts parts = name switch
        {
            "vocab.json" or "merges.txt" => VocabularyFiles.BytePair(folder, Config(folder)),
            "vocab.txt" => VocabularyFiles.WordPiece(file, Config(folder)),
            _ when name.EndsWith(".model", StringComparison.Ordinal) => SentencePieceFile.Read(file),
            _ => TokenizerJson.Read(file),
        };
        return new Tokenizer(new TokenizerSettings(folder).Apply(parts));
    }

    static Json Config(string folder) => TokenizerSettings.Read(folder, "tokenizer_config.json");

    /// <summary>The file of a folder from which its tokenizer is read; null when there is none.</summary>
    static string? Find(string folder)
    {
        foreach (string name in (string[])[Main, "vocab.json", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "vocab.txt"])
        {
            string file = Path.Combine(folder, name);
            if (File.Exists(file))
            {
                return file;
            }
        }

        string[] gguf = Directory.GetFiles(folder, "*.gguf");
        return gguf.Length == 1 ? gguf[0] : null;
    }

    static void RequireRows(Tokenizer tokenizer, long rows, string location)
    {
        if (tokenizer.VocabularySize > rows)
        {
            throw new BadInputException($"{location}: the tokenizer has {tokenizer.VocabularySize} tokens but the model's embedding has {rows} rows; they do not belong together.");
        }
    }

    static BadInputException Missing(string folder) =>
        new($"{folder} holds no tokenizer: none of tokenizer.json, vocab.json with merges.txt, tokenizer.model, vocab.txt, or one GGUF file.");
}
