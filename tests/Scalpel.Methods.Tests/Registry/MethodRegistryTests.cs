using System.Reflection;
using System.Text.RegularExpressions;
using Scalpel.Methods;

namespace Scalpel.Methods.Tests.Registry;

public sealed partial class MethodRegistryTests
{
    [Fact]
    public void EveryMethodIsDocumentedHasASlugAPaperAndLiesInTheFolderOfItsFamily()
    {
        foreach (MethodDescription method in MethodRegistry.All)
        {
            method.Documentation.ShouldNotBeNullOrWhiteSpace($"{method.Slug} has no summary");
            Slug().IsMatch(method.Slug).ShouldBeTrue(method.Slug);
            Paper().IsMatch(method.Paper).ShouldBeTrue($"{method.Slug}: '{method.Paper}' is no arXiv number");
            method.Type.Namespace.ShouldBe($"Scalpel.Methods.{method.Family}");
            method.Type.IsSealed.ShouldBeTrue($"{method.Slug} is not sealed");
        }

        MethodRegistry.All.Select(m => m.Slug).ShouldBeUnique();
    }

    [Fact]
    public void EveryMethodHasAnOptionsRecordOfItsStemWhoseOptionsAreDocumentedAndHaveDefaults()
    {
        foreach (MethodDescription method in MethodRegistry.All)
        {
            method.OptionsType.Name.ShouldBe(method.Type.Name + "Options");
            foreach (MethodOption option in method.Options)
            {
                option.Documentation.ShouldNotBeNullOrWhiteSpace($"{method.Slug}: option {option.Name} is not documented");
            }

            foreach (PropertyInfo property in method.OptionsType.GetProperties().Where(p => p.SetMethod is not null))
            {
                property.SetMethod!.ReturnParameter.GetRequiredCustomModifiers().ShouldContain(typeof(System.Runtime.CompilerServices.IsExternalInit), $"{method.Slug}: {property.Name} is not init-only");
            }
        }
    }

    [Fact]
    public void EveryMethodIsMadeFromItsDefaultsAndEveryEditorFillsTheEditorsRole()
    {
        foreach (MethodDescription method in MethodRegistry.All)
        {
            object made = method.Create();
            made.ShouldBeOfType(method.Type);
            (made is IEditor).ShouldBe(method.Family == Family.Editing, method.Slug);
            method.Create(method.Resolve()).ShouldBeOfType(method.Type);
        }
    }

    [Fact]
    public void AnUnknownMethodIsAnErrorThatSaysWhereTheListIs() =>
        Should.Throw<BadInputException>(() => MethodRegistry.Find("romee")).Message.ShouldContain("scalpel methods");

    [GeneratedRegex("^[a-z][a-z0-9]*(-[a-z0-9]+)*$")]
    private static partial Regex Slug();

    [GeneratedRegex(@"^\d{4}\.\d{4,5}$")]
    private static partial Regex Paper();
}
