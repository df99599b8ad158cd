using Scalpel.Lab.Parity.Methods;

namespace Scalpel.Lab.Parity;

/// <summary>Cases of one of the methods, named under <c>method</c>.</summary>
interface IMethodCase
{
    /// <summary>The names under <c>method</c> that this one computes.</summary>
    IReadOnlyList<string> Names { get; }

    /// <summary>Computes the case into tensors by their expected names.</summary>
    void Run(MethodCase methodCase);
}

/// <summary>Official implementations of methods: every intermediate figure of an edit, and what it changes.</summary>
public sealed class MethodParity : IParityKind
{
    static readonly IReadOnlyDictionary<string, IMethodCase> Cases =
        (from type in typeof(IMethodCase).Assembly.GetTypes()
         where type is { IsClass: true, IsAbstract: false } && type.IsAssignableTo(typeof(IMethodCase))
         let made = (IMethodCase)Activator.CreateInstance(type)!
         from name in made.Names
         select (name, made)).ToDictionary(pair => pair.name, pair => pair.made, StringComparer.Ordinal);

    /// <inheritdoc/>
    public string Kind => "method";

    /// <inheritdoc/>
    public string? Unsupported(ParityCase parityCase) =>
        Name(parityCase) is var name && Cases.ContainsKey(name) ? null : $"cases of the method '{name}' are not known here";

    /// <inheritdoc/>
    public void Run(ParityCase parityCase, Comparison comparison)
    {
        using var methodCase = new MethodCase(parityCase, comparison);
        Cases[Name(parityCase)].Run(methodCase);
        methodCase.Finish();
    }

    static string Name(ParityCase parityCase) =>
        parityCase.Json["method"]?.ToString() ?? throw new BadInputException($"{parityCase.Folder}/case.json has no string 'method'.");
}
