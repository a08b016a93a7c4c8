"""CamReasoner's own form of CameraBench's VQA: the same questions from either file, and what its labels are worth."""

import json
from pathlib import Path

from benchmark_labels import camerabench_vqa, camreasoner_vqa

from data_tools.cli import parse
from evaluation.benchmarks import BENCHMARKS, read_labels
from evaluation.compare import CompareArguments
from evaluation.compare import main as compare
from evaluation.score import ScoreArguments
from evaluation.score import main as score

PAIRINGS = BENCHMARKS["camreasoner_vqa"]


def test_camerabench_s_folder_gives_the_published_questions(tmp_path: Path):
    folder, skill = tmp_path / "vqa_and_retrieval", "motion_speed"
    camerabench_vqa(folder)
    names = ("fixed_or_moving", "slow_or_fast")
    for name, ask, deny, pos, neg in (
        (names[0], "Is it fixed?", "Does it move?", "a.mp4", "b.mp4"),
        (names[1], "Is it slow?", "Is it fast?", "b.mp4", "c.mp4"),
    ):
        pair = {"task": name, "pos_video": pos, "neg_video": neg, "pos_question": ask, "neg_question": deny}
        (folder / skill / f"{name}.jsonl").write_text(json.dumps(pair) + "\n")
    for made_up in (folder / skill).glob("task_*"):
        made_up.unlink()
    from_pairs = read_labels(PAIRINGS, folder, [skill])
    as_published = read_labels(PAIRINGS, camreasoner_vqa(tmp_path))
    assert len(from_pairs) == 8

    def asked(sample):
        return sample.id, sample.question, sample.options, sample.answer, Path(sample.video).name

    assert [asked(sample) for sample in from_pairs] == [asked(sample) for sample in as_published]
    assert {sample.extras["skill"] for sample in from_pairs} == {skill}


def test_released_predictions_are_scored_and_compared_in_one_command_each(tmp_path: Path, capsys):
    labels = camreasoner_vqa(tmp_path)
    records = json.loads(labels.read_text())
    said = "<observation>o</observation>\n<think>t</think>\n<answer>A</answer>"
    results = [record | {"output": said, "prediction": "A", "accuracy": 1.0} for record in records]
    released = tmp_path / "CamReasoner_vqa.json"
    released.write_text(json.dumps({"results": results, "metrics": {}, "meta": {}}))
    words = ["benchmark=camreasoner_vqa", f"labels={labels}"]
    score(parse(ScoreArguments, [*words, f"predictions={released}", f"out={tmp_path}/scores"]))
    over_questions = json.loads((tmp_path / "scores/scores.json").read_text())["parts"]["over questions"]
    assert over_questions["Acc (published labels)"]["value"] == 0.5  # half of the labels are not A
    assert over_questions["Acc (CameraBench's labels)"]["value"] == 1.0
    table = (tmp_path / "scores/camreasoner_vqa.md").read_text()
    assert "by the word yes or no" in table and "always A" in table
    ours = tmp_path / "predictions.jsonl"
    ours.write_text("".join(json.dumps({"id": r["problem_id"], "response": r["solution"]}) + "\n" for r in records))
    compare(parse(CompareArguments, [str(released), str(ours), *words, f"out={tmp_path}/both"]))
    change = json.loads((tmp_path / "both/compare.json").read_text())["compare_differences"]
    assert "predictions − CamReasoner_vqa" in json.dumps(change, ensure_ascii=False)
