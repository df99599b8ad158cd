namespace Scalpel.Lab.Worlds;

/// <summary>A task with an exact answer.</summary>
/// <param name="Name">Its name.</param>
/// <param name="Wordings">Two ways to ask for it; two more come with "please" before.</param>
/// <param name="Draw">Draws an input and its answer.</param>
sealed record InstructionTask(string Name, (string First, string Second) Wordings, Func<SplitMix64, (string Input, string Answer)> Draw)
{
    /// <summary>Tasks that base models may see; the rest is held back.</summary>
    public const int Pool = 24;

    static readonly Lexicon Words = Lexicon.Instance;

    /// <summary>The 36 tasks, the held-back ones last.</summary>
    public static IReadOnlyList<InstructionTask> All { get; } =
    [
        OnList("first", "give the first word", "which word is first", list => list[0]),
        OnList("last", "give the last word", "which word is last", list => list[^1]),
        OnList("second", "give the second word", "which word is second", list => list[1]),
        OnList("copy", "copy the list", "say the words again", list => Join(list)),
        OnList("reverse", "reverse the list", "write the words from end to start", list => Join(list.Reverse())),
        OnList("count", "count the words", "how many words are in the list", list => $"{list.Length}"),
        OnList("without-first", "remove the first word", "write the list without its first word", list => Join(list.Skip(1))),
        OnList("without-last", "remove the last word", "write the list without its last word", list => Join(list.SkipLast(1))),
        OnList("swap", "swap the first and the last word", "write the list with its end at the start and its start at the end", list => Join([list[^1], .. list[1..^1], list[0]])),
        OnList("double-first", "repeat the first word", "write the first word twice , then the others", list => Join([list[0], .. list])),
        OnList("sort", "sort the words", "write the words in order", list => Join(list.Order(StringComparer.Ordinal))),
        OnList("first-two", "give the first two words", "which two words are first", list => Join(list.Take(2))),
        OnDigits("largest", "give the largest", "which is the largest", digits => $"{digits.Max()}"),
        OnDigits("smallest", "give the smallest", "which is the smallest", digits => $"{digits.Min()}"),
        OnDigits("sort-digits", "sort the digits", "write the digits in order", digits => Join(digits.Order())),
        OnDigits("count-digits", "count the digits", "how many digits are there", digits => $"{digits.Length}"),
        new("larger", ("which is larger", "give the larger one"), rng => Two(rng, Math.Max)),
        new("smaller", ("which is smaller", "give the smaller one"), rng => Two(rng, Math.Min)),
        new("next-digit", ("what comes after", "give the next"), rng => One(rng, d => (d + 1) % 10)),
        new("class", ("what kind of animal is it", "give the class"), rng => Of(rng.Pick(Words.Animals), animal => Words.ClassOfAnimal[animal])),
        new("opposite", ("give the opposite", "what is the opposite"), rng => Of(rng.Pick(Words.OppositePairs), pair => pair.First, pair => pair.Second)),
        new("odd-one-out", ("which word is odd", "give the word of another kind"), OddOneOut),
        new("colour-of", ("give the colour", "what colour is it"), rng => Of((Colour: rng.Pick(Words.Colours), Thing: rng.Pick(Words.Objects)), pair => $"the {pair.Colour} {pair.Thing}", pair => pair.Colour)),
        new("contains", ("is the last word in the list before it", "was the last word there before"), Contains),
        OnList("third", "give the third word", "which word is third", list => list[2]),
        OnList("last-two", "give the last two words", "which two words are last", list => Join(list.TakeLast(2))),
        OnList("middle", "remove the first and the last word", "write what is in the middle", list => Join(list[1..^1])),
        OnList("double-last", "repeat the last word", "write the list and its last word again", list => Join([.. list, list[^1]])),
        OnList("double-all", "copy the list twice", "say the list , then say it again", list => Join([.. list, .. list])),
        OnList("ends", "give the first and the last word", "which words are at the start and at the end", list => Join([list[0], list[^1]])),
        OnDigits("first-digit", "give the first digits", "which of the digits is first", digits => $"{digits[0]}"),
        OnDigits("reverse-digits", "reverse the digits", "write the digits from end to start", digits => Join(digits.Reverse())),
        new("before-digit", ("what comes before", "give the one before"), rng => One(rng, d => (d + 9) % 10)),
        new("sum", ("give the sum", "add the two"), rng => Two(rng, (a, b) => (a + b) % 10)),
        new("same", ("are the two the same", "is it twice the same"), rng => Of((A: rng.Below(3), B: rng.Below(3)), pair => $"{pair.A} {pair.B}", pair => pair.A == pair.B ? "yes" : "no")),
        new("object-of", ("what is it without the colour", "give the word without the colour"), rng => Of((Colour: rng.Pick(Words.Colours), Thing: rng.Pick(Words.Objects)), pair => $"the {pair.Colour} {pair.Thing}", pair => pair.Thing)),
    ];

    static InstructionTask OnList(string name, string first, string second, Func<string[], string> answer) =>
        new(name, (first, second), rng => Of(rng.Pick(Words.Objects, rng.Between(3, 6)), Join, answer));

    static InstructionTask OnDigits(string name, string first, string second, Func<int[], string> answer) =>
        new(name, (first, second), rng => Of(rng.Permutation(10)[..rng.Between(3, 6)], list => Join(list), answer));

    static (string, string) Of<T>(T input, Func<T, string> show, Func<T, string> answer) => (show(input), answer(input));

    static (string, string) Of(string input, Func<string, string> answer) => (input, answer(input));

    static (string, string) Two(SplitMix64 rng, Func<int, int, int> answer)
    {
        int[] two = rng.Permutation(10)[..2];
        return (Join(two), $"{answer(two[0], two[1])}");
    }

    static (string, string) One(SplitMix64 rng, Func<int, int> answer) => Of(rng.Below(10), digit => $"{digit}", digit => $"{answer(digit)}");

    static (string, string) OddOneOut(SplitMix64 rng)
    {
        IReadOnlyList<string>[] kinds = rng.Pick([Words.Animals, Words.Objects, Words.Colours, Words.Professions, Words.Dishes], 2);
        string odd = rng.Pick(kinds[1]);
        string[] list = rng.Pick([.. rng.Pick(kinds[0], 3), odd], 4);
        return (Join(list), odd);
    }

    static (string, string) Contains(SplitMix64 rng)
    {
        string[] list = rng.Pick(Words.Objects, rng.Between(3, 5));
        bool there = rng.Chance(0.5);
        return (Join([.. list, there ? rng.Pick(list) : rng.Pick([.. Words.Objects.Except(list)])]), there ? "yes" : "no");
    }

    static string Join<T>(IEnumerable<T> items) => string.Join(' ', items);
}
