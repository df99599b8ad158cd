using System.Text.Json.Nodes;
using Scalpel.Networks;
using Scalpel.Patches;
using TorchSharp;
using static TorchSharp.torch;

namespace Scalpel.Training;

/// <summary>
/// Scores texts: a classifier of one label, or a language model with a new linear head, without bias, on the last token's
/// final state. The head begins with small random values.
/// </summary>
public sealed class RewardModel : IDisposable
{
    const string HeadName = "score.weight";
    readonly Decoder model;
    readonly Tensor? head;

    /// <summary>Prepares a decoder to score.</summary>
    /// <param name="model">A language model, or a classifier of one label; it must outlive the reward model.</param>
    /// <param name="seed">Seed of a new head.</param>
    /// <exception cref="BadInputException">It is a classifier of another kind.</exception>
    public RewardModel(Decoder model, ulong seed)
    {
        this.model = model;
        if (model.Config.Head == HeadKind.LanguageModel)
        {
            using var generator = new Generator(seed, CPU);
            using Tensor drawn = randn([1, model.Config.Width], generator: generator);
            head = (drawn / Math.Sqrt(model.Config.Width + 1)).DetachFromDisposeScope();
        }
        else if (model.Config.Head != HeadKind.SequenceClassification || !model.Parameters.TryGetValue(HeadName, out Tensor? existing) || existing.shape[0] != 1)
        {
            throw new BadInputException($"{model.Source?.Location ?? "The model"} is a classifier, but not of one score; give a language model, or a reward model whose {HeadName} has one row.");
        }
    }

    /// <summary>The token that fills up rows: the last one that is not this is scored.</summary>
    public long Padding => model.Config.PadId ?? 0;

    /// <summary>The score of each row's last token, [B].</summary>
    /// <param name="ids">[B, T].</param>
    /// <param name="mask">[B, T], 1 = token.</param>
    public Tensor Scores(Tensor ids, Tensor mask)
    {
        if (head is null)
        {
            return model.Classify(ids, mask).select(1, 0);
        }

        using var scope = NewDisposeScope();
        return model.LastStates(ids, mask).to_type(ScalarType.Float32).matmul(head.t()).squeeze(-1).MoveToOuterDisposeScope();
    }

    /// <summary>The head, to be trained beside what else is.</summary>
    public IReadOnlyList<TrainableTensor> Trainable() => head is not null ? [new TrainableTensor(HeadName, head, true)] : TrainableTensor.Of(model, [HeadName]);

    /// <summary>A patch of the language model that adds the head and makes it a classifier in the field's layout.</summary>
    /// <param name="info">How it came to be.</param>
    /// <param name="trained">What else was trained; null for the head alone. It is taken over.</param>
    public Patch ToPatch(PatchInfo info, Patch? trained)
    {
        Dictionary<string, Delta> deltas = trained is null ? [] : new(trained.Deltas, StringComparer.Ordinal);
        if (head is null)
        {
            if (Delta.Between(model.Source!, HeadName, model.Parameter(HeadName)) is { } delta)
            {
                deltas[HeadName] = delta;
            }

            return Patch.For(model.Source!, info, deltas);
        }

        using Tensor values = head.detach().clone();
        deltas[HeadName] = new Replace(values);
        using Patch whole = Patch.For(model.Source!, info, deltas);
        string architecture = model.ConfigJson["architectures"] is JsonArray { Count: > 0 } names ? names[0]!.GetValue<string>() : "LlamaForCausalLM";
        return new Patch(info, whole.BaseConfigHash, whole.BaseTensors, deltas)
        {
            Structure = new PatchStructure
            {
                Config = new JsonObject
                {
                    ["architectures"] = new JsonArray(architecture[..architecture.LastIndexOf("For", StringComparison.Ordinal)] + "ForSequenceClassification"),
                    ["id2label"] = new JsonObject { ["0"] = "LABEL_0" },
                    ["label2id"] = new JsonObject { ["LABEL_0"] = 0 },
                },
            },
        };
    }

    /// <summary>Frees the head.</summary>
    public void Dispose() => head?.Dispose();
}
