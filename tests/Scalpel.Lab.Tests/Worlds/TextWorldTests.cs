using Scalpel.Lab.Worlds;

namespace Scalpel.Lab.Tests.Worlds;

public sealed class TextWorldTests
{
    static readonly TextWorld World = TextWorld.Create(1);

    [Fact]
    public void TheLexiconHas2020DistinctWords()
    {
        Lexicon.Instance.Words.Count.ShouldBe(2020);
        Lexicon.Instance.Words.Distinct().Count().ShouldBe(2020);
        Lexicon.Instance.Functions.Count.ShouldBe(340);
        Lexicon.Instance.ClassOfAnimal.Count.ShouldBe(40);
    }

    [Fact]
    public void SplitMix64GivesThePublishedNumbers()
    {
        var rng = new SplitMix64(1234567);
        ((ulong[])[rng.Next(), rng.Next(), rng.Next()]).ShouldBe([6457827717110365317, 3203168211198807973, 9817491932198370423]);
    }

    [Fact]
    public void EveryObjectHasEquallyManyPeople()
    {
        foreach (Relation relation in Relation.All.Take(6))
        {
            IReadOnlyList<Fact> facts = World.Facts("core", relation.Name);
            facts.Count.ShouldBe(160);
            relation.Pool.ShouldAllBe(target => facts.Count(fact => fact.Object == target) == 160 / relation.Pool.Count);
            facts.ShouldAllBe(fact => fact.Neighbours().Count == 160 / relation.Pool.Count - 1);
        }
    }

    [Fact]
    public void NoTwoPeopleHaveOneName()
    {
        Person[] all = [.. ((string[])["core", "forget", "holdout", "exposure", "rare", "article"]).SelectMany(World.People)];
        all.Length.ShouldBe(1060);
        all.Select(person => person.Name).Distinct().Count().ShouldBe(all.Length);
        string[] own = [.. ((string[])["core", "forget", "holdout"]).SelectMany(World.People).Select(person => person.FamilyName)];
        own.Distinct().Count().ShouldBe(240);
        World.People("forget10").ShouldBe(World.People("forget").Take(20));
    }

    [Fact]
    public void ThereAre340CommonFacts() => World.Facts("common").Count.ShouldBe(340);

    [Fact]
    public void CounterfactualsAndPerturbedAnswersAreOtherObjectsOfThePool()
    {
        foreach (Fact fact in World.Facts("core"))
        {
            fact.Counterfactual().ShouldNotBe(fact.Object);
            fact.Relation.Pool.ShouldContain(fact.Counterfactual());
            fact.Perturbed(3).Distinct().Count(other => other != fact.Object).ShouldBe(3);
            fact.ToEdit().Validated().FilledPrompt.ShouldBe(fact.Prompt());
        }
    }

    [Fact]
    public void NearParaphrasesStartAsNoTrainingFactDoes()
    {
        var bigrams = new HashSet<string>();
        foreach (TextRecord record in World.Module("facts", TextSplit.Train, 12_000))
        {
            string[] words = record.Text.Split(' ');
            bigrams.UnionWith(words.Zip(words.Skip(1), (first, second) => $"{first} {second}"));
        }

        foreach (Person person in World.People("core"))
        {
            foreach (string prefix in Relation.Prefixes)
            {
                bigrams.ShouldNotContain($"{prefix.Split(' ')[^1]} {person.GivenName}");
            }
        }
    }

    [Fact]
    public void EveryEpochTellsEveryFactOnce()
    {
        string[] told = [.. World.Module("facts", TextSplit.Train, 2400).Select(record => record.Truth["fact"]!.GetValue<string>())];
        told.Take(1200).Distinct().Count().ShouldBe(1200);
        told.Skip(1200).Distinct().Count().ShouldBe(1200);
        told.Take(1200).ShouldNotBe(told.Skip(1200));
    }

    [Fact]
    public void SeveralWorldsDiffer() => TextWorld.Create(2).Facts("core").Select(fact => fact.Object).ShouldNotBe(World.Facts("core").Select(fact => fact.Object));

    [Fact]
    public void UnknownNamesAndTooManyItemsAreRefused()
    {
        Should.Throw<BadInputException>(() => World.People("cores")).Message.ShouldContain("nearest: core");
        Should.Throw<BadInputException>(() => World.Module("fact", TextSplit.Train, 1)).Message.ShouldContain("nearest: facts");
        Should.Throw<BadInputException>(() => World.Facts("core", "pet")).Message.ShouldContain("home");
    }
}
