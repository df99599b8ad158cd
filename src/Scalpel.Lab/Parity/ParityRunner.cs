using System.Diagnostics;

namespace Scalpel.Lab.Parity;

/// <summary>Computes the cases of one kind.</summary>
public interface IParityKind
{
    /// <summary>The <c>kind</c> of the cases that this one computes.</summary>
    string Kind { get; }

    /// <summary>Whether this case is known; null when it is, else what is not known about it, as a sentence.</summary>
    string? Unsupported(ParityCase parityCase) => null;

    /// <summary>Computes the case and compares every expected value.</summary>
    void Run(ParityCase parityCase, Comparison comparison);
}

/// <summary>
/// "Does Scalpel compute my model as my framework does": walks folders, computes every golden case that it finds and
/// compares. A case that cannot be read is a failure, not a skip; only unknown kinds are unsupported.
/// </summary>
public sealed class ParityRunner
{
    readonly Dictionary<string, IParityKind> kinds;

    /// <summary>A runner for the given kinds.</summary>
    public ParityRunner(IEnumerable<IParityKind> kinds) => this.kinds = kinds.ToDictionary(kind => kind.Kind, StringComparer.Ordinal);

    /// <summary>A runner for every kind that Scalpel knows.</summary>
    public static ParityRunner All() => new(
        from type in typeof(IParityKind).Assembly.GetTypes()
        where type is { IsClass: true, IsAbstract: false } && type.IsAssignableTo(typeof(IParityKind))
        orderby type.Name
        select (IParityKind)Activator.CreateInstance(type)!);

    /// <summary>The folders below <paramref name="paths"/> (or they themselves) that hold a <c>case.json</c>, in order of name.</summary>
    /// <exception cref="BadInputException">A path does not exist, or no case lies below any of them.</exception>
    public static IReadOnlyList<string> Find(IReadOnlyList<string> paths)
    {
        var folders = new List<string>();
        foreach (string path in paths)
        {
            if (File.Exists(path) && Path.GetFileName(path) == "case.json")
            {
                folders.Add(Path.GetDirectoryName(Path.GetFullPath(path))!);
                continue;
            }

            if (!Directory.Exists(path))
            {
                throw new BadInputException($"{path} is not a folder; give a folder that holds cases (folders with a case.json).");
            }

            folders.AddRange(Directory.EnumerateFiles(path, "case.json", new EnumerationOptions { RecurseSubdirectories = true, MatchCasing = MatchCasing.CaseSensitive })
                .Select(file => Path.GetDirectoryName(file)!)
                .Order(StringComparer.Ordinal));
        }

        return folders.Count > 0 ? folders : throw new BadInputException($"No case.json lies below {string.Join(", ", paths)}.");
    }

    /// <summary>Computes one case; never throws but for cancellation.</summary>
    public ParityOutcome Run(string folder)
    {
        var clock = Stopwatch.StartNew();
        string kindName = "?";
        try
        {
            ParityCase parityCase = ParityCase.Load(folder);
            kindName = parityCase.Kind;
            if (!kinds.TryGetValue(kindName, out IParityKind? kind))
            {
                return new ParityOutcome(folder, kindName, ParityVerdict.Unsupported, 0, null, clock.Elapsed.TotalSeconds,
                    $"cases of kind '{kindName}' are not known here");
            }

            if (kind.Unsupported(parityCase) is { } why)
            {
                return new ParityOutcome(folder, kindName, ParityVerdict.Unsupported, 0, null, clock.Elapsed.TotalSeconds, why);
            }

            var comparison = new Comparison(parityCase);
            kind.Run(parityCase, comparison);
            string? reason = comparison.Reason;
            if (comparison.Count == 0)
            {
                reason = "the case compared nothing";
            }
            else if (comparison.WorstError > 1)
            {
                reason ??= $"{comparison.WorstName} is {comparison.WorstError:0.###} times the tolerance off";
            }

            return new ParityOutcome(folder, kindName, reason is null ? ParityVerdict.Pass : ParityVerdict.Fail,
                comparison.WorstError, comparison.WorstName, clock.Elapsed.TotalSeconds, reason);
        }
        catch (Exception e) when (e is not OperationCanceledException)
        {
            string reason = e is BadInputException ? e.Message : $"{e.GetType().Name}: {e.Message}";
            return new ParityOutcome(folder, kindName, ParityVerdict.Fail, double.PositiveInfinity, null, clock.Elapsed.TotalSeconds, reason);
        }
    }
}
