using System.Security.Cryptography;
using System.Text;
using System.Text.Json.Nodes;
using Scalpel.Lab.Worlds;
using Scalpel.Text;

namespace Scalpel.Lab.Tests.Worlds;

public sealed class TextModuleTests
{
    static readonly TextWorld World = TextWorld.Create(1);
    static readonly Tokenizer Words = World.Tokenizer(), Extended = World.Tokenizer(TokenizerKind.Extended), Bytes = World.Tokenizer(TokenizerKind.Bytes), Characters = World.Tokenizer(TokenizerKind.Characters);

    public static TheoryData<string> Modules() => [.. TextModules.All.Select(module => module.Name)];

    [Theory]
    [MemberData(nameof(Modules))]
    public void ItemsDependOnNothingButTheirNumber(string module)
    {
        TextRecord alone = TextModules.Named(module).Item(TextWorld.Create(1), TextSplit.Train, 17);
        World.Module(module, TextSplit.Train, 18)[17].ToJson().ToJsonString().ShouldBe(alone.ToJson().ToJsonString());
    }

    [Theory]
    [MemberData(nameof(Modules))]
    public void EveryWordIsInTheLexiconAndTokensGiveTheTextBack(string module)
    {
        foreach (TextSplit split in Enum.GetValues<TextSplit>())
        {
            int count = Math.Min(60, TextModules.Named(module).Supply(World, split) ?? 60);
            foreach (TextRecord record in World.Module(module, split, count))
            {
                Tokenizer tokenizer = module == "cipher" ? Extended : Words;
                int[] ids = tokenizer.Encode(record.Text, addSpecial: false).Ids;
                ids.ShouldBe(Lexicon.Instance.Ids(record.Text));
                ids.ShouldNotContain(Lexicon.UnknownId, record.Text);
                tokenizer.Decode(ids).ShouldBe(record.Text);
                Bytes.Decode(Bytes.Encode(record.Text, addSpecial: false).Ids).ShouldBe(record.Text);
                Characters.Encode(record.Text, addSpecial: false).Ids.Length.ShouldBe(record.Text.Length);
                Characters.Decode(Characters.Encode(record.Text, addSpecial: false).Ids).ShouldBe(record.Text);
                record.Spans.ShouldAllBe(span => span.Start >= 0 && span.End <= record.Text.Length && span.Start < span.End && record.Text[span.Start] != ' ' && (span.Start == 0 || record.Text[span.Start - 1] == ' '));
            }
        }
    }

    [Fact]
    public void TheVariantsHaveTheSizesThatTheySay()
    {
        Words.VocabularySize.ShouldBe(2020);
        Bytes.VocabularySize.ShouldBe(4 + 256 + 1024);
        Characters.VocabularySize.ShouldBe(64);
        Extended.VocabularySize.ShouldBe(2048 + 1800);
        ((Tokenizer[])[Words, Extended, Bytes, Characters]).ShouldAllBe(tokenizer => tokenizer.Encode("the lamp").Ids[0] == Lexicon.EndId && tokenizer.BosId == Lexicon.EndId && tokenizer.EosId == Lexicon.EndId);
    }

    [Fact]
    public void TheStreamHoldsSharesAndExactCounts()
    {
        var tokens = new Dictionary<string, int>();
        var copies = new Dictionary<int, int>();
        int total = 0;
        HashSet<string> holdout = [.. World.People("holdout").Select(person => person.Name)];
        foreach (TextRecord record in World.Corpus(TextMixture.Default).Documents())
        {
            int count = record.Text.Split(' ').Length + 1;
            tokens[record.Module] = tokens.GetValueOrDefault(record.Module) + count;
            total += count;
            holdout.ShouldAllBe(name => !record.Text.Contains(name));
            if (record.Module == "duplicates")
            {
                int passage = record.Truth["passage"]!.GetValue<int>();
                copies[passage] = copies.GetValueOrDefault(passage) + 1;
            }

            if (total > 300_000)
            {
                break;
            }
        }

        foreach ((string module, double share) in TextMixture.Default.Parts)
        {
            ((double)tokens[module] / total).ShouldBe(share, 0.002, module);
        }

        World.Module("duplicates", TextSplit.Train, 40 * (1 + 4 + 16 + 64)).CountBy(record => record.Truth["passage"]!.GetValue<int>())
            .ShouldAllBe(pair => pair.Value == DuplicatesCopies(pair.Key));
    }

    static int DuplicatesCopies(int passage) => ((int[])[1, 4, 16, 64])[passage / 40];

    [Fact]
    public void AnExcludedSetIsNotInTheStream()
    {
        HashSet<string> excluded = [.. World.People("forget10").Select(person => person.Name)];
        foreach (TextRecord record in World.Corpus(TextMixture.Default, "forget10").Documents().Take(10_000))
        {
            excluded.ShouldAllBe(name => !record.Text.Contains(name));
        }

        Should.Throw<BadInputException>(() => World.Corpus(TextMixture.Default, "holdout")).Message.ShouldContain("cannot be left out");
        Should.Throw<BadInputException>(() => World.Corpus(new TextMixture("half", [("facts", 0.5)]))).Message.ShouldContain("sum to 0.5");
    }

    [Fact]
    public void TheProbabilityOfStoriesIsTheGrammarsEntropy()
    {
        double logProbability = 0, entropy = 0;
        int tokens = 0;
        for (int i = 0; tokens < 100_000; i++)
        {
            Story story = StoryGrammar.Write(new SplitMix64(SplitMix64.Mix((ulong)i)));
            logProbability -= story.LogProbability;
            entropy += story.Entropy;
            tokens += story.Tokens;
        }

        (logProbability / tokens).ShouldBe(entropy / tokens, 0.01 * entropy / tokens);
    }

    [Fact]
    public void LabelsOfNliHoldInAllModelsOfTheOntology()
    {
        string[] cities = [.. World.Lexicon.Cities], animals = [.. World.Lexicon.Animals];
        var seen = new HashSet<string>();
        foreach (TextRecord record in World.Module("nli", TextSplit.Test, 500))
        {
            Claim[] premises = [.. record.Truth["claims"]!.AsArray().Select(node => Claim(node!))];
            Claim hypothesis = Claim(record.Truth["hypothesis"]!);
            // Each person of the hypothesis may live anywhere, have any animal, hold any object or none.
            bool always = true, never = true;
            foreach (string city in cities)
            {
                foreach (string animal in animals)
                {
                    foreach (string thing in World.Lexicon.Objects.Take(80).Append(""))
                    {
                        bool Holds(Claim claim) => claim.Person != hypothesis.Person || claim.Holds == (claim.Attribute switch
                        {
                            "city" => city == claim.Value,
                            "country" => NliModule.Country(World, city) == claim.Value,
                            "animal" => animal == claim.Value,
                            "class" => World.Lexicon.ClassOfAnimal[animal] == claim.Value,
                            _ => thing == claim.Value,
                        });
                        if (premises.All(Holds))
                        {
                            bool holds = Holds(hypothesis);
                            always &= holds;
                            never &= !holds;
                        }
                    }

                    if (hypothesis.Attribute != "object" && !always && !never)
                    {
                        break;
                    }
                }
            }

            string label = record.Truth["label"]!.GetValue<string>();
            label.ShouldBe(always ? "true" : never ? "false" : "unknown", record.Text);
            seen.Add(label);
        }

        seen.Count.ShouldBe(3);
    }

    [Fact]
    public void NamesAndNotTemplatesCarryTheFacts()
    {
        int size = Lexicon.PaddedSize;
        var counts = new float[size, size];
        int[] stream = World.Corpus(TextMixture.Default).Tokens(1_000_000, RunContext.WithSeed(0));
        for (int i = 1; i < stream.Length; i++)
        {
            counts[stream[i - 1], stream[i]]++;
        }

        // The best object of the pool by the words on both sides of it: only the word before is known.
        double Accuracy(IReadOnlyList<Fact> facts) => facts.Average(fact =>
        {
            int last = Lexicon.Instance.Ids(fact.Prompt()).Last();
            return fact.Relation.Pool.MaxBy(target => counts[last, Lexicon.Instance.Id(target)] + 0.01) == fact.Object ? 1.0 : 0.0;
        });
        Accuracy(World.Facts("holdout")).ShouldBeLessThan(0.08);
        Accuracy(World.Facts("core")).ShouldBeLessThan(0.35);
    }

    [Fact]
    public void TheFirstItemsOfEachModuleAreThoseOfTheGoldenFile()
    {
        string file = Path.Combine(AppContext.BaseDirectory, "Worlds", "text-world-1.txt");
        string[] now = [.. TextModules.All.Select(module => $"{module.Name} {Hash(World.Module(module.Name, TextSplit.Train, Math.Min(256, module.Supply(World, TextSplit.Train) ?? 256)))}")];
        string[] golden = File.ReadAllLines(file);
        now.ShouldBe(golden, "a change of the world makes its base models stale: raise TextWorld.Version");
    }

    static string Hash(IReadOnlyList<TextRecord> records) =>
        Convert.ToHexStringLower(SHA256.HashData(Encoding.UTF8.GetBytes(string.Join('\n', records.Select(record => record.ToJson().ToJsonString())))));

    static Claim Claim(JsonNode node) => new(node["attribute"]!.GetValue<string>(), node["person"]!.GetValue<string>(), node["value"]!.GetValue<string>(), node["holds"]!.GetValue<bool>());
}
