using Scalpel.Checkpoints;
using Scalpel.Training;
using TorchSharp;
using static TorchSharp.torch;

namespace Scalpel.Lab.Parity;

/// <summary>Optimizers on fixed gradients, with clipping and schedules; running averages of weights.</summary>
public sealed class OptimizerParity : IParityKind
{
    /// <inheritdoc/>
    public string Kind => "optimizer";

    /// <inheritdoc/>
    public void Run(ParityCase parityCase, Comparison comparison)
    {
        using var scope = NewDisposeScope();
        using SafeTensorsFile inputs = SafeTensorsFile.Open(parityCase.PathOf("inputs")), expected = SafeTensorsFile.Open(parityCase.PathOf("expected"));
        if (parityCase.Option("algorithm") == "ema")
        {
            RunAverage(parityCase, inputs, expected, comparison);
        }
        else
        {
            RunOptimizer(parityCase, inputs, expected, comparison);
        }
    }

    static void RunOptimizer(ParityCase parityCase, SafeTensorsFile inputs, SafeTensorsFile expected, Comparison comparison)
    {
        var options = new CaseOptions(parityCase.Options, parityCase.Folder);
        options.Ignore("algorithm");
        CaseOptions arguments = options.Part("arguments");
        string[] names = [.. inputs.Entries.Keys.Where(key => key.StartsWith("param.", StringComparison.Ordinal)).Select(key => key[6..])];
        string[] free = options.Texts("no_weight_decay");
        List<ParameterGroup> groups = [];
        foreach (bool decays in new[] { true, false })
        {
            string[] part = [.. names.Where(name => free.Contains(name) != decays)];
            if (part.Length > 0)
            {
                groups.Add(new ParameterGroup(part.Select(name => KeyValuePair.Create(name, inputs.Read($"param.{name}")))) { WeightDecay = decays ? null : 0 });
            }
        }

        ParameterGroup Of(string name) => groups.First(group => group.Names.Contains(name));

        string kind = options.Text("optimizer");
        double peak = arguments.NumberOrNull("lr") ?? DefaultRate(kind);
        bool maximize = arguments.Flag("maximize");
        using Optimizer optimizer = Read(kind, arguments, groups, peak);
        arguments.Finish();
        double? norm = options.NumberOrNull("max_grad_norm"), clip = options.NumberOrNull("clip_value");
        Schedule schedule = new ConstantSchedule();
        if (options.Has("schedule"))
        {
            CaseOptions part = options.Part("schedule");
            schedule = ScheduleParity.Read(part.Text("name"), part.Part("scheduler_specific_kwargs"), (long)part.Number("num_warmup_steps", 0), (long)part.Number("num_training_steps", 0), peak);
            part.Finish();
        }

        options.Finish();
        Dictionary<string, Tensor> gradients = names.ToDictionary(name => name, name => inputs.Read($"grad.{name}"));
        Dictionary<string, Tensor> wanted = expected.Entries.Keys.ToDictionary(key => key, key => expected.Read(key));
        long steps = gradients[names[0]].shape[0];
        for (long step = 0; step < steps; step++)
        {
            using var inner = NewDisposeScope();
            foreach (string name in names)
            {
                Of(name).Gradient(name).copy_(gradients[name][step]);
            }

            if (norm is { } largest)
            {
                comparison.Numbers($"grad_norm[{step}]", GradientClipping.ByNorm(groups, largest), wanted["grad_norm"][step].ToDouble());
            }

            if (clip is { } bound)
            {
                GradientClipping.ByValue(groups, bound);
            }

            foreach (string name in names.Where(name => wanted.ContainsKey($"clipped.{name}")))
            {
                comparison.Tensors($"clipped.{name}[{step}]", Of(name).Gradient(name), wanted[$"clipped.{name}"][step]);
            }

            double rate = peak * schedule.Factor(step);
            if (wanted.TryGetValue("lr", out Tensor? rates))
            {
                comparison.Numbers($"lr[{step}]", rate, rates[step].ToDouble());
            }

            if (maximize)
            {
                groups.ForEach(group => group.Gradients.neg_());
            }

            optimizer.Step(rate);
            foreach (string name in names)
            {
                comparison.Tensors($"param.{name}[{step}]", Of(name).Value(name), wanted[$"param.{name}"][step]);
            }
        }

        foreach (string key in wanted.Keys.Where(key => key.StartsWith("state.", StringComparison.Ordinal)))
        {
            int dot = key.IndexOf('.', 6);
            (string state, string name) = (key[6..dot], key[(dot + 1)..]);
            int group = groups.IndexOf(Of(name));
            IReadOnlyDictionary<string, Tensor> states = optimizer.State(group);
            Tensor ours = optimizer is NAdam nadam && state == "mu_product" ? tensor((float)nadam.MomentumProduct)
                : states.TryGetValue($"{state}.{name}", out Tensor? own) ? own
                : groups[group].View(states[state], name);
            comparison.Tensors(key, ours, wanted[key]);
        }

        groups.ForEach(group => group.Dispose());
    }

    static double DefaultRate(string kind) => kind switch
    {
        "torch.optim.Adam" or "torch.optim.AdamW" or "torch.optim.RAdam" or "torch.optim.SGD" => 1e-3,
        "torch.optim.NAdam" or "torch.optim.Adamax" => 2e-3,
        "lion_pytorch.Lion" => 1e-4,
        "transformers.Adafactor" => 0,
        _ => 1e-2,
    };

    static Optimizer Read(string kind, CaseOptions a, IReadOnlyList<ParameterGroup> groups, double peak)
    {
        a.Ignore("foreach", "fused", "capturable", "differentiable", "use_triton");
        double[]? betas = a.Numbers("betas");
        double decay = a.Number("weight_decay", kind == "torch.optim.AdamW" ? 0.01 : 0);
        double Beta1(double otherwise) => betas?[0] ?? otherwise;
        double Beta2(double otherwise) => betas?[1] ?? otherwise;
        return kind switch
        {
            "torch.optim.SGD" => new Sgd(groups, new SgdOptions { WeightDecay = decay, Momentum = a.Number("momentum", 0), Dampening = a.Number("dampening", 0), Nesterov = a.Flag("nesterov") }),
            "torch.optim.Adam" when !a.Flag("decoupled_weight_decay") => new Adam(groups, new AdamOptions { WeightDecay = decay, Beta1 = Beta1(0.9), Beta2 = Beta2(0.999), Epsilon = a.Number("eps", 1e-8), AmsGrad = a.Flag("amsgrad") }),
            "torch.optim.AdamW" or "torch.optim.Adam" => new AdamW(groups, new AdamWOptions { WeightDecay = decay, Beta1 = Beta1(0.9), Beta2 = Beta2(0.999), Epsilon = a.Number("eps", 1e-8), AmsGrad = a.Flag("amsgrad") }),
            "torch.optim.Adamax" => new Adamax(groups, new AdamaxOptions { WeightDecay = decay, Beta1 = Beta1(0.9), Beta2 = Beta2(0.999), Epsilon = a.Number("eps", 1e-8) }),
            "torch.optim.NAdam" => new NAdam(groups, new NAdamOptions { WeightDecay = decay, Beta1 = Beta1(0.9), Beta2 = Beta2(0.999), Epsilon = a.Number("eps", 1e-8), MomentumDecay = a.Number("momentum_decay", 4e-3), DecoupledWeightDecay = a.Flag("decoupled_weight_decay") }),
            "torch.optim.RAdam" => new RAdam(groups, new RAdamOptions { WeightDecay = decay, Beta1 = Beta1(0.9), Beta2 = Beta2(0.999), Epsilon = a.Number("eps", 1e-8), DecoupledWeightDecay = a.Flag("decoupled_weight_decay") }),
            "torch.optim.RMSprop" => new RmsProp(groups, new RmsPropOptions { WeightDecay = decay, Alpha = a.Number("alpha", 0.99), Epsilon = a.Number("eps", 1e-8), Momentum = a.Number("momentum", 0), Centred = a.Flag("centered") }),
            "torch.optim.Adagrad" => new Adagrad(groups, new AdagradOptions { WeightDecay = decay, RateDecay = a.Number("lr_decay", 0), InitialSum = a.Number("initial_accumulator_value", 0), Epsilon = a.Number("eps", 1e-10) }),
            // lion-pytorch's "decoupled_weight_decay" divides the decay by the first rate.
            "lion_pytorch.Lion" => new Lion(groups, new LionOptions { WeightDecay = a.Flag("decoupled_weight_decay") ? decay / peak : decay, Beta1 = Beta1(0.9), Beta2 = Beta2(0.99) }),
            "transformers.Adafactor" => new Adafactor(groups, new AdafactorOptions
            {
                WeightDecay = decay,
                Epsilon1 = a.Numbers("eps")?[0] ?? 1e-30,
                Epsilon2 = a.Numbers("eps")?[1] ?? 1e-3,
                ClipThreshold = a.Number("clip_threshold", 1),
                DecayRate = a.Number("decay_rate", -0.8),
                Beta1 = a.NumberOrNull("beta1"),
                ScaleParameter = a.Flag("scale_parameter", true),
                RelativeStep = a.Flag("relative_step", true),
                WarmupInit = a.Flag("warmup_init"),
            }),
            "torch.optim.Adafactor" => new Adafactor(groups, new AdafactorOptions
            {
                Form = AdafactorForm.Torch,
                WeightDecay = decay,
                Epsilon1 = a.Numbers("eps")?[0] is { } first && !double.IsNaN(first) ? first : null,
                Epsilon2 = a.Numbers("eps")?[1] ?? 1e-3,
                ClipThreshold = a.Number("d", 1),
                DecayRate = a.Number("beta2_decay", -0.8),
            }),
            _ => throw new BadInputException($"The optimizer '{kind}' is not known here."),
        };
    }

    static void RunAverage(ParityCase parityCase, SafeTensorsFile inputs, SafeTensorsFile expected, Comparison comparison)
    {
        var options = new CaseOptions(parityCase.Options, parityCase.Folder);
        options.Ignore("algorithm");
        CaseOptions a = options.Part("arguments").Ignore("foreach", "use_buffers");
        string kind = options.Text("implementation");
        foreach (string name in inputs.Entries.Keys.Where(key => key.StartsWith("initial.", StringComparison.Ordinal)).Select(key => key[8..]))
        {
            Tensor values = inputs.Read($"param.{name}"), wanted = expected.Read($"ema.{name}");
            using WeightAverage average = kind switch
            {
                "diffusers.EMAModel" => new ExponentialAverage(inputs.Read($"initial.{name}"), new ExponentialAverageOptions
                {
                    Decay = a.Number("decay", 0.9999),
                    MinDecay = a.Number("min_decay", 0),
                    UpdateAfter = (long)a.Number("update_after_step", 0),
                    Warmup = a.Flag("use_ema_warmup"),
                    InverseGamma = a.Number("inv_gamma", 1),
                    Power = a.Number("power", 2.0 / 3),
                }),
                "torch.optim.swa_utils ema" => new ConstantExponentialAverage(inputs.Read($"initial.{name}"), a.Number("decay", 0.999)),
                "torch.optim.swa_utils swa" => new StochasticAverage(inputs.Read($"initial.{name}")),
                _ => throw new BadInputException($"The average '{kind}' is not known here."),
            };
            for (long step = 0; step < values.shape[0]; step++)
            {
                average.Update(values[step]);
                comparison.Tensors($"ema.{name}[{step}]", average.Values, wanted[step]);
                if (expected.Entries.ContainsKey("decay"))
                {
                    comparison.Numbers($"decay[{step}]", average.Decay(step + 1), expected.Read("decay")[step].ToDouble());
                }
            }
        }

        a.Finish();
        options.Finish();
    }
}
