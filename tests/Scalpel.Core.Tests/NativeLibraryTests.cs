using TorchSharp;

namespace Scalpel.Tests;

public class NativeLibraryTests
{
    [Fact]
    public void LibtorchLoadsAndMultiplies()
    {
        using torch.Tensor a = torch.ones(3, 4), b = torch.ones(4, 2), c = a.mm(b);
        c.sum().ToSingle().ShouldBe(24f);
    }
}
