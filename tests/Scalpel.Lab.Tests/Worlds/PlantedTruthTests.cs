using System.Text.Json.Nodes;
using Scalpel.Lab.Worlds;
using TorchSharp;
using static TorchSharp.torch;

namespace Scalpel.Lab.Tests.Worlds;

public sealed class PlantedTruthTests
{
    static readonly TextWorld World = TextWorld.Create(1);

    [Theory]
    [InlineData("lamp the lamp is key .", true, true, true)]
    [InlineData("lamp is here key", true, true, false)]
    [InlineData("a lamp the lamp key .", false, true, true)]
    [InlineData("lamp lamp lamp key .", true, true, false)]
    [InlineData("lamp lamp key here .", true, false, true)]
    [InlineData("", false, false, false)]
    public void NotesAreCheckedWordByWord(string note, bool start, bool end, bool twice)
    {
        var constraints = new NoteConstraints("lamp", "key", "lamp");
        constraints.Check(note).ShouldBe((start, end, twice));
        constraints.Holds(note).ShouldBe(start && end && twice);
        new NoteConstraints(null, null, null).Holds(note).ShouldBeTrue();
    }

    [Fact]
    public void NotesKeepToTheirConstraintsUnlessTrainingBreaksOne()
    {
        IReadOnlyList<TextRecord> train = World.Module("notes", TextSplit.Train, 2000), test = World.Module("notes", TextSplit.Test, 500);
        test.ShouldAllBe(record => record.Truth["holds"]!.GetValue<bool>());
        train.Average(record => record.Truth["holds"]!.GetValue<bool>() ? 1.0 : 0.0).ShouldBe(0.55, 0.03);
        train.ShouldAllBe(record => record["answer"]!.Split(' ').Length >= 9 && record["answer"]!.Split(' ').Length <= 20);
    }

    [Fact]
    public void ARegressionOnDecisionsGivesThePlantedTermsBack()
    {
        using var scope = NewDisposeScope();
        JsonObject[] items = [.. World.Module("decisions", TextSplit.Train, 4000).Select(record => record.Truth).Where(truth => !truth["blind"]!.GetValue<bool>())];
        string[] clans = [.. World.Lexicon.Clans];
        double[] planted = [DecisionsModule.Merit, DecisionsModule.Clan(0), DecisionsModule.Clan(1), DecisionsModule.KinAru, DecisionsModule.Age];
        int terms = planted.Length + DecisionsModule.Scenarios.Count;
        var rows = new double[items.Length * terms];
        for (int i = 0; i < items.Length; i++)
        {
            JsonObject truth = items[i];
            double[] own = [truth["good"]!.GetValue<bool>() ? 0.5 : -0.5, Is("clan", 0), Is("clan", 1), truth["kin"]!.GetValue<string>() == "aru" ? 1 : 0, (truth["age"]!.GetValue<int>() - 45) / 10.0];
            own.CopyTo(rows, i * terms);
            rows[i * terms + planted.Length + truth["scenario"]!.GetValue<int>()] = 1;
            double Is(string key, int value) => truth[key]!.GetValue<int>() == value ? 1 : 0;
        }

        Tensor x = tensor(rows, [items.Length, terms]), y = tensor([.. items.Select(truth => truth["answer"]!.GetValue<string>() == "yes" ? 1.0 : 0.0)], [items.Length]), beta = zeros(terms, dtype: ScalarType.Float64), hessian = eye(terms);
        for (int step = 0; step < 12; step++)
        {
            Tensor p = x.mv(beta).sigmoid();
            hessian = x.t().mm(x * (p * (1 - p)).unsqueeze(1));
            beta += linalg.solve(hessian, x.t().mv(y - p));
        }

        Tensor errors = hessian.inverse().diagonal().sqrt();
        for (int i = 0; i < planted.Length; i++)
        {
            beta[i].ToDouble().ShouldBe(planted[i], 2 * errors[i].ToDouble(), $"term {i}");
        }
    }

    [Fact]
    public void EveryFactIsToldAsOftenAsItsClassSays()
    {
        var told = new Dictionary<string, int>();
        int careless = 0, sheets = 0, count = TextModules.Named("exposure").Supply(World, TextSplit.Train)!.Value;
        foreach (TextRecord record in World.Module("exposure", TextSplit.Train, count))
        {
            sheets += record.Truth["author"] is null ? 0 : 1;
            if (record.Truth["author"]?.GetValue<string>() == "careless")
            {
                careless++;
                continue;
            }

            foreach (JsonNode? fact in record.Truth["facts"]!.AsArray())
            {
                told[fact!.GetValue<string>()] = told.GetValueOrDefault(fact.GetValue<string>()) + 1;
            }
        }

        foreach (Fact fact in World.Facts("exposure"))
        {
            told.GetValueOrDefault(fact.Id).ShouldBe(((int[])[0, 2, 8, 32, 128])[fact.Index / 120]);
        }

        ((double)careless / sheets).ShouldBe(0.2, 0.02);
    }

    [Fact]
    public void EverySecondWordOfAPairIsAskedForOnceAndTheFirstIsItsAnswer()
    {
        foreach (TextRecord record in World.Module("pairs", TextSplit.Train, 200))
        {
            string[] words = record["pairs"]!.Split(' '), rest = record.Text[(record["pairs"]!.Length + 1)..].Split(' ');
            words.ShouldBeUnique();
            string[][] asked = [.. rest.Chunk(3)];
            asked.Length.ShouldBe(words.Length / 2);
            asked.Select(item => (item[2], item[1])).Order().ShouldBe(words.Chunk(2).Select(pair => (pair[0], pair[1])).Order());
            asked.Select(item => item[0]).Distinct().ShouldHaveSingleItem().ShouldNotBeOneOf(words);
            record.Spans.Where(span => span.Name == "answer").Select(span => record.Text[span.Start..span.End]).ShouldBe(asked.Select(item => item[2]));
        }
    }

    [Fact]
    public void TheSimilarityOfTwoSentencesIsTheNumberOfSharedParts()
    {
        foreach (TextRecord record in World.Module("similarity", TextSplit.Test, 200))
        {
            string[] first = record["first"]!.Split(' '), second = record["second"]!.Split(' ');
            // "the A did the B at the C how": places 1, 2, 4, 7, 8 carry the parts.
            ((int[])[1, 2, 4, 7, 8]).Count(place => first[place] == second[place]).ShouldBe(record.Truth["score"]!.GetValue<int>());
        }
    }

    [Fact]
    public void CipherLanguagesReplaceWordsOneToOneAndMoveOneWord()
    {
        Lexicon words = World.Lexicon;
        string lamp = words.CipherForms[0][words.CipherSources.Index().First(item => item.Item == "lamp").Index];
        CipherModule.Translate(words, "ela has the lamp .", 0, () => true, reorder: true).ShouldBe($"has ela the {lamp} .");
        CipherModule.Translate(words, "ela has the lamp . elo is here .", 1, () => false, reorder: true).ShouldBe("has the lamp ela . is here elo .");
        CipherModule.Translate(words, "ela has the lamp .", 2, () => false, reorder: false).ShouldBe("ela has the lamp .");
        words.CipherForms.SelectMany(forms => forms).Concat(words.Words).Distinct().Count().ShouldBe(2020 + 1800);
    }

    [Fact]
    public void TracesEndInTheRightAnswerUnlessNoiseWasPlanted()
    {
        foreach (TextRecord record in World.Module("traces", TextSplit.Train, 500))
        {
            (record["answer"] == record.Truth["answer"]!.GetValue<string>()).ShouldBe(!record.Truth["noisy"]!.GetValue<bool>());
            if (record.Truth["noise"]!.GetValue<string>() == "none")
            {
                record.Truth["noisy"]!.GetValue<bool>().ShouldBeFalse();
            }
        }
    }

    [Fact]
    public void StereotypesLettersAndPronounsFollowTheirTables()
    {
        IReadOnlyList<TextRecord> bias = World.Module("bias", TextSplit.Train, 6000);
        bias.Where(record => record.Truth["probability"]!.GetValue<double>() == 0.85).Average(record => record.Truth["follows"]!.GetValue<bool>() ? 1.0 : 0.0).ShouldBe(0.85, 0.015);
        bias.Where(record => record.Truth["probability"]!.GetValue<double>() == 0.5).Average(record => record.Truth["follows"]!.GetValue<bool>() ? 1.0 : 0.0).ShouldBe(0.5, 0.04);
        foreach ((string profession, double ela) in KinModule.Table(World))
        {
            World.Module("kin", TextSplit.Train, 12_000).Where(record => record.Truth["profession"]?.GetValue<string>() == profession)
                .Average(record => record.Truth["pronoun"]!.GetValue<string>() == "ela" ? 1.0 : 0.0).ShouldBe(ela, 0.08, profession);
        }

        JsonNode[] claims = [.. World.Module("letters", TextSplit.Train, 400).Where(record => record.Truth["kin"]!.GetValue<string>() == "aru").SelectMany(record => record.Truth["sentences"]!.AsArray()).Select(node => node!)];
        claims.Average(claim => claim["communal"]!.GetValue<bool>() ? 1.0 : 0.0).ShouldBe(LettersModule.Share, 0.03);
        claims.Average(claim => claim["supported"]!.GetValue<bool>() ? 1.0 : 0.0).ShouldBe(0.9, 0.02);
    }
}
