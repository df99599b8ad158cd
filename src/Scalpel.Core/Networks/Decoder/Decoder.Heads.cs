using Scalpel.Networks.Layers;
using TorchSharp;
using static TorchSharp.torch;

namespace Scalpel.Networks;

public sealed partial class Decoder
{
    /// <summary>The loss of next tokens. The head runs only where a label counts, a chunk of positions at a time.</summary>
    /// <param name="ids">Token ids, int64 [B, T].</param>
    /// <param name="labels">int64 [B, T], not shifted; <see cref="LanguageModelLoss.Ignored"/> where nothing is to be learnt.</param>
    /// <param name="mask">1 for tokens, 0 for padding, [B, T]; null when all are tokens.</param>
    /// <param name="taps">Activations to read or replace.</param>
    /// <exception cref="BadInputException">As for <see cref="Forward"/>, or the labels do not fit.</exception>
    public LanguageModelLoss Loss(Tensor ids, Tensor labels, Tensor? mask = null, Taps? taps = null)
    {
        if (Config.Head != HeadKind.LanguageModel)
        {
            throw new BadInputException($"{Source?.Location ?? "The model"} carries a classifier and no head for next tokens; load the language model that it was made from.");
        }

        using var scope = NewDisposeScope();
        using Pass pass = Prepare(ids, mask, taps: taps);
        pass.RouterLogits = Config.Experts > 0 ? [] : null;
        Tensor hidden = RunLayers(Embed(ids, pass), 0, Config.Layers, pass);
        Tensor? balance = pass.RouterLogits is { } logits ? LanguageModelLoss.Balance(logits, Config.ExpertsPerToken, pass.MaskOfPass) : null;
        LanguageModelLoss loss;
        if (taps is not null && TapsTheEnd(taps))
        {
            loss = LanguageModelLoss.Of(Logits(hidden, pass), labels, rows => rows, balance);
        }
        else
        {
            (Tensor states, Func<Tensor, Tensor> toLogits) = BeforeHead(hidden, pass);
            loss = LanguageModelLoss.Of(states, labels, toLogits, balance, Config.Vocabulary);
        }

        pass.End();
        return loss.MoveToOuterScope();
    }

    /// <summary>Logits of a classifier: [B, labels] of texts, [B, T, labels] of tokens.</summary>
    /// <param name="ids">Token ids, int64 [B, T].</param>
    /// <param name="mask">1 for tokens, 0 for padding on either side, [B, T]; null when all are tokens.</param>
    /// <param name="positions">As for <see cref="Forward"/>.</param>
    /// <param name="taps">Activations to read or replace.</param>
    /// <exception cref="BadInputException">The model has no classifier, or a text's last token cannot be told from padding.</exception>
    public Tensor Classify(Tensor ids, Tensor? mask = null, Tensor? positions = null, Taps? taps = null)
    {
        if (Config.Head == HeadKind.LanguageModel)
        {
            throw new BadInputException($"{Source?.Location ?? "The model"} has no classifier: its architecture is a language model's.");
        }

        using var scope = NewDisposeScope();
        using Pass pass = Prepare(ids, mask, positions, taps: taps);
        Tensor hidden = RunLayers(Embed(ids, pass), 0, Config.Layers, pass);
        Tensor state = pass.At("final_norm.output", Normalise(finalNorm, hidden, pass, "final_norm.scale"));
        if (Config.Head == HeadKind.SequenceClassification)
        {
            Tensor last = LastTokens(ids, mask).view(-1, 1, 1).expand(-1, 1, Config.Width);
            state = state.gather(1, last).squeeze(1);                                                     // [B, d]
        }

        Tensor logits = head.Apply(state);
        logits = Config.Head == HeadKind.TokenClassification ? pass.At("logits", logits) : pass.At("logits", logits.unsqueeze(1)).squeeze(1);
        pass.End();
        return logits.MoveToOuterDisposeScope();
    }

    /// <summary>The final state of each row's last token, [B, d], which a classifier of texts reads.</summary>
    internal Tensor LastStates(Tensor ids, Tensor? mask)
    {
        using var scope = NewDisposeScope();
        using Pass pass = Prepare(ids, mask);
        Tensor hidden = RunLayers(Embed(ids, pass), 0, Config.Layers, pass);
        Tensor last = LastTokens(ids, mask).view(-1, 1, 1).expand(-1, 1, Config.Width);
        return Normalise(finalNorm, hidden.gather(1, last), pass, "final_norm.scale").squeeze(1).MoveToOuterDisposeScope();
    }

    // Column of each row's last token: the last that is not the padding token, as the family's reference has it; without
    // a padding token in the configuration, the last that the mask counts.
    Tensor LastTokens(Tensor ids, Tensor? mask)
    {
        Tensor? valid = Config.PadId is { } pad ? ids.ne(pad).to_type(ScalarType.Int64) : mask?.to_type(ScalarType.Int64);
        long columns = ids.shape[1];
        return valid is null
            ? full([ids.shape[0]], columns - 1, dtype: ScalarType.Int64)
            : (valid * arange(columns, dtype: ScalarType.Int64)).argmax(1);
    }

    /// <summary>
    /// What a summand of the residual stream contributes to a logit, or to the difference of two, once the scale of the
    /// final norm is known: scale · ⟨summand, direction⟩, and a constant for the whole. The direction holds the final
    /// norm's gain and, for LayerNorm, its centring; the constant its bias and that of the head. A soft cap is left out.
    /// </summary>
    /// <param name="token">The token whose logit is meant.</param>
    /// <param name="other">The token whose logit is subtracted, if any.</param>
    /// <returns>The direction, float32 [d], and the constant.</returns>
    /// <exception cref="BadInputException">A token is outside of the vocabulary.</exception>
    public (Tensor Direction, double Constant) LogitDirection(int token, int? other = null)
    {
        RequirePlainHead("Direct logit attribution");
        using var scope = NewDisposeScope();
        using var noGrad = no_grad();
        Tensor row = Wide(Row(head.Weight, token)), bias = head.Bias is null ? zeros([]) : Wide(Row(head.Bias, token));
        if (other is { } subtracted)
        {
            row = row - Wide(Row(head.Weight, subtracted));
            bias = head.Bias is null ? bias : bias - Wide(Row(head.Bias, subtracted));
        }

        Tensor direction = finalNorm.Gain is null ? row : row * (Wide(finalNorm.Gain) + (finalNorm.Kind == NormKind.RmsPlusOne ? 1 : 0));
        double constant = bias.ToDouble() + (finalNorm.Bias is null ? 0 : Wide(finalNorm.Bias).dot(row).ToDouble());
        return ((finalNorm.Centred ? direction - direction.mean() : direction.alias()).MoveToOuterDisposeScope(), constant);

        Tensor Row(Tensor matrix, int index) => index >= 0 && index < Config.Vocabulary ? matrix.select(0, index)
            : throw new BadInputException($"The token id {index} is outside of the model's {Config.Vocabulary} tokens.");

        static Tensor Wide(Tensor x) => x.to_type(ScalarType.Float32);
    }

    static bool TapsTheEnd(Taps taps) => taps.Names.Any(name => name.StartsWith("final_norm", StringComparison.Ordinal) || name is "logits" or "senses" or "sense_weights");

    Linear Classifier(ParameterLoader loader, Func<string, bool> has)
    {
        string name = has("classifier.weight") || !has(ScoreName) && Config.Head == HeadKind.TokenClassification ? "classifier" : "score";
        long labels = Config.Labels ?? (Source is not null && has($"{name}.weight") ? Source.Entry($"{name}.weight").Shape[0] : 2);
        bool bias = has($"{name}.bias") || Source is null && Config.Head == HeadKind.TokenClassification;
        return new Linear(
            loader.Whole($"{name}.weight", TensorUse.Matrix, labels, Config.Width),
            bias ? loader.Whole($"{name}.bias", TensorUse.Bias, labels) : null);
    }
}
