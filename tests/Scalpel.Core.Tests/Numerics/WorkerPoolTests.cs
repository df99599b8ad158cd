using Scalpel.Numerics;

namespace Scalpel.Tests.Numerics;

public class WorkerPoolTests
{
    [Fact]
    public void EveryPartRunsOnceHoweverOftenAndQuicklyItIsUsed()
    {
        using var pool = new WorkerPool(4);
        for (int round = 0; round < 20_000; round++)
        {
            int parts = round % 9;
            var counts = new int[parts];
            pool.Run(parts, part => Interlocked.Increment(ref counts[part]));
            counts.ShouldAllBe(count => count == 1);
        }
    }

    [Fact]
    public void SleepingWorkersWakeUp()
    {
        using var pool = new WorkerPool(2);
        for (int round = 0; round < 20; round++)
        {
            Thread.Sleep(3);
            int sum = 0;
            pool.Run(8, part => Interlocked.Add(ref sum, part));
            sum.ShouldBe(28);
        }
    }

    [Fact]
    public void AnExceptionOfAPartReachesTheCallerAfterTheOthersRan()
    {
        using var pool = new WorkerPool(2);
        int ran = 0;
        Should.Throw<InvalidOperationException>(() => pool.Run(10, part =>
        {
            Interlocked.Increment(ref ran);
            if (part == 3)
            {
                throw new InvalidOperationException("part 3");
            }
        })).Message.ShouldBe("part 3");
        ran.ShouldBe(10);
        pool.Run(10, _ => Interlocked.Increment(ref ran));
        ran.ShouldBe(20);
    }

    [Fact]
    public void ACallFromWithinAPartAndFromOtherThreadsIsServed()
    {
        using var pool = new WorkerPool(2);
        int sum = 0;
        pool.Run(3, _ => pool.Run(5, _ => Interlocked.Increment(ref sum)));
        sum.ShouldBe(15);
        Parallel.For(0, 8, _ =>
        {
            for (int i = 0; i < 500; i++)
            {
                pool.Run(4, _ => Interlocked.Increment(ref sum));
            }
        });
        sum.ShouldBe(15 + 8 * 500 * 4);
    }

    [Fact]
    public void OneThreadNeedsNoWorkerAndADisposedPoolRefuses()
    {
        var pool = new WorkerPool(1);
        int thread = Environment.CurrentManagedThreadId, sum = 0;
        pool.Run(3, _ => sum += Environment.CurrentManagedThreadId == thread ? 1 : 0);
        sum.ShouldBe(3);
        pool.Dispose();
        Should.Throw<ObjectDisposedException>(() => pool.Run(1, _ => { }));
    }
}
