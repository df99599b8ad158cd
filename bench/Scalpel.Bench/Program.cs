using BenchmarkDotNet.Running;
using Scalpel.Bench;

// "work NAME" measures one piece of work as a peer would be measured; anything else goes to BenchmarkDotNet's switcher.
if (args is ["work", ..])
{
    return WorkCommand.Run(args[1..]);
}

BenchmarkSwitcher.FromAssembly(typeof(WorkCommand).Assembly).Run(args);
return 0;
