using System.CommandLine;
using System.Text.Json.Nodes;
using Scalpel.Cli.CommandLine;
using Scalpel.Generation;
using Scalpel.Networks;
using Scalpel.Patches;
using Scalpel.Text;
using TorchSharp;

namespace Scalpel.Cli.Commands;

/// <summary>Continues a text, or answers a question through the chat template, with patches applied for the while.</summary>
sealed class GenerateCommand : CliCommand
{
    readonly Argument<string> model = ModelArgument();
    readonly Argument<string> prompt = new("PROMPT") { Description = "The text to continue, or with --chat the user's message." };
    readonly Option<bool> chat = new("--chat") { Description = "Put the model's chat template around the prompt." };
    readonly Option<string[]> patches = PatchesOption();
    readonly Option<int> maxTokens = new("--max-tokens") { Description = "Most tokens to generate.", DefaultValueFactory = _ => 128 };
    readonly Option<bool> greedy = new("--greedy") { Description = "Take the most probable token each time; this is the default without --temperature." };
    readonly Option<double> temperature = new("--temperature") { Description = "Sample with this temperature, above 0." };
    readonly Option<int?> topK = new("--top-k") { Description = "Sample among the k most probable tokens." };
    readonly Option<double?> topP = new("--top-p") { Description = "Sample among the most probable tokens that together reach p." };
    readonly Option<double?> minP = new("--min-p") { Description = "Sample among tokens at least this times as probable as the most probable one." };
    readonly Option<double> penalty = new("--repetition-penalty") { Description = "Makes tokens that occurred less likely when above 1.", DefaultValueFactory = _ => 1 };
    readonly Option<string[]> stop = new("--stop") { Description = "End before this text; may be given more than once.", HelpName = "TEXT", DefaultValueFactory = _ => [] };
    readonly Option<ulong> seed = new("--seed") { Description = "Seed of the sampling.", DefaultValueFactory = _ => 0UL };
    readonly Option<bool> bf16 = BFloat16Option();

    public GenerateCommand() : base("generate", "Continues a text with a model, or answers as a chat.",
        "scalpel generate assets/models/smollm2-135m-instruct \"The capital of France is\" --max-tokens 8",
        "scalpel generate assets/models/smollm2-135m-instruct \"What is the capital of France?\" --chat --temperature 0.7 --seed 1")
    {
        Add(model);
        Add(prompt);
        foreach (Option option in (Option[])[chat, patches, maxTokens, greedy, temperature, topK, topP, minP, penalty, stop, seed, bf16])
        {
            Add(option);
        }
    }

    public override void Execute(Invocation call)
    {
        if (call.Get(greedy) && call.Has(temperature))
        {
            throw new BadInputException("--greedy and --temperature exclude each other; give one of them.");
        }

        if (call.Has(temperature) && call.Get(temperature) <= 0)
        {
            throw new BadInputException($"--temperature is {call.Get(temperature)}; it must be above 0, or use --greedy.");
        }

        if (string.IsNullOrEmpty(call.Get(prompt)))
        {
            throw new BadInputException("The prompt is empty; give the text that the model shall continue.");
        }

        var options = new GenerationOptions
        {
            MaxNewTokens = call.Get(maxTokens),
            Temperature = call.Get(temperature),
            TopK = call.Get(topK),
            TopP = call.Get(topP),
            MinP = call.Get(minP),
            RepetitionPenalty = call.Get(penalty),
            StopStrings = call.Get(stop),
            Seed = call.Get(seed),
        };
        options.Validate();
        using Decoder decoder = Decoder.Load(call.Model(model), DTypeOf(call, bf16));
        using PatchStack applied = PatchStack.Apply(decoder, call.Get(patches));
        string text = call.Get(chat) ? ChatText(decoder, call.Get(prompt)) : call.Get(prompt);
        bool stream = !call.Output.Json;
        GeneratedText answer = new TextGenerator(decoder, options).GenerateText([text], stream ? (_, piece) => call.Output.Write(piece) : null, call.Cancellation)[0];
        if (stream)
        {
            call.Output.Write("\n");
        }

        call.Output.Emit(new JsonObject
        {
            ["prompt"] = text,
            ["text"] = answer.Text,
            ["tokens"] = new JsonArray([.. answer.Tokens.Select(id => (JsonNode?)id)]),
            ["stop"] = answer.Reason switch { StopReason.EndToken => "end", StopReason.StopString => "stop", _ => "length" },
        });
    }

    static string ChatText(Decoder decoder, string message)
    {
        ChatTemplate template = decoder.Tokenizer.ChatTemplate
            ?? throw new BadInputException($"{decoder.Source!.Location} has no chat template; leave out --chat to continue the text as it is.");
        return template.Render([new ChatMessage("user", message)]);
    }
}

/// <summary>Several patches applied one on the other, taken back in reverse order.</summary>
sealed class PatchStack : IDisposable
{
    readonly Stack<IDisposable> scopes = new();

    /// <summary>Loads and applies patch files.</summary>
    public static PatchStack Apply(Network network, IEnumerable<string> files)
    {
        var stack = new PatchStack();
        try
        {
            foreach (string file in files)
            {
                Patch patch = Patch.Load(file);
                stack.scopes.Push(patch);
                stack.scopes.Push(patch.ApplyTo(network));
            }

            return stack;
        }
        catch
        {
            stack.Dispose();
            throw;
        }
    }

    public void Dispose()
    {
        while (scopes.TryPop(out IDisposable? scope))
        {
            scope.Dispose();
        }
    }
}
