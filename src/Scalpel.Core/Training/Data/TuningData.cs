using System.Collections;
using System.Text.Json.Nodes;
using Scalpel.Text;

namespace Scalpel.Training;

/// <summary>A prompt with answers, as tokens.</summary>
/// <param name="Prompt">Its tokens.</param>
/// <param name="Answers">Each with an end token, unless it was cut.</param>
/// <param name="Scores">The answers' scores, larger is better; a single answer that is judged has 1 (good) or 0. Null where there are none.</param>
public sealed record AnswerSet(IReadOnlyList<long> Prompt, IReadOnlyList<IReadOnlyList<long>> Answers, IReadOnlyList<double>? Scores)
{
    /// <summary>The best and the worst answer, or the chosen and the rejected one.</summary>
    public PreferencePair Pair()
    {
        int best = 0, worst = 1;
        for (int i = 0; Scores is not null && i < Scores.Count; i++)
        {
            best = Scores[i] > Scores[best] ? i : best;
            worst = Scores[i] < Scores[worst] ? i : worst;
        }

        return new PreferencePair(Prompt, Answers[best], Answers[worst]);
    }
}

/// <summary>
/// A file of training data, checked as a whole when it is opened and read record by record afterwards: its rows are not kept
/// in memory beyond the first few thousand.
/// </summary>
public sealed class TuningData : IDisposable
{
    const int MostKept = 4096;
    readonly RecordFile file;
    readonly ExampleReader reader;
    readonly Tokenizer tokenizer;
    readonly int limit;
    readonly bool cut;
    readonly Dictionary<int, AnswerSet> kept = [];
    readonly List<int> records = [], lengths = [];

    TuningData(RecordFile file, Tokenizer tokenizer, int limit, bool cut)
    {
        (this.file, this.tokenizer, this.limit, this.cut) = (file, tokenizer, limit, cut);
        reader = new ExampleReader(file, tokenizer.ChatTemplate);
    }

    /// <summary>What the records are.</summary>
    public TuningLayout Layout => reader.Layout;

    /// <summary>The layout's name in messages: text, prompt-completion, messages, pairs, ranking, judged, prompts.</summary>
    public string LayoutName => ExampleReader.Name(Layout);

    /// <summary>Records that are used.</summary>
    public int Count => records.Count;

    /// <summary>Records that were cut to the length asked for.</summary>
    public int Shortened { get; private set; }

    /// <summary>Records whose prompt is no prefix in tokens, so that the boundary was moved back.</summary>
    public int Moved { get; private set; }

    /// <summary>Records left out because nothing in them can be learned: no answer is left after cutting, or all answers are the same.</summary>
    public int Dropped { get; private set; }

    /// <summary>Tokens of all records, prompts counted once.</summary>
    public long Tokens { get; private set; }

    /// <summary>Tokens that are learned.</summary>
    public long Learned { get; private set; }

    /// <summary>Tokens of the longest record with its longest answer.</summary>
    public int Longest { get; private set; }

    /// <summary>Texts to learn; for the layouts text, prompt-completion and messages.</summary>
    public IReadOnlyList<TokenRow> Rows => new Records<TokenRow>(this, Row);

    /// <summary>A better and a worse answer; for pairs, and for rankings the best and the worst.</summary>
    public IReadOnlyList<PreferencePair> Pairs => new Records<PreferencePair>(this, set => set.Pair());

    /// <summary>All answers of a prompt.</summary>
    public IReadOnlyList<AnswerSet> Answers => new Records<AnswerSet>(this, set => set);

    /// <summary>Opens a file and checks every record; formats as in <see cref="RecordFile.Open"/>, layouts as in <see cref="TuningLayout"/>.</summary>
    /// <param name="path">The file.</param>
    /// <param name="tokenizer">The model's.</param>
    /// <param name="limit">Most tokens the model takes.</param>
    /// <param name="maxLength">Where to cut longer records, at the end of the answer; null to refuse them.</param>
    /// <param name="run">Progress and cancellation; null for none.</param>
    /// <exception cref="BadInputException">The file is empty, a record is malformed or lacks a field, or is too long.</exception>
    public static TuningData Read(string path, Tokenizer tokenizer, int limit, int? maxLength = null, RunContext? run = null)
    {
        if (maxLength is < 2)
        {
            throw new BadInputException($"Rows cannot be cut to {maxLength} tokens; one that is learned has at least 2.");
        }

        RecordFile file = RecordFile.Open(path);
        try
        {
            if (file.Count == 0)
            {
                throw new BadInputException($"{path} holds no line to train on; each line is an object with text, with prompt and completion, with messages, or with prompt, chosen and rejected.");
            }

            var data = new TuningData(file, tokenizer, Math.Min(limit, maxLength ?? limit), maxLength is not null);
            data.Scan(path, run);
            return data;
        }
        catch
        {
            file.Dispose();
            throw;
        }
    }

    /// <summary>Rows of <paramref name="length"/> tokens with several sequences each, best fit; they do not see each other.</summary>
    /// <exception cref="BadInputException">A sequence is longer.</exception>
    public IReadOnlyList<TokenRow> Packed(int length) => Longest <= length
        ? new PackedRows(this, Packing.Plan(lengths, length))
        : throw new BadInputException($"Rows of {length} tokens are too short for the longest sequence of {Longest}; cut with a smaller --max-length.");

    /// <summary>The text of a prompt, and the whole record, for rewards that look at other fields.</summary>
    public (string Prompt, JsonObject Record) Source(int index) => (reader.Read(records[index]).Prompt, file.Read(records[index]));

    /// <summary>The first record as the model sees it, what is learned between « and ».</summary>
    public string Preview()
    {
        AnswerSet first = Get(0);
        string Shown(IEnumerable<long> ids) => tokenizer.Decode(ids.Select(id => (int)id));
        return string.Join(" | ", first.Answers.Select((answer, i) => (i == 0 ? Shown(first.Prompt) : "") + "«" + Shown(answer) + "»").DefaultIfEmpty(Shown(first.Prompt))).ReplaceLineEndings("⏎");
    }

    /// <summary>Closes the file.</summary>
    public void Dispose() => file.Dispose();

    void Scan(string path, RunContext? run)
    {
        int tooLong = 0, first = 0;
        for (int i = 0; i < file.Count; i++)
        {
            if (i % 1024 == 0)
            {
                run?.Report("reading the data", i, file.Count);
            }

            AnswerSet set = Encode(i, out int full, out bool moved);
            if (full > limit && !cut)
            {
                first = tooLong++ == 0 ? i : first;
                continue;
            }

            Shortened += full > limit ? 1 : 0;
            if (Layout != TuningLayout.Prompts && Unusable(set))
            {
                Dropped++;
                continue;
            }

            Moved += moved ? 1 : 0;
            int length = set.Prompt.Count + set.Answers.Select(answer => answer.Count).DefaultIfEmpty(0).Max();
            records.Add(i);
            lengths.Add(length);
            Longest = Math.Max(Longest, length);
            long learned = set.Answers.Sum(answer => (long)answer.Count) - (Layout == TuningLayout.Text ? 1 : 0);
            (Tokens, Learned) = (Tokens + set.Prompt.Count + set.Answers.Sum(answer => (long)answer.Count), Learned + learned);
            if (kept.Count < MostKept)
            {
                kept.Add(i, set);
            }
        }

        if (tooLong > 0)
        {
            throw new BadInputException($"{path}: {tooLong} of {file.Count} rows are longer than the {limit} tokens that the model takes, the first in {file.Where(first)[(path.Length + 2)..]}; shorten them, or cut them with --max-length.");
        }

        if (Count == 0)
        {
            throw new BadInputException(Layout is TuningLayout.Pairs or TuningLayout.Ranking
                ? $"{path}: no record has two answers that differ{(cut ? " after cutting" : "")}; there is nothing to prefer."
                : $"{path}: no row has a token to learn; its completions are empty, or cut off.");
        }
    }

    // Without an answer, or with equal ones, a record teaches nothing.
    bool Unusable(AnswerSet set) => set.Answers.Any(answer => answer.Count == 0)
        || Layout == TuningLayout.Text && set.Answers[0].Count < 2
        || Layout is TuningLayout.Pairs or TuningLayout.Ranking && set.Pair() is var pair && pair.Chosen.SequenceEqual(pair.Rejected);

    AnswerSet Get(int index) => kept.TryGetValue(records[index], out AnswerSet? set) ? set : Encode(records[index], out _, out _);

    // The answer is what follows the tokens that the prompt alone and the whole begin with; the same prompt for all answers.
    AnswerSet Encode(int record, out int full, out bool moved)
    {
        TuningExample example = reader.Read(record);
        long[] prompt = example.Prompt.Length == 0 && Layout == TuningLayout.Text ? [] : Ids(example.Prompt, !example.Rendered);
        long[][] whole = [.. example.Answers.Select(answer => Ended(Ids(example.Prompt + answer, !example.Rendered), example.Rendered))];
        int common = prompt.Length;
        foreach (long[] ids in whole)
        {
            common = Math.Min(common, Common(prompt, ids));
        }

        moved = common < prompt.Length;
        full = whole.Select(ids => ids.Length).DefaultIfEmpty(prompt.Length).Max();
        return new AnswerSet(prompt[..Math.Min(common, limit)], [.. whole.Select(ids => (IReadOnlyList<long>)ids[Math.Min(common, limit)..Math.Min(ids.Length, limit)])], example.Scores);
    }

    TokenRow Row(AnswerSet set)
    {
        long[] ids = [.. set.Prompt, .. set.Answers[0]];
        return new TokenRow(ids, [.. ids.Select((id, i) => i < set.Prompt.Count ? TokenScores.Ignored : id)]);
    }

    long[] Ids(string text, bool special) => [.. tokenizer.Encode(text, addSpecial: special).Ids.Select(id => (long)id)];

    // A chat template closes its answers itself.
    long[] Ended(long[] ids, bool rendered) => !rendered && tokenizer.EosId is { } end && (ids.Length == 0 || ids[^1] != end) ? [.. ids, end] : ids;

    static int Common(long[] a, long[] b)
    {
        int n = 0;
        while (n < a.Length && n < b.Length && a[n] == b[n])
        {
            n++;
        }

        return n;
    }

    sealed class Records<T>(TuningData data, Func<AnswerSet, T> view) : IReadOnlyList<T>
    {
        public int Count => data.Count;

        public T this[int index] => view(data.Get(index));

        public IEnumerator<T> GetEnumerator() => Enumerable.Range(0, Count).Select(i => this[i]).GetEnumerator();

        IEnumerator IEnumerable.GetEnumerator() => GetEnumerator();
    }

    sealed class PackedRows(TuningData data, IReadOnlyList<IReadOnlyList<PackedPart>> plan) : IReadOnlyList<TokenRow>
    {
        public int Count => plan.Count;

        public TokenRow this[int index]
        {
            get
            {
                List<long> ids = [], labels = [];
                List<int> sizes = [];
                foreach (PackedPart part in plan[index])
                {
                    TokenRow row = data.Row(data.Get(part.Row));
                    ids.AddRange(row.Ids);
                    // Nothing that belongs to it stands before a sequence's first token.
                    labels.Add(TokenScores.Ignored);
                    labels.AddRange(row.Labels.Skip(1));
                    sizes.Add(row.Ids.Count);
                }

                return new TokenRow(ids, labels, sizes);
            }
        }

        public IEnumerator<TokenRow> GetEnumerator() => Enumerable.Range(0, Count).Select(i => this[i]).GetEnumerator();

        IEnumerator IEnumerable.GetEnumerator() => GetEnumerator();
    }
}
