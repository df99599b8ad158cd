using System.Text.Json.Nodes;
using Scalpel.Methods.Editing;
using TorchSharp;
using static TorchSharp.torch;

namespace Scalpel.Lab.Parity.Methods;

/// <summary>ROME as kmeng01/rome and EasyEdit compute it; requests are applied one after another.</summary>
sealed class RomeCase : IMethodCase
{
    public IReadOnlyList<string> Names => ["rome", "rome-easyedit"];

    public void Run(MethodCase c)
    {
        int contexts = (c.Case.Options["context_templates"] as JsonArray ?? throw c.Missing("context_templates")).Count;
        c.CompareLogits("logits_before");
        using var written = new Written();
        for (int i = 0; i < c.Requests; i++)
        {
            EditTokens tokens = c.Tokens(i, [contexts]);
            Tensor? factor = c.Flag("mom2_adjustment", true)
                ? ClosedForm.Factor(c.Input($"request.{i}.covariance")) ?? throw new BadInputException($"{c.Case.Folder}: the covariance of request {i} is singular.")
                : null;
            using RankOne one = RankOne.Compute(c.Model, tokens, c.Search(c.Layers[0], VectorSite.MlpOutput), factor, KeyConsistency.Official, new RunContext());
            string name = $"request.{i}.";
            c.Compare(name + "keys", one.Change.Keys!);
            c.Compare(name + "k_star", one.KStar);
            c.Compare(name + "u", one.U);
            c.Compare(name + "delta", one.Found.Delta);
            c.Compare(name + "k_bare", one.KBare);
            c.Compare(name + "v_bare", one.VBare);
            c.Compare(name + "v_star", one.Found.Value());
            c.Compare(name + "right_vector", one.Right);
            SpreadCase.CompareSearch(c, name, one.Found);
            Tensor change = one.Change.Change();
            c.Compare(name + "delta_weight", one.Change.View.ToStored(change));
            written.Add(one.Change.View, change);
        }

        c.CompareLogits("logits_after");
    }
}
