using System.CommandLine;
using System.Text.Json.Nodes;
using Scalpel.Cli.CommandLine;
using Scalpel.Networks;
using Scalpel.Text;
using TorchSharp;
using static TorchSharp.torch;

namespace Scalpel.Cli.Commands;

/// <summary>How well a model predicts a text: perplexity, and the log-probability of every token.</summary>
sealed class ScoreCommand : CliCommand
{
    readonly Argument<string> model = ModelArgument();
    readonly Option<string> text = new("--text") { Description = "A text file, or - for standard input.", HelpName = "FILE", Required = true };
    readonly Option<string[]> patches = PatchesOption();
    readonly Option<int> window = new("--window") { Description = "Tokens read at once; each window but the first begins with half of the one before as context.", DefaultValueFactory = _ => 1024 };
    readonly Option<bool> tokens = new("--tokens") { Description = "List every token with its log-probability." };
    readonly Option<bool> bf16 = BFloat16Option();

    public ScoreCommand() : base("score", "Perplexity of a text and the log-probability of its tokens.",
        "scalpel score assets/models/smollm2-135m-instruct --text README.md")
    {
        Add(model);
        foreach (Option option in (Option[])[text, patches, window, tokens, bf16])
        {
            Add(option);
        }
    }

    public override void Execute(Invocation call)
    {
        if (call.Get(window) < 2)
        {
            throw new BadInputException($"--window is {call.Get(window)}; a window needs at least 2 tokens.");
        }

        string content = TextFile.Read(call.Get(text));
        using Decoder decoder = Decoder.Load(call.Model(model), DTypeOf(call, bf16));
        using PatchStack applied = PatchStack.Apply(decoder, call.Get(patches));
        int[] ids = decoder.Tokenizer.Encode(content).Ids;
        if (ids.Length < 2)
        {
            throw new BadInputException($"{call.Get(text)} has {ids.Length} tokens; at least 2 are needed, since the first has nothing before it to be predicted from.");
        }

        double[] scores = Score(decoder, ids, Math.Min(call.Get(window), decoder.Config.MaxPositions), call.Context());
        double mean = scores.Average();
        call.Output.Emit(new JsonObject
        {
            ["tokens"] = ids.Length,
            ["scored"] = scores.Length,
            ["mean_log_probability"] = mean,
            ["perplexity"] = Math.Exp(-mean),
            ["bits_per_byte"] = -scores.Sum() / Math.Log(2) / System.Text.Encoding.UTF8.GetByteCount(content),
            ["token_ids"] = call.Get(tokens) ? new JsonArray([.. ids.Select(id => (JsonNode?)id)]) : null,
            ["log_probabilities"] = call.Get(tokens) ? new JsonArray([.. scores.Select(s => (JsonNode?)s)]) : null,
        });
        if (call.Output.Json)
        {
            return;
        }

        for (int i = 0; i < scores.Length && call.Get(tokens); i++)
        {
            call.Output.Line(FormattableString.Invariant($"{scores[i],10:0.0000}  {JsonValue.Create(decoder.Tokenizer.Decode([ids[i + 1]]))!.ToJsonString()}"));
        }

        call.Output.Line(FormattableString.Invariant($"perplexity {Math.Exp(-mean):0.000} over {scores.Length} tokens, mean log-probability {mean:0.0000}"));
    }

    // Every token is scored once, with at least half a window before it where the text has that much.
    static double[] Score(Decoder decoder, int[] ids, int window, RunContext run)
    {
        var scores = new double[ids.Length - 1];
        int done = 0;
        while (done < scores.Length)
        {
            int start = done == 0 ? 0 : Math.Max(0, done + 1 - window / 2), end = Math.Min(ids.Length, start + window);
            using var scope = NewDisposeScope();
            using var noGrad = no_grad();
            Tensor part = tensor(ids[start..end].Select(id => (long)id).ToArray(), [1, end - start]);
            Tensor logits = decoder.Forward(part)[0].narrow(0, 0, end - start - 1).to_type(ScalarType.Float32);
            Tensor chosen = logits.log_softmax(-1).gather(1, part[0].narrow(0, 1, end - start - 1).unsqueeze(1)).squeeze(1).contiguous();
            float[] values = chosen.data<float>().ToArray();
            for (; done < end - 1; done++)
            {
                scores[done] = values[done - start];
            }

            run.Report("scoring", done, scores.Length);
        }

        return scores;
    }
}
