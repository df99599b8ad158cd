using System.Text.Json.Nodes;
using System.Text.RegularExpressions;
using Scalpel.Checkpoints;

namespace Scalpel.Patches.Adapters;

public static partial class LoraImport
{
    // kohya: lora_unet_down_blocks_0_….lora_down.weight, .lora_up.weight, .alpha.
    // diffusers: unet.down_blocks.0.….lora_A.weight, or of old …attn1.processor.to_q_lora.down.weight.
    static ImportedAdapter ReadFile(string path, Checkpoint checkpoint)
    {
        using SafeTensorsFile file = SafeTensorsFile.Open(path);
        var target = new AdapterTarget(checkpoint);
        Dictionary<string, string> underscored = target.Modules.GroupBy(module => module.Replace('.', '_'), StringComparer.Ordinal).ToDictionary(group => group.Key, group => group.First(), StringComparer.Ordinal);
        var modules = new SortedDictionary<string, AdapterModule>(StringComparer.Ordinal);
        bool kohya = false;
        foreach (TensorEntry entry in file.Entries.Values)
        {
            Match match = FileSuffix().Match(entry.Name);
            if (!match.Success)
            {
                throw new BadInputException($"{path} holds the tensor {entry.Name}, which belongs to no LoRA of diffusers or kohya; lora_down, lora_up, lora_A, lora_B and alpha are read.");
            }

            (string module, bool isKohya) = ModuleOf(match.Groups[1].Value, underscored, target, path);
            kohya |= isKohya;
            if (!modules.TryGetValue(module, out AdapterModule? parts))
            {
                modules[module] = parts = new AdapterModule();
            }

            PatchTensor values = Copy(file, entry);
            switch (match.Groups[2].Value)
            {
                case "alpha":
                    parts.Alpha = values.Count == 1 ? values.Values<double>()[0] : throw new BadInputException($"{path} holds {entry.Name} of {values.Count} numbers; one was expected.");
                    break;
                case "lora_magnitude_vector" or "dora_scale":
                    parts.Magnitude = values;
                    break;
                case "lora_A.weight" or "lora_down.weight" or "lora.down.weight" or "down.weight":
                    parts.A = values;
                    break;
                default:
                    parts.B = values;
                    break;
            }
        }

        if (modules.Count == 0)
        {
            throw new BadInputException($"{path} holds no tensors.");
        }

        var deltas = new Dictionary<string, Delta>(StringComparer.Ordinal);
        foreach ((string module, AdapterModule parts) in modules)
        {
            // Without an alpha the product stands as it is.
            parts.AddTo(deltas, module, target, parts.Alpha is { } alpha && parts.Rank > 0 ? alpha / parts.Rank : 1);
        }

        var info = new PatchInfo { Method = "lora", Options = new JsonObject(file.Metadata.Select(pair => KeyValuePair.Create<string, JsonNode?>(pair.Key, pair.Value))) };
        return new ImportedAdapter(Patch.For(checkpoint, info, deltas), kohya ? "kohya" : "diffusers", []);
    }

    static (string Module, bool Kohya) ModuleOf(string key, Dictionary<string, string> underscored, AdapterTarget target, string path)
    {
        Match flat = KohyaPrefix().Match(key);
        if (flat.Success && underscored.TryGetValue(flat.Groups[1].Value, out string? module))
        {
            return (module, true);
        }

        string dotted = DiffusersPrefix().Replace(key, "");
        dotted = OldProcessor().Replace(dotted, match => match.Groups[1].Value == "to_out" ? "to_out.0" : match.Groups[1].Value);
        foreach (string candidate in (string[])[dotted, key])
        {
            if (target.Find(candidate + ".weight") is { } entry)
            {
                return (entry.Name[..^7], false);
            }
        }

        throw new BadInputException($"{path} adapts {key}, which is no module of {target.Checkpoint.Location}; the nearest are {string.Join(", ", Nearest.To(dotted, target.Modules, 3))}.");
    }

    [GeneratedRegex(@"^(.+?)[._](lora_A\.weight|lora_B\.weight|lora_down\.weight|lora_up\.weight|lora\.down\.weight|lora\.up\.weight|down\.weight|up\.weight|lora_magnitude_vector|dora_scale|alpha)$")]
    private static partial Regex FileSuffix();

    [GeneratedRegex(@"^lora_(?:unet|te|te1|te2|te3|transformer)_(.+)$")]
    private static partial Regex KohyaPrefix();

    [GeneratedRegex(@"^(?:unet|transformer|text_encoder|text_encoder_2|base_model\.model)\.")]
    private static partial Regex DiffusersPrefix();

    [GeneratedRegex(@"processor\.(to_q|to_k|to_v|to_out)(?:_lora)?$")]
    private static partial Regex OldProcessor();
}
