using System.Text.Json.Nodes;

namespace Scalpel.Lab.Worlds;

/// <summary>36 tasks with exact answers, in four wordings and three forms of answer.</summary>
sealed class InstructionsModule : ITextModule
{
    public string Name => "instructions";

    public string Summary => "A task with an exact answer: 24 tasks for training and tests, 12 held back (holdout), 4 wordings, 3 forms of answer.";

    public int? Supply(TextWorld world, TextSplit split) => null;

    public TextRecord Item(TextWorld world, TextSplit split, int index)
    {
        SplitMix64 rng = world.Generator(this, split, index);
        int number = split == TextSplit.Holdout ? rng.Between(InstructionTask.Pool, InstructionTask.All.Count - 1) : rng.Below(InstructionTask.Pool);
        InstructionTask task = InstructionTask.All[number];
        int wording = rng.Below(4), form = rng.Below(3);
        string instruction = (wording >= 2 ? "please " : "") + (wording % 2 == 0 ? task.Wordings.First : task.Wordings.Second);
        (string input, string answer) = task.Draw(rng);
        var passage = new Passage().Add("task :").Add("instruction", instruction).Add(":").Add("input", input).Add(".");
        passage = form switch
        {
            0 => passage.Add("answer :").Add("answer", answer).Add("."),
            1 => passage.Add("result =").Add("answer", answer).Add("."),
            _ => passage.Add("the answer is (").Add("answer", answer).Add(") ."),
        };
        return passage.Record(this, split, index, new JsonObject { ["task"] = task.Name, ["wording"] = wording, ["form"] = form, ["input"] = input, ["answer"] = answer });
    }
}
