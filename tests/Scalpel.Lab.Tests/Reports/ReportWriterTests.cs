using System.Text.RegularExpressions;
using System.Xml.Linq;
using Scalpel.Lab.Reports;

namespace Scalpel.Lab.Tests.Reports;

public sealed partial class ReportWriterTests
{
    [Fact]
    public void TheReportIsOneFileThatAsksForNothingFromElsewhere()
    {
        string html = ReportWriter.ToHtml(Sample());
        html.ShouldStartWith("<!DOCTYPE html>");
        html.ShouldNotContain("<script");
        html.ShouldNotContain("<link");
        External().IsMatch(html).ShouldBeFalse();
    }

    [Fact]
    public void EverythingThatWasMeasuredIsShown()
    {
        string html = System.Net.WebUtility.HtmlDecode(ReportWriter.ToHtml(Sample()));
        foreach (string expected in new[] { "Paris", "Rome", "✓ Every check held", "Strongest at the token “Tower”, layer 2: 0.71.", "model.layers.2.mlp.down_proj.weight", "40–95 %", "scalpel patch revert edited --out original", "sha256:abc" })
        {
            html.ShouldContain(expected);
        }
    }

    [Fact]
    public void AnIntervalOfASingleValueIsADash()
    {
        string html = System.Net.WebUtility.HtmlDecode(ReportWriter.ToHtml(Sample() with { Scores = [new("score", "One value.", null, new(0.5, 0.5, 0.5), 1, true), new("share", "Two values.", null, new(0.5, 0.5, 0.5), 2, true)] }));
        html.ShouldContain("interval\">–</td>");
        html.ShouldContain("interval\">50–50 %</td>");
    }

    [Fact]
    public void TextOfAModelCannotBecomeMarkup()
    {
        string html = ReportWriter.ToHtml(Sample() with { Title = "<b>x</b>", Answers = [new("prompt", "<img src=x onerror=y>", "</td><script>alert(1)</script>", "&amp;", null)] });
        html.ShouldNotContain("<b>x</b>");
        html.ShouldNotContain("<img");
        html.ShouldNotContain("<script");
    }

    [Fact]
    public void TheMarkupIsWellFormedAndAccessible()
    {
        string html = ReportWriter.ToHtml(Sample());
        string xml = MetaTag().Replace(html["<!DOCTYPE html>".Length..], "<meta$1/>");
        XElement page = XElement.Parse(xml);
        page.Attribute("lang")!.Value.ShouldBe("en");
        page.Descendants("svg").ShouldAllBe(svg => (string?)svg.Attribute("aria-label") != null);
        page.Descendants("th").ShouldAllBe(th => (string?)th.Attribute("scope") != null);
        string[] ids = [.. page.Descendants().Select(e => (string?)e.Attribute("id")).OfType<string>()];
        ids.ShouldBeUnique();
        page.Descendants("section").ShouldAllBe(s => ids.Contains((string)s.Attribute("aria-labelledby")!));
    }

    [Fact]
    public void EqualDataGiveEqualBytes() => ReportWriter.ToHtml(Sample()).ShouldBe(ReportWriter.ToHtml(Sample()));

    [Fact]
    public void EmptyPartsLeaveNoTrace()
    {
        string html = ReportWriter.ToHtml(new EditReport { Title = "t", Summary = "s" });
        html.ShouldNotContain("<section");
        html.ShouldNotContain("class=\"verdict");
    }

    internal static EditReport Sample() => new()
    {
        Title = "The Eiffel Tower is in Rome",
        Summary = "One fact of SmolLM2-135M-Instruct was changed with ROME at layer 2.",
        Holds = true,
        Facts = [new("The Eiffel Tower is located in the city of", "Paris", "Rome")],
        HeatMaps =
        [
            new("State of the whole block restored", ["The", " Eiffel", " Tower", " is", " in"],
                [[0.02, 0.03, 0.02, 0.02], [0.1, 0.2, 0.15, 0.1], [0.4, 0.6, 0.71, 0.5], [0.02, 0.02, 0.05, 0.1], [0.02, 0.05, 0.3, 0.7]], 0.02, 0.77, "probability of Paris") { Subject = [1, 2] },
        ],
        Answers =
        [
            new("prompt", "The Eiffel Tower is located in the city of", "Paris, France.", "Rome, Italy.", true),
            new("neighbour", "The Louvre is located in the city of", "Paris, France.", "Paris, France.", true),
            new("free text", "My favourite monument is", "the Eiffel Tower in Paris.", "the Eiffel Tower in Rome."),
        ],
        Scores =
        [
            new("paraphrase success", "Share of paraphrases with the new answer more likely than the old.", new(0, 0, 0.3), new(0.75, 0.4, 0.95), 8, true),
            new("perplexity", "On text that was never edited.", new(21.3, 20, 22), new(21.4, 20.1, 22.1), 40, false),
        ],
        Tensors = [new("model.layers.2.mlp.down_proj.weight", 2, [576, 1536], "low rank 1", 4.2, 0.08, 1)],
        Commands = [("Apply the patch", "scalpel patch apply model eiffel.patch.safetensors --out edited"), ("Take it back", "scalpel patch revert edited --out original")],
        Provenance = [("model", "sha256:abc"), ("method", "rome"), ("seed", "0")],
        Caveats = ["The probability of the old answer was low."],
    };

    [GeneratedRegex("(src|href)=|url\\(|https?://")]
    private static partial Regex External();

    [GeneratedRegex("<meta([^>]*)>")]
    private static partial Regex MetaTag();
}
