using Scalpel.Networks.Layers;
using TorchSharp;
using static TorchSharp.torch;

namespace Scalpel.Networks;

public sealed partial class Encoder
{
    Linear? pooler, before, classifier, transform, decoder, projection;
    Norm? transformNorm;

    /// <summary>Whether the checkpoint has a pooler, or the family pools by itself.</summary>
    public bool CanPool => pooler is not null || Config.ModelType == "clip_text_model";

    /// <summary>One state for the text: BERT's tanh(dense(first token)), CLIP's state at the end token.</summary>
    /// <param name="states">What <see cref="Forward"/> returned, [B, T, d].</param>
    /// <param name="ids">The ids that it was given.</param>
    /// <returns>[B, d].</returns>
    /// <exception cref="BadInputException">The checkpoint has no pooler.</exception>
    public Tensor Pool(Tensor states, Tensor ids)
    {
        using var scope = NewDisposeScope();
        if (Config.ModelType == "clip_text_model")
        {
            // Configurations from before the end id was right say 2: there the largest id marks the end.
            Tensor at = Config.EndId is null or 2 ? ids.argmax(-1) : ids.eq(Config.EndId.Value).to_type(ScalarType.Int32).argmax(-1);
            return states.gather(1, at.view(-1, 1, 1).expand(-1, 1, states.shape[2])).squeeze(1).MoveToOuterDisposeScope();
        }

        Linear dense = pooler ?? throw Lacks("a pooler", $"{prefix}pooler.dense.weight");
        return dense.Apply(states.select(1, 0)).tanh().MoveToOuterDisposeScope();
    }

    /// <summary>CLIP's projection of the pooled state into the space shared with pictures, without bias, not normalised: [B, p].</summary>
    /// <exception cref="BadInputException">The checkpoint has no projection.</exception>
    public Tensor Project(Tensor pooled) => (projection ?? throw Lacks("a text projection", "text_projection.weight")).Apply(pooled);

    /// <summary>Label logits: [B, labels] for a sequence classifier, [B, T, labels] for a token classifier.</summary>
    /// <param name="states">What <see cref="Forward"/> returned.</param>
    /// <exception cref="BadInputException">The checkpoint has no classifier.</exception>
    public Tensor Classify(Tensor states)
    {
        using var scope = NewDisposeScope();
        Linear last = classifier ?? throw Lacks("a classifier", "classifier.weight");
        if (Config.Task == EncoderTask.TokenClassification)
        {
            return last.Apply(states).MoveToOuterDisposeScope();
        }

        Tensor first = states.select(1, 0);
        first = Config.ModelType switch
        {
            "bert" => (pooler ?? throw Lacks("a pooler", $"{prefix}pooler.dense.weight")).Apply(first).tanh(),
            "distilbert" => nn.functional.relu(before!.Apply(first), inplace: false),
            _ => before!.Apply(first).tanh(),
        };
        return last.Apply(first).MoveToOuterDisposeScope();
    }

    /// <summary>Logits of the tokens at each position, [B, T, V].</summary>
    /// <exception cref="BadInputException">The checkpoint has no masked-language-model head.</exception>
    public Tensor PredictTokens(Tensor states)
    {
        using var scope = NewDisposeScope();
        Linear dense = transform ?? throw Lacks("a masked-language-model head", "cls.predictions.transform.dense.weight");
        return decoder!.Apply(transformNorm!.Apply(Config.Activation.Apply(dense.Apply(states)))).MoveToOuterDisposeScope();
    }

    void BuildHeads(ParameterLoader loader, Func<string, bool> has)
    {
        int d = Config.Width;
        pooler = Dense(loader, has, $"{prefix}pooler.dense", d) ?? Dense(loader, has, "pooler.dense", d);
        projection = has("text_projection.weight") ? loader.Joined(false, TensorUse.Matrix, d, ("text_projection", Config.ProjectionWidth)) : null;
        int labels = Config.Labels.Count == 0 ? 2 : Config.Labels.Count;
        if (Config.Task == EncoderTask.SequenceClassification && Config.ModelType != "bert")
        {
            bool distil = Config.ModelType == "distilbert";
            before = loader.Joined(true, TensorUse.Matrix, d, (distil ? "pre_classifier" : "classifier.dense", d));
            classifier = loader.Joined(true, TensorUse.Matrix, d, (distil ? "classifier" : "classifier.out_proj", labels));
        }
        else if (Config.Task is EncoderTask.SequenceClassification or EncoderTask.TokenClassification)
        {
            classifier = loader.Joined(true, TensorUse.Matrix, d, ("classifier", labels));
        }

        (string dense, string norm, string bias, string weight) = Config.ModelType switch
        {
            "bert" => ("cls.predictions.transform.dense", "cls.predictions.transform.LayerNorm", "cls.predictions.bias", "cls.predictions.decoder.weight"),
            "distilbert" => ("vocab_transform", "vocab_layer_norm", "vocab_projector.bias", "vocab_projector.weight"),
            _ => ("lm_head.dense", "lm_head.layer_norm", "lm_head.bias", "lm_head.decoder.weight"),
        };
        transform = Dense(loader, has, dense, d);
        if (transform is not null)
        {
            transformNorm = NormOf(loader, has, norm);
            // The matrix is the embedding, whether or not the file writes it out once more.
            bool tied = Config.Json["tie_word_embeddings"]?.GetValue<bool>() ?? true;
            Tensor matrix = tied || !has(weight) ? embedding : loader.Whole(weight, TensorUse.Matrix, Config.Vocabulary, d);
            decoder = new Linear(matrix, loader.Whole(bias, TensorUse.Bias, Config.Vocabulary));
        }
    }

    static Linear? Dense(ParameterLoader loader, Func<string, bool> has, string name, int size) =>
        has($"{name}.weight") ? loader.Joined(true, TensorUse.Matrix, size, (name, size)) : null;

    BadInputException Lacks(string what, string tensor) =>
        new($"{Source?.Location ?? Config.ModelType} has no {what[(what.IndexOf(' ', StringComparison.Ordinal) + 1)..]} ({tensor}); take a checkpoint that was saved with it.");
}
