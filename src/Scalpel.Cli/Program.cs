using Scalpel.Cli.CommandLine;
using Scalpel.Cli.Output;

using var console = ConsoleOutput.Standard(json: args.Contains("--json"));
using var interrupts = new Interrupts(console);
return (int)new Application(CommandCatalogue.Create(), console, interrupts.Token).Run(args);
