using Scalpel.Networks;
using Scalpel.Text;

namespace Scalpel.Generation;

/// <summary>One row's answer as text.</summary>
/// <param name="Text">The answer, cut before a stop string.</param>
/// <param name="Tokens">The tokens that were generated, those of a stop string included.</param>
/// <param name="Reason">What ended it.</param>
public sealed record GeneratedText(string Text, IReadOnlyList<int> Tokens, StopReason Reason);

public sealed partial class TextGenerator
{
    /// <summary>Answers to texts, which are read as they are: no chat template is put around them.</summary>
    /// <param name="prompts">The texts; special tokens that stand in them are read as such.</param>
    /// <param name="onText">Called with a row and its next piece of text as soon as that is certain; null for none.</param>
    /// <param name="cancellation">Stops before the next token.</param>
    /// <exception cref="BadInputException">A prompt is empty, or prompt and answer have more tokens than the model has positions.</exception>
    public IReadOnlyList<GeneratedText> GenerateText(IReadOnlyList<string> prompts, Action<int, string>? onText = null, CancellationToken cancellation = default)
    {
        Tokenizer tokenizer = model.Tokenizer;
        if (options.EndIds is null)
        {
            // The tokenizer's files may name end tokens that the configuration does not, an end of turn above all.
            GenerationOptions ended = options with { EndIds = [.. model.Config.EndIds.Union(tokenizer.EosIds)] };
            return new TextGenerator(model, ended, taps).GenerateText(prompts, onText, cancellation);
        }

        int[][] ids = [.. prompts.Select(prompt => tokenizer.Encode(prompt).Ids.ToArray())];
        Check(ids);
        TextStream[] streams = [.. prompts.Select(_ => new TextStream(tokens => tokenizer.Decode(tokens, skipSpecial: true), options.StopStrings))];
        var tokens = prompts.Select(_ => new List<int>()).ToArray();
        var done = new bool[prompts.Count];
        foreach (GenerationStep step in Run(ids, Math.Min(tokenizer.VocabularySize, model.Config.Vocabulary), done, cancellation))
        {
            for (int row = 0; row < tokens.Length; row++)
            {
                if (step.Tokens[row] is { } id && !EndIds.Contains(id))
                {
                    tokens[row].Add(id);
                    Say(row, streams[row].Add(id));
                    done[row] |= streams[row].Stopped;
                }
            }
        }

        return [.. streams.Select((stream, row) =>
        {
            Say(row, stream.End());
            return new GeneratedText(stream.Text, tokens[row], stream.Stopped ? StopReason.StopString
                : tokens[row].Count == options.MaxNewTokens ? StopReason.MaxNewTokens : StopReason.EndToken);
        })];

        void Say(int row, string piece)
        {
            if (piece.Length > 0)
            {
                onText?.Invoke(row, piece);
            }
        }
    }
}
