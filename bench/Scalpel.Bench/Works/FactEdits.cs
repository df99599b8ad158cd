using Scalpel.Methods.Editing;
using Scalpel.Networks;

namespace Scalpel.Bench.Works;

/// <summary>ROME on one fact: layer 5, 25 evaluations, 21 contexts, statistics and contexts made before.</summary>
sealed class RomeSmolLM2 : IWork
{
    readonly Decoder model = Decoder.Load(Repository.SmolLM2);
    readonly RunContext run = new();
    readonly Rome rome;

    public RomeSmolLM2()
    {
        string[] contexts = ["{}", .. Enumerable.Range(0, 20).Select(i => $"{(i < 10 ? "The weather was fine" : "It was late in the year and all the trees")}. {{}}")];
        rome = new Rome(new RomeOptions { Layer = 5, Steps = 25, Contexts = contexts });
    }

    public static string Name => "rome_smollm2";

    public void Run() => rome.Edit(model, [new FactEdit("Danielle Darrieux", "The mother tongue of {} is", "English")], run).Dispose();

    public void Dispose() => model.Dispose();
}

/// <summary>MEMIT on the first of 1,000 facts in one batch; the first call, the warm-up, edits at most ten of them.</summary>
abstract class MemitFacts : IDisposable
{
    readonly Decoder model = Decoder.Load(Repository.SmolLM2);
    readonly RunContext run = new();
    readonly Memit memit = new();
    readonly FactEdit[] facts;
    bool warm;

    protected MemitFacts(int count)
    {
        string[] given = ["Anna", "Boris", "Clara", "David", "Elena", "Frank", "Greta", "Henry", "Irene", "Jakob"];
        string[] family = ["Dorn", "Pike", "Brown", "Lang", "Marsh", "Olsen", "Reyes", "Stone", "Vogel", "Wells", "Adler", "Becker", "Conti", "Duval", "Ebner", "Ferro", "Grant", "Hale", "Ivers", "Jonas"];
        (string Prompt, string[] Targets)[] relations =
        [
            ("The mother tongue of {} is", ["French", "English", "German"]), ("{} plays football for", ["Chelsea", "Barcelona", "Milan"]), ("{} was born in", ["London", "Vienna", "Rome"]),
            ("{} works as", ["a doctor", "a teacher", "an actor"]), ("{} lives in the city of", ["Paris", "Berlin", "Madrid"]),
        ];
        facts = [.. from g in Enumerable.Range(0, given.Length)
                    from f in Enumerable.Range(0, family.Length)
                    from r in Enumerable.Range(0, relations.Length)
                    select new FactEdit($"{given[g]} {family[f]}", relations[r].Prompt, relations[r].Targets[(g + f + r) % 3])];
        facts = facts[..count];
    }

    public void Run()
    {
        memit.Edit(model, warm ? facts : facts[..Math.Min(10, facts.Length)], run).Dispose();
        warm = true;
    }

    public void Dispose() => model.Dispose();
}

/// <summary>One fact.</summary>
sealed class Memit1() : MemitFacts(1), IWork
{
    public static string Name => "memit_1";
}

/// <summary>Ten facts.</summary>
sealed class Memit10() : MemitFacts(10), IWork
{
    public static string Name => "memit_10";
}

/// <summary>A hundred facts.</summary>
sealed class Memit100() : MemitFacts(100), IWork
{
    public static string Name => "memit_100";
}

/// <summary>All facts.</summary>
sealed class Memit1000() : MemitFacts(1000), IWork
{
    public static string Name => "memit_1000";
}
