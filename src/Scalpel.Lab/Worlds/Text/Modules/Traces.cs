using System.Text.Json.Nodes;

namespace Scalpel.Lab.Worlds;

/// <summary>Arithmetic on lists of digits, step by step, right or with planted noise.</summary>
sealed class TracesModule : ITextModule
{
    const double Noise = 0.3;

    static readonly (string Name, Func<int, int, int> Apply)[] Operators =
        [("add", (digit, by) => (digit + by) % 10), ("take", (digit, by) => (digit + 10 - by) % 10), ("double", (digit, _) => 2 * digit % 10), ("swap", (digit, _) => 9 - digit)];

    public string Name => "traces";

    public string Summary => "Two to four operators on a list of digits with a line for each step; a third of the training items has noise: one operator always wrong (static) or a random step (dynamic).";

    public int? Supply(TextWorld world, TextSplit split) => null;

    public TextRecord Item(TextWorld world, TextSplit split, int index)
    {
        SplitMix64 rng = world.Generator(this, split, index);
        int[] digits = [.. Enumerable.Range(0, rng.Between(2, 4)).Select(_ => rng.Below(10))], right = digits;
        int steps = rng.Between(2, 4);
        string noise = split != TextSplit.Train || !rng.Chance(Noise) ? "none" : rng.Chance(0.5) ? "static" : "dynamic";
        int spoiled = rng.Below(steps);
        var operators = new List<(int Operator, int By)>();
        for (int i = 0; i < steps; i++)
        {
            operators.Add((rng.Below(Operators.Length), rng.Between(1, 9)));
        }

        var passage = new Passage().Add("digits").Add("input", string.Join(' ', digits)).Add(":")
            .Add("operators", string.Join(" , ", operators.Select(item => item.Operator < 2 ? $"{Operators[item.Operator].Name} {item.By}" : Operators[item.Operator].Name))).Add(".");
        for (int i = 0; i < steps; i++)
        {
            (int op, int by) = operators[i];
            right = [.. right.Select(digit => Operators[op].Apply(digit, by))];
            // Static noise: "double" is always one too many. Dynamic noise: one step's first digit is any other.
            digits = [.. digits.Select(digit => Operators[op].Apply(digit, by))];
            if (noise == "static" && op == 2)
            {
                digits = [.. digits.Select(digit => (digit + 1) % 10)];
            }
            else if (noise == "dynamic" && i == spoiled)
            {
                digits[0] = (digits[0] + rng.Between(1, 9)) % 10;
            }

            passage.Add($"step {i + 1} :").Add($"step{i + 1}", string.Join(' ', digits)).Add(".");
        }

        return passage.Add("answer :").Add("answer", string.Join(' ', digits)).Add(".").Record(this, split, index, new JsonObject
        {
            ["answer"] = string.Join(' ', right), ["noise"] = noise, ["noisy"] = !digits.SequenceEqual(right), ["steps"] = steps,
        });
    }
}
