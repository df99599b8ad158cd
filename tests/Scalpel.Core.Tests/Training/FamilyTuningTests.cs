using Scalpel.Checkpoints;
using Scalpel.Core.Tests.Networks;
using Scalpel.Networks;
using Scalpel.Patches;
using Scalpel.Patches.Adapters;
using Scalpel.Training;
using TorchSharp;
using static TorchSharp.torch;

namespace Scalpel.Tests.Training;

/// <summary>Every family tuned by every method: what trains, what the patch does to memory and to files, and what PEFT would load.</summary>
public sealed partial class FamilyTuningTests : IDisposable
{
    readonly string root = Directory.CreateTempSubdirectory("scalpel families ").FullName;

    public void Dispose() => Directory.Delete(root, recursive: true);

    public static TheoryData<string, string> Runs => [.. from row in TinyModels.All.Select(row => row.Data).Except(["llama-dynamic", "llama-linear", "llama-yarn"]) from method in (string[])["lora", "dora", "ia3", "full"] select (row, method)];

    [Theory]
    [MemberData(nameof(Runs))]
    public void ATunedModelIsItsBaseWithThePatchInMemoryAndInFiles(string name, string method)
    {
        using var scope = NewDisposeScope();
        string source = TinyModels.PathOf(name), edited = Path.Combine(root, "edited"), back = Path.Combine(root, "back"), file = Path.Combine(root, "p.patch.safetensors");
        using Decoder model = TinyModels.Load(name), fresh = TinyModels.Load(name);
        Tensor ids = TinyModels.Ids(model, 2, 9), mask = ones_like(ids), wanted;
        mask[1, 7..] = 0;
        Tensor labels = where(mask.ne(0), ids, full_like(ids, TokenScores.Ignored)), bare = Forward(model);
        using Adapter? adapter = method switch
        {
            "full" => null,
            "ia3" => Adapter.CreateIa3(model),
            _ => Adapter.CreateLora(model, new LoraOptions { Rank = 3, Magnitudes = method == "dora" }, 3),
        };
        IDisposable? attached = adapter?.AttachTo(model);
        (Forward(model) - bare).abs().max().item<float>().ShouldBeLessThan(1e-5f, "a new adapter changes nothing");
        using (var trainer = new Trainer(adapter?.Trainable(model) ?? TrainableTensor.Of(model, model.Parameters.Keys), new TrainerOptions { Steps = 4, LearningRate = method == "full" ? 1e-3 : 2e-2 }))
        {
            List<double> losses = [];
            trainer.Run(new Task(model, ids, labels, mask, losses), new RunContext());
            losses[^1].ShouldBeLessThan(losses[0]);
        }

        wanted = Forward(model);
        (wanted - bare).abs().max().item<float>().ShouldBeGreaterThan(1e-3f);
        attached?.Dispose();
        using (Patch made = adapter?.ToPatch(model, new PatchInfo { Method = method }) ?? Patch.Of(model.Source!, new PatchInfo { Method = method }, model.Parameters.Keys.Select(key => (key, model.Parameter(key).alias()))))
        {
            made.Save(file);
        }

        using Patch patch = Patch.Load(file);
        if (adapter is not null)
        {
            Forward(model).ShouldBe(bare, "the base is as it was");
            string[] matrices = [.. model.Source!.Tensors.Values.Where(entry => entry.Shape.Count == 2 && entry.Name.EndsWith(".weight", StringComparison.Ordinal) && Layer().IsMatch(entry.Name)).Select(entry => entry.Name)];
            if (method != "ia3")
            {
                patch.Deltas.Keys.Order().ShouldBe(matrices.Order());
            }
        }

        // Full tuning gives exact bits of the stored type.
        bool half = fresh.Source!.Tensors.Values.Any(entry => entry.Type is StorageType.F16 or StorageType.BF16);
        double error = half && method == "full" ? 0.3 : method == "full" ? 0 : 1e-4 * (1 + wanted.abs().max().item<float>());
        using (patch.ApplyTo(fresh))
        {
            (Forward(fresh) - wanted).abs().max().ToDouble().ShouldBeLessThanOrEqualTo(error, "in memory");
        }

        using (Decoder untouched = TinyModels.Load(name))
        {
            foreach (string key in fresh.Parameters.Keys)
            {
                fresh.Parameter(key).Equals(untouched.Parameter(key)).ShouldBeTrue(key);
            }
        }

        PatchFiles.Apply(fresh.Source!, patch, edited);
        using (Decoder written = Decoder.Load(edited))
        {
            (Forward(written) - wanted).abs().max().ToDouble().ShouldBeLessThanOrEqualTo(half ? 0.3 : error, "in files");
        }

        PatchFiles.Revert(edited, back);
        foreach (string path in Directory.EnumerateFiles(source))
        {
            File.ReadAllBytes(Path.Combine(back, Path.GetFileName(path))).AsSpan().SequenceEqual(File.ReadAllBytes(path)).ShouldBeTrue(path);
        }

        if (adapter is not null)
        {
            LoraExport.Write(patch, fresh.Source!, AdapterFormat.Peft, Path.Combine(root, "adapter")).Errors.ShouldBeEmpty();
            using Adapter read = PeftFolder.Read(Path.Combine(root, "adapter"), fresh);
            using IDisposable again = read.AttachTo(fresh);
            (Forward(fresh) - wanted).abs().max().ToDouble().ShouldBeLessThanOrEqualTo(error, "as an adapter of PEFT");
        }

        Tensor Forward(Decoder decoder)
        {
            using var noGrad = no_grad();
            return decoder.Forward(ids, mask) * mask.unsqueeze(-1);
        }
    }

    [System.Text.RegularExpressions.GeneratedRegex(@"\.\d+\.")]
    private static partial System.Text.RegularExpressions.Regex Layer();

    sealed class Task(Decoder model, Tensor ids, Tensor labels, Tensor mask, List<double> losses) : ITrainingTask
    {
        public Objective Loss(long step, int part)
        {
            Objective objective = Supervised.Loss(model, ids, labels, mask);
            losses.Add(objective.Loss.ToDouble());
            return objective;
        }
    }
}
