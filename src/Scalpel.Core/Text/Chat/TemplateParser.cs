using System.Globalization;

namespace Scalpel.Text.Chat;

/// <summary>Reads the Jinja of chat templates into statements; what it does not know is an error that names it.</summary>
sealed class TemplateParser(List<TemplateToken> tokens)
{
    const int Deepest = 60;

    int at, depth, loops;

    TemplateToken Current => tokens[at];

    public static List<Statement> Parse(string source)
    {
        var parser = new TemplateParser(TemplateLexer.Read(source));
        List<Statement> body = parser.Body();
        return parser.Current.Kind == TokenKind.End ? body : throw parser.Unexpected();
    }

    /// <summary>Statements up to the end, or to a block that one of the names begins.</summary>
    List<Statement> Body(params string[] ends)
    {
        Enter();
        var body = new List<Statement>();
        while (Current.Kind != TokenKind.End)
        {
            switch (Current.Kind)
            {
                case TokenKind.Text:
                    body.Add(new TextOutput(Current.Text, Current.Line));
                    at++;
                    break;
                case TokenKind.OutputBegin:
                    int line = tokens[at++].Line;
                    body.Add(new Output(Tuple(), line));
                    Expect(TokenKind.OutputEnd);
                    break;
                default:
                    TemplateToken keyword = tokens[at + 1];
                    if (keyword.Kind == TokenKind.Name && ends.Contains(keyword.Text))
                    {
                        depth--;
                        return body;
                    }

                    at++;
                    body.Add(Block());
                    break;
            }
        }

        if (ends.Length > 0)
        {
            throw TemplateError.At(Current.Line, $"the template ends, expected {{% {ends[^1]} %}}.");
        }

        depth--;
        return body;
    }

    Statement Block()
    {
        TemplateToken keyword = Expect(TokenKind.Name);
        switch (keyword.Text)
        {
            case "if":
                return If(keyword.Line);
            case "for":
                return For(keyword.Line);
            case "set":
                return Set(keyword.Line);
            case "macro":
                return Macro(keyword.Line);
            case "generation":
                Expect(TokenKind.BlockEnd);
                List<Statement> body = Body("endgeneration");
                End("endgeneration");
                return new Group(body, keyword.Line);
            case "break" or "continue" when loops > 0:
                Expect(TokenKind.BlockEnd);
                return new Jump(keyword.Text == "break", keyword.Line);
            default:
                throw TemplateError.At(keyword.Line, $"the statement '{keyword.Text}' is not supported here.");
        }
    }

    Condition If(int line)
    {
        var branches = new List<(Expression, List<Statement>)>();
        List<Statement> otherwise = [];
        Expression test = Tuple();
        Expect(TokenKind.BlockEnd);
        while (true)
        {
            branches.Add((test, Body("elif", "else", "endif")));
            if (TakeBlock("elif"))
            {
                test = Tuple();
                Expect(TokenKind.BlockEnd);
                continue;
            }

            if (TakeBlock("else"))
            {
                Expect(TokenKind.BlockEnd);
                otherwise = Body("endif");
            }

            End("endif");
            return new Condition(branches, otherwise, line);
        }
    }

    Loop For(int line)
    {
        List<string> names = Names();
        if (!TakeName("in"))
        {
            throw Unexpected("'in'");
        }

        // The ternary's if would swallow the loop's own filter.
        Expression over = TupleOf(Or);
        Expression? filter = TakeName("if") ? Expression() : null;
        if (Current.IsName("recursive"))
        {
            throw TemplateError.At(line, "recursive loops are not supported.");
        }

        Expect(TokenKind.BlockEnd);
        loops++;
        List<Statement> body = Body("else", "endfor"), otherwise = [];
        loops--;
        if (TakeBlock("else"))
        {
            Expect(TokenKind.BlockEnd);
            otherwise = Body("endfor");
        }

        End("endfor");
        return new Loop(names, over, filter, body, otherwise, line);
    }

    Statement Set(int line)
    {
        List<string> names = Names();
        string? member = null;
        if (TakeOperator("."))
        {
            member = Expect(TokenKind.Name).Text;
        }

        if (TakeOperator("="))
        {
            Expression value = Tuple();
            Expect(TokenKind.BlockEnd);
            return new Assignment(names, member, value, line);
        }

        if (Current.Kind != TokenKind.BlockEnd || names.Count > 1 || member is not null)
        {
            throw Unexpected("'='");
        }

        at++;
        List<Statement> body = Body("endset");
        End("endset");
        return new BlockAssignment(names[0], body, line);
    }

    MacroDefinition Macro(int line)
    {
        string name = Expect(TokenKind.Name).Text;
        var parameters = new List<(string, Expression?)>();
        Require("(");
        while (!TakeOperator(")"))
        {
            string parameter = Expect(TokenKind.Name).Text;
            parameters.Add((parameter, TakeOperator("=") ? Expression() : null));
            if (!Current.Is(")"))
            {
                Require(",");
            }
        }

        Expect(TokenKind.BlockEnd);
        int outer = loops;
        loops = 0;
        List<Statement> body = Body("endmacro");
        loops = outer;
        End("endmacro");
        return new MacroDefinition(name, parameters, body, line);
    }

    List<string> Names()
    {
        bool parenthesis = TakeOperator("(");
        var names = new List<string> { Expect(TokenKind.Name).Text };
        while (TakeOperator(","))
        {
            names.Add(Expect(TokenKind.Name).Text);
        }

        if (parenthesis)
        {
            Require(")");
        }

        return names;
    }

    // Expressions, from the loosest operator to the tightest

    Expression Tuple() => TupleOf(Expression);

    Expression TupleOf(Func<Expression> part)
    {
        int line = Current.Line;
        Expression first = part();
        if (!Current.Is(","))
        {
            return first;
        }

        var items = new List<Expression> { first };
        while (TakeOperator(",") && Current.Kind is not (TokenKind.BlockEnd or TokenKind.OutputEnd) && !Current.Is(")"))
        {
            items.Add(part());
        }

        return new ListLiteral(items, line);
    }

    Expression Expression()
    {
        Enter();
        int line = Current.Line;
        Expression value = Or();
        while (TakeName("if"))
        {
            Expression test = Or();
            Expression? otherwise = TakeName("else") ? Expression() : null;
            value = new Conditional(test, value, otherwise, line);
        }

        depth--;
        return value;
    }

    Expression Or() => Chain(And, token => token.IsName("or"));

    Expression And() => Chain(Not, token => token.IsName("and"));

    Expression Not()
    {
        int line = Current.Line;
        if (!TakeName("not"))
        {
            return Compare();
        }

        Enter();
        Expression operand = Not();
        depth--;
        return new Unary("not", operand, line);
    }

    Expression Compare()
    {
        int line = Current.Line;
        Expression first = Sum();
        var rest = new List<(string, Expression)>();
        while (true)
        {
            string? op = null;
            if (Current.Kind == TokenKind.Operator && Current.Text is "==" or "!=" or "<" or "<=" or ">" or ">=")
            {
                op = tokens[at++].Text;
            }
            else if (TakeName("in"))
            {
                op = "in";
            }
            else if (Current.IsName("not") && tokens[at + 1].IsName("in"))
            {
                at += 2;
                op = "not in";
            }

            if (op is null)
            {
                return rest.Count == 0 ? first : new Comparison(first, rest, line);
            }

            rest.Add((op, Sum()));
        }
    }

    Expression Sum() => Chain(Concatenation, token => token.Is("+") || token.Is("-"));

    Expression Concatenation() => Chain(Product, token => token.Is("~"));

    Expression Product() => Chain(Power, token => token.Is("*") || token.Is("/") || token.Is("//") || token.Is("%"));

    Expression Power() => Chain(Sign, token => token.Is("**"));

    Expression Sign()
    {
        int line = Current.Line;
        if (Current.Is("-") || Current.Is("+"))
        {
            string op = tokens[at++].Text;
            Enter();
            Expression operand = Sign();
            depth--;
            return new Unary(op, operand, line);
        }

        return Filters(Postfix(Primary()));
    }

    Expression Chain(Func<Expression> part, Func<TemplateToken, bool> isOperator)
    {
        Expression left = part();
        int links = 0;
        while (isOperator(Current))
        {
            if (++links > 500)
            {
                throw TemplateError.At(Current.Line, "an expression has more than 500 operators in a row.");
            }

            TemplateToken op = tokens[at++];
            left = new Binary(op.Text, left, part(), op.Line);
        }

        return left;
    }

    Expression Primary()
    {
        TemplateToken token = tokens[at];
        switch (token.Kind)
        {
            case TokenKind.Name:
                at++;
                return token.Text switch
                {
                    "true" or "True" => new Literal(true, token.Line),
                    "false" or "False" => new Literal(false, token.Line),
                    "none" or "None" => new Literal(null, token.Line),
                    _ => new Variable(token.Text, token.Line),
                };
            case TokenKind.String:
                string text = "";
                while (Current.Kind == TokenKind.String)
                {
                    text += tokens[at++].Text;
                }

                return new Literal(text, token.Line);
            case TokenKind.Integer:
                at++;
                return new Literal(long.Parse(token.Text, CultureInfo.InvariantCulture), token.Line);
            case TokenKind.Float:
                at++;
                return new Literal(double.Parse(token.Text, CultureInfo.InvariantCulture), token.Line);
            case TokenKind.Operator when token.Text is "(" or "[" or "{":
                at++;
                return token.Text switch
                {
                    "(" => Parenthesis(token.Line),
                    "[" => new ListLiteral(Items("]"), token.Line),
                    _ => Map(token.Line),
                };
            default:
                throw Unexpected("an expression");
        }
    }

    Expression Parenthesis(int line)
    {
        if (TakeOperator(")"))
        {
            return new ListLiteral([], line);
        }

        Expression value = Tuple();
        Require(")");
        return value;
    }

    List<Expression> Items(string close)
    {
        var items = new List<Expression>();
        while (!TakeOperator(close))
        {
            items.Add(Expression());
            if (!Current.Is(close))
            {
                Require(",");
            }
        }

        return items;
    }

    MapLiteral Map(int line)
    {
        var items = new List<(Expression, Expression)>();
        while (!TakeOperator("}"))
        {
            Expression key = Expression();
            Require(":");
            items.Add((key, Expression()));
            if (!Current.Is("}"))
            {
                Require(",");
            }
        }

        return new MapLiteral(items, line);
    }

    Expression Postfix(Expression value)
    {
        int mark = depth;
        while (Current.Kind == TokenKind.Operator)
        {
            int line = Current.Line;
            if (TakeOperator("."))
            {
                Enter();
                TemplateToken name = tokens[at++];
                value = name.Kind switch
                {
                    TokenKind.Name => new Member(value, name.Text, line),
                    TokenKind.Integer => new Item(value, new Literal(long.Parse(name.Text, CultureInfo.InvariantCulture), line), line),
                    _ => throw TemplateError.At(line, "a name is expected behind the dot."),
                };
            }
            else if (TakeOperator("["))
            {
                Enter();
                value = Subscript(value, line);
            }
            else if (TakeOperator("("))
            {
                Enter();
                value = new Call(value, CallArguments(), line);
            }
            else
            {
                break;
            }
        }

        depth = mark;
        return value;
    }

    Expression Subscript(Expression target, int line)
    {
        Expression? from = Current.Is(":") ? null : Expression();
        if (TakeOperator("]"))
        {
            return new Item(target, from!, line);
        }

        Require(":");
        Expression? to = Current.Is(":") || Current.Is("]") ? null : Expression(), step = null;
        if (TakeOperator(":"))
        {
            step = Current.Is("]") ? null : Expression();
        }

        Require("]");
        return new Slice(target, from, to, step, line);
    }

    Arguments CallArguments()
    {
        var positional = new List<Expression>();
        var named = new List<(string, Expression)>();
        while (!TakeOperator(")"))
        {
            if (Current.Is("*") || Current.Is("**"))
            {
                throw TemplateError.At(Current.Line, "unpacked arguments are not supported.");
            }

            if (Current.Kind == TokenKind.Name && tokens[at + 1].Is("="))
            {
                string name = Current.Text;
                at += 2;
                named.Add((name, Expression()));
            }
            else
            {
                positional.Add(Expression());
            }

            if (!Current.Is(")"))
            {
                Require(",");
            }
        }

        return new Arguments(positional, named);
    }

    Expression Filters(Expression value)
    {
        int mark = depth;
        while (true)
        {
            int line = Current.Line;
            if (TakeOperator("|"))
            {
                Enter();
                string name = Expect(TokenKind.Name).Text;
                value = new FilterCall(value, name, TakeOperator("(") ? CallArguments() : Arguments.None, line);
            }
            else if (TakeName("is"))
            {
                Enter();
                bool negated = TakeName("not");
                string name = Expect(TokenKind.Name).Text;
                value = new TestCall(value, name, TestArguments(), negated, line);
            }
            else if (TakeOperator("("))
            {
                Enter();
                value = new Call(value, CallArguments(), line);
            }
            else
            {
                depth = mark;
                return value;
            }
        }
    }

    Arguments TestArguments()
    {
        if (TakeOperator("("))
        {
            return CallArguments();
        }

        bool begins = Current.Kind is TokenKind.String or TokenKind.Integer or TokenKind.Float
            || Current.Is("[") || Current.Is("{")
            || (Current.Kind == TokenKind.Name && Current.Text is not ("else" or "or" or "and" or "if" or "is" or "in" or "not"));
        return begins ? new Arguments([Postfix(Primary())], []) : Arguments.None;
    }

    // Tokens

    TemplateToken Expect(TokenKind kind) => Current.Kind == kind ? tokens[at++] : throw Unexpected();

    void Require(string op)
    {
        if (!TakeOperator(op))
        {
            throw Unexpected($"'{op}'");
        }
    }

    bool TakeOperator(string op)
    {
        bool found = Current.Is(op);
        at += found ? 1 : 0;
        return found;
    }

    bool TakeName(string name)
    {
        bool found = Current.IsName(name);
        at += found ? 1 : 0;
        return found;
    }

    bool TakeBlock(string keyword)
    {
        bool found = Current.Kind == TokenKind.BlockBegin && tokens[at + 1].IsName(keyword);
        at += found ? 2 : 0;
        return found;
    }

    void End(string keyword)
    {
        if (!TakeBlock(keyword))
        {
            throw Unexpected($"{{% {keyword} %}}");
        }

        Expect(TokenKind.BlockEnd);
    }

    void Enter()
    {
        if (++depth > Deepest)
        {
            throw TemplateError.At(Current.Line, $"blocks and expressions are nested deeper than {Deepest}.");
        }
    }

    BadInputException Unexpected(string? expected = null)
    {
        string found = Current.Kind switch
        {
            TokenKind.End => "the end of the template",
            TokenKind.BlockEnd => "%}",
            TokenKind.OutputEnd => "}}",
            TokenKind.BlockBegin => $"{{% {tokens[at + 1].Text}",
            _ => $"'{(Current.Text.Length > 30 ? Current.Text[..30] + "…" : Current.Text)}'",
        };
        return TemplateError.At(Current.Line, $"found {found}{(expected is null ? ", which does not belong there" : $", expected {expected}")}.");
    }
}
