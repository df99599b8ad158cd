using Scalpel.Methods.Editing;
using Scalpel.Networks;
using Scalpel.Patches;

namespace Scalpel.Methods;

/// <summary>Changes what a language model states as facts.</summary>
public interface IEditor
{
    /// <summary>Makes one patch that carries all the facts; the model is left as it was.</summary>
    /// <param name="model">The model.</param>
    /// <param name="edits">The facts.</param>
    /// <param name="run">Seed, progress, cancellation, cache folder.</param>
    /// <exception cref="BadInputException">A fact cannot be placed in its prompt, or an option does not fit the model.</exception>
    Patch Edit(Decoder model, IReadOnlyList<FactEdit> edits, RunContext run);
}

/// <summary>How several facts were edited; a patch's evidence says it.</summary>
public enum EditMode
{
    /// <summary>One fact.</summary>
    Single,

    /// <summary>All facts in one solution.</summary>
    Batch,

    /// <summary>One after the other, each on the model that the ones before left.</summary>
    Sequential,
}
