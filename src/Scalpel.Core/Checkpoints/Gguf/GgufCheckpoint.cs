namespace Scalpel.Checkpoints.Gguf;

static class GgufCheckpoint
{
    public static Checkpoint Open(string path, string location) => throw new BadInputException($"{path}: {location}");
}
