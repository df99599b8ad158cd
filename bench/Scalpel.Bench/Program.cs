using BenchmarkDotNet.Running;
using Scalpel.Bench;
using Scalpel.Numerics;

// As the command does.
NativeHeap.KeepFreedMemory();

// "work NAME" measures one piece of work as a peer would be measured; "suites …" are BenchmarkDotNet's, with its options.
switch (args)
{
    case ["work", ..]:
        return WorkCommand.Run(args[1..]);
    case ["suites", ..]:
        BenchmarkSwitcher.FromAssembly(typeof(WorkCommand).Assembly).Run(args[1..]);
        return 0;
    default:
        Console.Error.WriteLine("Give 'work NAME', or 'suites' with BenchmarkDotNet's options, for example: suites --filter \"*Tokenizer*\".");
        return 2;
}
