using System.CommandLine;
using System.CommandLine.Help;
using Scalpel.Cli.Output;

namespace Scalpel.Cli.CommandLine;

/// <summary>Parses a command line, runs the command and turns what came of it into an exit code and at most one sentence.</summary>
sealed class Application(RootCommand root, ConsoleOutput output, CancellationToken cancellation)
{
    /// <summary>Runs one command line.</summary>
    public ExitCode Run(IReadOnlyList<string> args)
    {
        try
        {
            ParseResult parsed = root.Parse(args, new ParserConfiguration { ResponseFileTokenReplacer = null });
            Command command = parsed.CommandResult.Command;
            if (parsed.Action is HelpAction || (args.Count == 0 && parsed.Errors.Count == 0))
            {
                output.Write(HelpText.Of(command));
                return ExitCode.Done;
            }

            if (parsed.GetResult(root.Options.OfType<VersionOption>().Single()) is { Implicit: false })
            {
                output.Write(typeof(Application).Assembly.GetName().Version!.ToString(3) + "\n");
                return ExitCode.Done;
            }

            if (ParseErrors.Explain(parsed) is { } sentence)
            {
                throw new BadInputException(sentence);
            }

            if (command is not CliCommand runnable)
            {
                output.Write(HelpText.Of(command));
                return ExitCode.Done;
            }

            runnable.Execute(new Invocation(parsed, output, cancellation));
            cancellation.ThrowIfCancellationRequested();
            return ExitCode.Done;
        }
        catch (Exception e)
        {
            return Explain(e);
        }
        finally
        {
            output.EndProgress();
        }
    }

    ExitCode Explain(Exception e)
    {
        output.EndProgress();
        switch (e is AggregateException { InnerExceptions.Count: 1 } aggregate ? aggregate.InnerExceptions[0] : e)
        {
            case OperationCanceledException when cancellation.IsCancellationRequested:
                output.Error("interrupted; nothing half-written is left.");
                return ExitCode.Interrupted;
            case CheckFailedException check:
                output.Error(check.Message);
                return ExitCode.CheckFailed;
            case BadInputException bad:
                output.Error(bad.Message);
                return ExitCode.BadInput;
            case var inner when NativeLibraryDiagnosis.Explain(inner) is { } sentence:
                output.Error(sentence);
                return ExitCode.InternalError;
            case var inner:
                output.Error($"internal error, {inner.GetType().Name}: {inner.Message.ReplaceLineEndings(" ")} {WriteDetails(inner)}");
                return ExitCode.InternalError;
        }
    }

    static string WriteDetails(Exception e)
    {
        string file = Path.Combine(Path.GetTempPath(), $"scalpel-error-{DateTime.UtcNow:yyyyMMdd-HHmmss}-{Environment.ProcessId}.txt");
        try
        {
            File.WriteAllText(file, $"{Environment.CommandLine}\n{e}\n");
            return $"The details are in {file}; please report them.";
        }
        catch (Exception failure) when (failure is IOException or UnauthorizedAccessException)
        {
            return "The details could not be written to the folder for temporary files.";
        }
    }
}
