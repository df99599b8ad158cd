using Scalpel.Networks.Layers;
using Scalpel.Numerics;
using TorchSharp;
using static TorchSharp.torch;

namespace Scalpel.Networks;

public sealed partial class Decoder
{
    /// <summary>
    /// One layer of a training pass with its backward pass written out: what must be kept is kept, what is cheap is computed
    /// again, the residual stream's gradient is added to in place, and gradients of weights go straight to where they are
    /// summed. Layers of other kinds than <see cref="IsExplicit"/> are run as a graph of their own.
    /// </summary>
    sealed class LayerTape(Decoder model, int l, Pass pass) : IDisposable
    {
        readonly DecoderLayer layer = model.layers[l];
        readonly List<Tensor> kept = [];
        Tensor input = null!, middle = null!, scales = null!, middleScales = null!, gateUp = null!, mixed = null!;
        Tensor[] leaves = [];
        Product queryKeyValue = null!, output = null!, up = null!, down = null!;
        Tensor? wholeInput, wholeOutput;

        /// <summary>Whether the backward pass of this model's layers is written out here.</summary>
        public static bool IsExplicit(Decoder model)
        {
            DecoderConfig c = model.Config;
            return RowPasses.Covers(model.DType) && c.Block == BlockKind.Sequential && c.Norm == NormKind.Rms && c.Experts == 0
                && c.Gated && c.Activation == Activation.Silu && !model.names.Transposed;
        }

        /// <summary>Runs the layer on the residual stream [N, d], N = B·T.</summary>
        public Tensor Forward(Tensor x)
        {
            using var scope = NewDisposeScope();
            input = Keep(x.alias());
            return (IsExplicit(model) ? Explicit(x) : Whole(x)).MoveToOuterDisposeScope();
        }

        /// <summary>Goes back through the layer.</summary>
        /// <param name="gradient">By the layer's result, [N, d]; becomes that by its input.</param>
        public void Backward(Tensor gradient)
        {
            using var scope = NewDisposeScope();
            if (wholeOutput is not null)
            {
                wholeOutput.backward([gradient.view_as(wholeOutput)]);
                gradient.copy_(wholeInput!.grad!.view_as(gradient));
                return;
            }

            // down(silu(gate) ⊙ up), which takes part in down's gradient and is computed again.
            Tensor inner = down.BackwardInput(gradient);
            RowPasses.SwiGluBackward(gateUp, inner);
            down.BackwardWeight(gradient, inner);

            Tensor normed = up.NeedsInput ? RowPasses.RmsNorm(middle, layer.MlpNorm!.Gain!, layer.MlpNorm.Epsilon) : middle;
            Tensor above = up.BackwardInput(gateUp);
            up.BackwardWeight(gateUp, normed);
            Normalise(layer.MlpNorm!, middle, middleScales, above, gradient);

            above = output.BackwardInput(gradient);
            using (Tensor result = mixed.detach())
            {
                output.BackwardWeight(gradient, result);
            }

            above = Attention(above.contiguous());
            normed = queryKeyValue.NeedsInput ? RowPasses.RmsNorm(input, layer.AttentionNorm!.Gain!, layer.AttentionNorm.Epsilon) : input;
            Tensor last = queryKeyValue.BackwardInput(above);
            queryKeyValue.BackwardWeight(above, normed);
            Normalise(layer.AttentionNorm!, input, scales, last, gradient);
        }

        public void Dispose()
        {
            kept.ForEach(tensor => tensor.Dispose());
            kept.Clear();
        }

        Tensor Explicit(Tensor x)
        {
            int h = model.Config.Heads, k = model.Config.KeyValueHeads, e = model.Config.HeadSize;
            scales = Keep(empty(x.shape[0]));
            queryKeyValue = new Product(layer.QueryKeyValue, this);
            Tensor all = queryKeyValue.Forward(RowPasses.RmsNorm(x, layer.AttentionNorm!.Gain!, layer.AttentionNorm.Epsilon, scales));
            if (model.TurnsInPlace(l))
            {
                model.TurnInPlace(l, all, pass, back: false);
                leaves = [Leaf(all, 0, h, e), Leaf(all, h * e, k, e), Leaf(all, (h + k) * e, k, e)];
                using var grad = enable_grad();
                mixed = Keep(model.Mix(l, leaves[0].transpose(1, 2), leaves[1].transpose(1, 2), leaves[2].transpose(1, 2), pass).transpose(1, 2).reshape(x.shape[0], (long)h * e));
            }
            else
            {
                leaves = [Keep(all.detach().requires_grad_(true))];
                using var grad = enable_grad();
                (Tensor query, Tensor key, Tensor value) = model.QueryKeyValue(l, layer, leaves[0].unflatten(0, [pass.Batch, pass.Count]), pass);
                mixed = Keep(model.Mix(l, query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2), pass).transpose(1, 2).reshape(x.shape[0], (long)h * e));
            }

            output = new Product(layer.Output, this);
            middle = Keep(output.Forward(mixed.detach()).add_(x));
            middleScales = Keep(empty(x.shape[0]));
            up = new Product(layer.Mlps[0].Up, this);
            gateUp = Keep(up.Forward(RowPasses.RmsNorm(middle, layer.MlpNorm!.Gain!, layer.MlpNorm.Epsilon, middleScales)));
            down = new Product(layer.Mlps[0].Down, this);
            return down.Forward(RowPasses.SwiGlu(gateUp)).add_(middle);
        }

        // Any kind of layer as a graph, from its input on.
        Tensor Whole(Tensor x)
        {
            using var grad = enable_grad();
            wholeInput = Keep(x.detach().unflatten(0, [pass.Batch, pass.Count]).requires_grad_(true));
            wholeOutput = Keep(model.Block(l, wholeInput, pass));
            return wholeOutput.detach().flatten(0, 1);
        }

        // Back through the attention's graph: the gradient by [q; k; v], [N, …].
        Tensor Attention(Tensor gradient)
        {
            mixed.backward([gradient]);
            if (leaves.Length == 1)
            {
                return leaves[0].grad!;
            }

            (Tensor query, Tensor key, Tensor value) = (leaves[0].grad!, leaves[1].grad!, leaves[2].grad!);
            Tensor all = cat([query.flatten(2), key.flatten(2), value.flatten(2)], -1).flatten(0, 1);
            model.TurnInPlace(l, all, pass, back: true);
            return all;
        }

        // Adds the gradient by a norm's input to that of the residual stream, which reaches it by the short way.
        static void Normalise(Norm norm, Tensor x, Tensor scales, Tensor above, Tensor gradient)
        {
            Tensor? gain = norm.Gain!.requires_grad ? zeros(norm.Gain.shape) : null;
            RowPasses.RmsNormBackward(x, norm.Gain, scales, above.contiguous(), gradient, gain);
            if (gain is not null)
            {
                ExplicitGradient.Add(norm.Gain, gain);
            }
        }

        // [B, T, heads, e], seen in place.
        Tensor Leaf(Tensor all, long start, long heads, long size) =>
            Keep(all.Part(start, heads * size).unflatten(0, [pass.Batch, pass.Count]).Split(heads, size).detach().requires_grad_(true));

        Tensor Keep(Tensor tensor)
        {
            kept.Add(tensor.DetachFromDisposeScope());
            return tensor;
        }

        /// <summary>A product, by itself or, with adapters, as a graph of its own.</summary>
        sealed class Product(Linear linear, LayerTape tape)
        {
            Tensor? graphInput, graphOutput, hidden, hiddenGradient;
            LowRankTerm? term;

            bool HasGraph => linear.Adapters.Count > 0 && term is null;

            /// <summary>Whether the backward pass needs the input again.</summary>
            public bool NeedsInput => !HasGraph && (linear.Weight.requires_grad || term is not null);

            public Tensor Forward(Tensor x)
            {
                term = linear.Adapters.Count == 1 ? linear.Adapters[0].LowRank(x.dtype, linear.Outputs) : null;
                if (term is not null)
                {
                    tape.Keep(term.Down);
                    tape.Keep(term.Up);
                    hidden = tape.Keep(x.mm(term.Down.t()));
                    return linear.Product(x).addmm_(hidden, term.Up.t(), 1, 1);
                }

                if (!HasGraph)
                {
                    return linear.Apply(x);
                }

                using var grad = enable_grad();
                graphInput = tape.Keep(x.detach().requires_grad_(true));
                graphOutput = tape.Keep(linear.Apply(graphInput));
                return graphOutput.detach();
            }

            public Tensor BackwardInput(Tensor gradient)
            {
                if (!HasGraph)
                {
                    Tensor result = MatrixProduct.Of(gradient, linear.Weight);
                    if (term is null)
                    {
                        return result;
                    }

                    hiddenGradient = tape.Keep(gradient.mm(term.Up));
                    return result.addmm_(hiddenGradient, term.Down, 1, 1);
                }

                graphOutput!.backward([gradient]);
                return graphInput!.grad!;
            }

            public void BackwardWeight(Tensor gradient, Tensor x)
            {
                if (HasGraph)
                {
                    return;
                }

                // After BackwardInput, which finds the gradient between the two factors.
                term?.AddGradients(hiddenGradient!.t().mm(x), gradient.t().mm(hidden!));
                if (linear.Weight.requires_grad)
                {
                    ExplicitGradient.AddProduct(linear.Weight, gradient.t(), x);
                }

                if (linear.Bias is { requires_grad: true } bias)
                {
                    ExplicitGradient.Add(bias, gradient.sum(0));
                }
            }
        }
    }
}
