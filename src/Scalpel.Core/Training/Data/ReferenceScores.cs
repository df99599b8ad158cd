using System.Security.Cryptography;
using System.Text;
using Scalpel.Checkpoints;
using Scalpel.Networks;
using TorchSharp;
using static TorchSharp.torch;
using Decoder = Scalpel.Networks.Decoder;

namespace Scalpel.Training;

/// <summary>
/// Log-probabilities of answers under the model as it was before training. Computed once for a model and a list of token
/// rows, whose hashes name the file in the cache folder from which a later run takes them.
/// </summary>
public sealed class ReferenceScores
{
    readonly float[] values;
    readonly long[] starts;

    ReferenceScores(float[] values, long[] starts) => (this.values, this.starts) = (values, starts);

    /// <summary>The scores of each prompt's answer, token by token.</summary>
    /// <param name="model">The model, with what is to be trained still as it was.</param>
    /// <param name="rows">Prompts with answers.</param>
    /// <param name="run">Progress and the cache folder.</param>
    public static ReferenceScores Of(Decoder model, IReadOnlyList<(IReadOnlyList<long> Prompt, IReadOnlyList<long> Answer)> rows, RunContext run)
    {
        string file = Path.Combine(run.CacheFolder, "reference", $"{Key(model, rows)}.safetensors");
        if (File.Exists(file))
        {
            try
            {
                using SafeTensorsFile cached = SafeTensorsFile.Open(file);
                using Tensor kept = cached.Read("log_probs"), from = cached.Read("starts");
                if (from.numel() == rows.Count + 1)
                {
                    return new ReferenceScores(kept.data<float>().ToArray(), from.data<long>().ToArray());
                }
            }
            catch (BadInputException)
            {
                // A damaged cache is computed anew.
            }
        }

        long[] starts = new long[rows.Count + 1];
        var all = new List<float>();
        for (int i = 0; i < rows.Count; i++)
        {
            run.Report("scoring by the reference model", i, rows.Count);
            using var scope = NewDisposeScope();
            using var noGrad = no_grad();
            using PreferenceBatch one = PreferenceBatch.Of([rows[i]], 0);
            Tensor logProbs = TokenScores.Shifted(model.Forward(one.Ids, one.Mask), one.Ids).to_type(ScalarType.Float32);
            // A prompt without tokens leaves the answer's first one unscored.
            all.AddRange(logProbs[0].contiguous().data<float>().Skip(Math.Max(0, rows[i].Prompt.Count - 1)));
            starts[i + 1] = all.Count;
        }

        float[] values = [.. all];
        try
        {
            using Tensor saved = tensor(values), offsets = tensor(starts);
            SafeTensorsWriter.Write(file, new Dictionary<string, Tensor> { ["log_probs"] = saved, ["starts"] = offsets }, new Dictionary<string, string>());
        }
        catch (BadInputException)
        {
            // Without a cache the next run computes them again.
        }

        return new ReferenceScores(values, starts);
    }

    /// <summary>Scores as the policy's are: [rows, T − 1], 0 outside of the answers.</summary>
    /// <param name="rows">Which rows.</param>
    /// <param name="batch">The same rows as tokens.</param>
    internal Tensor Of(IReadOnlyList<int> rows, PreferenceBatch batch)
    {
        int width = (int)batch.Ids.shape[1] - 1;
        float[] all = new float[rows.Count * width];
        using Tensor prompts = (batch.Mask - batch.Completion).sum(1);
        long[] first = prompts.data<long>().ToArray();
        for (int i = 0; i < rows.Count; i++)
        {
            values.AsSpan((int)starts[rows[i]], (int)(starts[rows[i] + 1] - starts[rows[i]])).CopyTo(all.AsSpan(i * width + (int)Math.Max(0, first[i] - 1)));
        }

        return tensor(all, [rows.Count, width]);
    }

    static string Key(Decoder model, IReadOnlyList<(IReadOnlyList<long> Prompt, IReadOnlyList<long> Answer)> rows)
    {
        using var sha = IncrementalHash.CreateHash(HashAlgorithmName.SHA256);
        void Add(string text) => sha.AppendData(Encoding.UTF8.GetBytes(text));
        Add($"1 {model.ConfigHash} {model.DType}\n");
        foreach (string name in model.Parameters.Keys)
        {
            Add($"{name} {model.Hash(name)}\n");
        }

        foreach ((IReadOnlyList<long> prompt, IReadOnlyList<long> answer) in rows)
        {
            Add($"{string.Join(' ', prompt)}|{string.Join(' ', answer)}\n");
        }

        return Convert.ToHexStringLower(sha.GetHashAndReset());
    }
}
