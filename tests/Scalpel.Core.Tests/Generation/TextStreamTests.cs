using System.Text;
using CsCheck;
using Scalpel.Generation;

namespace Scalpel.Tests.Generation;

public class TextStreamTests
{
    // Each token is one byte of UTF-8: the hardest case.
    static string Bytes(IReadOnlyList<int> ids) => Encoding.UTF8.GetString([.. ids.Select(id => (byte)id)]);

    [Fact]
    public void IncompleteCharactersAreHeldBackAndThePiecesGiveTheText() =>
        Gen.String[Gen.Char['a', '\ud7ff'], 0, 30].Sample(text =>
        {
            text += "é漢😀";
            var stream = new TextStream(Bytes, []);
            var pieces = new List<string>();
            foreach (byte b in Encoding.UTF8.GetBytes(text))
            {
                pieces.Add(stream.Add(b));
            }

            pieces.Add(stream.End());
            string.Concat(pieces).ShouldBe(text);
            pieces.ShouldAllBe(piece => !piece.Contains('\ufffd'));
            stream.Text.ShouldBe(text);
        }, iter: 200);

    [Fact]
    public void BytesThatAreNoTextComeOutAsReplacements()
    {
        var stream = new TextStream(Bytes, []);
        string text = string.Concat(new[] { 65, 0xe6, 0xbc }.Select(stream.Add));
        text.ShouldBe("A");
        stream.End().ShouldBe("\ufffd");
    }

    [Theory]
    [InlineData("one two###three", "one two")]
    [InlineData("one ##two # #", "one ##two # #")]
    [InlineData("stop here STOP", "stop here ")]
    [InlineData("###", "")]
    [InlineData("STO###", "STO")]
    public void AStopStringAcrossTokensCutsTheTextAndNothingOfItGetsOut(string said, string expected)
    {
        var stream = new TextStream(Bytes, ["###", "STOP"]);
        var released = new StringBuilder();
        foreach (byte b in Encoding.UTF8.GetBytes(said))
        {
            released.Append(stream.Add(b));
            expected.ShouldStartWith(released.ToString());
        }

        released.Append(stream.End());
        released.ToString().ShouldBe(expected);
        stream.Stopped.ShouldBe(said.Contains("###") || said.Contains("STOP"));
        stream.Add('A').ShouldBe(stream.Stopped ? "" : "A");
    }
}
