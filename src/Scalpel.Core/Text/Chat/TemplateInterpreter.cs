using System.Text;

namespace Scalpel.Text.Chat;

/// <summary>Names and what they stand for; a scope sees those around it and assigns only its own.</summary>
sealed class Scope(Scope? outer)
{
    readonly Dictionary<string, object?> names = new(StringComparer.Ordinal);

    public object? this[string name]
    {
        set => names[name] = value;
    }

    public object? Find(string name)
    {
        for (Scope? scope = this; scope is not null; scope = scope.Outer)
        {
            if (scope.Names.TryGetValue(name, out object? value))
            {
                return value;
            }
        }

        return new Undefined(name);
    }

    Scope? Outer => outer;

    Dictionary<string, object?> Names => names;
}

/// <summary>Runs the statements of a template within limits of steps and output. Nothing of a template can reach beyond its values.</summary>
sealed class TemplateInterpreter
{
    /// <summary>Most characters that a template may give out, or put together on the way.</summary>
    public const int MostOutput = 1 << 20;

    const int MostSteps = 2_000_000, MostCalls = 40;

    int steps, calls;

    enum Flow
    {
        Next,
        Break,
        Continue,
    }

    public string Run(List<Statement> body, Scope scope)
    {
        var output = new StringBuilder();
        Execute(body, scope, output);
        return output.ToString();
    }

    Flow Execute(List<Statement> body, Scope scope, StringBuilder output)
    {
        foreach (Statement statement in body)
        {
            Flow flow = Execute(statement, scope, output);
            if (flow != Flow.Next)
            {
                return flow;
            }
        }

        return Flow.Next;
    }

    Flow Execute(Statement statement, Scope scope, StringBuilder output)
    {
        Step(statement.Line);
        switch (statement)
        {
            case TextOutput text:
                Append(output, text.Text, text.Line);
                break;
            case Output value:
                Append(output, TemplateValues.Text(Evaluate(value.Value, scope)), value.Line);
                break;
            case Condition condition:
                foreach ((Expression test, List<Statement> branch) in condition.Branches)
                {
                    if (TemplateValues.IsTrue(Evaluate(test, scope)))
                    {
                        return Execute(branch, scope, output);
                    }
                }

                return Execute(condition.Else, scope, output);
            case Group group:
                return Execute(group.Body, scope, output);
            case Loop loop:
                Iterate(loop, scope, output);
                break;
            case Assignment assignment:
                Assign(assignment, scope);
                break;
            case BlockAssignment block:
                var inner = new StringBuilder();
                Execute(block.Body, new Scope(scope), inner);
                scope[block.Name] = inner.ToString();
                break;
            case MacroDefinition macro:
                scope[macro.Name] = (Callable)((positional, named) => Invoke(macro, scope, positional, named));
                break;
            case Jump jump:
                return jump.Break ? Flow.Break : Flow.Continue;
        }

        return Flow.Next;
    }

    void Iterate(Loop loop, Scope scope, StringBuilder output)
    {
        List<object?> items = Sequence(Evaluate(loop.Over, scope), loop.Line);
        if (loop.Filter is not null)
        {
            items = items.FindAll(item =>
            {
                var test = new Scope(scope);
                Bind(loop.Names, item, test, loop.Line);
                return TemplateValues.IsTrue(Evaluate(loop.Filter, test));
            });
        }

        for (int i = 0; i < items.Count; i++)
        {
            Step(loop.Line, 4);
            var inner = new Scope(scope);
            Bind(loop.Names, items[i], inner, loop.Line);
            inner["loop"] = LoopState(items, i);
            if (Execute(loop.Body, inner, output) == Flow.Break)
            {
                break;
            }
        }

        if (items.Count == 0)
        {
            Execute(loop.Else, new Scope(scope), output);
        }
    }

    static OrderedDictionary<string, object?> LoopState(List<object?> items, int i) => new(StringComparer.Ordinal)
    {
        ["index"] = (long)i + 1,
        ["index0"] = (long)i,
        ["first"] = i == 0,
        ["last"] = i == items.Count - 1,
        ["length"] = (long)items.Count,
        ["revindex"] = (long)items.Count - i,
        ["revindex0"] = (long)items.Count - i - 1,
        ["previtem"] = i > 0 ? items[i - 1] : new Undefined("loop.previtem"),
        ["nextitem"] = i + 1 < items.Count ? items[i + 1] : new Undefined("loop.nextitem"),
        ["cycle"] = (Callable)((values, _) => values.Count == 0 ? null : values[i % values.Count]),
    };

    void Assign(Assignment assignment, Scope scope)
    {
        object? value = Evaluate(assignment.Value, scope);
        if (assignment.Member is null)
        {
            Bind(assignment.Names, value, scope, assignment.Line);
        }
        else if (scope.Find(assignment.Names[0]) is Namespace space)
        {
            space.Members[assignment.Member] = value;
        }
        else
        {
            throw TemplateError.At(assignment.Line, $"'{assignment.Names[0]}' is no namespace, so its members cannot be set.");
        }
    }

    static void Bind(List<string> names, object? value, Scope scope, int line)
    {
        if (names.Count == 1)
        {
            scope[names[0]] = value;
            return;
        }

        if (value is not List<object?> parts || parts.Count != names.Count)
        {
            throw TemplateError.At(line, $"{TemplateValues.KindOf(value)} cannot be taken apart into {names.Count} names.");
        }

        for (int i = 0; i < names.Count; i++)
        {
            scope[names[i]] = parts[i];
        }
    }

    string Invoke(MacroDefinition macro, Scope scope, IReadOnlyList<object?> positional, IReadOnlyDictionary<string, object?> named)
    {
        if (++calls > MostCalls)
        {
            throw TemplateError.At(macro.Line, $"macros call one another more than {MostCalls} deep.");
        }

        if (positional.Count > macro.Parameters.Count || named.Keys.Any(name => macro.Parameters.TrueForAll(parameter => parameter.Name != name)))
        {
            throw TemplateError.At(macro.Line, $"the macro {macro.Name} is called with arguments that it does not have.");
        }

        var inner = new Scope(scope);
        for (int i = 0; i < macro.Parameters.Count; i++)
        {
            (string name, Expression? absent) = macro.Parameters[i];
            inner[name] = i < positional.Count ? positional[i]
                : named.TryGetValue(name, out object? value) ? value
                : absent is not null ? Evaluate(absent, inner)
                : new Undefined(name);
        }

        var output = new StringBuilder();
        Execute(macro.Body, inner, output);
        calls--;
        return output.ToString();
    }

    object? Evaluate(Expression expression, Scope scope)
    {
        Step(expression.Line);
        switch (expression)
        {
            case Literal literal:
                return literal.Value;
            case Variable variable:
                return scope.Find(variable.Name);
            case ListLiteral list:
                return list.Items.ConvertAll(item => Evaluate(item, scope));
            case MapLiteral map:
                var result = new OrderedDictionary<string, object?>(StringComparer.Ordinal);
                foreach ((Expression key, Expression value) in map.Items)
                {
                    result[TemplateValues.Text(Evaluate(key, scope))] = Evaluate(value, scope);
                }

                return result;
            case Member member:
                object? owner = Defined(Evaluate(member.Target, scope), member.Line);
                return TemplateMembers.Get(owner, member.Name);
            case Item item:
                return TemplateMembers.Get(Defined(Evaluate(item.Target, scope), item.Line), Evaluate(item.Key, scope), item.Line);
            case Slice slice:
                return TemplateMembers.Cut(Defined(Evaluate(slice.Target, scope), slice.Line), Index(slice.From, scope), Index(slice.To, scope), Index(slice.Step, scope), slice.Line);
            case Call call:
                return CallFunction(call, scope);
            case FilterCall filter:
                return Limited(TemplateFilters.Apply(filter.Name, Evaluate(filter.Target, scope), Positional(filter.Arguments, scope), Named(filter.Arguments, scope), filter.Line), filter.Line);
            case TestCall test:
                return TemplateFilters.Test(test.Name, Evaluate(test.Target, scope), Positional(test.Arguments, scope), test.Line) != test.Negated;
            case Unary unary:
                return Evaluate(unary, scope);
            case Binary binary:
                return Limited(Evaluate(binary, scope), binary.Line);
            case Comparison comparison:
                return Compare(comparison, scope);
            case Conditional conditional:
                return TemplateValues.IsTrue(Evaluate(conditional.Test, scope))
                    ? Evaluate(conditional.Then, scope)
                    : conditional.Else is null ? new Undefined("the missing else") : Evaluate(conditional.Else, scope);
            default:
                throw TemplateError.At(expression.Line, "an expression of this kind is not supported.");
        }
    }

    object? CallFunction(Call call, Scope scope)
    {
        List<object?> positional = Positional(call.Arguments, scope);
        Dictionary<string, object?> named = Named(call.Arguments, scope);
        if (call.Target is Member method)
        {
            object? owner = Defined(Evaluate(method.Target, scope), method.Line);
            if (TemplateMembers.Get(owner, method.Name) is Callable own)
            {
                return Limited(own(positional, named), call.Line);
            }

            return Limited(TemplateMembers.Call(owner, method.Name, positional, named, call.Line), call.Line);
        }

        object? function = Evaluate(call.Target, scope);
        if (function is not Callable callable)
        {
            string name = call.Target is Variable variable ? $"'{variable.Name}'" : TemplateValues.KindOf(function);
            throw TemplateError.At(call.Line, $"{name} is no function that Scalpel's templates have.");
        }

        try
        {
            return Limited(callable(positional, named), call.Line);
        }
        catch (InvalidCastException)
        {
            throw TemplateError.At(call.Line, "a function is called with arguments of the wrong kind.");
        }
    }

    object Evaluate(Unary unary, Scope scope)
    {
        object? value = Evaluate(unary.Operand, scope);
        return (unary.Operator, value) switch
        {
            ("not", _) => !TemplateValues.IsTrue(value),
            ("-", long whole) => -whole,
            ("-", double number) => -number,
            ("+", long or double) => value,
            _ => throw TemplateError.At(unary.Line, $"{unary.Operator} cannot be applied to {TemplateValues.KindOf(value)}."),
        };
    }

    object? Evaluate(Binary binary, Scope scope)
    {
        object? left = Evaluate(binary.Left, scope);
        if (binary.Operator is "and" or "or")
        {
            return TemplateValues.IsTrue(left) == (binary.Operator == "or") ? left : Evaluate(binary.Right, scope);
        }

        object? right = Evaluate(binary.Right, scope);
        if (binary.Operator == "~")
        {
            return TemplateValues.Text(left) + TemplateValues.Text(right);
        }

        return TemplateArithmetic.Apply(binary.Operator, left, right)
            ?? throw TemplateError.At(binary.Line, $"{TemplateValues.KindOf(left)} {binary.Operator} {TemplateValues.KindOf(right)} has no meaning.");
    }

    bool Compare(Comparison comparison, Scope scope)
    {
        object? left = Evaluate(comparison.First, scope);
        foreach ((string op, Expression next) in comparison.Rest)
        {
            object? right = Evaluate(next, scope);
            if (!TemplateArithmetic.Holds(op, left, right, comparison.Line))
            {
                return false;
            }

            left = right;
        }

        return true;
    }

    List<object?> Positional(Arguments arguments, Scope scope) => arguments.Positional.ConvertAll(argument => Evaluate(argument, scope));

    Dictionary<string, object?> Named(Arguments arguments, Scope scope)
    {
        var named = new Dictionary<string, object?>(StringComparer.Ordinal);
        foreach ((string name, Expression value) in arguments.Named)
        {
            named[name] = Evaluate(value, scope);
        }

        return named;
    }

    long? Index(Expression? expression, Scope scope) => expression is null ? null : Evaluate(expression, scope) switch
    {
        null => null,
        long whole => whole,
        bool flag => flag ? 1 : 0,
        object other => throw TemplateError.At(expression.Line, $"a slice is bounded by whole numbers, not by {TemplateValues.KindOf(other)}."),
    };

    public static List<object?> Sequence(object? value, int line) => value switch
    {
        List<object?> list => list,
        OrderedDictionary<string, object?> map => [.. map.Keys],
        string text => [.. Pipeline.CodePoints.Of(text).Select(code => (object?)char.ConvertFromUtf32(code))],
        Undefined => [],
        _ => throw TemplateError.At(line, $"{TemplateValues.KindOf(value)} cannot be walked through."),
    };

    static object? Defined(object? value, int line) =>
        value is Undefined undefined ? throw TemplateError.At(line, $"'{undefined.Name}' is not defined, so it has no members.") : value;

    // A large value costs as many steps as it takes to make it.
    object? Limited(object? value, int line)
    {
        int size = value is string text ? text.Length : value is List<object?> list ? list.Count : 0;
        Step(line, size >> 4);
        return size <= MostOutput ? value : throw TemplateError.At(line, $"a value grows beyond {MostOutput} characters or entries.");
    }

    static void Append(StringBuilder output, string text, int line)
    {
        if (output.Length + text.Length > MostOutput)
        {
            throw TemplateError.At(line, $"the output grows beyond {MostOutput} characters.");
        }

        output.Append(text);
    }

    void Step(int line, int count = 1)
    {
        steps += count;
        if (steps > MostSteps)
        {
            throw TemplateError.At(line, $"the template takes more than {MostSteps} steps.");
        }
    }
}

/// <summary>Operators between two values.</summary>
static class TemplateArithmetic
{
    /// <summary>The result; null where the operator has no meaning for these values.</summary>
    public static object? Apply(string op, object? left, object? right)
    {
        if (TemplateValues.Number(left) is { } x && TemplateValues.Number(right) is { } y)
        {
            bool whole = left is long or bool && right is long or bool;
            if (op is "/" or "//" or "%" && y == 0)
            {
                throw new BadInputException("The chat template divides by zero.");
            }

            return whole ? Whole(op, left is long a ? a : (long)x, right is long b ? b : (long)y) : Real(op, x, y);
        }

        return (op, left, right) switch
        {
            ("+", string s, string t) => s + t,
            ("+", List<object?> s, List<object?> t) => (List<object?>)[.. s, .. t],
            ("*", string s, long n) => Repeat(s, n),
            ("*", long n, string s) => Repeat(s, n),
            ("%", string s, _) => Format(s, right),
            _ => null,
        };
    }

    static object? Whole(string op, long a, long b)
    {
        object? Is(long value) => value;
        return op switch
        {
            "+" => Is(unchecked(a + b)),
            "-" => Is(unchecked(a - b)),
            "*" => Is(unchecked(a * b)),
            "//" => Is((long)Math.Floor((double)a / b)),
            "%" => Is(b == -1 ? 0 : ((a % b) + b) % b),
            "**" when b is >= 0 and < 63 => Is((long)Math.Pow(a, b)),
            _ => Real(op, a, b),
        };
    }

    static object? Real(string op, double x, double y) => op switch
    {
        "+" => x + y,
        "-" => x - y,
        "*" => x * y,
        "/" => x / y,
        "//" => Math.Floor(x / y),
        "%" => x - y * Math.Floor(x / y),
        "**" => Math.Pow(x, y),
        _ => (object?)null,
    };

    public static bool Holds(string op, object? left, object? right, int line)
    {
        switch (op)
        {
            case "==":
                return TemplateValues.AreEqual(left, right);
            case "!=":
                return !TemplateValues.AreEqual(left, right);
            case "in":
                return Contains(right, left, line);
            case "not in":
                return !Contains(right, left, line);
        }

        int order = TemplateValues.Number(left) is { } x && TemplateValues.Number(right) is { } y ? x.CompareTo(y)
            : left is string s && right is string t ? string.CompareOrdinal(s, t)
            : throw TemplateError.At(line, $"{TemplateValues.KindOf(left)} {op} {TemplateValues.KindOf(right)} has no meaning.");
        return op switch
        {
            "<" => order < 0,
            "<=" => order <= 0,
            ">" => order > 0,
            _ => order >= 0,
        };
    }

    static bool Contains(object? container, object? value, int line) => container switch
    {
        string text when value is string part => text.Contains(part, StringComparison.Ordinal),
        List<object?> list => list.Exists(item => TemplateValues.AreEqual(item, value)),
        OrderedDictionary<string, object?> map => value is string key && map.ContainsKey(key),
        Undefined => false,
        _ => throw TemplateError.At(line, $"{TemplateValues.KindOf(container)} does not contain anything."),
    };

    static string Repeat(string text, long count) => count <= 0 ? ""
        : count * (double)text.Length > TemplateInterpreter.MostOutput
            ? throw new BadInputException($"The chat template repeats a string beyond {TemplateInterpreter.MostOutput} characters.")
            : new StringBuilder().Insert(0, text, (int)count).ToString();

    // "%s" and "%d" only, which is what templates use.
    static string? Format(string format, object? right)
    {
        List<object?> values = right as List<object?> ?? [right];
        var text = new StringBuilder();
        int next = 0;
        for (int i = 0; i < format.Length; i++)
        {
            if (format[i] != '%' || i + 1 == format.Length)
            {
                text.Append(format[i]);
                continue;
            }

            char kind = format[++i];
            if (kind == '%')
            {
                text.Append('%');
            }
            else if (kind is 's' or 'd' && next < values.Count)
            {
                text.Append(TemplateValues.Text(values[next++]));
            }
            else
            {
                return null;
            }
        }

        return text.ToString();
    }
}
