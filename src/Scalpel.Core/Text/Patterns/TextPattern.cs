namespace Scalpel.Text.Patterns;

/// <summary>
/// An expression as tokenizer files write them (Oniguruma's syntax), matched over code points. .NET's own expressions see
/// UTF-16 units, so that letters beyond U+FFFF fall into the wrong class, know neither possessive repetition nor \p{Han},
/// and have no limit but the clock; this one stops at a number of steps.
/// </summary>
sealed class TextPattern
{
    const long StepsAtLeast = 1_000_000, StepsPerCodePoint = 4_000;

    readonly Instruction[] program;
    readonly string source;

    TextPattern(string source, Instruction[] program)
    {
        this.source = source;
        this.program = program;
    }

    /// <summary>Reads an expression.</summary>
    /// <exception cref="BadInputException">It is malformed, or uses something that is not supported; the message says what and where.</exception>
    public static TextPattern Parse(string expression) => new(expression, new PatternParser(expression).Compile());

    /// <summary>An expression that matches just this text.</summary>
    public static TextPattern Literal(string text)
    {
        var program = new List<Instruction>();
        foreach (int code in Pipeline.CodePoints.Of(text))
        {
            program.Add(new Instruction(Op.Set) { Set = CodePointSet.Of(code, ignoreCase: false) });
        }

        return new TextPattern(text, [.. program, new Instruction(Op.Match)]);
    }

    /// <summary>The matches in order, not overlapping, as [from, to) within the text.</summary>
    /// <exception cref="BadInputException">The expression takes more steps than any honest one.</exception>
    public void FindAll(ReadOnlySpan<int> text, List<(int From, int To)> matches)
    {
        var state = new State(StepsAtLeast + StepsPerCodePoint * text.Length);
        int at = 0, lastEnd = -1;
        while (at <= text.Length)
        {
            int end = Run(program, text, at, state);
            if (end < 0 || (end == at && at == lastEnd))
            {
                at++;
                continue;
            }

            matches.Add((at, end));
            lastEnd = end;
            at = end == at ? at + 1 : end;
        }
    }

    int Run(Instruction[] code, ReadOnlySpan<int> text, int at, State state)
    {
        int bottom = state.Depth, pc = 0;
        while (true)
        {
            if (--state.Steps < 0)
            {
                throw new BadInputException($"The expression {Shorten(source)} takes too many steps on a text of {text.Length} characters; the tokenizer that holds it cannot be used.");
            }

            Instruction instruction = code[pc];
            bool ok = true;
            switch (instruction.Op)
            {
                case Op.Match:
                    state.Depth = bottom;
                    return at;
                case Op.Set:
                    ok = at < text.Length && instruction.Set!.Contains(text[at]);
                    at++;
                    pc++;
                    break;
                case Op.Loop:
                    ok = Loop(instruction, text, ref at, ++pc, state);
                    break;
                case Op.Split:
                    state.Push(instruction.Second, at, at, null);
                    pc = instruction.First;
                    break;
                case Op.Jump:
                    pc = instruction.First;
                    break;
                case Op.Look:
                    int from = at - instruction.Behind;
                    ok = (from >= 0 && Run(instruction.Program!, text, from, state) >= 0) != instruction.Negated;
                    pc++;
                    break;
                case Op.Atomic:
                    int end = Run(instruction.Program!, text, at, state);
                    ok = end >= 0;
                    at = end;
                    pc++;
                    break;
                default:
                    ok = Anchor(instruction.Anchor, text, at) != instruction.Negated;
                    pc++;
                    break;
            }

            if (!ok && !state.Pop(bottom, text, ref pc, ref at))
            {
                return -1;
            }
        }
    }

    static bool Loop(Instruction loop, ReadOnlySpan<int> text, ref int at, int next, State state)
    {
        CodePointSet set = loop.Set!;
        int most = loop.Max < 0 ? text.Length : (int)Math.Min(text.Length, (long)at + loop.Max), least = at + loop.Min;
        if (loop.Mode == RepeatMode.Lazy)
        {
            for (; at < least; at++)
            {
                if (at >= text.Length || !set.Contains(text[at]))
                {
                    return false;
                }
            }

            state.Push(next, at, most, set);
            return true;
        }

        int from = at;
        while (at < most && set.Contains(text[at]))
        {
            at++;
        }

        state.Steps -= (at - from) >> 4;
        if (at < least)
        {
            return false;
        }

        if (loop.Mode == RepeatMode.Greedy && at > least)
        {
            state.Push(next, at - 1, least, null);
        }

        return true;
    }

    static bool Anchor(AnchorKind kind, ReadOnlySpan<int> text, int at) => kind switch
    {
        AnchorKind.TextStart => at == 0,
        AnchorKind.TextEnd => at == text.Length,
        AnchorKind.TextEndOrLastBreak => at == text.Length || (at == text.Length - 1 && text[at] == '\n'),
        AnchorKind.LineStart => at == 0 || text[at - 1] == '\n',
        AnchorKind.LineEnd => at == text.Length || text[at] == '\n',
        _ => (at > 0 && Pipeline.CodePoints.IsWord(text[at - 1])) != (at < text.Length && Pipeline.CodePoints.IsWord(text[at])),
    };

    static string Shorten(string text) => text.Length <= 80 ? text : text[..80] + "…";

    /// <summary>The places to which matching may return, and the steps left.</summary>
    sealed class State(long steps)
    {
        (int Pc, int At, int Limit, CodePointSet? Lazy)[] stack = new (int, int, int, CodePointSet?)[16];

        public long Steps { get; set; } = steps;

        public int Depth { get; set; }

        // Split: At = Limit. Greedy loop: gives back from At down to Limit. Lazy loop: takes one more, up to Limit.
        public void Push(int pc, int at, int limit, CodePointSet? lazy)
        {
            if (Depth == stack.Length)
            {
                Array.Resize(ref stack, 2 * Depth);
            }

            stack[Depth++] = (pc, at, limit, lazy);
        }

        public bool Pop(int bottom, ReadOnlySpan<int> text, ref int pc, ref int at)
        {
            while (Depth > bottom)
            {
                ref (int Pc, int At, int Limit, CodePointSet? Lazy) top = ref stack[Depth - 1];
                pc = top.Pc;
                at = top.At;
                if (top.Lazy is not null)
                {
                    if (at >= top.Limit || !top.Lazy.Contains(text[at]))
                    {
                        Depth--;
                        continue;
                    }

                    top.At = ++at;
                }
                else if (at > top.Limit)
                {
                    top.At--;
                }
                else
                {
                    Depth--;
                }

                return true;
            }

            return false;
        }
    }
}

enum Op
{
    Match,
    Set,
    Loop,
    Split,
    Jump,
    Look,
    Atomic,
    Anchor,
}

enum RepeatMode
{
    Greedy,
    Lazy,
    Possessive,
}

enum AnchorKind
{
    TextStart,
    TextEnd,
    TextEndOrLastBreak,
    LineStart,
    LineEnd,
    WordBoundary,
}

/// <summary>One step of a compiled expression.</summary>
sealed record Instruction(Op Op)
{
    public CodePointSet? Set { get; init; }

    public int Min { get; init; }

    /// <summary>Most repetitions; -1 for no limit.</summary>
    public int Max { get; init; }

    public RepeatMode Mode { get; init; }

    public int First { get; init; }

    public int Second { get; init; }

    public Instruction[]? Program { get; init; }

    /// <summary>Code points to step back before a look.</summary>
    public int Behind { get; init; }

    public bool Negated { get; init; }

    public AnchorKind Anchor { get; init; }
}
