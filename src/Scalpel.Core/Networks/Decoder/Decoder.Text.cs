using Scalpel.Text;

namespace Scalpel.Networks;

public sealed partial class Decoder
{
    Tokenizer? tokenizer;

    /// <summary>The tokenizer of the checkpoint, read at its first use.</summary>
    /// <exception cref="BadInputException">The model was made from a seed, or its checkpoint has no tokenizer.</exception>
    public Tokenizer Tokenizer => tokenizer ??= Tokenizer.Load(Source
        ?? throw new BadInputException("The model was made from a seed and has no tokenizer; load one from a checkpoint that has."));
}
