namespace Scalpel.Methods.Editing;

/// <summary>One fact to change: "The Eiffel Tower is located in the city of" → "Rome".</summary>
/// <param name="Subject">What the fact is about; stands where the prompt has <c>{}</c>.</param>
/// <param name="Prompt">The beginning of a sentence with exactly one <c>{}</c>.</param>
/// <param name="Target">What the model shall continue with; a leading space is added where it is missing.</param>
public sealed record FactEdit(string Subject, string Prompt, string Target)
{
    /// <summary>What the model continues with now; needed by measures that compare the two.</summary>
    public string? Old { get; init; }

    /// <summary>Other wordings of the prompt, filled in, which the edit shall hold for as well.</summary>
    public IReadOnlyList<string> Paraphrases { get; init; } = [];

    /// <summary>Filled prompts about other subjects with the same relation, whose answers shall stay.</summary>
    public IReadOnlyList<string> Neighbours { get; init; } = [];

    /// <summary>Filled prompts that have nothing to do with the fact, whose continuations shall stay.</summary>
    public IReadOnlyList<string> Locality { get; init; } = [];

    /// <summary>What follows from the new fact, as prompts with the answers that an edited model should give to them.</summary>
    public IReadOnlyList<Consequence> Portability { get; init; } = [];

    /// <summary>The prompt with the subject in it.</summary>
    public string FilledPrompt => Prompt.Replace("{}", Subject, StringComparison.Ordinal);

    /// <summary>The target with its leading space.</summary>
    public string SpacedTarget => Target.StartsWith(' ') ? Target : " " + Target;

    /// <summary>Checks what can be checked without a model.</summary>
    /// <exception cref="BadInputException">The prompt lacks exactly one <c>{}</c>, or subject or target is empty.</exception>
    public FactEdit Validated()
    {
        int places = Prompt.Split("{}").Length - 1;
        return string.IsNullOrWhiteSpace(Prompt) ? throw new BadInputException("The prompt is empty; write the beginning of a sentence with {} where the subject stands, for example \"{} is located in the city of\".")
            : places != 1 ? throw new BadInputException($"The prompt \"{Prompt}\" has {(places == 0 ? "no {}" : $"{places} times {{}}")}; write {{}} once, where the subject \"{Subject}\" stands.")
            : string.IsNullOrWhiteSpace(Subject) ? throw new BadInputException($"The subject of \"{Prompt}\" is empty; name what the fact is about.")
            : string.IsNullOrWhiteSpace(Target) ? throw new BadInputException($"The target of \"{FilledPrompt}\" is empty; name what the model shall answer.")
            : this;
    }
}

/// <summary>What follows from an edited fact: "The currency of the country with the Eiffel Tower is the" → "euro".</summary>
/// <param name="Prompt">A filled prompt that needs the fact but does not ask for it.</param>
/// <param name="Answer">What a model that has taken the edit in continues with.</param>
public sealed record Consequence(string Prompt, string Answer);
