using System.Text.Json.Nodes;
using Scalpel.Checkpoints;
using Scalpel.Patches;

namespace Scalpel.Bench.Works;

/// <summary>A patch of rank 16 on four of 64 matrices, applied to a checkpoint of 2 GB in four shards; compare with <c>cp -r</c> of the same folder.</summary>
sealed class PatchApply2GB : IWork
{
    const int Shards = 4, PerShard = 16, Side = 4096;

    readonly string folder = Path.Combine(Path.GetTempPath(), $"scalpel bench {Environment.ProcessId}");
    readonly Checkpoint checkpoint;
    readonly Patch patch;

    public static string Name => "patch_apply_2gb";

    public PatchApply2GB()
    {
        string model = Path.Combine(folder, "model");
        Directory.CreateDirectory(model);
        File.WriteAllText(Path.Combine(model, "config.json"), "{}");
        byte[] block = new byte[1 << 20];
        new Random(1).NextBytes(block);
        for (int i = 1; i < block.Length; i += 2)
        {
            block[i] &= 0x3f;
        }

        var map = new JsonObject();
        for (int shard = 1; shard <= Shards; shard++)
        {
            string file = $"model-{shard:D5}-of-{Shards:D5}.safetensors";
            var tensors = new List<TensorToWrite>();
            for (int i = 0; i < PerShard; i++)
            {
                string name = $"layers.{shard}.{i:D2}.weight";
                map[name] = file;
                tensors.Add(new TensorToWrite(name, StorageType.BF16, [Side, Side], stream =>
                {
                    for (long at = 0; at < 2L * Side * Side; at += block.Length)
                    {
                        stream.Write(block);
                    }
                }));
            }

            SafeTensorsWriter.Write(Path.Combine(model, file), tensors, null);
        }

        File.WriteAllText(Path.Combine(model, "model.safetensors.index.json"), new JsonObject { ["weight_map"] = map }.ToJsonString());
        checkpoint = Checkpoint.Open(model);
        PatchTensor Factor(int seed, params long[] shape)
        {
            var random = new Random(seed);
            float[] values = new float[16 * Side];
            for (int i = 0; i < values.Length; i++)
            {
                values[i] = random.NextSingle() - 0.5f;
            }

            return PatchTensor.Of(StorageType.F32, shape, System.Runtime.InteropServices.MemoryMarshal.AsBytes(values.AsSpan()).ToArray());
        }

        patch = Patch.For(checkpoint, new PatchInfo { Method = "bench" }, Enumerable.Range(1, Shards).ToDictionary(shard => $"layers.{shard}.05.weight", shard => (Delta)new LowRank(Factor(shard, 16, Side), Factor(-shard, Side, 16), 0.1)));
    }

    public void Run() => PatchFiles.Apply(checkpoint, patch, Path.Combine(folder, "edited"), new ApplyOptions { Overwrite = true });

    public void Dispose()
    {
        patch.Dispose();
        checkpoint.Dispose();
        Directory.Delete(folder, recursive: true);
    }
}
