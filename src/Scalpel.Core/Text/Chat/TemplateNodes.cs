namespace Scalpel.Text.Chat;

/// <summary>An expression of a template.</summary>
abstract record Expression(int Line);

sealed record Literal(object? Value, int Line) : Expression(Line);

sealed record Variable(string Name, int Line) : Expression(Line);

sealed record ListLiteral(List<Expression> Items, int Line) : Expression(Line);

sealed record MapLiteral(List<(Expression Key, Expression Value)> Items, int Line) : Expression(Line);

sealed record Member(Expression Target, string Name, int Line) : Expression(Line);

sealed record Item(Expression Target, Expression Key, int Line) : Expression(Line);

sealed record Slice(Expression Target, Expression? From, Expression? To, Expression? Step, int Line) : Expression(Line);

sealed record Call(Expression Target, Arguments Arguments, int Line) : Expression(Line);

sealed record FilterCall(Expression Target, string Name, Arguments Arguments, int Line) : Expression(Line);

sealed record TestCall(Expression Target, string Name, Arguments Arguments, bool Negated, int Line) : Expression(Line);

sealed record Unary(string Operator, Expression Operand, int Line) : Expression(Line);

sealed record Binary(string Operator, Expression Left, Expression Right, int Line) : Expression(Line);

/// <summary>A chain of comparisons: a &lt; b &lt;= c.</summary>
sealed record Comparison(Expression First, List<(string Operator, Expression Right)> Rest, int Line) : Expression(Line);

sealed record Conditional(Expression Test, Expression Then, Expression? Else, int Line) : Expression(Line);

/// <summary>Arguments of a call, by place and by name.</summary>
sealed record Arguments(List<Expression> Positional, List<(string Name, Expression Value)> Named)
{
    public static Arguments None { get; } = new([], []);
}

/// <summary>A statement of a template.</summary>
abstract record Statement(int Line);

sealed record TextOutput(string Text, int Line) : Statement(Line);

sealed record Output(Expression Value, int Line) : Statement(Line);

sealed record Condition(List<(Expression Test, List<Statement> Body)> Branches, List<Statement> Else, int Line) : Statement(Line);

sealed record Loop(List<string> Names, Expression Over, Expression? Filter, List<Statement> Body, List<Statement> Else, int Line) : Statement(Line);

/// <summary>An assignment to names, or to a member of a namespace.</summary>
sealed record Assignment(List<string> Names, string? Member, Expression Value, int Line) : Statement(Line);

/// <summary>An assignment of what a block gives out.</summary>
sealed record BlockAssignment(string Name, List<Statement> Body, int Line) : Statement(Line);

sealed record MacroDefinition(string Name, List<(string Name, Expression? Default)> Parameters, List<Statement> Body, int Line) : Statement(Line);

/// <summary>Statements without a scope of their own, as {% generation %} encloses them.</summary>
sealed record Group(List<Statement> Body, int Line) : Statement(Line);

sealed record Jump(bool Break, int Line) : Statement(Line);
