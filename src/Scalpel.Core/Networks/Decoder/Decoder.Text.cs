using Scalpel.Generation;
using Scalpel.Text;

namespace Scalpel.Networks;

public sealed partial class Decoder
{
    Tokenizer? tokenizer;

    /// <summary>The tokenizer of the checkpoint, read at its first use.</summary>
    /// <exception cref="BadInputException">The model was made from a seed, or its checkpoint has no tokenizer.</exception>
    public Tokenizer Tokenizer => tokenizer ??= Tokenizer.Load(Source
        ?? throw new BadInputException("The model was made from a seed and has no tokenizer; load one from a checkpoint that has."));

    /// <summary>Continues a text, read as it is; a chat model wants its template rendered first.</summary>
    /// <param name="prompt">The text.</param>
    /// <param name="options">How tokens are chosen; greedily up to 128 by default.</param>
    public string Generate(string prompt, GenerationOptions? options = null) => new TextGenerator(this, options).GenerateText([prompt])[0].Text;
}
