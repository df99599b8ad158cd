using System.Runtime.InteropServices;
using Scalpel.Networks;
using Scalpel.Numerics;
using TorchSharp;
using static TorchSharp.torch;

namespace Scalpel.Generation;

/// <summary>What ended an answer.</summary>
public enum StopReason
{
    /// <summary>It has as many tokens as were asked for.</summary>
    MaxNewTokens,

    /// <summary>The model said a token that ends a text.</summary>
    EndToken,

    /// <summary>A stop string came up.</summary>
    StopString,
}

/// <summary>One row's answer.</summary>
/// <param name="Tokens">The generated tokens, without one that ended the text.</param>
/// <param name="Reason">What ended it.</param>
public sealed record GeneratedTokens(IReadOnlyList<int> Tokens, StopReason Reason);

/// <summary>One step of a generation.</summary>
/// <param name="Number">Tokens generated before it.</param>
/// <param name="Tokens">The chosen token of each row; null for rows that have ended.</param>
/// <param name="Logits">The model's logits [B, V], float32, before processors and filters. Valid until the next step.</param>
public readonly record struct GenerationStep(int Number, IReadOnlyList<int?> Tokens, Tensor Logits);

/// <summary>
/// Continues texts token by token with a key/value cache. Rows of unequal length are padded on the left; each draws from
/// a random stream of its own, so that a row's answer does not depend on its neighbours.
/// </summary>
/// <param name="model">The model; it must outlive the generator.</param>
/// <param name="options">How tokens are chosen; null for the defaults.</param>
/// <param name="taps">Activations to read or change in every step, or in those that an edit names; null for none.</param>
public sealed partial class TextGenerator(Decoder model, GenerationOptions? options = null, Taps? taps = null)
{
    readonly GenerationOptions options = Valid(options ?? new GenerationOptions());

    /// <summary>Whether single tokens may go around the tensors; off in the tests that compare with the plain pass.</summary>
    internal bool UseDecodeStep { get; init; } = true;

    /// <summary>Ends after <see cref="GenerationOptions.MaxNewTokens"/>, or when each row has said a token that ends a text.</summary>
    /// <param name="prompts">Token ids of each row; at least one each.</param>
    /// <param name="cancellation">Stops before the next token.</param>
    /// <exception cref="BadInputException">A prompt is empty, or prompt and answer have more tokens than the model has positions.</exception>
    public IReadOnlyList<GeneratedTokens> Generate(IReadOnlyList<IReadOnlyList<int>> prompts, CancellationToken cancellation = default)
    {
        var tokens = prompts.Select(_ => new List<int>()).ToArray();
        foreach (GenerationStep step in Steps(prompts, cancellation))
        {
            for (int row = 0; row < tokens.Length; row++)
            {
                if (step.Tokens[row] is { } id && !EndIds.Contains(id))
                {
                    tokens[row].Add(id);
                }
            }
        }

        return [.. tokens.Select(row => new GeneratedTokens(row, row.Count == options.MaxNewTokens ? StopReason.MaxNewTokens : StopReason.EndToken))];
    }

    /// <summary>The steps one after the other, as they are computed.</summary>
    /// <inheritdoc cref="Generate(IReadOnlyList{IReadOnlyList{int}}, CancellationToken)"/>
    public IEnumerable<GenerationStep> Steps(IReadOnlyList<IReadOnlyList<int>> prompts, CancellationToken cancellation = default)
    {
        Check(prompts);
        return Run(prompts, model.Config.Vocabulary, new bool[prompts.Count], cancellation);
    }

    IReadOnlyCollection<int> EndIds => (IReadOnlyCollection<int>?)options.EndIds ?? (IReadOnlyCollection<int>)model.Config.EndIds;

    // `usable`: rows of the embedding beyond the tokenizer's tokens are never chosen. `done`: rows that have ended; the
    // caller may end a row by its text.
    IEnumerable<GenerationStep> Run(IReadOnlyList<IReadOnlyList<int>> prompts, int usable, bool[] done, CancellationToken cancellation)
    {
        TokenSampler[] samplers = [.. prompts.Select((prompt, row) => new TokenSampler(options, row, prompt))];
        var read = new long[prompts.Count];
        using var session = new Session(model, taps, prompts, options.MaxNewTokens, UseDecodeStep);
        for (int step = 0; step < options.MaxNewTokens && done.Contains(false); step++)
        {
            cancellation.ThrowIfCancellationRequested();
            Tensor logits = step == 0 ? session.ReadPrompts() : session.Read(read);
            int?[] chosen = Choose(logits, samplers, usable, done);
            yield return new GenerationStep(step, chosen, logits);
            for (int row = 0; row < read.Length; row++)
            {
                // What a row reads after its end is seen by nobody.
                read[row] = chosen[row] ?? read[row];
                done[row] |= chosen[row] is { } id && EndIds.Contains(id);
            }
        }
    }

    static int?[] Choose(Tensor logits, TokenSampler[] samplers, int usable, bool[] done)
    {
        int width = (int)logits.shape[1];
        Span<float> all = MemoryMarshal.Cast<byte, float>(logits.bytes);
        var chosen = new int?[samplers.Length];
        for (int row = 0; row < samplers.Length; row++)
        {
            chosen[row] = done[row] ? null : samplers[row].Next(all.Slice(row * width, Math.Min(usable, width)));
        }

        return chosen;
    }

    void Check(IReadOnlyList<IReadOnlyList<int>> prompts)
    {
        if (prompts.Count == 0 || prompts.Any(prompt => prompt.Count == 0))
        {
            throw new BadInputException("The prompt is empty; a generation needs at least one token to go on from.");
        }

        if (model.Config.Head != HeadKind.LanguageModel)
        {
            throw new BadInputException($"{model.Source?.Location ?? "The model"} is a classifier and cannot continue a text; give a language model.");
        }

        int longest = prompts.Max(prompt => prompt.Count), positions = model.Config.MaxPositions;
        bool bounded = model.Config.Rotary.All(rotary => rotary.Scaling != RotaryScaling.Dynamic);
        if (bounded && longest + options.MaxNewTokens > positions)
        {
            throw new BadInputException(longest >= positions
                ? $"The prompt has {longest} tokens, the model {positions} positions; shorten the prompt."
                : $"A prompt of {longest} tokens and {options.MaxNewTokens} new ones exceed the model's {positions} positions; ask for at most {positions - longest} new tokens.");
        }
    }

    static GenerationOptions Valid(GenerationOptions options)
    {
        options.Validate();
        return options;
    }

    /// <summary>The model's side of one generation: cache, padding, and the way that a token takes through the network.</summary>
    sealed class Session : IDisposable
    {
        readonly Decoder model;
        readonly Taps? taps;
        readonly KeyValueCache cache;
        readonly Tensor ids;
        readonly Tensor? mask;
        readonly int[] padding;
        readonly WorkerPool? pool;
        readonly Decoder.DecodeStep? decode;
        Tensor? logits;
        int step;

        public Session(Decoder model, Taps? taps, IReadOnlyList<IReadOnlyList<int>> prompts, int newTokens, bool useDecodeStep)
        {
            this.model = model;
            this.taps = taps;
            int longest = prompts.Max(prompt => prompt.Count), pad = model.Config.PadId is { } id && id >= 0 && id < model.Config.Vocabulary ? id : 0;
            var flat = new List<long>();
            var valid = new List<long>();
            foreach (IReadOnlyList<int> prompt in prompts)
            {
                int padding = longest - prompt.Count;
                flat.AddRange(Enumerable.Repeat((long)pad, padding).Concat(prompt.Select(token => (long)token)));
                valid.AddRange(Enumerable.Repeat(0L, padding).Concat(Enumerable.Repeat(1L, prompt.Count)));
            }

            ids = tensor(flat.ToArray(), [prompts.Count, longest]).DetachFromDisposeScope();
            mask = valid.Contains(0) ? tensor(valid.ToArray(), [prompts.Count, longest]).DetachFromDisposeScope() : null;
            cache = KeyValueCache.For(model.Config, longest + newTokens);
            padding = [.. prompts.Select(prompt => longest - prompt.Count)];
            if (useDecodeStep && taps is null && newTokens > 1)
            {
                pool = new WorkerPool(get_num_threads());
                decode = Decoder.DecodeStep.For(model, prompts.Count, pool);
            }
        }

        public Tensor ReadPrompts() => Pass(ids, mask);

        public Tensor Read(long[] tokens)
        {
            if (decode is not null)
            {
                MemoryMarshal.AsBytes(decode.Run(tokens, cache, padding)).CopyTo(logits!.bytes);
                return logits;
            }

            using Tensor column = tensor(tokens, [tokens.Length, 1]);
            return Pass(column, null);
        }

        public void Dispose()
        {
            logits?.Dispose();
            decode?.Dispose();
            pool?.Dispose();
            cache.Dispose();
            ids.Dispose();
            mask?.Dispose();
        }

        // [B, V] float32 of the last column.
        Tensor Pass(Tensor tokens, Tensor? padding)
        {
            using var scope = NewDisposeScope();
            using var noGrad = no_grad();
            if (taps is not null)
            {
                taps.Step = step++;
            }

            Tensor last = model.Forward(tokens, padding, cache: cache, taps: taps, logits: LogitsAt.Last);
            logits?.Dispose();
            logits = last.select(1, 0).to_type(ScalarType.Float32).contiguous().DetachFromDisposeScope();
            return logits;
        }
    }
}
