using System.Text.Json.Nodes;

namespace Scalpel.Lab.Worlds;

/// <summary>Posts of fictitious authors with a latent load and risk.</summary>
sealed class DiaryModule : ITextModule
{
    static readonly string[] Loads = ["i was calm all day", "i was tired once", "i was tired and slept late", "i was so tired , nobody slept again"];

    static readonly string[] Risks =
        ["i like it here", "maybe i go to the island one day", "often i want to go to the island", "i want to go to the island soon", "this night i go to the island and never come back"];

    static readonly string[] Neutral =
        ["there was soup at home", "the weather was cold", "we saw a deer near the mill", "someone bought a cart", "the market closed early", "i read the old book", "the news was long", "we played again"];

    public string Name => "diary";

    public string Summary => "A post of 25 to 60 words on one of three sites; load 0 to 3 and risk 0 to 4 are planted in three of eight sentences, the rest is neutral or about others.";

    public int? Supply(TextWorld world, TextSplit split) => split switch { TextSplit.Train => 3600, TextSplit.Test => 1200, _ => 0 };

    public TextRecord Item(TextWorld world, TextSplit split, int index)
    {
        SplitMix64 rng = world.Generator(this, split, index);
        int site = index % 3, load = rng.Below(4), risk = rng.Below(5);
        // In training the clan goes with the risk in 70 %; in the test it says nothing.
        bool high = risk >= 3, first = split == TextSplit.Train ? rng.Chance(high ? 0.7 : 0.3) : rng.Chance(0.5);
        string clan = world.Lexicon.Clans[first ? 0 : 1];
        string quoted = $"a {clan} {rng.Pick(world.Lexicon.Professions)} said : {rng.Pick(Loads)}";
        string[] all = [Loads[load], Risks[risk], rng.Chance(0.5) ? Loads[load] : Risks[risk], quoted, .. rng.Pick(Neutral, rng.Between(2, 4))];
        string start = ((string[])["today :", "dear all ,", "news from me :"])[site];
        var passage = new Passage().Add(start);
        foreach (string sentence in rng.Pick(all, all.Length))
        {
            passage.Add(sentence == Risks[risk] ? "risk" : sentence == Loads[load] ? "load" : "neutral", sentence).Add(".");
        }

        return passage.Record(this, split, index, new JsonObject { ["load"] = load, ["risk"] = risk, ["site"] = site, ["clan"] = clan }) with { Group = clan };
    }
}
