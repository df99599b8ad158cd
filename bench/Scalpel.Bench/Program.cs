using BenchmarkDotNet.Running;
using Scalpel.Bench;
using Scalpel.Numerics;

// As the command does.
NativeHeap.KeepFreedMemory();

// "work NAME" measures one piece of work as a peer would be measured; anything else goes to BenchmarkDotNet's switcher.
if (args is ["work", ..])
{
    return WorkCommand.Run(args[1..]);
}

BenchmarkSwitcher.FromAssembly(typeof(WorkCommand).Assembly).Run(args);
return 0;
