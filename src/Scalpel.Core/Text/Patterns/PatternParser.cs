using System.Globalization;
using Scalpel.Text.Pipeline;

namespace Scalpel.Text.Patterns;

/// <summary>Reads an expression and compiles it for <see cref="TextPattern"/>.</summary>
sealed class PatternParser(string expression)
{
    const int MostInstructions = 20_000, MostRepeats = 1_000, DeepestGroup = 50;

    readonly int[] source = CodePoints.Of(expression);
    int at, depth, size;
    bool ignoreCase, dotAll;

    abstract record Node;

    sealed record SetNode(CodePointSet Set) : Node;

    sealed record Sequence(List<Node> Items) : Node;

    sealed record Alternatives(List<Node> Items) : Node;

    sealed record Repeat(Node Body, int Min, int Max, RepeatMode Mode) : Node;

    sealed record Atomic(Node Body) : Node;

    sealed record Look(Node Body, bool Behind, bool Negated) : Node;

    sealed record AnchorNode(AnchorKind Kind, bool Negated) : Node;

    public Instruction[] Compile()
    {
        Node node = ParseAlternatives();
        return at == source.Length ? Program(node) : throw Unsupported("an unmatched )");
    }

    Node ParseAlternatives()
    {
        if (++depth > DeepestGroup)
        {
            throw Unsupported($"groups nested deeper than {DeepestGroup}");
        }

        (bool outerCase, bool outerDot) = (ignoreCase, dotAll);
        var items = new List<Node> { ParseSequence() };
        while (Take('|'))
        {
            items.Add(ParseSequence());
        }

        (ignoreCase, dotAll) = (outerCase, outerDot);
        depth--;
        return items.Count == 1 ? items[0] : new Alternatives(items);
    }

    Node ParseSequence()
    {
        var items = new List<Node>();
        while (at < source.Length && source[at] is not ('|' or ')'))
        {
            Node? atom = ParseAtom();
            if (atom is not null)
            {
                items.Add(ParseRepeats(atom));
            }
        }

        return items.Count == 1 ? items[0] : new Sequence(items);
    }

    Node ParseRepeats(Node body)
    {
        while (at < source.Length)
        {
            int min, max = -1;
            bool braces = false;
            switch (source[at])
            {
                case '*':
                    min = 0;
                    at++;
                    break;
                case '+':
                    min = 1;
                    at++;
                    break;
                case '?':
                    (min, max) = (0, 1);
                    at++;
                    break;
                case '{' when Braces(out min, out max):
                    braces = true;
                    break;
                default:
                    return body;
            }

            RepeatMode mode = Take('?') ? RepeatMode.Lazy : !braces && Take('+') ? RepeatMode.Possessive : RepeatMode.Greedy;
            if (body is AnchorNode or Look)
            {
                throw Unsupported("a repeated assertion");
            }

            if (max < 0 && body is not SetNode && Shortest(body) == 0)
            {
                throw Unsupported("an unlimited repetition of something that can be empty");
            }

            body = new Repeat(body, min, max, mode);
        }

        return body;
    }

    bool Braces(out int min, out int max)
    {
        int mark = at++;
        int? first = Number();
        int? last = Take(',') ? Number() ?? -1 : first;
        if (!Take('}') || (first is null && last is null or -1))
        {
            // As in Oniguruma, a brace that opens no count is itself.
            at = mark;
            min = max = 0;
            return false;
        }

        (min, max) = (first ?? 0, last!.Value);
        if (min > MostRepeats || max > MostRepeats || (max >= 0 && max < min))
        {
            throw Unsupported($"a repetition of {min} to {max}; at most {MostRepeats} are");
        }

        return true;
    }

    int? Number()
    {
        int from = at, value = 0;
        while (at < source.Length && source[at] is >= '0' and <= '9' && value < 1_000_000)
        {
            value = 10 * value + source[at++] - '0';
        }

        return at > from ? value : null;
    }

    Node? ParseAtom()
    {
        int code = source[at++];
        return code switch
        {
            '(' => ParseGroup(),
            '[' => new SetNode(ParseClass()),
            '.' => new SetNode(dotAll ? CodePointSet.Where(_ => true) : CodePointSet.Where(c => c != '\n')),
            '^' => new AnchorNode(AnchorKind.LineStart, false),
            '$' => new AnchorNode(AnchorKind.LineEnd, false),
            '\\' => ParseEscape(),
            '*' or '+' or '?' => throw Unsupported("a repetition of nothing"),
            _ => new SetNode(CodePointSet.Of(code, ignoreCase)),
        };
    }

    Node? ParseGroup()
    {
        if (!Take('?'))
        {
            return Closed(ParseAlternatives());
        }

        if (Take(':'))
        {
            return Closed(ParseAlternatives());
        }

        if (Take('='))
        {
            return new Look(Closed(ParseAlternatives()), false, false);
        }

        if (Take('!'))
        {
            return new Look(Closed(ParseAlternatives()), false, true);
        }

        if (Take('>'))
        {
            return new Atomic(Closed(ParseAlternatives()));
        }

        if (Take('#'))
        {
            while (at < source.Length && source[at] != ')')
            {
                at++;
            }

            return Take(')') ? null : throw Unsupported("a comment without end");
        }

        if (Take('<'))
        {
            if (Take('='))
            {
                return new Look(Closed(ParseAlternatives()), true, false);
            }

            if (Take('!'))
            {
                return new Look(Closed(ParseAlternatives()), true, true);
            }

            while (at < source.Length && source[at] != '>')
            {
                at++;
            }

            return Take('>') ? Closed(ParseAlternatives()) : throw Unsupported("a group name without end");
        }

        return ParseOptions();
    }

    Node? ParseOptions()
    {
        (bool outerCase, bool outerDot) = (ignoreCase, dotAll);
        bool on = true;
        while (at < source.Length && source[at] is not (')' or ':'))
        {
            switch (source[at++])
            {
                case '-':
                    on = false;
                    break;
                case 'i':
                    ignoreCase = on;
                    break;
                case 'm' or 's':
                    dotAll = on;
                    break;
                default:
                    throw Unsupported("this kind of group");
            }
        }

        if (Take(':'))
        {
            Node body = Closed(ParseAlternatives());
            (ignoreCase, dotAll) = (outerCase, outerDot);
            return body;
        }

        // As in Oniguruma, (?i) holds until the end of the group around it, alternatives included.
        return Take(')') ? ParseAlternatives() : throw Unsupported("a group without end");
    }

    Node Closed(Node body) => Take(')') ? body : throw Unsupported("a group without end");

    Node ParseEscape()
    {
        int code = at < source.Length ? source[at] : throw Unsupported("a backslash at the end");
        AnchorNode? anchor = code switch
        {
            'A' => new AnchorNode(AnchorKind.TextStart, false),
            'z' => new AnchorNode(AnchorKind.TextEnd, false),
            'Z' => new AnchorNode(AnchorKind.TextEndOrLastBreak, false),
            'b' => new AnchorNode(AnchorKind.WordBoundary, false),
            'B' => new AnchorNode(AnchorKind.WordBoundary, true),
            _ => null,
        };
        if (anchor is not null)
        {
            at++;
            return anchor;
        }

        var set = new CodePointSet();
        if (EscapedSet(set) is not { } single)
        {
            return new SetNode(set.Freeze());
        }

        return new SetNode(CodePointSet.Of(single, ignoreCase));
    }

    /// <summary>Reads what follows a backslash: adds a class to the set, or returns the one code point that is meant.</summary>
    int? EscapedSet(CodePointSet set)
    {
        int code = at < source.Length ? source[at++] : throw Unsupported("a backslash at the end");
        switch (code)
        {
            case 's':
                set.Add(CodePoints.IsSpace);
                return null;
            case 'S':
                set.Add(c => !CodePoints.IsSpace(c));
                return null;
            case 'd':
                set.AddCategories(Bits(UnicodeCategory.DecimalDigitNumber));
                return null;
            case 'D':
                set.AddCategories(~Bits(UnicodeCategory.DecimalDigitNumber));
                return null;
            case 'w':
                set.Add(CodePoints.IsWord);
                return null;
            case 'W':
                set.Add(c => !CodePoints.IsWord(c));
                return null;
            case 'h':
                set.Add(IsHexadecimal);
                return null;
            case 'H':
                set.Add(c => !IsHexadecimal(c));
                return null;
            case 'p' or 'P':
                Property(set, code == 'P');
                return null;
            case 'n':
                return '\n';
            case 'r':
                return '\r';
            case 't':
                return '\t';
            case 'f':
                return '\f';
            case 'v':
                return 0x0B;
            case 'a':
                return 7;
            case 'e':
                return 27;
            case 'x' when Take('{'):
                return Hexadecimal(1, 8, closing: true);
            case 'x':
                return Hexadecimal(1, 2, closing: false);
            case 'u' when Take('{'):
                return Hexadecimal(1, 8, closing: true);
            case 'u':
                return Hexadecimal(4, 4, closing: false);
            case '0':
                return 0;
            case >= '1' and <= '9':
                throw Unsupported("a reference to a group");
            case >= 'a' and <= 'z' or >= 'A' and <= 'Z':
                throw Unsupported($"\\{(char)code}");
            default:
                return code;
        }
    }

    void Property(CodePointSet set, bool negated)
    {
        string name;
        if (Take('{'))
        {
            negated ^= Take('^');
            int from = at;
            while (at < source.Length && source[at] != '}')
            {
                at++;
            }

            name = CodePoints.Text(source.AsSpan(from, at - from));
            if (!Take('}'))
            {
                throw Unsupported("a property without end");
            }
        }
        else
        {
            name = at < source.Length ? char.ConvertFromUtf32(source[at++]) : throw Unsupported("a property without name");
        }

        Func<int, bool> test = UnicodeProperty.Find(name) ?? throw Unsupported($"the property {name}");
        set.Add(negated ? c => !test(c) : test);
    }

    CodePointSet ParseClass()
    {
        if (++depth > DeepestGroup)
        {
            throw Unsupported($"classes nested deeper than {DeepestGroup}");
        }

        bool negated = Take('^'), first = true;
        var set = new CodePointSet();
        var whole = new List<CodePointSet>();
        while (true)
        {
            if (at >= source.Length)
            {
                throw Unsupported("a class without end");
            }

            int code = source[at++];
            if (code == ']' && !first)
            {
                break;
            }

            first = false;
            if (code == '[')
            {
                if (at < source.Length && source[at] == ':' && Posix(set))
                {
                    continue;
                }

                CodePointSet inner = ParseClass();
                set.Add(inner.Contains);
                continue;
            }

            if (code == '&' && Take('&'))
            {
                whole.Add(set.IgnoreCase(ignoreCase).Freeze());
                set = new CodePointSet();
                continue;
            }

            int? low = code == '\\' ? EscapedSet(set) : code;
            if (low is null)
            {
                continue;
            }

            if (at + 1 < source.Length && source[at] == '-' && source[at + 1] != ']')
            {
                at++;
                int next = source[at++];
                int? high = next == '\\' ? EscapedSet(set) : next;
                if (high is null || next == '[' || high < low)
                {
                    throw Unsupported("a range whose ends are not single characters in order");
                }

                set.Add(low.Value, high.Value);
            }
            else
            {
                set.Add(low.Value, low.Value);
            }
        }

        depth--;
        set.IgnoreCase(ignoreCase);
        if (whole.Count == 0)
        {
            return set.Negate(negated).Freeze();
        }

        whole.Add(set.Freeze());
        return new CodePointSet().Add(c => whole.TrueForAll(part => part.Contains(c))).Negate(negated).Freeze();
    }

    bool Posix(CodePointSet set)
    {
        int end = Array.IndexOf(source, ':', at + 1);
        if (end < 0 || end + 1 >= source.Length || source[end + 1] != ']')
        {
            return false;
        }

        string name = CodePoints.Text(source.AsSpan(at + 1, end - at - 1));
        bool negated = name.StartsWith('^');
        Func<int, bool> test = UnicodeProperty.Find(name.TrimStart('^')) ?? throw Unsupported($"the class {name}");
        set.Add(negated ? c => !test(c) : test);
        at = end + 2;
        return true;
    }

    int Hexadecimal(int least, int most, bool closing)
    {
        int from = at;
        long value = 0;
        while (at < source.Length && at - from < most && IsHexadecimal(source[at]))
        {
            value = 16 * value + Convert.ToInt32(((char)source[at++]).ToString(), 16);
        }

        return at - from >= least && (!closing || Take('}')) && value <= 0x10FFFF ? (int)value : throw Unsupported("a wrong character code");
    }

    bool Take(int code)
    {
        if (at < source.Length && source[at] == code)
        {
            at++;
            return true;
        }

        return false;
    }

    // Compilation

    Instruction[] Program(Node node)
    {
        var code = new List<Instruction>();
        Emit(node, code);
        code.Add(new Instruction(Op.Match));
        return [.. code];
    }

    void Emit(Node node, List<Instruction> code)
    {
        if (++size > MostInstructions)
        {
            throw Unsupported($"an expression of more than {MostInstructions} steps");
        }

        switch (node)
        {
            case SetNode set:
                code.Add(new Instruction(Op.Set) { Set = set.Set });
                break;
            case Sequence sequence:
                sequence.Items.ForEach(item => Emit(item, code));
                break;
            case Alternatives alternatives:
                EmitAlternatives(alternatives.Items, code);
                break;
            case Atomic atomic:
                code.Add(new Instruction(Op.Atomic) { Program = Program(atomic.Body) });
                break;
            case Look look:
                code.Add(new Instruction(Op.Look) { Program = Program(look.Body), Negated = look.Negated, Behind = look.Behind ? FixedLength(look.Body) : 0 });
                break;
            case AnchorNode anchor:
                code.Add(new Instruction(Op.Anchor) { Anchor = anchor.Kind, Negated = anchor.Negated });
                break;
            case Repeat { Body: SetNode body } repeat:
                code.Add(new Instruction(Op.Loop) { Set = body.Set, Min = repeat.Min, Max = repeat.Max, Mode = repeat.Mode });
                break;
            case Repeat { Mode: RepeatMode.Possessive } repeat:
                code.Add(new Instruction(Op.Atomic) { Program = Program(repeat with { Mode = RepeatMode.Greedy }) });
                break;
            case Repeat repeat:
                EmitRepeat(repeat, code);
                break;
        }
    }

    void EmitAlternatives(List<Node> items, List<Instruction> code)
    {
        var jumps = new List<int>();
        for (int i = 0; i < items.Count; i++)
        {
            if (i == items.Count - 1)
            {
                Emit(items[i], code);
                break;
            }

            int split = code.Count;
            code.Add(new Instruction(Op.Split));
            Emit(items[i], code);
            jumps.Add(code.Count);
            code.Add(new Instruction(Op.Jump));
            code[split] = new Instruction(Op.Split) { First = split + 1, Second = code.Count };
        }

        foreach (int jump in jumps)
        {
            code[jump] = new Instruction(Op.Jump) { First = code.Count };
        }
    }

    void EmitRepeat(Repeat repeat, List<Instruction> code)
    {
        for (int i = 0; i < repeat.Min; i++)
        {
            Emit(repeat.Body, code);
        }

        bool lazy = repeat.Mode == RepeatMode.Lazy;
        var splits = new List<int>();
        int rounds = repeat.Max < 0 ? 1 : repeat.Max - repeat.Min;
        for (int i = 0; i < rounds; i++)
        {
            splits.Add(code.Count);
            code.Add(new Instruction(Op.Split));
            Emit(repeat.Body, code);
            if (repeat.Max < 0)
            {
                code.Add(new Instruction(Op.Jump) { First = splits[0] });
            }
        }

        foreach (int split in splits)
        {
            code[split] = lazy
                ? new Instruction(Op.Split) { First = code.Count, Second = split + 1 }
                : new Instruction(Op.Split) { First = split + 1, Second = code.Count };
        }
    }

    static int Shortest(Node node) => node switch
    {
        SetNode => 1,
        Sequence sequence => sequence.Items.Sum(Shortest),
        Alternatives alternatives => alternatives.Items.Min(Shortest),
        Repeat repeat => repeat.Min == 0 ? 0 : Shortest(repeat.Body),
        Atomic atomic => Shortest(atomic.Body),
        _ => 0,
    };

    int FixedLength(Node node) => node switch
    {
        SetNode => 1,
        Sequence sequence => sequence.Items.Sum(FixedLength),
        Alternatives alternatives when alternatives.Items.Select(FixedLength).Distinct().Count() == 1 => FixedLength(alternatives.Items[0]),
        Repeat { Min: int min, Max: int max } repeat when min == max => min * FixedLength(repeat.Body),
        Atomic atomic => FixedLength(atomic.Body),
        AnchorNode or Look => 0,
        _ => throw Unsupported("a look behind of varying length"),
    };

    static int Bits(UnicodeCategory category) => 1 << (int)category;

    static bool IsHexadecimal(int code) => code is >= '0' and <= '9' or >= 'a' and <= 'f' or >= 'A' and <= 'F';

    BadInputException Unsupported(string what)
    {
        string shown = expression.Length <= 80 ? expression : expression[..80] + "…";
        return new BadInputException($"The expression {shown} holds {what} at character {at}, which Scalpel's tokenizer does not read.");
    }
}
