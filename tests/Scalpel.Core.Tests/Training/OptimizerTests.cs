using CsCheck;
using Scalpel.Training;
using TorchSharp;
using static TorchSharp.torch;

namespace Scalpel.Tests.Training;

public sealed class OptimizerTests
{
    static ParameterGroup Group(params (string Name, float[] Values)[] tensors) =>
        new(tensors.Select(t => KeyValuePair.Create(t.Name, tensor(t.Values))));

    static float[] Read(Tensor t) => t.contiguous().data<float>().ToArray();

    public static TheoryData<string> Kinds() => ["sgd", "adam", "adamw", "adamax", "nadam", "radam", "rmsprop", "adagrad", "lion", "adafactor"];

    static Optimizer Make(string kind, params ParameterGroup[] groups) => kind switch
    {
        "sgd" => new Sgd(groups, new SgdOptions { Momentum = 0.9, WeightDecay = 0.1 }),
        "adam" => new Adam(groups, new AdamOptions { WeightDecay = 0.1 }),
        "adamw" => new AdamW(groups, new AdamWOptions { WeightDecay = 0.1, AmsGrad = true }),
        "adamax" => new Adamax(groups),
        "nadam" => new NAdam(groups),
        "radam" => new RAdam(groups),
        "rmsprop" => new RmsProp(groups, new RmsPropOptions { Momentum = 0.5, Centred = true }),
        "adagrad" => new Adagrad(groups),
        "lion" => new Lion(groups, new LionOptions { WeightDecay = 0.1 }),
        _ => new Adafactor(groups, new AdafactorOptions { Beta1 = 0.9, WeightDecay = 0.1 }),
    };

    [Theory]
    [MemberData(nameof(Kinds))]
    public void AMaskedElementStaysBitForBitThroughDecayAndMomentum(string kind)
    {
        using var scope = NewDisposeScope();
        using ParameterGroup group = Group(("a", [1f, 2f, 3f]), ("b", [4f, 5f]));
        using Optimizer optimizer = Make(kind, group);
        group.Gradients.fill_(1);
        optimizer.Step(0.1);
        float[] before = Read(group.Value("a"));
        group.SetMask("a", tensor(new[] { true, false, true }));
        for (int i = 0; i < 3; i++)
        {
            group.Gradients.fill_(0.5 + i);
            optimizer.Step(0.1);
        }

        float[] after = Read(group.Value("a"));
        after[1].ShouldBe(before[1]);
        after[0].ShouldNotBe(before[0]);
        Read(group.Value("b"))[0].ShouldNotBe(4f);
    }

    [Theory]
    [MemberData(nameof(Kinds))]
    public void ASavedStateGoesOnToTheSameBytes(string kind)
    {
        using var scope = NewDisposeScope();
        using ParameterGroup whole = Group(("w", [1f, -2f, 3f, 0.5f]));
        using Optimizer uninterrupted = Make(kind, whole);
        ParameterGroup group = Group(("w", [1f, -2f, 3f, 0.5f]));
        Optimizer optimizer = Make(kind, group);
        for (int step = 0; step < 9; step++)
        {
            whole.Gradients.copy_(tensor(new[] { 0.1f * step, -1f, 2f / (step + 1), 0.3f }));
            uninterrupted.Step(0.01);
            if (step == 4)
            {
                Dictionary<string, Tensor> saved = optimizer.SaveState().ToDictionary(pair => pair.Key, pair => pair.Value.clone());
                long steps = optimizer.Steps;
                ParameterGroup next = new([KeyValuePair.Create("w", group.Value("w"))]);
                optimizer.Dispose();
                group.Dispose();
                group = next;
                optimizer = Make(kind, group);
                optimizer.LoadState(steps, saved);
            }

            group.Gradients.copy_(whole.Gradients);
            optimizer.Step(0.01);
        }

        Read(group.Values).ShouldBe(Read(whole.Values));
        optimizer.Dispose();
        group.Dispose();
    }

    [Theory]
    [MemberData(nameof(Kinds))]
    public void GradientsOfAnotherTypeStepAsTheirFloat32Values(string kind)
    {
        // More than one piece, and a tensor across their border.
        using var scope = NewDisposeScope();
        Tensor first = linspace(-2, 2, 200_000).reshape([400, 500]), second = linspace(1, -1, 100_000).reshape([100, 1000]);
        KeyValuePair<string, Tensor>[] tensors = [KeyValuePair.Create("a", first), KeyValuePair.Create("b", second)];
        using ParameterGroup rounded = new(tensors, gradients: ScalarType.BFloat16), single = new(tensors);
        using Optimizer one = Make(kind, rounded), other = Make(kind, single);
        for (int step = 0; step < 3; step++)
        {
            rounded.ClearGradients();
            rounded.Gradients.copy_(single.Values.cos().mul_(step + 1));
            single.Gradients.copy_(rounded.Gradients);
            GradientClipping.Norm([rounded]).ShouldBe(GradientClipping.Norm([single]), 1e-4 * GradientClipping.Norm([single]));
            rounded.ScaleGradients(0.37);
            single.ScaleGradients(0.37);
            one.Step(0.01);
            other.Step(0.01);
            Read(rounded.Values).ShouldBe(Read(single.Values));
        }

        GradientClipping.ByNorm([rounded], 0.5).ShouldBeGreaterThan(0.5);
        GradientClipping.Norm([rounded]).ShouldBe(0.5, 1e-4);
    }

    [Fact]
    public void TensorsOfAGroupAreSteppedAsIfEachHadItsOwn()
    {
        Gen.Float[-3, 3].Array[1, 5].Array[1, 4].Sample(parts =>
        {
            using var scope = NewDisposeScope();
            using ParameterGroup together = Group([.. parts.Select((p, i) => ($"t{i}", p))]);
            ParameterGroup[] apart = [.. parts.Select((p, i) => Group(($"t{i}", p)))];
            using Optimizer one = Make("adamw", together), many = Make("adamw", apart);
            for (int step = 0; step < 3; step++)
            {
                together.Gradients.copy_(together.Values + step);
                foreach (ParameterGroup group in apart)
                {
                    group.Gradients.copy_(group.Values + step);
                }

                one.Step(0.05);
                many.Step(0.05);
            }

            for (int i = 0; i < parts.Length; i++)
            {
                Read(together.Value($"t{i}")).ShouldBe(Read(apart[i].Value($"t{i}")));
                apart[i].Dispose();
            }
        }, iter: 30);
    }

    [Fact]
    public void AStepLeavesNoTensorBehind()
    {
        using ParameterGroup group = Group(("w", [.. Enumerable.Repeat(1f, 1000)]));
        using Optimizer optimizer = Make("adamw", group);
        group.Gradients.fill_(1);
        optimizer.Step(0.1);
        long before = Tensor.TotalCount;
        for (int i = 0; i < 20; i++)
        {
            optimizer.Step(0.1);
            GradientClipping.ByNorm([group], 1);
        }

        Tensor.TotalCount.ShouldBe(before);
    }

    [Fact]
    public void StateOfAnotherRunIsRefused()
    {
        using var scope = NewDisposeScope();
        using ParameterGroup group = Group(("w", [1f]));
        using Optimizer optimizer = Make("adam", group);
        Should.Throw<BadInputException>(() => optimizer.LoadState(3, new Dictionary<string, Tensor> { ["4.exp_avg"] = zeros(1) })).Message.ShouldContain("another run");
        Should.Throw<BadInputException>(() => optimizer.LoadState(3, new Dictionary<string, Tensor> { ["0.exp_avg"] = zeros(2) })).Message.ShouldContain("[2]");
    }

    [Fact]
    public void SchedulesFollowEachOtherAndEachCountsFromItsOwnStart()
    {
        var cosine = new CosineSchedule(10) { Floor = 0.1 };
        var schedule = new SequentialSchedule([new(3, new ConstantSchedule { Warmup = 2 }, 0.5), new(2, new ConstantSchedule()), new(10, cosine, 2)]);
        Enumerable.Range(0, 5).Select(step => schedule.Factor(step)).ShouldBe([0, 0.25, 0.5, 1, 1]);
        Enumerable.Range(0, 12).Select(step => schedule.Factor(5 + step)).ShouldBe(Enumerable.Range(0, 12).Select(step => 2 * cosine.Factor(step)));
    }
}
