using System.Text.Json.Nodes;
using Scalpel.Checkpoints;
using Scalpel.Patches;
using Scalpel.Patches.Adapters;
using TorchSharp;
using static TorchSharp.torch;

namespace Scalpel.Tests.Patches;

public sealed class LoraFilesTests : IDisposable
{
    readonly string folder = Directory.CreateTempSubdirectory("scalpel lora ").FullName;

    public void Dispose() => Directory.Delete(folder, recursive: true);

    static JsonObject Config(string adapter) => JsonNode.Parse(File.ReadAllText(Path.Combine(adapter, "adapter_config.json")))!.AsObject();

    public static TheoryData<string> Cases => [.. Directory.GetDirectories(Repository.Reference("tuning")).Where(path => Directory.Exists(Path.Combine(path, "adapter")) && File.ReadAllText(Path.Combine(path, "case.json")).Contains("\"kind\": \"lora\"", StringComparison.Ordinal)).Select(path => Path.GetFileName(path)!)];

    [Theory]
    [MemberData(nameof(Cases))]
    public void AnAdapterOfPeftMergesAsPeftMergesIt(string name)
    {
        using var scope = NewDisposeScope();
        string source = Repository.Reference("tuning", name);
        using Checkpoint checkpoint = Open(source);
        using Patch patch = LoraImport.Read(Path.Combine(source, "adapter"), checkpoint).Patch;
        PatchFiles.Apply(checkpoint, patch, Path.Combine(folder, "merged"));
        using Checkpoint merged = Checkpoint.Open(Path.Combine(folder, "merged"));
        using var expected = SafeTensorsFile.Open(Path.Combine(source, "expected.safetensors"));
        string[] changed = [.. expected.Entries.Keys.Where(key => key.StartsWith("merged.", StringComparison.Ordinal)).Select(key => key[7..])];
        patch.Deltas.Keys.Order().ShouldBe(changed.Order());
        foreach (string tensor in changed)
        {
            Tensor want = expected.Read($"merged.{tensor}");
            ((merged.Read(tensor) - want).abs() / (2e-5 + 1e-4 * want.abs())).max().ToDouble().ShouldBeLessThan(1, tensor);
        }
    }

    [Theory]
    [MemberData(nameof(Cases))]
    public void WhatIsExportedHasTheKeysAndValuesOfPeft(string name)
    {
        string source = Repository.Reference("tuning", name), exported = Path.Combine(folder, "adapter");
        using Checkpoint checkpoint = Open(source);
        using Patch patch = LoraImport.Read(Path.Combine(source, "adapter"), checkpoint).Patch;
        LoraExport.Write(patch, checkpoint, AdapterFormat.Peft, exported).Errors.ShouldBeEmpty();
        using var ours = SafeTensorsFile.Open(Path.Combine(exported, "adapter_model.safetensors"));
        using var theirs = SafeTensorsFile.Open(Path.Combine(source, "adapter", "adapter_model.safetensors"));
        ours.Entries.Keys.Order().ShouldBe(theirs.Entries.Keys.Order());
        foreach (TensorEntry entry in theirs.Entries.Values)
        {
            ours.Entry(entry.Name).Shape.ShouldBe(entry.Shape, entry.Name);
            ours.Bytes(ours.Entry(entry.Name), 0, (int)entry.Length).SequenceEqual(theirs.Bytes(entry, 0, (int)entry.Length)).ShouldBeTrue(entry.Name);
        }

        JsonObject config = Config(exported), original = Config(Path.Combine(source, "adapter"));
        foreach (string field in (string[])["peft_type", "task_type", "bias", "inference_mode", "fan_in_fan_out", "use_dora", "lora_bias"])
        {
            (config[field]?.ToJsonString()).ShouldBe(original[field]?.ToJsonString(), field);
        }

        using Patch again = LoraImport.Read(exported, checkpoint).Patch;
        again.Deltas.Keys.Order().ShouldBe(patch.Deltas.Keys.Order());
        foreach ((string tensor, Delta delta) in patch.Deltas.Where(pair => pair.Value is LowRank))
        {
            ((LowRank)again.Deltas[tensor]).Scale.ShouldBe(((LowRank)delta).Scale, 1e-12);
        }
    }

    [Theory]
    [InlineData(AdapterFormat.Kohya, "kohya")]
    [InlineData(AdapterFormat.Diffusers, "diffusers")]
    public void OtherDialectsComeBackWithTheSameChange(AdapterFormat format, string dialect)
    {
        using var scope = NewDisposeScope();
        string source = Repository.Reference("tuning", "lora-patterns");
        using Checkpoint checkpoint = Open(source);
        using Patch patch = LoraImport.Read(Path.Combine(source, "adapter"), checkpoint).Patch;
        LoraExport.Write(patch, checkpoint, format, Path.Combine(folder, "other"));
        ImportedAdapter back = LoraImport.Read(Path.Combine(folder, "other"), checkpoint);
        back.Dialect.ShouldBe(dialect);
        foreach ((string tensor, BaseTensor target) in patch.BaseTensors)
        {
            Tensor before = ((AdditiveDelta)patch.Deltas[tensor]).ToTensor(target.Shape), after = ((AdditiveDelta)back.Patch.Deltas[tensor]).ToTensor(target.Shape);
            (before - after).abs().max().ToDouble().ShouldBeLessThan(1e-6, tensor);
        }
    }

    [Fact]
    public void ADenseChangeIsExportedByItsSingularValuesWithTheError()
    {
        using var scope = NewDisposeScope();
        using Checkpoint checkpoint = Open(Repository.Reference("tuning", "lora-patterns"));
        string name = "model.layers.0.self_attn.q_proj.weight";
        using Patch patch = Patch.For(checkpoint, new PatchInfo { Method = "test" }, new Dictionary<string, Delta> { [name] = new DenseAdd(randn(checkpoint.Entry(name).Shape.ToArray(), generator: new Generator(2))) });
        ExportReport report = LoraExport.Write(patch, checkpoint, AdapterFormat.Peft, Path.Combine(folder, "svd"), rank: 4);
        using Patch back = LoraImport.Read(Path.Combine(folder, "svd"), checkpoint).Patch;
        Tensor before = ((AdditiveDelta)patch.Deltas[name]).ToTensor(checkpoint.Entry(name).Shape), after = ((AdditiveDelta)back.Deltas[name]).ToTensor(checkpoint.Entry(name).Shape);
        ((before - after).norm() / before.norm()).ToDouble().ShouldBe(report.Errors[name], 1e-5);
    }

    public static TheoryData<string, string> Refusals => new()
    {
        { """{"use_qalora": true}""", "use_qalora" },
        { """{"kasa_config": {"a": 1}}""", "kasa_config" },
        { """{"layer_replication": [[0, 1]]}""", "layer_replication" },
        { """{"init_lora_weights": "pissa_niter_4"}""", "pissa_niter_4" },
        { """{"use_something_new": true}""", "use_something_new" },
        { """{"target_modules": ["q_proj", "o_proj", "up_proj", "k_proj"]}""", "k_proj" },
        { """{"target_modules": ["q_proj"]}""", "does not target" },
        { """{"peft_type": "LOHA"}""", "LOHA" },
        { """{"r": 5}""", "rank" },
        { """{"use_dora": true}""", "lora_magnitude_vector" },
        { """{"target_modules": "(unclosed"}""", "(unclosed" },
    };

    [Theory]
    [MemberData(nameof(Refusals))]
    public void WhatIsNotUnderstoodOrIncompleteIsRefusedByName(string change, string word)
    {
        string source = Repository.Reference("tuning", "lora-patterns"), adapter = Path.Combine(folder, "adapter");
        using Checkpoint checkpoint = Open(source);
        Directory.CreateDirectory(adapter);
        File.Copy(Path.Combine(source, "adapter", "adapter_model.safetensors"), Path.Combine(adapter, "adapter_model.safetensors"));
        JsonObject config = JsonNode.Parse(File.ReadAllText(Path.Combine(source, "adapter", "adapter_config.json")))!.AsObject();
        foreach ((string key, JsonNode? value) in JsonNode.Parse(change)!.AsObject())
        {
            config[key] = value?.DeepClone();
        }

        File.WriteAllText(Path.Combine(adapter, "adapter_config.json"), config.ToJsonString());
        Should.Throw<BadInputException>(() => LoraImport.Read(adapter, checkpoint)).Message.ShouldContain(word);
    }

    [Fact]
    public void AnAdapterForAnotherBaseIsRefused()
    {
        using Checkpoint other = Checkpoint.Open(Repository.Reference("decoders", "_models", "gpt2"));
        Should.Throw<BadInputException>(() => LoraImport.Read(Repository.Reference("tuning", "lora-patterns", "adapter"), other)).Message.ShouldContain("does not have");
    }

    static Checkpoint Open(string source) => Checkpoint.Open(Path.Combine(source, JsonNode.Parse(File.ReadAllText(Path.Combine(source, "case.json")))!["model"]!.GetValue<string>()));
}
