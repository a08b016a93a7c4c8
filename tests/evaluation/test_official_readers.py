"""Other people's predictions, read as each benchmark's publisher reads them, beside the strict reading."""

import json
import re
from pathlib import Path

import pytest

from data_tools.cli import parse
from data_tools.sample import Sample, write_samples
from evaluation.benchmarks import BENCHMARKS
from evaluation.grading import by_votes, grade
from evaluation.predictions import Prediction
from evaluation.score import ScoreArguments, main
from rewards.errors import UserError

SHOT = ["Close Up", "Wide", "Medium", "Medium Wide"]
LINES = ["Sentence A: A man is dunking.", "Sentence B: A man passes: he runs."]
MOMENT = {"task": "temporal_grounding", "spans": [[12.5, 17.8]]}


def sample_of(benchmark: str, **fields) -> Sample:
    fields = {"options": SHOT, "answer": "B", "task": "choice"} | fields
    if "spans" in fields:
        fields |= {"options": fields["options"] if fields["task"] == "grounded_qa" else []}
        fields |= {"answer": fields["answer"] if fields["task"] == "grounded_qa" else ""}
    return Sample(id="1", video="a.mp4", question="Which?", source=benchmark, split="test", **fields)


def yes_no(answer: str) -> dict:
    return {
        "task": "binary",
        "options": ["no", "yes"],
        "answer": answer,
        "extras": {"task": "yes_no", "aspect": "a", "lines": []},
    }


MATCHING = {
    "options": ["A man is dunking", "A man passes: he runs"],
    "extras": {"task": "caption_matching", "aspect": "action", "lines": LINES},
}
MULTI = {"extras": {"task": "multi-choice", "aspect": "action", "lines": []}}


@pytest.mark.parametrize(
    ("benchmark", "fields", "response", "official", "strict"),
    [
        ("tempcompass", yes_no("B"), "Yes, the man waves.", "yes", None),
        ("tempcompass", yes_no("B"), "Nobody waves.", "no", None),
        ("tempcompass", yes_no("B"), "The answer is yes", None, None),
        ("tempcompass", MULTI, "B. Wide, since the room is seen.", SHOT[1], None),
        ("tempcompass", MULTI, "B) I think</s>", SHOT[1], None),
        ("tempcompass", MULTI, "Wide", None, SHOT[1]),
        ("tempcompass", MULTI, "(B) Wide", None, SHOT[1]),
        ("tempcompass", MATCHING, "Sentence B", "A man passes: he runs", None),
        ("tempcompass", MATCHING, "B.", "A man passes: he runs", "A man passes: he runs"),
        ("tempcompass", MATCHING, "Sentence A: A man is dunking.", "A man is dunking", None),
        ("tempcompass", MATCHING, "The best is Sentence A", None, None),
        *[
            (name, {}, response, official, strict)
            for name in ("shotbench", "refineshot")
            for response, official, strict in (
                ("Answer: B. Wide", "Wide", None),
                ("**B**", "Wide", None),
                ("<think>A is too near.</think><answer>B  # must match</answer>", "Wide", None),
                ("<answer>Therefore, the correct answer is B.</answer>", "Wide", None),
                ("A or B", None, None),
                ("the shot is rather wide", "Wide", None),
                ("a medium wide shot", None, None),  # the texts of three options are in it
                ("<answer>B</answer> Or rather <answer>C</answer>", "Wide", "Medium"),
                ("Z", None, None),
            )
        ],
        ("videomme", {}, "The best answer is: B", "Wide", None),
        ("videomme", {}, "Because of the door", "Wide", None),  # the publisher's script takes any capital
        ("videomme", {}, "it is the second", None, None),
        ("mvbench", {}, "(B) Wide, because", "Wide", None),
        ("mvbench", {}, "B. a wide shot\nor so", "Wide", None),
        ("mvbench", {}, "Option B", None, None),
        ("mvbench", {}, "( ", None, None),
        ("vsibench", {}, "B. Wide it is", "Wide", None),
        ("vsibench", {}, "Wide", None, "Wide"),
        ("vidtab_qa", {"task": "quality", "options": ["Good", "Bad"]}, "<answer>bad </answer>", "Bad", "Bad"),
        ("vidtab_qa", {"task": "quality", "options": ["Good", "Bad"]}, "Bad", None, "Bad"),
        ("nextgqa", MOMENT | {"task": "grounded_qa"}, "<answer>It is B) Wide</answer>", "Wide", None),
        ("nextgqa", MOMENT | {"task": "grounded_qa"}, "B", None, "Wide"),
    ],
)
def test_an_option_is_read_where_the_publishers_script_reads_it(benchmark, fields, response, official, strict):
    sample, prediction = sample_of(benchmark, **fields), Prediction(id="1", response=response)
    assert grade(sample, prediction, "none", BENCHMARKS[benchmark].official).chosen == official
    assert grade(sample, prediction, "none").chosen == strict


@pytest.mark.parametrize(
    ("response", "read", "strict"),
    [
        ("12.5 to 17.8", True, True),
        ("From 12.5 to 17.8 seconds.", True, False),
        ("<think>Not 3 to 4.</think><answer>It is 12.5 and 17.8</answer>", True, False),
        ("The event happens in the 12.5 - 17.8 seconds.", True, False),
        ("12.5s to 17.8s", True, True),
        ("[[12.5, 17.8]]", False, True),
        ("at the end", False, False),
    ],
)
def test_a_moment_is_read_where_the_publishers_script_reads_it(response, read, strict):
    sample, prediction = sample_of("charades_sta", **MOMENT), Prediction(id="1", response=response)
    assert grade(sample, prediction, "none", BENCHMARKS["charades_sta"].official).value == float(read)
    assert grade(sample, prediction, "none").value == float(strict)
    # Our own questions have no publisher: what either reader finds counts.
    assert grade(sample, prediction, "none", BENCHMARKS["samples"].official).value == float(read or strict)


def test_numbers_and_boxes_are_read_by_the_publishers_script():
    count = sample_of("vsibench", task="regression", options=[], answer="4")
    said = Prediction(id="1", response="4. I count four chairs")
    assert grade(count, said, "none", BENCHMARKS["vsibench"].official).value == 1 > grade(count, said, "none").value
    track = sample_of("got10k", task="tracking", options=[], answer="", boxes=[[0.0, 0.0, 2.0, 2.0]] * 2)
    said = Prediction(id="1", response="[[0,0,2,2],[0,0,2,2]]")
    assert grade(track, said, "none", BENCHMARKS["got10k"].official).value == 0 < grade(track, said, "none").value


def test_votes_are_counted_by_the_reader():
    sample = sample_of("shotbench")
    said = Prediction(id="1", response="", samples=["Answer: B", "**B**", "C", "?"])
    assert by_votes(sample, said, "none", BENCHMARKS["shotbench"].official).option_probs["Wide"] == 0.5
    assert by_votes(sample, said, "none").option_probs["Wide"] == 0.0


def score(folder: Path, responses: list[str], *arguments: str, benchmark: str = "shotbench") -> dict:
    samples = [sample_of(benchmark).model_copy(update={"id": str(n)}) for n in range(len(responses))]
    samples = [s.model_copy(update={"extras": {"category": "shot size"}}) for s in samples]
    write_samples(folder / "samples.jsonl", samples)
    lines = [json.dumps({"id": n, "response": response}) for n, response in enumerate(responses)]
    (folder / "predictions.jsonl").write_text("\n".join(lines))
    words = [f"labels={folder}/samples.jsonl", f"predictions={folder}/predictions.jsonl", f"out={folder}/out"]
    main(parse(ScoreArguments, [f"benchmark={benchmark}", *words, *arguments]))
    return json.loads((folder / "out/scores.json").read_text())


def test_both_numbers_stand_in_the_table_by_name(tmp_path: Path):
    scores = score(tmp_path, ["B", "Answer: B", "**B**", "C"])
    assert scores["settings"]["reader"] == "official" and scores["unread"] is None
    assert scores["parts"]["over questions"]["accuracy"]["value"] == 0.75
    assert scores["strict"]["over questions"]["accuracy"]["value"] == 0.25
    table = (tmp_path / "out/shotbench.md").read_text()
    assert "over questions · official" in table and "over questions · strict" in table
    scores = score(tmp_path, ["B", "Answer: B", "B.", "C"], "reader=strict")
    assert scores["parts"]["over questions"]["accuracy"]["value"] == 0.5 and scores["strict"] is None
    assert "over questions · strict" not in (tmp_path / "out/shotbench.md").read_text()
    with pytest.raises(
        UserError, match="the publisher of camerabench_vqa has no rule for texts; .*videomme.* have one"
    ):
        score(tmp_path, ["B"], "reader=official", benchmark="camerabench_vqa")


@pytest.mark.parametrize(
    ("responses", "arguments", "said"),
    [
        (
            ["<think>t</think><answer>B</answer>"] * 3,
            ["schema=ota"],
            r"3 of 3 .* by schema=ota; schema=none would read 3",
        ),
        (["Answer: B"] * 3 + ["B"], ["reader=strict"], r"3 of 4 .* by schema=none; reader=official would read 4"),
        (["Wide"] * 3 + ["I cannot tell"] * 4, [], r"4 of 7 .* by reader=official, nor by any other schema.*'I cannot"),
        (["B"] * 3 + ["?"] * 2, [], None),
    ],
)
def test_the_tool_says_when_most_answers_name_no_option(tmp_path: Path, capsys, responses, arguments, said):
    found = score(tmp_path, responses, *arguments)["unread"]
    assert (found is None) if said is None else re.search(said, found)
    assert ("note:" in capsys.readouterr().out) == (said is not None)


def test_answers_about_published_benchmarks_need_no_tags_unless_one_says_so():
    assert [name for name, benchmark in BENCHMARKS.items() if benchmark.schema != "none"] == ["samples"]
