using System.Diagnostics;

namespace Scalpel.Lab.Fuzzing;

/// <summary>A reader under test and valid samples of what it reads.</summary>
/// <param name="Name">safetensors, gguf, tokenizer, patch, recipe.</param>
/// <param name="Text">Whether the format is text.</param>
/// <param name="Corpus">Valid samples; each must be read without an error.</param>
/// <param name="Read">Reads one file; may throw <see cref="BadInputException"/> only.</param>
public sealed record FuzzTarget(string Name, bool Text, IReadOnlyList<byte[]> Corpus, Action<string> Read);

/// <summary>What a run over damaged files came to.</summary>
/// <param name="Target">Name of the reader.</param>
/// <param name="Inputs">Files read.</param>
/// <param name="Accepted">Files that were still valid.</param>
/// <param name="Refused">Files refused with a clear error.</param>
/// <param name="Findings">What must not happen: number of the input, seed and what was seen.</param>
/// <param name="Seconds">Time taken.</param>
public sealed record FuzzOutcome(string Target, long Inputs, long Accepted, long Refused, IReadOnlyList<string> Findings, double Seconds);

/// <summary>
/// Feeds damaged files to a reader. A finding is any exception but <see cref="BadInputException"/>, more than two seconds
/// for one file each time that it is read, or managed allocations above four times the file plus a fixed allowance for the reader itself.
/// </summary>
public static class FuzzRun
{
    const long AllocationAllowance = 1 << 20;
    const int MaxFindings = 20;
    static readonly TimeSpan Hang = TimeSpan.FromSeconds(2);

    /// <summary>Reads <paramref name="inputs"/> variants, written one after another to <paramref name="scratch"/>.</summary>
    /// <exception cref="CheckFailedException">A sample of the corpus itself is not read.</exception>
    public static FuzzOutcome Run(FuzzTarget target, long inputs, string scratch, RunContext run)
    {
        var clock = Stopwatch.StartNew();
        Directory.CreateDirectory(scratch);
        string file = Path.Combine(scratch, $"{target.Name}.{Environment.ProcessId}.fuzz");
        var findings = new List<string>();
        long accepted = 0, refused = 0, done = 0;
        try
        {
            long baseline = 0;
            foreach (byte[] sample in target.Corpus)
            {
                File.WriteAllBytes(file, sample);
                long before = GC.GetAllocatedBytesForCurrentThread();
                try
                {
                    target.Read(file);
                }
                catch (BadInputException e)
                {
                    throw new CheckFailedException($"A valid sample of {target.Name} is refused: {e.Message}");
                }

                baseline = Math.Max(baseline, GC.GetAllocatedBytesForCurrentThread() - before);
            }

            var mutator = new Mutator(target.Corpus, run.Seed, target.Text);
            for (; done < inputs && findings.Count < MaxFindings; done++)
            {
                if ((done & 1023) == 0)
                {
                    run.Report($"fuzzing {target.Name}", done, inputs, findings.Count == 0 ? null : $"{findings.Count} findings");
                }

                byte[] data = mutator.Next();
                File.WriteAllBytes(file, data);
                long before = GC.GetAllocatedBytesForCurrentThread(), start = Stopwatch.GetTimestamp();
                try
                {
                    target.Read(file);
                    accepted++;
                }
                catch (BadInputException)
                {
                    refused++;
                }
                catch (Exception e) when (e is not OperationCanceledException)
                {
                    findings.Add($"input {done} of seed {run.Seed}: {e.GetType().Name}: {e.Message}");
                }

                long allocated = GC.GetAllocatedBytesForCurrentThread() - before;
                // What reading a valid sample needs (parsed vocabulary, JSON tree) is the reader's own cost, not the attacker's.
                if (allocated > 4L * data.Length + baseline + AllocationAllowance)
                {
                    findings.Add($"input {done} of seed {run.Seed}: {allocated} bytes allocated for a file of {data.Length}");
                }

                if (Stopwatch.GetElapsedTime(start) > Hang && Fastest(target, file) is var seconds && seconds > Hang.TotalSeconds)
                {
                    findings.Add($"input {done} of seed {run.Seed}: {seconds:0.0} s for one file");
                }
            }
        }
        finally
        {
            File.Delete(file);
        }

        return new FuzzOutcome(target.Name, done, accepted, refused, findings, clock.Elapsed.TotalSeconds);
    }

    // A busy machine is slow once; a file that is slow by itself is slow each time.
    static double Fastest(FuzzTarget target, string file)
    {
        double fastest = double.PositiveInfinity;
        for (int i = 0; i < 3; i++)
        {
            long start = Stopwatch.GetTimestamp();
            try
            {
                target.Read(file);
            }
            catch (Exception e) when (e is not OperationCanceledException)
            {
                // What it throws was counted when it was read first.
            }

            fastest = Math.Min(fastest, Stopwatch.GetElapsedTime(start).TotalSeconds);
        }

        return fastest;
    }
}
