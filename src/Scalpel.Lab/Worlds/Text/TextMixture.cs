namespace Scalpel.Lab.Worlds;

/// <summary>Which modules a training stream holds, each with its share of the tokens.</summary>
/// <param name="Name">The mixture's name.</param>
/// <param name="Parts">Modules and shares, which sum to 1.</param>
public sealed record TextMixture(string Name, IReadOnlyList<(string Module, double Share)> Parts)
{
    /// <summary>The mixture of most base models: facts 38 %, stories, and a little of everything else.</summary>
    public static TextMixture Default { get; } = new("default",
    [
        ("facts", 0.38), ("common", 0.06), ("stories", 0.25), ("duplicates", 0.0141), ("bias", 0.04), ("kin", 0.06), ("heated", 0.03), ("needle", 0.02),
        ("ioi", 0.02), ("coloured", 0.02), ("topics", 0.05), ("instructions", 0.03), ("nli", 0.0259),
    ]);

    /// <summary>Checks the shares and the modules.</summary>
    /// <exception cref="BadInputException">They do not sum to 1, or a module is unknown or named twice.</exception>
    public void Validate()
    {
        double sum = Parts.Sum(part => part.Share);
        if (Math.Abs(sum - 1) > 1e-9 || Parts.Any(part => !(part.Share > 0)))
        {
            throw new BadInputException(FormattableString.Invariant($"The shares of the mixture {Name} sum to {sum}; they must be positive and sum to 1."));
        }

        if (Parts.Select(part => part.Module).Distinct().Count() < Parts.Count)
        {
            throw new BadInputException($"The mixture {Name} names a module twice; give it one share.");
        }

        foreach ((string module, _) in Parts)
        {
            TextModules.Named(module);
        }
    }

    /// <summary>With other shares for some modules; the rest shrinks or grows in proportion.</summary>
    public TextMixture With(string name, params (string Module, double Share)[] changed)
    {
        double rest = Parts.Where(part => !changed.Any(other => other.Module == part.Module)).Sum(part => part.Share), left = 1 - changed.Sum(part => part.Share);
        return new TextMixture(name, [.. Parts.Where(part => !changed.Any(other => other.Module == part.Module)).Select(part => (part.Module, part.Share * left / rest)), .. changed]);
    }
}

/// <summary>
/// The documents of a mixture, one after the other: always of the module that is furthest behind its share of the tokens.
/// A module whose items are used up leaves its share to the others.
/// </summary>
public sealed class TextCorpus
{
    readonly TextWorld world;
    readonly TextMixture mixture;
    readonly HashSet<string> excluded;

    internal TextCorpus(TextWorld world, TextMixture mixture, string? exclude)
    {
        mixture.Validate();
        (this.world, this.mixture) = (world, mixture);
        excluded = exclude is null ? [] : [.. world.People(exclude).Select(person => person.Name)];
        if (exclude is not null && (!mixture.Parts.Any(part => part.Module == "facts") || !world.People(exclude).All(person => person.Set is "core" or "forget")))
        {
            throw new BadInputException($"The set {exclude} is not part of the mixture {mixture.Name}, so it cannot be left out; sets that can are core, forget, forget02, forget10 and forget20.");
        }
    }

    /// <summary>The documents, without end unless all modules have one.</summary>
    public IEnumerable<TextRecord> Documents()
    {
        int count = mixture.Parts.Count;
        int[] next = new int[count], used = new int[count];
        int?[] supply = [.. mixture.Parts.Select(part => TextModules.Named(part.Module).Supply(world, TextSplit.Train))];
        ITextModule[] modules = [.. mixture.Parts.Select(part => TextModules.Named(part.Module))];
        double total = 0;
        while (true)
        {
            int chosen = -1;
            double furthest = double.NegativeInfinity;
            for (int i = 0; i < count; i++)
            {
                double behind = mixture.Parts[i].Share * total - used[i];
                if ((supply[i] is not { } end || next[i] < end) && behind > furthest)
                {
                    (chosen, furthest) = (i, behind);
                }
            }

            if (chosen < 0)
            {
                yield break;
            }

            TextRecord record = modules[chosen].Item(world, TextSplit.Train, next[chosen]++);
            if (excluded.Count > 0 && record.People.Any(person => excluded.Contains(person.Name)))
            {
                continue;
            }

            int tokens = 2 + record.Text.AsSpan().Count(' ');
            used[chosen] += tokens;
            total += tokens;
            yield return record;
        }
    }

    /// <summary>The first tokens of the stream; an end mark follows each document.</summary>
    /// <param name="count">How many.</param>
    /// <param name="run">Progress and cancellation.</param>
    /// <exception cref="BadInputException">All modules are used up before.</exception>
    public int[] Tokens(int count, RunContext run) => Tokens(count, [], run).Tokens;

    /// <summary>The first tokens of the stream, and which of them are learned.</summary>
    /// <param name="count">How many.</param>
    /// <param name="answersOnly">Modules of which only spans named "answer" are.</param>
    /// <param name="run">Progress and cancellation.</param>
    internal (int[] Tokens, bool[] Learned) Tokens(int count, IReadOnlyCollection<string> answersOnly, RunContext run)
    {
        var learned = new bool[count];
        var tokens = new int[count];
        int at = 0;
        Lexicon lexicon = world.Lexicon;
        foreach (TextRecord record in Documents())
        {
            bool whole = !answersOnly.Contains(record.Module);
            foreach (Range word in record.Text.AsSpan().Split(' '))
            {
                if (at < count)
                {
                    learned[at] = whole || record.Spans.Any(span => span.Name == "answer" && span.Start <= word.Start.Value && word.Start.Value < span.End);
                    tokens[at++] = lexicon.Id(record.Text.AsSpan(word));
                }
            }

            if (at == count)
            {
                return (tokens, learned);
            }

            learned[at] = whole;
            tokens[at++] = Lexicon.EndId;
            if ((at & 0xFFF) < 8)
            {
                run.Report("corpus", at, count);
            }
        }

        throw new BadInputException($"The mixture {mixture.Name} has {at} tokens in all, fewer than the {count} asked for.");
    }
}
