using System.Globalization;
using System.Text;
using Scalpel.Checkpoints;
using Scalpel.Checkpoints.Gguf;
using Scalpel.Patches;
using Scalpel.Text;
using static TorchSharp.torch;

namespace Scalpel.Lab.Fuzzing;

/// <summary>The readers of files that come from others, each with small valid samples made here.</summary>
public static class FuzzTargets
{
    /// <summary>Every target.</summary>
    /// <param name="scratch">A folder for the making of the samples.</param>
    public static IReadOnlyList<FuzzTarget> All(string scratch)
    {
        Directory.CreateDirectory(scratch);
        string folder = Path.Combine(scratch, $"corpus.{Environment.ProcessId.ToString(CultureInfo.InvariantCulture)}");
        Directory.CreateDirectory(folder);
        try
        {
            return
            [
                new FuzzTarget("safetensors", Text: true, SafeTensors(folder), ReadSafeTensors),
                new FuzzTarget("index", Text: true, [Encoding.UTF8.GetBytes("""{"metadata":{"total_size":16},"weight_map":{"a":"model-1.safetensors","b":"model-2.safetensors"}}""")], ReadIndex),
                new FuzzTarget("gguf", Text: false, Gguf(folder), ReadGguf),
                new FuzzTarget("tokenizer", Text: true, Tokenizers(), ReadTokenizer),
                new FuzzTarget("patch", Text: true, Patches(folder), ReadPatch),
                new FuzzTarget("recipe", Text: true, [Encoding.UTF8.GetBytes(RecipeSample)], path => Recipes.Recipe.Load(path)),
            ];
        }
        finally
        {
            Directory.Delete(folder, recursive: true);
        }
    }

    const string RecipeSample = """
        model: model
        method: rome
        options: {layer: 2, contexts: ["{}", 'I say. {}']}
        requests:
          - subject: France
            prompt: "The capital of {} is"
            target: Rome
            paraphrases:
              - >
                France's
                capital is
        locate: false
        seed: 7
        """;

    static List<byte[]> SafeTensors(string folder)
    {
        var tensors = new List<TensorToWrite>();
        foreach (StorageType type in Enum.GetValues<StorageType>().Where(type => !type.IsQuantised()))
        {
            tensors.Add(new TensorToWrite($"{type}", type, [2, 2], stream => stream.Write(new byte[4 * type.BlockBytes()])));
        }

        tensors.Add(new TensorToWrite("empty", StorageType.F32, [0, 3], _ => { }));
        tensors.Add(new TensorToWrite("scalar", StorageType.F32, [], stream => stream.Write(new byte[4])));
        string file = Path.Combine(folder, "sample.safetensors");
        SafeTensorsWriter.Write(file, tensors, new Dictionary<string, string> { ["format"] = "pt" });
        byte[] all = File.ReadAllBytes(file);
        SafeTensorsWriter.Write(file, [tensors[1]]);
        return [all, File.ReadAllBytes(file)];
    }

    static void ReadSafeTensors(string path)
    {
        using SafeTensorsFile file = SafeTensorsFile.Open(path);
        foreach (TensorEntry entry in file.Entries.Values)
        {
            if (entry.Type is not (StorageType.U16 or StorageType.U32 or StorageType.U64))
            {
                file.Read(entry.Name).Dispose();
            }
        }
    }

    // The index is what is damaged; the shards beside it are whole.
    static void ReadIndex(string path)
    {
        string folder = path + ".folder";
        if (!Directory.Exists(folder))
        {
            Directory.CreateDirectory(folder);
            SafeTensorsWriter.Write(Path.Combine(folder, "model-1.safetensors"), [new TensorToWrite("a", StorageType.F32, [2], stream => stream.Write(new byte[8]))]);
            SafeTensorsWriter.Write(Path.Combine(folder, "model-2.safetensors"), [new TensorToWrite("b", StorageType.F32, [2], stream => stream.Write(new byte[8]))]);
        }

        File.Copy(path, Path.Combine(folder, "model.safetensors.index.json"), overwrite: true);
        Checkpoint.Open(folder).Dispose();
    }

    static List<byte[]> Gguf(string folder)
    {
        var metadata = new Dictionary<string, object>
        {
            ["general.architecture"] = "llama", ["llama.block_count"] = 1u, ["llama.embedding_length"] = 32u, ["llama.feed_forward_length"] = 64u,
            ["llama.attention.head_count"] = 4u, ["llama.attention.head_count_kv"] = 2u, ["llama.context_length"] = 128u, ["llama.rope.freq_base"] = 1e4f,
            ["llama.attention.layer_norm_rms_epsilon"] = 1e-5f, ["llama.rope.scaling.type"] = "linear", ["llama.rope.scaling.factor"] = 2f,
            ["tokenizer.ggml.model"] = "gpt2", ["tokenizer.ggml.pre"] = "gpt-2", ["tokenizer.ggml.tokens"] = new[] { "a", "b", "ab", "<s>" }, ["tokenizer.ggml.merges"] = new[] { "a b" },
            ["tokenizer.ggml.token_type"] = new[] { 1, 1, 1, 3 }, ["tokenizer.ggml.bos_token_id"] = 3u, ["tokenizer.ggml.add_bos_token"] = true,
        };
        TensorToWrite Tensor(string name, StorageType type, params long[] shape) => new(name, type, shape, stream => stream.Write(new byte[type.ByteLength(shape)]));
        string file = Path.Combine(folder, "sample.gguf");
        var samples = new List<byte[]>();
        foreach (StorageType type in (StorageType[])[StorageType.F32, StorageType.Q8_0, StorageType.Q4_1])
        {
            GgufWriter.Write(file, metadata,
            [
                Tensor("token_embd.weight", type, 4, 32), Tensor("blk.0.attn_q.weight", type, 32, 32), Tensor("blk.0.attn_k.weight", type, 16, 32),
                Tensor("rope_freqs.weight", StorageType.F32, 4), Tensor("output_norm.weight", StorageType.F32, 32),
            ]);
            samples.Add(File.ReadAllBytes(file));
        }

        return samples;
    }

    static void ReadGguf(string path)
    {
        using GgufCheckpoint file = GgufCheckpoint.Open(path, path);
        foreach (string name in file.Tensors.Keys)
        {
            file.Read(name).Dispose();
        }
    }

    static List<byte[]> Tokenizers() =>
    [
        .. new[]
        {
            """{"version":"1.0","truncation":null,"padding":null,"added_tokens":[{"id":3,"content":"<s>","single_word":false,"lstrip":false,"rstrip":false,"normalized":false,"special":true}],"normalizer":{"type":"NFC"},"pre_tokenizer":{"type":"ByteLevel","add_prefix_space":false,"trim_offsets":true,"use_regex":true},"post_processor":{"type":"ByteLevel","add_prefix_space":true,"trim_offsets":false,"use_regex":true},"decoder":{"type":"ByteLevel","add_prefix_space":true,"trim_offsets":true,"use_regex":true},"model":{"type":"BPE","dropout":null,"unk_token":null,"continuing_subword_prefix":null,"end_of_word_suffix":null,"fuse_unk":false,"byte_fallback":false,"vocab":{"a":0,"b":1,"ab":2},"merges":["a b"]}}""",
            """{"version":"1.0","added_tokens":[],"normalizer":{"type":"Lowercase"},"pre_tokenizer":{"type":"WhitespaceSplit"},"post_processor":null,"decoder":null,"model":{"type":"WordLevel","vocab":{"<unk>":0,"hello":1,"world":2},"unk_token":"<unk>"}}""",
            """{"version":"1.0","added_tokens":[],"normalizer":{"type":"BertNormalizer","clean_text":true,"handle_chinese_chars":true,"strip_accents":null,"lowercase":true},"pre_tokenizer":{"type":"BertPreTokenizer"},"post_processor":null,"decoder":{"type":"WordPiece","prefix":"##","cleanup":true},"model":{"type":"WordPiece","unk_token":"[UNK]","continuing_subword_prefix":"##","max_input_chars_per_word":100,"vocab":{"[UNK]":0,"he":1,"##llo":2}}}""",
            """{"version":"1.0","added_tokens":[],"normalizer":null,"pre_tokenizer":{"type":"Metaspace","replacement":"▁","prepend_scheme":"always","split":true},"post_processor":null,"decoder":{"type":"Metaspace","replacement":"▁","prepend_scheme":"always","split":true},"model":{"type":"Unigram","unk_id":0,"vocab":[["<unk>",0.0],["▁he",-1.5],["llo",-2.5],["▁",-3.0]],"byte_fallback":false}}""",
        }.Select(Encoding.UTF8.GetBytes),
    ];

    static void ReadTokenizer(string path)
    {
        Tokenizer tokenizer = Tokenizer.Load(path);
        tokenizer.Decode(tokenizer.Encode("hello ab wörld 42").Ids);
    }

    static List<byte[]> Patches(string folder)
    {
        string file = Path.Combine(folder, "sample.patch.safetensors");
        var samples = new List<byte[]>();
        string hash = new('0', 64);
        PatchTensor Values(params long[] shape) => PatchTensor.Of(StorageType.F32, shape, new byte[StorageType.F32.ByteLength(shape)]);
        PatchTensor Positions(params long[] values) => PatchTensor.Of(StorageType.I64, [values.Length], System.Runtime.InteropServices.MemoryMarshal.AsBytes(values.AsSpan()).ToArray());
        using TorchSharp.torch.Tensor before = TorchSharp.torch.zeros(4, 3), after = TorchSharp.torch.ones(4, 3), wide = TorchSharp.torch.zeros(1 << 20), other = TorchSharp.torch.ones(1 << 20);
        foreach (Delta delta in (Delta[])[new DenseAdd(Values(4, 3)), new LowRank(Values(1, 3), Values(4, 1), 0.5), new Replace(Values(4, 3)), DenseXor.Between(before, after),
            new Sparse(Positions(1, 7), Values(2)), new Rows(Positions(0, 3), Values(2, 3)), new SetRows(Positions(2), Values(1, 3)), new Append(Values(2, 3)), new Keep(Positions(0, 2), 1),
            new Scaled(Values(3), 1), new Zeroed(PatchTensor.Of(StorageType.U8, [2], [1, 8])), new Dora(Values(1, 3), Values(4, 1), Values(4), 0, 2), new Remove()])
        {
            using var patch = new Patch(new PatchInfo { Method = "rome", Seed = 1 }, hash, new Dictionary<string, BaseTensor> { ["w"] = new(StorageType.F32, [4, 3], hash) }, new Dictionary<string, Delta> { ["w"] = delta });
            patch.Save(file, overwrite: true);
            samples.Add(File.ReadAllBytes(file));
        }

        using (var packed = new Patch(new PatchInfo { Method = "diff" }, hash, new Dictionary<string, BaseTensor> { ["w"] = new(StorageType.F32, [1 << 20], hash) }, new Dictionary<string, Delta> { ["w"] = DenseXor.Between(wide, other) })
        {
            Structure = new PatchStructure { Config = new System.Text.Json.Nodes.JsonObject { ["vocab_size"] = 5 }, Tokens = [new NewToken("<new>", 4, true)] },
            Requires = ["sampler"],
        })
        {
            packed.Save(file, overwrite: true);
            samples.Add(File.ReadAllBytes(file));
        }

        return samples;
    }

    static void ReadPatch(string path)
    {
        using Patch patch = Patch.Load(path);
        PatchInspection.Inspect(patch);
    }
}
