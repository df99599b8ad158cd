namespace Scalpel.Bench;

/// <summary>
/// A piece of work that is timed as a whole and compared with a peer. One class, one file in Works/; it is found by
/// reflection. The constructor prepares what is not timed; <see cref="Run"/> is called once to warm up and then timed.
/// </summary>
interface IWork : IDisposable
{
    /// <summary>The name on the command line.</summary>
    static abstract string Name { get; }

    /// <summary>Does the work once.</summary>
    void Run();
}
