using System.Collections.Concurrent;
using System.Reflection;
using System.Text;
using System.Xml.Linq;

namespace Scalpel.Methods;

/// <summary>The summaries of an assembly's members, from the documentation file beside it.</summary>
static class XmlDocumentation
{
    static readonly ConcurrentDictionary<Assembly, IReadOnlyDictionary<string, string>> Files = new();

    /// <summary>A class's summary in one line; null when there is none.</summary>
    public static string? Of(Type type) => Find(type.Assembly, $"T:{type.FullName}");

    /// <summary>A property's summary in one line; null when there is none.</summary>
    public static string? Of(PropertyInfo property) => Find(property.DeclaringType!.Assembly, $"P:{property.DeclaringType.FullName}.{property.Name}");

    static string? Find(Assembly assembly, string member) => Files.GetOrAdd(assembly, Load).GetValueOrDefault(member);

    static IReadOnlyDictionary<string, string> Load(Assembly assembly)
    {
        string file = Path.Combine(AppContext.BaseDirectory, assembly.GetName().Name + ".xml");
        return !File.Exists(file)
            ? new Dictionary<string, string>()
            : XDocument.Load(file).Descendants("member")
                .Where(member => member.Element("summary") is not null)
                .ToDictionary(member => (string)member.Attribute("name")!, member => Plain(member.Element("summary")!));
    }

    static string Plain(XElement summary)
    {
        var text = new StringBuilder();
        foreach (XNode node in summary.DescendantNodes())
        {
            text.Append(node switch
            {
                XText words => words.Value,
                XElement { Name.LocalName: "see" } see => ((string?)see.Attribute("cref") ?? (string?)see.Attribute("langword") ?? "").Split('.', ':')[^1],
                XElement { Name.LocalName: "paramref" } parameter => (string?)parameter.Attribute("name"),
                XElement { Name.LocalName: "para" } => " ",
                _ => "",
            });
        }

        return string.Join(' ', text.ToString().Split((char[]?)null, StringSplitOptions.RemoveEmptyEntries));
    }
}
