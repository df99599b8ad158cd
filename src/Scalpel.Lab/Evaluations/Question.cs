using Scalpel.Generation;
using Scalpel.Methods.Editing;
using Scalpel.Networks;

namespace Scalpel.Lab.Evaluations;

/// <summary>Something to ask a model before and after an edit.</summary>
/// <param name="Kind">prompt, paraphrase, neighbour or unrelated.</param>
/// <param name="Prompt">What is asked.</param>
public sealed record Question(string Kind, string Prompt)
{
    /// <summary>All that the facts ask: the prompt, its other wordings, its neighbours, what has nothing to do with it.</summary>
    public static IReadOnlyList<Question> About(IEnumerable<FactEdit> facts) =>
    [
        .. facts.SelectMany(fact => (Question[])
        [
            new("prompt", fact.FilledPrompt), .. fact.Paraphrases.Select(prompt => new Question("paraphrase", prompt)),
            .. fact.Neighbours.Select(prompt => new Question("neighbour", prompt)), .. fact.Locality.Select(prompt => new Question("unrelated", prompt)),
        ]),
    ];

    /// <summary>Greedy answers of eight tokens, on one line each.</summary>
    public static IReadOnlyList<string> Ask(Decoder model, IReadOnlyList<Question> questions, RunContext run)
    {
        var generator = new TextGenerator(model, new GenerationOptions { MaxNewTokens = 8 });
        var answers = new List<string>();
        foreach (Question question in questions)
        {
            run.Report("asking", answers.Count, questions.Count);
            answers.Add(generator.GenerateText([question.Prompt], cancellation: run.Cancellation)[0].Text.ReplaceLineEndings(" ").Trim());
        }

        return answers;
    }
}
