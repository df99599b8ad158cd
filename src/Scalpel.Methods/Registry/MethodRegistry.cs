using System.Reflection;
using System.Text.Json.Nodes;

namespace Scalpel.Methods;

/// <summary>An option of a method as a user sees it.</summary>
/// <param name="Name">Its key in recipes, JSON and <c>--set</c>: snake_case.</param>
/// <param name="Type">Its type in words: "integer", "number", "text", "yes or no", "one of a, b", "list of integer".</param>
/// <param name="Default">Its default in JSON; null for "decided by the method".</param>
/// <param name="Documentation">What it does, with unit and origin of the default.</param>
public sealed record MethodOption(string Name, string Type, JsonNode? Default, string Documentation);

/// <summary>A registered method.</summary>
public sealed class MethodDescription
{
    internal MethodDescription(Type type, MethodAttribute attribute)
    {
        Type = type;
        (Slug, Family, Paper) = (attribute.Slug, attribute.Family, attribute.Paper);
        ConstructorInfo[] constructors = type.GetConstructors();
        ParameterInfo[] parameters = constructors.Length == 1 ? constructors[0].GetParameters() : [];
        if (parameters.Length != 1)
        {
            throw new InvalidOperationException($"{type} must have one public constructor with one parameter, its options record.");
        }

        OptionsType = parameters[0].ParameterType;
    }

    /// <summary>The class.</summary>
    public Type Type { get; }

    /// <summary>The options record.</summary>
    public Type OptionsType { get; }

    /// <summary>Lower-case name.</summary>
    public string Slug { get; }

    /// <summary>What it is for.</summary>
    public Family Family { get; }

    /// <summary>arXiv number of the paper.</summary>
    public string Paper { get; }

    /// <summary>What it does, from the class's documentation.</summary>
    public string Documentation => XmlDocumentation.Of(Type) ?? "";

    /// <summary>Its options with defaults and documentation.</summary>
    public IReadOnlyList<MethodOption> Options => OptionBinder.Describe(OptionsType);

    /// <summary>Whether the method fills a role, for example editor.</summary>
    public bool Is<TRole>() => Type.IsAssignableTo(typeof(TRole));

    /// <summary>The method with the given options; those that are absent keep their defaults.</summary>
    /// <exception cref="BadInputException">An option is unknown (the nearest is named), of another type, or outside its range.</exception>
    public object Create(JsonObject? options = null)
    {
        object bound = OptionBinder.Bind(OptionsType, options ?? [], $"method {Slug}");
        try
        {
            return Activator.CreateInstance(Type, bound)!;
        }
        catch (TargetInvocationException e) when (e.InnerException is BadInputException inner)
        {
            throw new BadInputException(inner.Message, inner);
        }
    }

    /// <summary>All options as they hold in a run: the given ones and the defaults of the rest.</summary>
    public JsonObject Resolve(JsonObject? options = null) => OptionBinder.ToJson(OptionBinder.Bind(OptionsType, options ?? [], $"method {Slug}"));
}

/// <summary>Every method of Scalpel by its name. The command line, recipes and documentation read this one list.</summary>
public static class MethodRegistry
{
    static readonly Lazy<IReadOnlyList<MethodDescription>> Found = new(() =>
    [
        .. from type in typeof(MethodRegistry).Assembly.GetTypes()
           let attribute = type.GetCustomAttribute<MethodAttribute>()
           where attribute is not null
           orderby attribute.Family, attribute.Slug
           select new MethodDescription(type, attribute),
    ]);

    /// <summary>All methods by family and name.</summary>
    public static IReadOnlyList<MethodDescription> All => Found.Value;

    /// <summary>The method of that name.</summary>
    /// <exception cref="BadInputException">There is none; the nearest is named.</exception>
    public static MethodDescription Find(string slug) => All.FirstOrDefault(method => method.Slug == slug)
        ?? throw new BadInputException($"There is no method '{slug}'; {Suggestion(slug, All)}see scalpel methods.");

    /// <summary>The method of that name, made with options, in the role that the caller needs.</summary>
    /// <exception cref="BadInputException">There is none, its options are wrong, or it has another role; the methods of the role are named.</exception>
    public static TRole Create<TRole>(string slug, JsonObject? options = null)
        where TRole : class
    {
        MethodDescription method = Find(slug);
        if (!method.Is<TRole>())
        {
            throw new BadInputException($"Method '{slug}' cannot do this; those that can are {string.Join(", ", All.Where(m => m.Is<TRole>()).Select(m => m.Slug))}.");
        }

        return (TRole)method.Create(options);
    }

    static string Suggestion(string slug, IReadOnlyList<MethodDescription> all) =>
        all.Count == 0 ? "" : $"the nearest is {Nearest.To(slug, all.Select(m => m.Slug))[0]}; ";
}
