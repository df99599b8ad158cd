using System.Globalization;
using Scalpel.Checkpoints;
using Scalpel.Networks;
using TorchSharp;
using static TorchSharp.torch;

namespace Scalpel.Lab.Parity;

/// <summary>Numerical error of a decoder family's logits, over all of its golden cases.</summary>
/// <param name="Family">The <c>model_type</c>.</param>
/// <param name="Cases">Cases with logits.</param>
/// <param name="Spread">Root mean square of the expected logits.</param>
/// <param name="Float32">Largest difference of float32 logits from the reference's float32 logits.</param>
/// <param name="Float64">The same of float64 arithmetic: what remains is the reference's own rounding.</param>
/// <param name="BFloat16">Largest difference of bfloat16 logits from the reference's float32 logits.</param>
/// <param name="BFloat16Mean">Root mean square of that difference.</param>
public sealed record NumericsRow(string Family, int Cases, double Spread, double Float32, double Float64, double BFloat16, double BFloat16Mean);

/// <summary>The table of numerical error per architecture and type of arithmetic, measured on the golden cases of decoders.</summary>
public static class NumericsTable
{
    /// <summary>Measures all decoder cases below the given folders that hold plain logits in float32.</summary>
    public static IReadOnlyList<NumericsRow> Measure(IReadOnlyList<string> paths)
    {
        var rows = new SortedDictionary<string, List<NumericsRow>>(StringComparer.Ordinal);
        foreach (ParityCase parityCase in ParityRunner.Find(paths).Select(ParityCase.Load))
        {
            if (parityCase.Kind != "decoder" || parityCase.Options["dtype"]?.GetValue<string>() != "float32" || parityCase.Options["edits"] is not null || !parityCase.Has("model"))
            {
                continue;
            }

            using var expected = SafeTensorsFile.Open(parityCase.PathOf("expected"));
            if (expected.Entries.ContainsKey("logits") && Measure(parityCase, expected) is { } row)
            {
                (rows.TryGetValue(row.Family, out List<NumericsRow>? list) ? list : rows[row.Family] = []).Add(row);
            }
        }

        return [.. rows.Values.Select(list => new NumericsRow(list[0].Family, list.Count, list.Max(row => row.Spread), list.Max(row => row.Float32), list.Max(row => row.Float64),
            list.Max(row => row.BFloat16), list.Max(row => row.BFloat16Mean)))];
    }

    /// <summary>A page in Markdown.</summary>
    public static string Page(IReadOnlyList<NumericsRow> rows)
    {
        var page = new System.Text.StringBuilder("""
            # Numerical error

            Logits of the golden cases (`tests/Reference/decoders`, tiny models with random weights, made by transformers in float32) computed by Scalpel in three types of arithmetic. Each figure is the largest over the family's cases and all valid positions; `spread` is the root mean square of the logits, to read the differences by. The float64 column shows the reference's own rounding: Scalpel's float32 is as close to the truth when the two columns are alike. In bfloat16 the weights are rounded too, and rounding can send a token of mixtral to another expert.

            Made by `scalpel parity tests/Reference/decoders --numerics docs/numerics.md`; the tests measure again and hold the figures.

            | architecture | cases | spread | float32, largest | float64, largest | bfloat16, largest | bfloat16, rms |
            |---|---|---|---|---|---|---|

            """);
        foreach (NumericsRow row in rows)
        {
            page.AppendLine(string.Create(CultureInfo.InvariantCulture,
                $"| {row.Family} | {row.Cases} | {row.Spread:0.00} | {row.Float32:0.0e+0} | {row.Float64:0.0e+0} | {row.BFloat16:0.0e+0} | {row.BFloat16Mean:0.0e+0} |"));
        }

        return page.ToString().ReplaceLineEndings("\n");
    }

    static NumericsRow? Measure(ParityCase parityCase, SafeTensorsFile expected)
    {
        using var scope = NewDisposeScope();
        using var noGrad = no_grad();
        using var inputs = SafeTensorsFile.Open(parityCase.PathOf("inputs"));
        Tensor truth = expected.Read("logits"), ids = inputs.Read("input_ids");
        Tensor? mask = inputs.Entries.ContainsKey("attention_mask") ? inputs.Read("attention_mask") : null;
        string? family = null;
        double spread = Math.Sqrt(truth.square().mean().ToDouble());
        (double Largest, double Mean) Error(ScalarType type)
        {
            using Decoder model = Decoder.Load(parityCase.PathOf("model"), type);
            family = model.Config.Head == HeadKind.LanguageModel ? model.Config.ModelType : null;
            if (family is null)
            {
                return (0, 0);
            }

            Tensor error = model.Forward(ids, mask).to_type(ScalarType.Float64) - truth.to_type(ScalarType.Float64);
            error = mask is null ? error : error * mask.unsqueeze(-1).ne(0).to_type(ScalarType.Float64);
            return (error.abs().max().ToDouble(), Math.Sqrt(error.square().mean().ToDouble()));
        }

        (double f32, _) = Error(ScalarType.Float32);
        (double f64, _) = Error(ScalarType.Float64);
        (double bf16, double mean) = Error(ScalarType.BFloat16);
        return family is null ? null : new NumericsRow(family, 1, spread, f32, f64, bf16, mean);
    }
}
