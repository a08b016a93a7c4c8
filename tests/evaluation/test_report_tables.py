"""Tables of the report: confusable motions, observation and thought, controls."""

import asyncio
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data_tools.controls import controlled, twins
from data_tools.run_folder import RunFolder
from data_tools.sample import Sample, write_samples
from data_tools.synthesis.local_server import LocalEndpoint
from evaluation.benchmarks.samples import SAMPLES
from evaluation.grading import Graded, grade
from evaluation.predictions import Prediction
from evaluation.report import process
from evaluation.report.confusable import cases, confusable_table, matrices, named_motion
from evaluation.report.controls import control_table
from evaluation.report.page import write_report
from evaluation.report.process import process_table
from evaluation.run_scores import score_set, write_scores
from evaluation.runs import models_of
from evaluation.table import settings_hash
from rewards.judges.protocol import UNJUDGED
from rewards.judges.rules import RuleJudge
from rewards.motions import NAMES, observation

HASH = settings_hash({})


@pytest.mark.parametrize(
    ("text", "motion"),
    [
        ("The camera pans slowly to the left.", "pan_left"),
        ("It is panning right, not trucking right.", "pan_right"),
        ("A tilt upward, without any zoom in.", "tilt_up"),
        ("The camera rolls counter-clockwise.", "roll_ccw"),
        ("The camera rolls clockwise.", "roll_cw"),
        ("It pushes in while it pans left.", None),
        ("The camera is completely still.", "static"),
        ("Nothing to say.", None),
    ],
)
def test_free_text_names_a_motion(text, motion):
    assert named_motion(text) == motion


def test_every_motion_is_named_by_its_name():
    assert {motion: named_motion(f"The camera does a {name}.") for motion, name in NAMES.items()} == {
        m: m for m in NAMES
    }


def test_confusable_motions_show_answer_and_observation_beside_each_other(run: Path):
    (model,) = models_of(RunFolder(run), ["rl"])
    judged = model.graded()
    found = cases(judged)
    assert len(found) == len(judged)  # every question of the synthetic run is about a confusable motion or offers both
    for case in found:
        j = judged[case.index]
        if j.sample.task == "binary" and j.chosen:
            right = case.said == case.shown
            assert right == j.right
        assert case.shown == j.sample.extras["motion"]
    table = confusable_table({"RL": judged}, HASH)
    row = table.rows[0]
    assert sum(v.value for v in row.values[:3]) == pytest.approx(1)
    assert sum(v.value for v in row.values[3:6]) == pytest.approx(1)
    assert confusable_table({"RL": []}, HASH) is None
    shares = matrices({"rl": judged})[0]
    assert NAMES[shares["motion"]] in row.name and shares["n"] == row.n
    assert list(shares["shares"]["rl"].values()) == pytest.approx([v.value for v in row.values])
    assert matrices({"rl": []}) == []


# ---------------------------------------------------------------- VideoP2R's analyses


def test_observation_and_thought_are_judged_apart_from_the_answer(run: Path):
    (model,) = models_of(RunFolder(run), ["rl"])
    samples = [s for s in model.samples if s.task == "binary"]
    said = {}
    for s in samples:
        true, asked = s.extras["motion"], s.extras["asked"]
        answer = "Yes" if true == asked else "No"
        think = f"Asked {NAMES[asked]}, seen {NAMES[true]}: {answer}."
        text = f"<observation>{observation(true)}</observation><think>{think}</think><answer>{answer}</answer>"
        said[s.id] = model.predictions[s.id].model_copy(update={"response": text})
    faithful = replace(model, samples=samples, predictions=said).graded()
    table = asyncio.run(process_table({"faithful": faithful}, RuleJudge(), "rules", HASH))
    accuracy, suffices, mismatch, mismatch_right = (value.value for value in table.rows[0].values)
    assert (accuracy, suffices, mismatch, mismatch_right) == (1.0, 1.0, 0.0, 0.0)
    exchanged = table.rows[1]
    assert exchanged.kind == "baseline"
    assert exchanged.values[1].value < 1.0
    assert asyncio.run(process_table({"none": []}, RuleJudge(), "rules", HASH)) is None


# ---------------------------------------------------------------- controls


def test_controls_compare_the_same_questions(run: Path):
    models = models_of(RunFolder(run), ["rl"])
    assert control_table(RunFolder(run), "test", models, HASH) is None
    samples = [controlled(s, "shuffled_options", 0) for s in models[0].samples if s.task == "binary"]
    folder = run / "eval/test/controls"
    folder.mkdir()
    write_samples(folder / "shuffled_options.jsonl", samples)
    # A model that says letters without looking at the options: it answers the same letter to shuffled ones.
    records = [models[0].predictions[s.id].model_dump(exclude_none=True) for s in samples]
    (run / "eval/test/rl/shuffled_options.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    table = control_table(RunFolder(run), "test", models, HASH)
    before, after, change, same = (value.value for value in table.rows[0].values)
    assert same == 0.0
    assert change == pytest.approx(after - before)
    shown = control_table(RunFolder(run), "test", models, HASH)
    assert "the same option must be chosen" in shown.caption


def test_pair_accuracy_is_a_column_of_every_table_of_a_run_that_asked_twins(run: Path):
    (model,) = models_of(RunFolder(run), ["rl"])
    others, _ = twins([s for s in model.samples if s.task == "binary"], "reversed", changed=True)
    (run / "eval/test/controls").mkdir()
    write_samples(run / "eval/test/controls/reversed_twin.jsonl", others)
    facts = json.loads((run / "eval/test/set.json").read_text()) | {"twins": ["reversed"]}
    (run / "eval/test/set.json").write_text(json.dumps(facts))
    for model in facts["models"]:
        said = [{"id": s.id, "response": said_right(s)} for s in others]
        (run / f"eval/test/{model}/reversed_twin.jsonl").write_text("".join(json.dumps(r) + "\n" for r in said))
    models = models_of(RunFolder(run))
    for model in models:
        path = run / f"eval/test/{model.key}/scores.json"
        write_scores(path, score_set(SAMPLES, model.samples, model.predictions, twins=model.twins))
    write_report(RunFolder(run), {"name": "rules"})
    scores = json.loads((run / "report/summary.json").read_text())["models"]
    right = {model.key: np.mean([j.right for j in model.graded([s.id for s in others])]) for model in models}
    assert {key: scores[key]["pair_accuracy"] for key in right} == pytest.approx(right)  # all twins are right
    for table in ("results", "test_compare", "test_compare_differences"):
        assert "pair accuracy" in (run / f"report/tables/{table}.md").read_text()


def said_right(sample: Sample) -> str:
    seen = observation(sample.extras["motion"])
    return f"<observation>{seen}</observation><think>So.</think><answer>{sample.answer_text}</answer>"


class StubJudge:
    """Takes the observation for the answer; cannot decide about thoughts that say so."""

    async def answer_from_text(self, text, sample):
        return None if text == "nothing" else text

    async def supports(self, text, sample):
        return text == sample["answer"]

    async def consistent(self, think, answer, sample):
        return UNJUDGED if think == "?" else think == answer

    async def entailed(self, statements, text):
        raise AssertionError("not asked")

    def metrics(self):
        return {}


def said(sample: Sample, observation: str, think: str, answer: str) -> Graded:
    text = f"<observation>{observation}</observation><think>{think}</think><answer>{answer}</answer>"
    return grade(sample, Prediction(id=sample.id, response=text))


def test_any_judge_decides_about_open_questions_and_numbers_too():
    def asked(id: str, task: str, **fields) -> Sample:
        return Sample(id=id, video=f"{id}.mp4", question="?", task=task, source="mine", split="test", **fields)

    choice = asked("a", "choice", options=["red", "blue"], answer="B")
    number, regression = asked("b", "numerical", answer="4"), asked("c", "regression", answer="10")
    span = asked("d", "temporal_grounding", spans=[[0.0, 1.0]])
    graded = [
        said(choice, "B", "B", "B"),
        said(number, "4", "5", "4"),  # the thought leads elsewhere
        said(regression, "nothing", "?", "10"),  # no verdict on the thought
        said(span, "x", "y", "0 to 1"),  # no text supports a span
    ]
    table = asyncio.run(process_table({"m": graded}, StubJudge(), "a stub", HASH))
    all_rows = {row.name: row for row in table.rows}
    values = [value and value.value for value in all_rows["m"].values]
    assert values == pytest.approx([1.0, 2 / 3, 1 / 2, 1 / 2])
    assert (all_rows["m"].n, all_rows["m"].failures) == (3, 1)
    assert set(all_rows) == {"m", "texts exchanged · m", "m · choice", "m · numerical", "m · regression"}
    assert all_rows["m · regression"].values[2] is None
    assert "Judge: a stub, asked about 3 of 4 questions. 1 responses without a verdict" in table.caption


def test_a_judge_by_model_is_asked_about_a_bounded_number_of_questions(run: Path, monkeypatch):
    base, rl = (model.graded() for model in models_of(RunFolder(run), ["base", "rl"]))
    monkeypatch.setattr(process, "ASKED", 5)
    asked = [[j.sample.id for j in process.judged(graded, StubJudge(), 7)] for graded in (base, rl)]
    assert asked[0] == asked[1] and len(set(asked[0])) == 5
    assert len(process.judged(rl, RuleJudge(), 7)) == len(rl)


def test_rules_decide_about_known_motions_alone(run: Path):
    (model,) = models_of(RunFolder(run), ["rl"])
    graded = model.graded()
    unknown = [replace(j, sample=j.sample.model_copy(update={"extras": {}})) for j in graded[3:]]
    table = asyncio.run(process_table({"RL": [*graded[:3], *unknown]}, RuleJudge(), "rules", HASH))
    assert table.rows[0].n == 3
    assert asyncio.run(process_table({"RL": unknown}, RuleJudge(), "rules", HASH)) is None


def test_a_judge_by_model_is_asked_and_its_silence_costs_one_table(run: Path):
    def verdict(body: dict) -> str:
        asked = json.dumps(body)
        return '{"sufficient": true, "answer": "B"}' if "sufficient" in asked else '{"consistent": true}'

    settings = {"name": "endpoint", "model": "a judge", "attempts": 1, "wait": 0}
    with LocalEndpoint(verdict) as server:
        assert write_report(RunFolder(run), settings | {"url": server.url}) == []
        server.status, server.message = 500, "gone"
        (note,) = write_report(RunFolder(run), settings | {"url": server.url})
    assert note.startswith("test: a judge gave no verdicts: judge: ")
    assert "a judge gave no verdicts" in (run / "report/index.html").read_text()
    assert "Judge: a judge" in (run / "report/tables/test_process.md").read_text()
