using System.Reflection;
using System.Text.Json.Nodes;

namespace Scalpel.Patches;

/// <summary>How a patch came to be: what one needs to judge it and to make it again.</summary>
public sealed record PatchInfo
{
    /// <summary>Slug of the method that made it: <c>rome</c>, <c>lora</c>, <c>diff</c>.</summary>
    public required string Method { get; init; }

    /// <summary>The method's options.</summary>
    public JsonObject Options { get; init; } = [];

    /// <summary>Seed of the run; null when nothing was random.</summary>
    public ulong? Seed { get; init; }

    /// <summary>Version of Scalpel that made it.</summary>
    public string Version { get; init; } = Current;

    /// <summary>Scorecard or other evidence of what the patch does; null when none was taken.</summary>
    public JsonObject? Evidence { get; init; }

    /// <summary>When it was made, in UTC, as told by the caller; null keeps the file's bytes free of the clock.</summary>
    public DateTimeOffset? Created { get; init; }

    static string Current { get; } = typeof(PatchInfo).Assembly.GetCustomAttribute<AssemblyInformationalVersionAttribute>()!.InformationalVersion.Split('+')[0];
}

/// <summary>A token that a patch adds to the vocabulary.</summary>
/// <param name="Content">Its text.</param>
/// <param name="Id">Its id: the row of the embedding that serves it.</param>
/// <param name="Special">Whether it is left out of decoded text.</param>
public sealed record NewToken(string Content, int Id, bool Special = false);

/// <summary>What a patch changes beside the values of tensors.</summary>
public sealed record PatchStructure
{
    /// <summary>Keys of config.json to set, such as <c>vocab_size</c> or <c>tie_word_embeddings</c>; null takes a key out.</summary>
    public JsonObject Config { get; init; } = [];

    /// <summary>Tokens that the appended embedding rows serve.</summary>
    public IReadOnlyList<NewToken> Tokens { get; init; } = [];
}

/// <summary>An ECDSA P-256 signature over everything else in a patch.</summary>
/// <param name="Signer">SHA-256 of the public key (SubjectPublicKeyInfo), lower-case hexadecimal.</param>
/// <param name="Value">The signature of <see cref="Patch.ContentHash"/>, IEEE P1363 form, base64.</param>
public sealed record PatchSignature(string Signer, string Value);

/// <summary>What an undo patch needs to give the base's files back byte for byte.</summary>
/// <param name="Files">SHA-256 of every file of the base, by its path relative to the folder, with '/'.</param>
/// <param name="Contents">Files that were changed or left out, whole; under the path with <see cref="HeaderMark"/>, the header of weight files whose layout changed.</param>
/// <param name="Single">The weight file when the base was one file; null when it was a folder.</param>
sealed record UndoRecord(IReadOnlyDictionary<string, string> Files, IReadOnlyDictionary<string, PatchTensor> Contents, string? Single)
{
    public const string FileName = "undo.patch.safetensors", HeaderMark = ":header";
}
