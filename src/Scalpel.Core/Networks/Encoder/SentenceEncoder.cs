using Scalpel.Checkpoints;
using Scalpel.Text;
using TorchSharp;
using static TorchSharp.torch;

namespace Scalpel.Networks;

/// <summary>
/// Turns a text into one vector, so that texts of like meaning lie close: an <see cref="Encoder"/>, the pooling of its
/// states and what follows, as a sentence-transformers folder declares it (<c>modules.json</c>). A folder without that
/// file gives the mean over the tokens.
/// </summary>
public sealed class SentenceEncoder : IDisposable
{
    readonly SentenceModules modules;
    readonly List<SentenceDense?> after = [];

    SentenceEncoder(Encoder encoder, Tokenizer tokenizer, SentenceModules modules, SentencePooling? pooling)
    {
        Encoder = encoder;
        Tokenizer = tokenizer;
        this.modules = modules;
        Pooling = pooling ?? modules.Pooling;
        MaxTokens = Math.Min(encoder.Config.MaxTokens, modules.MaxTokens ?? tokenizer.MaxLength ?? int.MaxValue);
        Width = encoder.Config.Width * System.Numerics.BitOperations.PopCount((uint)Pooling);
    }

    /// <summary>The network below; patches and taps act on it.</summary>
    public Encoder Encoder { get; }

    /// <summary>Its tokenizer.</summary>
    public Tokenizer Tokenizer { get; }

    /// <summary>The pooling in use.</summary>
    public SentencePooling Pooling { get; }

    /// <summary>The pooling in the words of its file: mean, cls, …</summary>
    public string PoolingName => SentenceModules.NameOf(Pooling);

    /// <summary>Whether the folder says how sentences are encoded; otherwise it is a plain network and the mean is a guess.</summary>
    public bool IsDeclared => modules.Declared;

    /// <summary>Whether vectors are divided by their length at the end.</summary>
    public bool Normalizes => after.Count > 0 && after[^1] is null;

    /// <summary>n, numbers in a vector.</summary>
    public int Width { get; private set; }

    /// <summary>Most tokens of a text, those of the model's template included; what comes after is not read.</summary>
    public int MaxTokens { get; }

    /// <summary>Texts that the model expects before a sentence, by what it is used for ("query", "passage").</summary>
    public IReadOnlyDictionary<string, string> Prompts => modules.Prompts;

    /// <summary>The prompt that is used when none is named; null for none.</summary>
    public string? DefaultPrompt => modules.DefaultPrompt;

    /// <summary>Loads a sentence-transformers folder, or a plain encoder.</summary>
    /// <param name="path">The folder, or a .safetensors file with its config.json and tokenizer beside it.</param>
    /// <param name="dtype">Type of weights and arithmetic.</param>
    /// <param name="pooling">Another pooling than the folder's: cls, max, mean, mean_sqrt_len_tokens, weightedmean, lasttoken, or several joined by +.</param>
    /// <exception cref="BadInputException">Something is missing, malformed or of a kind that is not known.</exception>
    public static SentenceEncoder Load(string path, ScalarType dtype = ScalarType.Float32, string? pooling = null)
    {
        SentencePooling? chosen = pooling is null ? null : SentenceModules.ParsePooling(pooling, "pooling");
        bool folder = Directory.Exists(path);
        SentenceModules modules = SentenceModules.Read(folder ? path : Path.GetDirectoryName(Path.GetFullPath(path))!);
        Checkpoint checkpoint = Checkpoint.Open(folder ? modules.TextFolder : path);
        SentenceEncoder? result = null;
        try
        {
            Tokenizer tokenizer = Tokenizer.Load(checkpoint);
            result = new SentenceEncoder(Encoder.Load(checkpoint, dtype), tokenizer, modules, chosen);
            foreach (string? dense in modules.After)
            {
                result.after.Add(dense is null ? null : SentenceDense.Load(dense, result.Width, dtype));
                result.Width = result.after[^1]?.Outputs ?? result.Width;
            }

            return result;
        }
        catch
        {
            result?.Dispose();
            checkpoint.Dispose();
            throw;
        }
    }

    /// <summary>The tokens of texts as the encoder reads them: trimmed, after the prompt, cut at <see cref="MaxTokens"/>, not padded.</summary>
    /// <param name="texts">The texts.</param>
    /// <param name="prompt">A name of <see cref="Prompts"/>; null for <see cref="DefaultPrompt"/>.</param>
    /// <exception cref="BadInputException">There is no prompt of that name.</exception>
    public IReadOnlyList<TokenizedText> Tokenize(IEnumerable<string> texts, string? prompt = null)
    {
        string before = PromptOf(prompt);
        return [.. texts.Select(text => Tokens(before + text))];
    }

    /// <summary>The vectors of texts, in their order.</summary>
    /// <param name="texts">The texts.</param>
    /// <param name="batch">Texts that are computed at once.</param>
    /// <param name="prompt">A name of <see cref="Prompts"/>; null for <see cref="DefaultPrompt"/>.</param>
    /// <param name="run">Receives progress; may cancel.</param>
    /// <returns>float32 [texts, <see cref="Width"/>].</returns>
    /// <exception cref="BadInputException">There is no text, one has no tokens, or there is no prompt of that name.</exception>
    public Tensor Encode(IReadOnlyList<string> texts, int batch = 32, string? prompt = null, RunContext? run = null) =>
        EncodeTokens(Tokenize(texts, prompt), batch, prompt, run);

    /// <summary>The vectors of texts that <see cref="Tokenize(IEnumerable{string}, string?)"/> has cut into tokens.</summary>
    public Tensor EncodeTokens(IReadOnlyList<TokenizedText> texts, int batch = 32, string? prompt = null, RunContext? run = null)
    {
        if (texts.Count == 0)
        {
            throw new BadInputException("There is no text to encode; give at least one.");
        }

        int empty = texts.ToList().FindIndex(text => text.Count == 0);
        if (empty >= 0)
        {
            throw new BadInputException($"Text {empty + 1} of {texts.Count} has no tokens; leave it out.");
        }

        int skip = modules.IncludePrompt ? 0 : PromptTokens(PromptOf(prompt));
        using var noGrad = no_grad();
        Tensor result = zeros(texts.Count, Width);
        // Texts of like length go together, so that little of a batch is padding.
        int[] order = [.. Enumerable.Range(0, texts.Count).OrderByDescending(i => texts[i].Count)];
        foreach (int[] chosen in order.Chunk(batch))
        {
            using var scope = NewDisposeScope();
            run?.Report("encoding", Array.IndexOf(order, chosen[0]), texts.Count);
            (Tensor ids, Tensor mask, Tensor types) = Batch([.. chosen.Select(i => texts[i])]);
            Tensor states = Encoder.Forward(ids, mask, types);
            Tensor counted = skip == 0 ? mask : mask * (arange(mask.shape[1], dtype: ScalarType.Int64) >= skip).to_type(ScalarType.Int64);
            result.index_copy_(0, tensor([.. chosen.Select(i => (long)i)], [chosen.Length]), Finish(Pool(states, counted)).to_type(ScalarType.Float32));
        }

        run?.Report("encoding", texts.Count, texts.Count);
        return result;
    }

    /// <summary>Ids, mask and token types of texts, padded at the end to the longest: int64 [B, T].</summary>
    public (Tensor Ids, Tensor Mask, Tensor Types) Batch(IReadOnlyList<TokenizedText> texts)
    {
        int longest = texts.Max(text => text.Count), pad = Tokenizer.PadId ?? Encoder.Config.PadId ?? 0;
        long[] ids = new long[texts.Count * longest], mask = new long[ids.Length], types = new long[ids.Length];
        Array.Fill(ids, pad);
        for (int row = 0; row < texts.Count; row++)
        {
            for (int t = 0; t < texts[row].Count; t++)
            {
                (ids[row * longest + t], mask[row * longest + t], types[row * longest + t]) = (texts[row].Ids[t], 1, texts[row].TypeIds[t]);
            }
        }

        long[] shape = [texts.Count, longest];
        return (tensor(ids, shape), tensor(mask, shape), tensor(types, shape));
    }

    /// <summary>The pooling alone: states [B, T, d] and mask [B, T] to [B, d], or more side by side. Differentiable.</summary>
    public Tensor Pool(Tensor states, Tensor mask)
    {
        using var scope = NewDisposeScope();
        Tensor one = mask.unsqueeze(-1).to_type(states.dtype);                       // [B, T, 1]
        var parts = new List<Tensor>();
        if (Pooling.HasFlag(SentencePooling.FirstToken))
        {
            parts.Add(states.select(1, 0));
        }

        if (Pooling.HasFlag(SentencePooling.Max))
        {
            parts.Add(states.masked_fill(one.eq(0), -1e9).amax([1]));
        }

        Tensor sum = (states * one).sum(1), count = one.sum(1).clamp(min: 1e-9);
        if (Pooling.HasFlag(SentencePooling.Mean))
        {
            parts.Add(sum / count);
        }

        if (Pooling.HasFlag(SentencePooling.MeanSqrtLength))
        {
            parts.Add(sum / count.sqrt());
        }

        Tensor place = arange(1, mask.shape[1] + 1, dtype: states.dtype).view(1, -1, 1) * one;
        if (Pooling.HasFlag(SentencePooling.WeightedMean))
        {
            parts.Add((states * place).sum(1) / place.sum(1).clamp(min: 1e-9));
        }

        if (Pooling.HasFlag(SentencePooling.LastToken))
        {
            Tensor last = (mask * arange(1, mask.shape[1] + 1, dtype: ScalarType.Int64)).argmax(1);
            parts.Add((states * one).gather(1, last.view(-1, 1, 1).expand(-1, 1, states.shape[2])).squeeze(1));
        }

        return cat(parts, 1).MoveToOuterDisposeScope();
    }

    /// <summary>What follows the pooling: dense layers, division by the Euclidean length. [B, …] → [B, <see cref="Width"/>]. Differentiable.</summary>
    public Tensor Finish(Tensor pooled)
    {
        using var scope = NewDisposeScope();
        Tensor x = pooled.alias();
        foreach (SentenceDense? dense in after)
        {
            x = dense is null ? x / x.norm(1, keepdim: true, p: 2).clamp(min: 1e-12) : dense.Apply(x);
        }

        return x.MoveToOuterDisposeScope();
    }

    /// <summary>Frees the network and closes the checkpoint.</summary>
    public void Dispose()
    {
        Encoder.Dispose();
        foreach (SentenceDense? dense in after)
        {
            dense?.Dispose();
        }
    }

    string PromptOf(string? name) => (name ?? DefaultPrompt) is not { } wanted ? ""
        : Prompts.TryGetValue(wanted, out string? prompt) ? prompt
        : throw new BadInputException(Prompts.Count == 0
            ? $"{modules.TextFolder} has no prompts, so there is none that is called '{wanted}'; leave the prompt out."
            : $"{modules.TextFolder} has no prompt '{wanted}'; it has {string.Join(", ", Prompts.Keys)}.");

    // The prompt's own tokens, with the special one before it and without the one after it.
    int PromptTokens(string prompt)
    {
        if (prompt.Length == 0)
        {
            return 0;
        }

        int[] ids = Tokens(prompt).Ids;
        return ids.Length > 0 && Tokenizer.IsSpecial(ids[^1]) ? ids.Length - 1 : ids.Length;
    }

    TokenizedText Tokens(string text)
    {
        text = text.Trim();
        // The padding that the file asks for is of no use here: a batch is padded to its longest text.
        return Tokenizer.Encode(modules.LowerCase ? text.ToLowerInvariant() : text,
            new EncodeOptions { Truncation = new Truncation(MaxTokens), Padding = new() { Length = 0, Id = 0 } });
    }
}
