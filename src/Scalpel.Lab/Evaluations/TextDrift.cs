using Scalpel.Networks;
using Scalpel.Patches;
using TorchSharp;
using static TorchSharp.torch;

namespace Scalpel.Lab.Evaluations;

/// <summary>What an edit does to text that has nothing to do with it, token by token.</summary>
/// <param name="Divergence">KL(before ‖ after) at each position, in nats.</param>
/// <param name="Before">Log-probability of each token under the original.</param>
/// <param name="After">The same under the edited model.</param>
/// <param name="Same">Whether the most probable next token is the same.</param>
sealed record TextDrift(IReadOnlyList<double> Divergence, IReadOnlyList<double> Before, IReadOnlyList<double> After, IReadOnlyList<bool> Same)
{
    const int TokensAtOnce = 256;

    /// <summary>Paragraphs about other things, for when the user gives no text.</summary>
    public const string DefaultText =
        """
        Water boils at a lower temperature on a mountain than at the coast, because the air presses less on its surface. Cooks who live high up know that beans take longer there, and many use a pot with a tight lid.

        The old mill stood by the river for two hundred years before anybody thought of painting it. When the wheel stopped turning, the miller's daughter planted beans along the wall and sold them at the market on Saturdays.

        To sharpen a pencil with a knife, hold the blade still and pull the pencil back. Turn it a little after each cut. A long point breaks easily, so stop when the lead shows for about the width of a finger nail.

        A good library is quiet but not silent. Pages turn, chairs creak, somebody coughs, and in the afternoon the light moves across the tables from one side to the other. Children learn there that a question may have more than one answer.

        The train was late again. She counted the windows of the station, then the pigeons, then the people who looked at their watches. When it came at last, the only free seat was next to a man who was asleep with a newspaper on his knees.

        Bees find their way home by the sun, and on cloudy days by the light that passes through the clouds. A bee that has found flowers dances on the comb, and the others read from the dance how far to fly and in which direction.

        Before you paint a door, take off the handle, wash the wood and let it dry for a day. Thin coats dry faster and look better than thick ones. Most of the work is in the preparation, and most of the pleasure is in the last coat.

        In winter the lake froze from the edges to the middle. The boys tested the ice with stones, then with a sledge, then with the smallest of them on a rope, while the dog refused to leave the shore and barked at everyone.
        """;

    /// <summary>Measures a patch on a text; the model is left as it was.</summary>
    public static TextDrift Measure(Decoder model, Patch patch, string text, RunContext run)
    {
        int[] ids = model.Tokenizer.Encode(text).Ids;
        var divergence = new List<double>();
        var before = new List<double>();
        var after = new List<double>();
        var same = new List<bool>();
        for (int start = 0; start < ids.Length - 1; start += TokensAtOnce - 1)
        {
            int end = Math.Min(ids.Length, start + TokensAtOnce);
            run.Report("text never edited", start, ids.Length);
            using var scope = NewDisposeScope();
            using var noGrad = no_grad();
            Tensor part = tensor(ids[start..end].Select(id => (long)id).ToArray(), [1, end - start]), next = part.narrow(1, 1, end - start - 1).unsqueeze(2);
            Tensor p = LogProbabilities(model, part), q;
            using (patch.ApplyTo(model))
            {
                q = LogProbabilities(model, part);
            }

            divergence.AddRange((p.exp() * (p - q)).sum(-1).to_type(ScalarType.Float64).contiguous().data<double>().ToArray());
            before.AddRange(p.gather(2, next).to_type(ScalarType.Float64).contiguous().data<double>().ToArray());
            after.AddRange(q.gather(2, next).to_type(ScalarType.Float64).contiguous().data<double>().ToArray());
            same.AddRange(p.argmax(-1).eq(q.argmax(-1)).contiguous().data<bool>().ToArray());
        }

        return new TextDrift(divergence, before, after, same);
    }

    static Tensor LogProbabilities(Decoder model, Tensor ids) => model.Forward(ids).narrow(1, 0, ids.shape[1] - 1).to_type(ScalarType.Float32).log_softmax(-1);
}
