namespace Scalpel.Methods;

/// <summary>What a method is for; also the folder that its file lies in.</summary>
public enum Family
{
    /// <summary>Changes what a model states as a fact.</summary>
    Editing,

    /// <summary>Takes away what a model learned from given data.</summary>
    Unlearning,

    /// <summary>Takes away a concept.</summary>
    Erasure,

    /// <summary>Intervenes at inference time and leaves the weights alone.</summary>
    Guards,

    /// <summary>Scores parts of a model, of its input or of its training data.</summary>
    Attribution,

    /// <summary>Shows what a model computes.</summary>
    Interpretability,

    /// <summary>Brings a model's answers in line with preferences.</summary>
    Alignment,

    /// <summary>Trains a model or an adapter on data.</summary>
    Finetuning,

    /// <summary>Measures and reduces unequal treatment.</summary>
    Fairness,

    /// <summary>Estimates causes and effects.</summary>
    Causality,

    /// <summary>Changes pictures or how they are made.</summary>
    Imaging,

    /// <summary>Changes sound or how it is made.</summary>
    Audio,
}
