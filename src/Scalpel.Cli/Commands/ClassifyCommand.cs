using System.CommandLine;
using System.Globalization;
using System.Text.Json.Nodes;
using Scalpel.Checkpoints;
using Scalpel.Cli.CommandLine;
using Scalpel.Cli.Output;
using Scalpel.Networks;
using Scalpel.Text;
using TorchSharp;
using static TorchSharp.torch;

namespace Scalpel.Cli.Commands;

/// <summary>Labels of texts, or of their tokens, by a model with a classifier.</summary>
sealed class ClassifyCommand : CliCommand
{
    readonly Argument<string> model = ModelArgument();
    readonly Argument<string[]> texts = new("TEXT") { Description = "Texts, each in quotes.", Arity = ArgumentArity.ZeroOrMore };
    readonly Option<string?> file = new("--text") { Description = "A text file with one text a line, or - for standard input; with --pair a tab lies between the two.", HelpName = "FILE" };
    readonly Option<bool> pair = new("--pair") { Description = "Texts are pairs, such as premise and hypothesis: two arguments each." };
    readonly Option<string[]> patches = PatchesOption();
    readonly Option<bool> bf16 = BFloat16Option();

    public ClassifyCommand() : base("classify", "Labels texts, or their tokens, by a model with a classifier.",
        "scalpel classify my-classifier \"a good film\" \"a bad film\"",
        "scalpel classify my-classifier --pair \"a cat sleeps\" \"an animal sleeps\"")
    {
        Add(model);
        Add(texts);
        foreach (Option option in (Option[])[file, pair, patches, bf16])
        {
            Add(option);
        }
    }

    public override void Execute(Invocation call)
    {
        (string First, string? Second)[] items = Texts(call);
        Checkpoint checkpoint = Checkpoint.Open(call.Model(model));
        bool encodes = EncoderConfig.Families.Contains(checkpoint.Config["model_type"]?.ToString() ?? "");
        using Network network = encodes ? Encoder.Load(checkpoint, DTypeOf(call, bf16)) : Decoder.Load(checkpoint, DTypeOf(call, bf16));
        bool ofTokens = OfTokens(network, call.Get(model));
        if (ofTokens && call.Get(pair))
        {
            throw new BadInputException($"{call.Get(model)} labels tokens; --pair is for models that label texts.");
        }

        using PatchStack applied = PatchStack.Apply(network, call.Get(patches));
        Tokenizer tokenizer = Tokenizer.Load(checkpoint);
        for (int i = 0; i < items.Length; i++)
        {
            call.Cancellation.ThrowIfCancellationRequested();
            (string first, string? second) = items[i];
            TokenizedText tokens = second is null ? tokenizer.Encode(first) : tokenizer.EncodePair(first, second);
            if (tokens.Count == 0)
            {
                throw new BadInputException($"Text {i + 1} has no tokens; a text is expected.");
            }

            using var scope = NewDisposeScope();
            using var noGrad = no_grad();
            Tensor logits = Classify(network, tokens, i).to_type(ScalarType.Float32);
            string[] labels = Labels(network.ConfigJson, (int)logits.shape[^1]);
            if (ofTokens)
            {
                ShowTokens(call, i, first, tokens, logits[0], labels);
            }
            else
            {
                ShowText(call, i, first, second, logits[0], labels, network.ConfigJson["problem_type"]?.ToString());
            }
        }
    }

    (string, string?)[] Texts(Invocation call)
    {
        string? path = call.Get(file);
        string[] all = TextFile.GivenOrLines(call.Get(texts), path, "text");
        return !call.Get(pair) ? [.. all.Select(text => (text, (string?)null))]
            : path is not null ? [.. all.Select((line, i) => line.Split('\t') is [var first, var second] ? (first, (string?)second)
                : throw new BadInputException($"{path}, line {i + 1}: two texts with a tab between them are expected."))]
            : all.Length % 2 == 0 ? [.. all.Chunk(2).Select(two => (two[0], (string?)two[1]))]
            : throw new BadInputException($"--pair takes texts two at a time; {all.Length} are given.");
    }

    static bool OfTokens(Network network, string name) => network switch
    {
        Encoder { Config.Task: EncoderTask.SequenceClassification } or Decoder { Config.Head: HeadKind.SequenceClassification } => false,
        Encoder { Config.Task: EncoderTask.TokenClassification } or Decoder { Config.Head: HeadKind.TokenClassification } => true,
        _ => throw new BadInputException($"{name} has no classifier; a model whose architecture ends in ForSequenceClassification or ForTokenClassification is expected."),
    };

    static Tensor Classify(Network network, TokenizedText tokens, int index)
    {
        int most = network is Encoder { Config.MaxTokens: var of } ? of : ((Decoder)network).Config.MaxPositions;
        if (tokens.Count > most)
        {
            throw new BadInputException($"Text {index + 1} has {tokens.Count} tokens, the model reads {most}; shorten it.");
        }

        Tensor Row(int[] values) => tensor(values.Select(value => (long)value).ToArray(), [1, values.Length]);
        Tensor ids = Row(tokens.Ids);
        return network is Encoder encoder
            ? encoder.Classify(encoder.Forward(ids, tokenTypes: encoder.Config.TokenTypes > 1 ? Row(tokens.TypeIds) : null))
            : ((Decoder)network).Classify(ids);
    }

    static string[] Labels(JsonObject config, int count) =>
        [.. Enumerable.Range(0, count).Select(i => (config["id2label"] as JsonObject)?[i.ToString(CultureInfo.InvariantCulture)]?.ToString() ?? $"LABEL_{i}")];

    static void ShowText(Invocation call, int index, string first, string? second, Tensor logits, string[] labels, string? problem)
    {
        // One output is a score and no label's logit.
        bool scores = labels.Length == 1 || problem == "regression", several = problem == "multi_label_classification";
        float[] values = (scores ? logits : several ? logits.sigmoid() : logits.softmax(-1)).data<float>().ToArray();
        int[] order = scores ? [.. Enumerable.Range(0, labels.Length)] : [.. Enumerable.Range(0, labels.Length).OrderByDescending(i => values[i])];
        call.Output.Emit(new JsonObject
        {
            ["index"] = index,
            ["text"] = first,
            ["second"] = second,
            ["label"] = scores || several ? null : labels[order[0]],
            ["labels"] = several ? new JsonArray([.. order.Where(i => values[i] >= 0.5f).Select(i => (JsonNode?)labels[i])]) : null,
            ["scores"] = new JsonObject(labels.Select((label, i) => KeyValuePair.Create(label, (JsonNode?)values[i]))),
            ["logits"] = new JsonArray([.. logits.data<float>().ToArray().Select(value => (JsonNode?)value)]),
        });
        if (!call.Output.Json)
        {
            const int Shown = 5;
            string text = string.Join("  ", order.Take(Shown).Select(i => string.Create(CultureInfo.InvariantCulture, $"{labels[i]} {values[i]:0.000}")));
            call.Output.Line($"{text}{(labels.Length > Shown ? "  …" : "")}  {CosineText.Short(second is null ? first : $"{first} | {second}")}");
        }
    }

    static void ShowTokens(Invocation call, int index, string text, TokenizedText tokens, Tensor logits, string[] labels)
    {
        (Tensor best, Tensor which) = logits.softmax(-1).max(-1);
        float[] sure = best.data<float>().ToArray();
        long[] label = which.data<long>().ToArray();
        int[] shown = [.. Enumerable.Range(0, tokens.Count).Where(t => tokens.SpecialMask[t] == 0)];
        System.Text.Rune[] runes = [.. text.EnumerateRunes()];
        string Part(int t) => string.Concat(runes[tokens.Offsets[t].From..tokens.Offsets[t].To]);
        call.Output.Emit(new JsonObject
        {
            ["index"] = index,
            ["text"] = text,
            ["tokens"] = new JsonArray([.. shown.Select(t => (JsonNode)new JsonObject
            {
                ["token"] = Part(t), ["from"] = tokens.Offsets[t].From, ["to"] = tokens.Offsets[t].To, ["label"] = labels[label[t]], ["score"] = sure[t],
            })]),
        });
        if (call.Output.Json)
        {
            return;
        }

        foreach (int t in shown)
        {
            call.Output.Line(string.Create(CultureInfo.InvariantCulture, $"{labels[label[t]],-12} {sure[t]:0.000}  {Part(t)}"));
        }

        call.Output.Line("");
    }
}
