using System.Globalization;
using System.Text.Json.Nodes;
using System.Text.RegularExpressions;
using Scalpel.Networks;
using Scalpel.Text;
using TorchSharp;
using static TorchSharp.torch;

namespace Scalpel.Training;

/// <summary>An answer that a policy gave.</summary>
/// <param name="Prompt">The prompt's text.</param>
/// <param name="Text">The answer's text.</param>
/// <param name="Tokens">Tokens of the answer, its end token included.</param>
/// <param name="Record">The record that the prompt came from.</param>
public sealed record PolicyAnswer(string Prompt, string Text, int Tokens, JsonObject Record);

/// <summary>Says how good answers are; larger is better.</summary>
public interface IReward : IDisposable
{
    /// <summary>Its name in the log.</summary>
    string Name { get; }

    /// <summary>One number an answer.</summary>
    IReadOnlyList<double> Score(IReadOnlyList<PolicyAnswer> answers);
}

/// <summary>Rewards by their names on the command line.</summary>
public static class Rewards
{
    /// <summary>
    /// <c>regex:PATTERN</c> and <c>contains:TEXT</c> give 1 where the answer matches, else 0; <c>field:NAME</c> where it contains
    /// the record's field; <c>length:N</c> gives −|tokens − N|/N; <c>model:PATH</c> the score of a reward model.
    /// </summary>
    /// <exception cref="BadInputException">The name is unknown, or what follows it cannot be used.</exception>
    public static IReward Parse(string text)
    {
        int colon = text.IndexOf(':', StringComparison.Ordinal);
        (string name, string value) = colon < 0 ? (text, "") : (text[..colon], text[(colon + 1)..]);
        if (value.Length == 0)
        {
            throw new BadInputException($"The reward '{text}' is not known; give regex:PATTERN, contains:TEXT, field:NAME, length:TOKENS or model:PATH.");
        }

        switch (name)
        {
            case "regex":
                try
                {
                    var pattern = new Regex(value, RegexOptions.CultureInvariant, TimeSpan.FromSeconds(2));
                    return new TextReward("regex", answer => pattern.IsMatch(answer.Text) ? 1 : 0);
                }
                catch (ArgumentException e)
                {
                    throw new BadInputException($"The reward's pattern '{value}' is not a regular expression: {e.Message.TrimEnd('.')}.", e);
                }

            case "contains":
                return new TextReward("contains", answer => answer.Text.Contains(value, StringComparison.Ordinal) ? 1 : 0);
            case "field":
                return new TextReward("field", answer => answer.Record[value] is JsonValue wanted
                    ? answer.Text.Contains(wanted.ToString(), StringComparison.Ordinal) ? 1 : 0
                    : throw new BadInputException($"The reward looks at the field '{value}', which a record lacks; its fields are {string.Join(", ", answer.Record.Select(pair => pair.Key))}."));
            case "length":
                return int.TryParse(value, NumberStyles.None, CultureInfo.InvariantCulture, out int length) && length > 0
                    ? new TextReward("length", answer => -Math.Abs(answer.Tokens - length) / (double)length)
                    : throw new BadInputException($"The reward's length is '{value}'; give the number of tokens that is best.");
            case "model":
                return new ModelReward(Decoder.Load(value));
            default:
                throw new BadInputException($"The reward '{name}' is not known; give regex:PATTERN, contains:TEXT, field:NAME, length:TOKENS or model:PATH.");
        }
    }

    sealed class TextReward(string name, Func<PolicyAnswer, double> score) : IReward
    {
        public string Name => name;

        public IReadOnlyList<double> Score(IReadOnlyList<PolicyAnswer> answers) => [.. answers.Select(score)];

        public void Dispose()
        {
        }
    }

    // Prompt and answer are tokenised as one text by the reward model's own tokenizer and closed by its end token.
    sealed class ModelReward : IReward
    {
        readonly Decoder decoder;
        readonly RewardModel model;

        public ModelReward(Decoder decoder)
        {
            this.decoder = decoder;
            if (decoder.Config.Head == HeadKind.LanguageModel)
            {
                string location = decoder.Source!.Location;
                decoder.Dispose();
                throw new BadInputException($"{location} is a language model, not a reward model; train one with --loss reward and apply its patch.");
            }

            model = new RewardModel(decoder, 0);
        }

        public string Name => "model";

        public IReadOnlyList<double> Score(IReadOnlyList<PolicyAnswer> answers)
        {
            using var scope = NewDisposeScope();
            using var noGrad = no_grad();
            Tokenizer tokenizer = decoder.Tokenizer;
            using PreferenceBatch batch = PreferenceBatch.Of([.. answers.Select(answer =>
            {
                long[] ids = [.. tokenizer.Encode(answer.Prompt + answer.Text).Ids.Select(id => (long)id)];
                return ((IReadOnlyList<long>)ids, (IReadOnlyList<long>)(tokenizer.EosId is { } end ? [end] : []));
            })], model.Padding);
            return [.. model.Scores(batch.Ids, batch.Mask).to_type(ScalarType.Float64).data<double>()];
        }

        public void Dispose()
        {
            model.Dispose();
            decoder.Dispose();
        }
    }
}
