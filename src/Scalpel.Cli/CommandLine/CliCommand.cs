using System.CommandLine;
using Scalpel.Checkpoints.Hub;
using Scalpel.Cli.Output;

namespace Scalpel.Cli.CommandLine;

/// <summary>One command of the command line; see <see cref="CommandCatalogue"/> for how to add one.</summary>
abstract class CliCommand : Command
{
    /// <summary><c>--json</c>, understood by every command.</summary>
    public static Option<bool> Json { get; } = new("--json") { Description = "One JSON object a line on standard output; all else goes to standard error.", Recursive = true };

    /// <summary>A command with its help.</summary>
    /// <param name="name">The word on the command line.</param>
    /// <param name="description">One sentence.</param>
    /// <param name="examples">Command lines that run as they stand in a clone of the repository.</param>
    protected CliCommand(string name, string description, params string[] examples) : base(name, description) => Examples = examples;

    /// <summary>Command lines that run as they stand in a clone of the repository.</summary>
    public IReadOnlyList<string> Examples { get; }

    /// <summary>Does the work.</summary>
    public abstract void Execute(Invocation call);

    /// <summary>The argument that names a model.</summary>
    protected static Argument<string> ModelArgument(string name = "MODEL") =>
        new(name) { Description = "Folder, .safetensors or .gguf file, or hf:owner/name[@revision]." };

    /// <summary><c>--bf16</c>, for commands that run a model.</summary>
    protected static Option<bool> BFloat16Option() => new("--bf16") { Description = "Compute in bfloat16 instead of float32." };

    /// <summary><c>--patch</c>, for commands that run a model with patches on it.</summary>
    protected static Option<string[]> PatchesOption() =>
        new("--patch") { Description = "Apply a patch for this run; may be given more than once.", HelpName = "FILE", DefaultValueFactory = _ => [] };

    /// <summary>The type of arithmetic that <see cref="BFloat16Option"/> chooses.</summary>
    protected static TorchSharp.torch.ScalarType DTypeOf(Invocation call, Option<bool> option) =>
        call.Get(option) ? TorchSharp.torch.ScalarType.BFloat16 : TorchSharp.torch.ScalarType.Float32;
}

/// <summary>A word that only holds sub-commands.</summary>
sealed class CommandGroup : Command
{
    /// <summary>A group of the given commands.</summary>
    public CommandGroup(string name, string description, params Command[] commands) : base(name, description)
    {
        foreach (Command command in commands)
        {
            Add(command);
        }
    }
}

/// <summary>One run of a command: its parsed values, where to write, and what interrupts it.</summary>
sealed class Invocation(ParseResult parsed, ConsoleOutput output, CancellationToken cancellation)
{
    /// <summary>Where to write.</summary>
    public ConsoleOutput Output { get; } = output;

    /// <summary>Cancelled by Ctrl-C or a request to end.</summary>
    public CancellationToken Cancellation { get; } = cancellation;

    /// <summary>The value of an option, or its default.</summary>
    public T Get<T>(Option<T> option) => parsed.GetValue(option)!;

    /// <summary>The value of an argument, or its default.</summary>
    public T Get<T>(Argument<T> argument) => parsed.GetValue(argument)!;

    /// <summary>Whether the user gave the option.</summary>
    public bool Has(Option option) => parsed.GetResult(option) is { Implicit: false };

    /// <summary>Refuses an option that the user gave although it has no effect with something else that was chosen.</summary>
    /// <exception cref="BadInputException">It was given.</exception>
    public void Refuse(Option option, string with)
    {
        if (Has(option))
        {
            throw new BadInputException($"{option.Name} has no effect with {with}; leave it out.");
        }
    }

    /// <summary>The folder or file of a model argument; a model of the hub is downloaded first.</summary>
    public string Model(Argument<string> argument) => Model(Get(argument));

    /// <summary>The folder or file of a model that the user named; one of the hub is downloaded first.</summary>
    public string Model(string location) => HubClient.ResolveAsync(location, Context()).GetAwaiter().GetResult();

    /// <summary>A run context with the seed, live progress and cancellation.</summary>
    public RunContext Context(ulong seed = 0) => new() { Seed = seed, Progress = Output.Progress, Cancellation = Cancellation };
}
