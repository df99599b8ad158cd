using System.Security.Cryptography;
using Scalpel.Checkpoints;
using Scalpel.Networks;
using TorchSharp;
using static TorchSharp.torch;

namespace Scalpel.Methods.Editing;

/// <summary>
/// The uncentred second moment C = (1/N) Σ k kᵀ of the keys (inputs of the down projection) of a layer over text, [ff, ff].
/// Kept in the cache folder under a name that holds the hashes of the weights below, of the text and the number of tokens.
/// </summary>
sealed class CovarianceStatistics : IDisposable
{
    const int BatchTokens = 2048;

    CovarianceStatistics(Tensor matrix, long tokens)
    {
        Matrix = matrix.DetachFromDisposeScope();
        Tokens = tokens;
    }

    /// <summary>C, float32 [ff, ff].</summary>
    public Tensor Matrix { get; }

    /// <summary>N, tokens that were averaged over.</summary>
    public long Tokens { get; }

    /// <summary>The statistics of some layers over a text, from the cache or gathered in one pass over it.</summary>
    /// <param name="source">Where the text comes from.</param>
    public static IReadOnlyList<CovarianceStatistics> Of(Decoder model, IReadOnlyList<int> layers, StatisticsText source, RunContext run)
    {
        string weights = WeightsHash(model, layers.Max());
        string[] files = [.. layers.Select(l => Path.Combine(run.CacheFolder, "covariance", $"{Key(weights, l, source, run)}.safetensors"))];
        int[] missing = [.. Enumerable.Range(0, layers.Count).Where(i => !File.Exists(files[i]))];
        if (missing.Length > 0)
        {
            using Tensor ids = source.Read(model, WeightsHash(model, model.Config.Layers), run);
            Tensor[] sums = Gather(model, [.. missing.Select(i => layers[i])], ids, run, out long tokens);
            for (int i = 0; i < missing.Length; i++)
            {
                Directory.CreateDirectory(Path.GetDirectoryName(files[missing[i]])!);
                SafeTensorsWriter.Write(files[missing[i]], new Dictionary<string, Tensor> { ["covariance"] = sums[i] }, new Dictionary<string, string> { ["tokens"] = tokens.ToString(System.Globalization.CultureInfo.InvariantCulture) });
                sums[i].Dispose();
            }
        }

        return [.. files.Select(file =>
        {
            using var stored = SafeTensorsFile.Open(file);
            return new CovarianceStatistics(stored.Read("covariance"), long.Parse(stored.Metadata["tokens"], System.Globalization.CultureInfo.InvariantCulture));
        })];
    }

    /// <summary>The Cholesky factor of C + ridge·(tr C/ff)·I.</summary>
    /// <exception cref="BadInputException">There are too few tokens for the size of C and no ridge, or C is singular.</exception>
    public Tensor Factor(double ridge)
    {
        long size = Matrix.shape[0];
        if (ridge <= 0)
        {
            RequireEnough();
        }

        using var scope = NewDisposeScope();
        Tensor wide = Matrix.to_type(ScalarType.Float64);
        Tensor regular = ridge > 0 ? wide + eye(size, dtype: ScalarType.Float64) * (wide.trace() * (ridge / size)) : wide;
        return (ClosedForm.Factor(regular) ?? throw new BadInputException($"The covariance over {Tokens} tokens is singular; give more text or set ridge to about 1e-4.")).MoveToOuterDisposeScope();
    }

    /// <summary>Refuses statistics over less text than twice their width.</summary>
    /// <exception cref="BadInputException">There is too little text.</exception>
    public void RequireEnough()
    {
        if (Tokens < 2 * Matrix.shape[0])
        {
            throw new BadInputException($"The covariance of {Matrix.shape[0]} × {Matrix.shape[0]} was gathered over {Tokens} tokens, at least {2 * Matrix.shape[0]} are needed; give more text (covariance_tokens) or, where the method has it, set ridge to about 1e-4.");
        }
    }

    /// <summary>The singular value below which the directions carry the given share of the trace.</summary>
    public double TailThreshold(double share)
    {
        using var scope = NewDisposeScope();
        double[] values = [.. linalg.eigvalsh(Matrix.to_type(ScalarType.Float64)).clamp(min: 0).data<double>()];
        double limit = values.Sum() * share, sum = 0;
        return values.FirstOrDefault(value => (sum += value) > limit);
    }

    // Sums of blocks in float64; a block's product itself is float32.
    static Tensor[] Gather(Decoder model, int[] layers, Tensor ids, RunContext run, out long tokens)
    {
        using var noGrad = no_grad();
        using var scope = NewDisposeScope();
        int last = layers.Max(), size = model.Config.Inner, rows = (int)Math.Max(1, BatchTokens / ids.shape[1]);
        Tensor[] sums = [.. layers.Select(_ => zeros([size, size], dtype: ScalarType.Float64))];
        tokens = ids.numel();
        for (int start = 0; start < ids.shape[0]; start += rows)
        {
            run.Report("covariance", start, ids.shape[0]);
            using var inner = NewDisposeScope();
            Tensor batch = ids.narrow(0, start, Math.Min(rows, ids.shape[0] - start));
            using var taps = new Taps().Read([.. layers.Select(l => $"layers.{l}.mlp.activation")]);
            using Pass pass = model.Prepare(batch, taps: taps);
            model.RunLayers(model.Embed(batch, pass), 0, last + 1, pass);
            pass.End();
            for (int i = 0; i < layers.Length; i++)
            {
                Tensor keys = taps[$"layers.{layers[i]}.mlp.activation"].flatten(0, 1).to_type(ScalarType.Float32);
                sums[i].add_(keys.t().matmul(keys));
            }
        }

        long count = tokens;
        return [.. sums.Select(sum => sum.div_(count).to_type(ScalarType.Float32).MoveToOuterDisposeScope())];
    }

    static string Key(string weights, int layer, StatisticsText source, RunContext run) =>
        Convert.ToHexStringLower(SHA256.HashData(System.Text.Encoding.UTF8.GetBytes($"{weights} {layer} {source.Identity(run)}")))[..32] + $"-layer{layer}";

    // Keys of a layer depend on the layers up to it. The base counts, not what earlier edits left in memory: their
    // statistics are those of the model that shall not change.
    static string WeightsHash(Decoder model, int layer)
    {
        using var sha = IncrementalHash.CreateHash(HashAlgorithmName.SHA256);
        sha.AppendData(System.Text.Encoding.UTF8.GetBytes($"{model.ConfigHash} {model.DType} {layer}"));
        foreach (string name in model.Parameters.Keys.Where(name => !(LayerOf(name) > layer)).Order(StringComparer.Ordinal))
        {
            sha.AppendData(System.Text.Encoding.UTF8.GetBytes(name + model.Hash(name)));
        }

        return Convert.ToHexStringLower(sha.GetHashAndReset());
    }

    static int? LayerOf(string name) => name.Split('.').Select(part => int.TryParse(part, out int l) ? l : (int?)null).FirstOrDefault(l => l is not null);

    public void Dispose() => Matrix.Dispose();
}

/// <summary>Text over which statistics are gathered: a file, or what the model writes.</summary>
/// <param name="File">A plain text file in UTF-8; null for text that the model writes from nothing, seeded.</param>
/// <param name="Tokens">How many tokens at most.</param>
sealed record StatisticsText(string? File, int Tokens)
{
    /// <summary>Enough for MLPs up to 4,000 wide.</summary>
    public const int DefaultTokens = 8192;

    // Rows of this many tokens: long enough for context, short enough that a corpus of the model's own is quickly written.
    const int MostWidth = 128;

    /// <summary>What tells this text from others.</summary>
    public string Identity(RunContext run) => File is null ? $"own {run.Seed} {Tokens}" : $"file {Hash()} {Tokens}";

    /// <summary>Token ids, int64 [rows, up to 128].</summary>
    /// <param name="modelHash">Of the model that writes.</param>
    /// <exception cref="BadInputException">The file cannot be read or is empty.</exception>
    public Tensor Read(Decoder model, string modelHash, RunContext run)
    {
        int width = Math.Min(MostWidth, model.Config.MaxPositions), rows = Math.Max(1, Tokens / width);
        if (File is null)
        {
            // Kept, as the layers of another method want statistics over the same text.
            string kept = Path.Combine(run.CacheFolder, "covariance", $"text-{modelHash[..16]}-{run.Seed}-{rows}x{width}.safetensors");
            if (!System.IO.File.Exists(kept))
            {
                using Tensor written = Write(model, rows, width, run);
                Directory.CreateDirectory(Path.GetDirectoryName(kept)!);
                SafeTensorsWriter.Write(kept, new Dictionary<string, Tensor> { ["input_ids"] = written });
            }

            using var stored = SafeTensorsFile.Open(kept);
            return stored.Read("input_ids");
        }

        var ids = new List<long>(Tokens);
        using (StreamReader reader = Open())
        {
            while (ids.Count < rows * width && reader.ReadLine() is { } line)
            {
                if (line.Length > 0)
                {
                    ids.AddRange(model.Tokenizer.Encode(line + "\n", addSpecial: false).Ids.Select(id => (long)id));
                }
            }
        }

        int whole = Math.Min(rows, ids.Count / width);
        return whole > 0 ? tensor(ids.Take(whole * width).ToArray()).view(whole, width)
            : throw new BadInputException($"{File} has {ids.Count} tokens; statistics need at least {width}, and twice as many as the MLP is wide to be of use.");
    }

    static Tensor Write(Decoder model, int rows, int width, RunContext run)
    {
        using var scope = NewDisposeScope();
        using var generator = new Generator(run.Seed, CPU);
        const int Together = 64;
        var parts = new List<Tensor>();
        for (int done = 0; done < rows; done += Together)
        {
            run.Report("text of the model's own", done, rows);
            using Tensor start = full([Math.Min(Together, rows - done), 1], ModelText.DocumentStart(model), dtype: ScalarType.Int64);
            parts.Add(ModelText.Continue(model, start, width, topK: 0, generator, run));
        }

        return cat(parts).narrow(1, 1, width).contiguous().MoveToOuterDisposeScope();
    }

    StreamReader Open()
    {
        try
        {
            return new StreamReader(File!);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            throw new BadInputException($"{File} cannot be read as text: {e.Message}", e);
        }
    }

    string Hash()
    {
        using StreamReader reader = Open();
        return Convert.ToHexStringLower(SHA256.HashData(reader.BaseStream));
    }
}
