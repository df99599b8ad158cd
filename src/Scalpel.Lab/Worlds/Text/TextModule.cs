namespace Scalpel.Lab.Worlds;

/// <summary>
/// A module of the text world: one kind of text with planted truth. One file in Modules/; found by reflection. An item draws
/// from its own generator only, <see cref="TextWorld.Generator"/>.
/// </summary>
public interface ITextModule
{
    /// <summary>Its name on the command line.</summary>
    string Name { get; }

    /// <summary>One sentence: what it is and what is known of it.</summary>
    string Summary { get; }

    /// <summary>Items of a split; null when there is no end.</summary>
    int? Supply(TextWorld world, TextSplit split);

    /// <summary>One item.</summary>
    /// <param name="world">The world.</param>
    /// <param name="split">The split.</param>
    /// <param name="index">Number of the item, from 0, within the supply.</param>
    TextRecord Item(TextWorld world, TextSplit split, int index);
}

/// <summary>The modules by name.</summary>
public static class TextModules
{
    /// <summary>All modules, in order of name.</summary>
    public static IReadOnlyList<ITextModule> All { get; } =
    [
        .. from type in typeof(ITextModule).Assembly.GetTypes()
           where type is { IsAbstract: false, IsClass: true } && type.IsAssignableTo(typeof(ITextModule))
           let module = (ITextModule)Activator.CreateInstance(type, nonPublic: true)!
           orderby module.Name
           select module,
    ];

    /// <summary>The module of a name.</summary>
    /// <exception cref="BadInputException">There is none.</exception>
    public static ITextModule Named(string name) => All.FirstOrDefault(module => module.Name == name)
        ?? throw new BadInputException($"The text world has no module '{name}'; it has {string.Join(", ", All.Select(module => module.Name))} (nearest: {Nearest.To(name, All.Select(module => module.Name))[0]}).");
}
