using System.Globalization;
using Scalpel.Lab.Parity;
using Scalpel.Networks;
using Scalpel.Tests;

namespace Scalpel.Lab.Tests.Parity;

public sealed class NumericsTableTests
{
    [Fact]
    public void TheDocumentedErrorsCoverEveryFamilyAndStillHold()
    {
        Dictionary<string, double[]> documented = File.ReadLines(Path.Combine(Repository.Root, "docs", "numerics.md"))
            .Where(line => line.StartsWith("| ", StringComparison.Ordinal) && !line.StartsWith("| arch", StringComparison.Ordinal))
            .Select(line => line.Split('|', StringSplitOptions.TrimEntries | StringSplitOptions.RemoveEmptyEntries))
            .ToDictionary(cells => cells[0], cells => cells[1..].Select(cell => double.Parse(cell, CultureInfo.InvariantCulture)).ToArray());
        // No golden case has a Backpack; BackpackTests hold it to its formulas.
        documented.Keys.ShouldBe(DecoderConfig.Families.Where(family => family != "backpack"), ignoreOrder: true);
        foreach (NumericsRow row in NumericsTable.Measure([Repository.Reference("decoders")]))
        {
            // Machines differ in the order of sums, so the last bits do.
            row.Float32.ShouldBeLessThan(3 * documented[row.Family][2], row.Family);
            row.Float64.ShouldBeLessThan(3 * documented[row.Family][3], row.Family);
            row.BFloat16.ShouldBeLessThan(3 * documented[row.Family][4], row.Family);
        }
    }
}
