using Scalpel.Cli.CommandLine;
using Scalpel.Cli.Output;
using Scalpel.Numerics;

NativeHeap.KeepFreedMemory();

// Results have a writer of their own; what a library prints, as TorchSharp does when it cannot load, is not one.
Console.SetOut(TextWriter.Null);
using var console = ConsoleOutput.Standard(json: args.Contains("--json"));
using var interrupts = new Interrupts(console);
return (int)new Application(CommandCatalogue.Create(), console, interrupts.Token).Run(args);
