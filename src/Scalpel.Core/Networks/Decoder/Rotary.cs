using System.Text.Json.Nodes;
using Scalpel.Networks.Layers;
using TorchSharp;
using static TorchSharp.torch;

namespace Scalpel.Networks;

/// <summary>How rotary frequencies are stretched beyond the length that a model was trained on.</summary>
public enum RotaryScaling
{
    /// <summary>Not at all.</summary>
    None,

    /// <summary>θ/factor.</summary>
    Linear,

    /// <summary>A larger base once a sequence exceeds the original length.</summary>
    Dynamic,

    /// <summary>Long waves by factor, short ones not, between them a blend (Llama 3).</summary>
    Llama3,

    /// <summary>NTK by parts, with cos and sin scaled (YaRN).</summary>
    Yarn,
}

/// <summary>One rotary embedding: frequencies θ_i = base^(−2i/r), i &lt; r/2, and their scaling.</summary>
public sealed record RotaryConfig
{
    /// <summary>The base, <c>rope_theta</c>.</summary>
    public required double Base { get; init; }

    /// <summary>r, the leading dimensions of each head that turn.</summary>
    public required int Dimensions { get; init; }

    /// <summary>Pairs (2i, 2i+1) as in GPT-J, rather than (i, i + r/2).</summary>
    public bool Interleaved { get; init; }

    /// <summary>The scaling.</summary>
    public RotaryScaling Scaling { get; init; }

    /// <summary>Stretch factor.</summary>
    public double Factor { get; init; } = 1;

    /// <summary>Llama 3: below O/a wave lengths are blended.</summary>
    public double LowFrequencyFactor { get; init; } = 1;

    /// <summary>Llama 3: below O/b they are kept.</summary>
    public double HighFrequencyFactor { get; init; } = 4;

    /// <summary>O, the length of the original training.</summary>
    public double OriginalLength { get; init; }

    /// <summary>YaRN's fast bound, in turns.</summary>
    public double BetaFast { get; init; } = 32;

    /// <summary>YaRN's slow bound, in turns.</summary>
    public double BetaSlow { get; init; } = 1;

    /// <summary>YaRN: whether the bounds are rounded to whole dimensions.</summary>
    public bool Truncate { get; init; } = true;

    /// <summary>Factor of cos and sin.</summary>
    public double AttentionFactor { get; init; } = 1;

    /// <summary>Divisors of the frequencies that a GGUF file carries; null for none.</summary>
    public IReadOnlyList<double>? Divisors { get; init; }

    /// <summary>θ_i [r/2] for a sequence of the given length.</summary>
    public double[] Frequencies(long length)
    {
        int r = Dimensions;
        double b = Base;
        if (Scaling == RotaryScaling.Dynamic && length > OriginalLength)
        {
            b *= Math.Pow(Factor * length / OriginalLength - (Factor - 1), r / (r - 2.0));
        }

        var theta = new double[r / 2];
        for (int i = 0; i < theta.Length; i++)
        {
            theta[i] = Math.Pow(b, -2.0 * i / r);
            theta[i] = Scaling switch
            {
                RotaryScaling.Linear => theta[i] / Factor,
                RotaryScaling.Llama3 => Llama3(theta[i]),
                RotaryScaling.Yarn => Yarn(theta[i], i),
                _ => theta[i],
            };
            if (Divisors is not null)
            {
                theta[i] /= Divisors[i];
            }
        }

        return theta;
    }

    /// <summary>cos and sin of positions × frequencies, [B, T, 1, r/2] in <paramref name="type"/>; angles in float32.</summary>
    internal (Tensor Cos, Tensor Sin) Angles(Tensor positions, ScalarType type)
    {
        using var scope = NewDisposeScope();
        long length = Scaling == RotaryScaling.Dynamic ? positions.max().item<long>() + 1 : 0;
        Tensor theta = tensor(Frequencies(length), dtype: type == ScalarType.Float64 ? type : ScalarType.Float32);
        Tensor angle = positions.unsqueeze(-1).to_type(theta.dtype) * theta;
        Tensor cos = (angle.cos() * AttentionFactor).to_type(type).unsqueeze(2), sin = (angle.sin() * AttentionFactor).to_type(type).unsqueeze(2);
        return (cos.MoveToOuterDisposeScope(), sin.MoveToOuterDisposeScope());
    }

    /// <summary>Turns the leading dimensions of each head of x [B, T, heads, e].</summary>
    internal Tensor Turn(Tensor x, Tensor cos, Tensor sin)
    {
        using var scope = NewDisposeScope();
        long e = x.shape[^1], r = Dimensions;
        Tensor turning = r == e ? x : x.Part(0, r), turned;
        if (Interleaved)
        {
            Tensor pairs = turning.Split(r / 2, 2);
            Tensor a = pairs.select(-1, 0), b = pairs.select(-1, 1);
            turned = stack([a * cos - b * sin, b * cos + a * sin], -1).flatten(-2);
        }
        else
        {
            Tensor a = turning.Part(0, r / 2), b = turning.Part(r / 2, r / 2);
            turned = cat([a * cos - b * sin, b * cos + a * sin], -1);
        }

        return (r == e ? turned : cat([turned, x.Part(r, e - r)], -1)).MoveToOuterDisposeScope();
    }

    double Llama3(double theta)
    {
        double wave = 2 * Math.PI / theta;
        if (wave > OriginalLength / LowFrequencyFactor)
        {
            return theta / Factor;
        }

        if (wave < OriginalLength / HighFrequencyFactor)
        {
            return theta;
        }

        double s = (OriginalLength / wave - LowFrequencyFactor) / (HighFrequencyFactor - LowFrequencyFactor);
        return (1 - s) * theta / Factor + s * theta;
    }

    double Yarn(double theta, int i)
    {
        double Dimension(double turns) => Dimensions * Math.Log(OriginalLength / (2 * Math.PI * turns)) / (2 * Math.Log(Base));
        double low = Dimension(BetaFast), high = Dimension(BetaSlow);
        if (Truncate)
        {
            (low, high) = (Math.Floor(low), Math.Ceiling(high));
        }

        (low, high) = (Math.Max(low, 0), Math.Min(high, Dimensions - 1));
        double ramp = Math.Clamp((i - low) / (high == low ? 0.001 : high - low), 0, 1);
        return ramp * theta / Factor + (1 - ramp) * theta;
    }

    internal static (IReadOnlyList<RotaryConfig>, int[] OfLayer) ParseAll(ConfigKeys keys, string family, int headSize, int layers)
    {
        if (family == "gpt2")
        {
            return ([], new int[layers]);
        }

        if (family != "gemma3_text")
        {
            return ([Parse(keys, family, headSize, keys.Object("rope_parameters") ?? keys.Object("rope_scaling"), 0)], new int[layers]);
        }

        // Gemma 3: layers with a window turn with a base of their own and without scaling.
        JsonObject? byType = keys.Object("rope_parameters");
        JsonObject? full = byType?["full_attention"] as JsonObject ?? keys.Object("rope_scaling");
        JsonObject local = byType?["sliding_attention"] as JsonObject ?? new JsonObject { ["rope_type"] = "default", ["rope_theta"] = keys.Number("rope_local_base_freq") ?? 10000 };
        RotaryConfig[] both = [Parse(keys, family, headSize, full, 1e6), Parse(keys, family, headSize, local, 1e4)];
        IReadOnlyList<string>? types = keys.Texts("layer_types");
        int pattern = keys.Integer("sliding_window_pattern") ?? 6;
        return (both, [.. Enumerable.Range(0, layers).Select(l => (types is not null && l < types.Count ? types[l] == "sliding_attention" : (l + 1) % pattern != 0) ? 1 : 0)]);
    }

    static RotaryConfig Parse(ConfigKeys keys, string family, int headSize, JsonObject? parameters, double defaultBase)
    {
        var own = new ConfigKeys(parameters ?? [], keys.Where);
        string type = own.Text("rope_type") ?? own.Text("type") ?? "default";
        RotaryScaling scaling = type switch
        {
            "default" or "none" => RotaryScaling.None,
            "linear" => RotaryScaling.Linear,
            "dynamic" => RotaryScaling.Dynamic,
            "llama3" => RotaryScaling.Llama3,
            "yarn" => RotaryScaling.Yarn,
            _ => throw new BadInputException($"{keys.Where}: the rotary scaling '{type}' is not supported; supported are default, linear, dynamic, llama3, yarn."),
        };
        double share = own.Number("partial_rotary_factor") ?? keys.Number("partial_rotary_factor", "rotary_pct") ?? family switch { "gpt_neox" => 0.25, "phi" => 0.5, _ => 1.0 };
        int r = family == "gptj" ? keys.Default("rotary_dim", 64) is { } given ? (int)given : headSize : (int)(headSize * share);
        if (r < 2 || r > headSize || r % 2 != 0)
        {
            throw new BadInputException($"{keys.Where}: rotary embeddings over {r} of {headSize} dimensions of a head cannot be; an even number of at least 2 is expected.");
        }

        double factor = own.Number("factor") ?? 1;
        double original = own.Number("original_max_position_embeddings") ?? (scaling == RotaryScaling.Dynamic ? null : keys.Number("original_max_position_embeddings"))
            ?? keys.Number("max_position_embeddings", "n_positions") ?? 2048;
        double Scale(double s, double m) => s <= 1 ? 1 : 0.1 * m * Math.Log(s) + 1;
        double attention = 1;
        if (scaling == RotaryScaling.Yarn)
        {
            attention = own.Number("attention_factor") ?? (own.Number("mscale") is { } m && own.Number("mscale_all_dim") is { } all && m != 0 && all != 0
                ? Scale(factor, m) / Scale(factor, all)
                : Scale(factor, 1));
        }

        return new RotaryConfig
        {
            Base = own.Number("rope_theta") ?? keys.Number("rope_theta", "rotary_emb_base") ?? (defaultBase > 0 ? defaultBase : family == "mixtral" ? 1e6 : 1e4),
            Dimensions = r,
            Interleaved = family == "gptj",
            Scaling = scaling,
            Factor = factor,
            LowFrequencyFactor = own.Number("low_freq_factor") ?? 1,
            HighFrequencyFactor = own.Number("high_freq_factor") ?? 4,
            OriginalLength = original,
            BetaFast = own.Number("beta_fast") ?? 32,
            BetaSlow = own.Number("beta_slow") ?? 1,
            Truncate = own.Flag("truncate") ?? true,
            AttentionFactor = attention,
            Divisors = keys.Numbers("rope_freqs", r / 2),
        };
    }
}
