using Scalpel.Numerics;
using TorchSharp;
using static TorchSharp.torch;

namespace Scalpel.Networks.Layers;

/// <summary>A piece of a graph whose backward pass is written out. It is run once, by <c>backward()</c>; not for gradients of gradients.</summary>
sealed class ExplicitGradient : autograd.SingleTensorFunction<ExplicitGradient>
{
    public override string Name => nameof(ExplicitGradient);

    /// <summary>Computes a value whose gradient is then given to <paramref name="backward"/>.</summary>
    /// <param name="input">What gets the gradient that <paramref name="backward"/> returns; it must require one.</param>
    /// <param name="value">Computes the value, without a graph.</param>
    /// <param name="backward">Takes the gradient by the value; adds to the gradients of trained tensors itself, and returns that by the input, null for none.</param>
    public static Tensor Of(Tensor input, Func<Tensor> value, Func<Tensor, Tensor?> backward) => apply(input, value, backward);

    public override Tensor forward(autograd.AutogradContext ctx, params object[] vars)
    {
        ctx.save_data(nameof(backward), vars[2]);
        return ((Func<Tensor>)vars[1])();
    }

    public override List<Tensor> backward(autograd.AutogradContext ctx, Tensor grad_output)
    {
        var run = (Func<Tensor, Tensor?>)ctx.get_data(nameof(backward));
        using var noGrad = no_grad();
        using Tensor above = grad_output;
        using var scope = NewDisposeScope();
        Tensor? result = run(above)?.DetachFromDisposeScope();
        given.Value?.Dispose();
        given.Value = result;
        return [result!, null!, null!];
    }

    // libtorch takes a result over only after the call, and nobody else frees it: the next call does.
    readonly ThreadLocal<Tensor?> given = new();

    /// <summary>Adds a product to a tensor's gradient where it lies, or makes it the gradient.</summary>
    public static void AddProduct(Tensor leaf, Tensor left, Tensor right)
    {
        if (!leaf.requires_grad)
        {
            return;
        }

        using Tensor? present = leaf.grad;
        if (present is null)
        {
            leaf.grad = MatrixProduct.Of(left, right);
        }
        else
        {
            MatrixProduct.Into(present, left, right, add: true);
        }
    }

    /// <summary>Adds to a tensor's gradient where it lies, or makes it the gradient.</summary>
    public static void Add(Tensor leaf, Tensor gradient)
    {
        if (!leaf.requires_grad)
        {
            return;
        }

        using Tensor? present = leaf.grad;
        if (present is null)
        {
            leaf.grad = gradient.to_type(leaf.dtype);
        }
        else
        {
            present.add_(gradient);
        }
    }
}
