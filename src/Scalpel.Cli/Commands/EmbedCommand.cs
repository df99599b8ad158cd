using System.CommandLine;
using System.Globalization;
using System.Text.Json.Nodes;
using Scalpel.Checkpoints;
using Scalpel.Cli.CommandLine;
using Scalpel.Cli.Output;
using Scalpel.Networks;
using Scalpel.Text;
using TorchSharp;

namespace Scalpel.Cli.Commands;

/// <summary>Vectors of sentences, and how close they lie.</summary>
sealed class EmbedCommand : CliCommand
{
    readonly Argument<string> model = ModelArgument();
    readonly Argument<string[]> sentences = new("SENTENCE") { Description = "Sentences, each in quotes.", Arity = ArgumentArity.ZeroOrMore };
    readonly Option<string?> text = new("--text") { Description = "A text file with one sentence a line, or - for standard input.", HelpName = "FILE" };
    readonly Option<bool> compare = new("--compare") { Description = "Show the cosine of each sentence with each." };
    readonly Option<string?> output = new("--out") { Description = "Write the vectors: .npy, or .safetensors with one tensor, embeddings.", HelpName = "FILE" };
    readonly Option<bool> force = new("--force") { Description = "Replace an existing file." };
    readonly Option<string?> prompt = new("--prompt") { Description = "One of the model's own prompts, put before each sentence; by default the one that the model names.", HelpName = "NAME" };
    readonly Option<string?> pooling = new("--pooling") { Description = "Another pooling than the model's: cls, max, mean, mean_sqrt_len_tokens, weightedmean, lasttoken, or several joined by +.", HelpName = "NAME" };
    readonly Option<string[]> patches = PatchesOption();
    readonly Option<int> batch = new("--batch-size") { Description = "Sentences that are computed at once.", DefaultValueFactory = _ => 32 };
    readonly Option<bool> bf16 = BFloat16Option();

    public EmbedCommand() : base("embed", "Turns sentences into vectors and compares them.",
        "scalpel embed assets/models/all-MiniLM-L6-v2 \"A man is eating food.\" \"Someone has lunch.\" \"The bank raised its rates.\" --compare",
        "scalpel embed assets/models/all-MiniLM-L6-v2 --text LICENSE --out vectors.npy")
    {
        Add(model);
        Add(sentences);
        foreach (Option option in (Option[])[text, compare, output, force, prompt, pooling, patches, batch, bf16])
        {
            Add(option);
        }
    }

    public override void Execute(Invocation call)
    {
        if (call.Get(batch) < 1)
        {
            throw new BadInputException($"--batch-size is {call.Get(batch)}; it must be at least 1.");
        }

        string? file = call.Get(output);
        if (file is not null && Path.GetExtension(file) is not (".npy" or ".safetensors"))
        {
            throw new BadInputException($"--out is {file}; the name must end in .npy or .safetensors.");
        }

        if (file is not null)
        {
            Destination.File(file, call.Get(force));
        }

        string[] texts = TextFile.GivenOrLines(call.Get(sentences), call.Get(text), "sentence");
        using SentenceEncoder encoder = SentenceEncoder.Load(call.Model(model), DTypeOf(call, bf16), call.Get(pooling));
        using PatchStack applied = PatchStack.Apply(encoder.Encoder, call.Get(patches));
        if (!encoder.IsDeclared && call.Get(pooling) is null)
        {
            call.Output.Note($"note: {call.Get(model)} has no modules.json, so nothing says how its sentences are encoded; taken is the mean over the tokens. --pooling chooses another.");
        }

        IReadOnlyList<TokenizedText> tokens = encoder.Tokenize(texts, call.Get(prompt));
        int full = tokens.Count(line => line.Count >= encoder.MaxTokens);
        if (full > 0)
        {
            call.Output.Note($"note: {full} of {texts.Length} sentences fill the model's {encoder.MaxTokens} tokens; what comes after that is not read.");
        }

        using var scope = torch.NewDisposeScope();
        torch.Tensor vectors = encoder.EncodeTokens(tokens, call.Get(batch), call.Get(prompt), call.Context());
        if (file is not null)
        {
            Write(file, vectors);
        }

        Show(call, encoder, texts, tokens, vectors, file);
    }

    static void Write(string file, torch.Tensor vectors)
    {
        if (file.EndsWith(".npy", StringComparison.Ordinal))
        {
            NumpyFile.Write(file, vectors);
        }
        else
        {
            SafeTensorsWriter.Write(file, new Dictionary<string, torch.Tensor> { ["embeddings"] = vectors });
        }
    }

    void Show(Invocation call, SentenceEncoder encoder, string[] texts, IReadOnlyList<TokenizedText> tokens, torch.Tensor vectors, string? file)
    {
        float[] numbers = vectors.data<float>().ToArray();
        int width = encoder.Width;
        for (int i = 0; i < texts.Length && call.Output.Json; i++)
        {
            call.Output.Emit(new JsonObject
            {
                ["index"] = i,
                ["text"] = texts[i],
                ["tokens"] = tokens[i].Count,
                ["embedding"] = file is null ? new JsonArray([.. numbers.AsSpan(i * width, width).ToArray().Select(x => (JsonNode?)x)]) : null,
            });
        }

        double[][]? cosines = call.Get(compare) ? Cosines(numbers, texts.Length, width) : null;
        call.Output.Emit(new JsonObject
        {
            ["sentences"] = texts.Length,
            ["width"] = width,
            ["pooling"] = encoder.PoolingName,
            ["normalized"] = encoder.Normalizes,
            ["out"] = file,
            ["cosine"] = cosines is null ? null : new JsonArray([.. cosines.Select(row => (JsonNode?)new JsonArray([.. row.Select(x => (JsonNode?)x)]))]),
        });
        if (call.Output.Json)
        {
            return;
        }

        foreach (string line in cosines is null ? file is null ? Vectors(texts, numbers, width) : [] : CosineText.Lines(texts, cosines))
        {
            call.Output.Line(line);
        }

        call.Output.Line(string.Create(CultureInfo.InvariantCulture,
            $"{texts.Length} × {width} numbers, pooling {encoder.PoolingName}{(encoder.Normalizes ? ", of length 1" : "")}{(file is null ? "" : $", in {file}")}"));
    }

    static IEnumerable<string> Vectors(string[] texts, float[] numbers, int width)
    {
        const int Shown = 4;
        for (int i = 0; i < texts.Length; i++)
        {
            IEnumerable<string> first = numbers.Skip(i * width).Take(Shown).Select(x => x.ToString("0.0000", CultureInfo.InvariantCulture).PadLeft(7));
            yield return $"{string.Join(' ', first)} {(width > Shown ? "…" : " ")}  {CosineText.Short(texts[i])}";
        }
    }

    static double[][] Cosines(float[] numbers, int count, int width)
    {
        double Dot(int a, int b)
        {
            double sum = 0;
            for (int k = 0; k < width; k++)
            {
                sum += (double)numbers[a * width + k] * numbers[b * width + k];
            }

            return sum;
        }

        double[] lengths = [.. Enumerable.Range(0, count).Select(i => Math.Sqrt(Math.Max(Dot(i, i), 1e-24)))];
        return [.. Enumerable.Range(0, count).Select(a => Enumerable.Range(0, count).Select(b => Dot(a, b) / (lengths[a] * lengths[b])).ToArray())];
    }
}
