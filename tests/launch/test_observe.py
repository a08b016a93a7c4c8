"""Figure 4 of VideoP2R: models' observations, given to the base model with and without the clip."""

import json
from pathlib import Path

import pytest

from data_tools.run_folder import RunFolder
from data_tools.sample import Sample, read_samples, write_samples
from evaluation.observed import ALONE, FORM, observing
from evaluation.report.observed import observed_table
from evaluation.runs import models_of
from evaluation.table import settings_hash
from launch import observe
from launch.errors import LaunchError
from launch.run import Run, run_of


def question(id: str, task: str = "choice", **fields) -> Sample:
    fields = {"options": ["red", "blue"], "answer": "B"} | fields
    return Sample(id=id, video=f"{id}.mp4", question=f"{id}?", task=task, source="mine", split="test", **fields)


SAMPLES = [
    question("seen"),
    question("unreadable"),
    question("span", "temporal_grounding", options=[], answer="", spans=[[0.0, 1.0]]),
]
SAID = "<observation>It is <b>blue.</b></observation><think>t</think><answer>A</answer>"


@pytest.fixture
def evaluated(tiny_recipe, monkeypatch) -> Run:
    """A run whose base and RL models were asked three questions; only RL's first response is readable."""
    run = run_of(tiny_recipe())
    write_samples(run.paths.asked("test"), SAMPLES)
    models = {"base": {"is": "base", "weights": "base"}, "rl": {"is": "rl", "weights": "merged"}}
    facts = {
        "models": models,
        "reward": {"name": "camreasoner"},
        "root": "data",
        "media": run.recipe.media.model_dump(),
    }
    run.paths.set_facts("test").write_text(json.dumps(facts))
    run.paths.recipe.write_text(json.dumps(run.recipe.stored()))
    for key, text in (("base", "blue"), ("rl", SAID.replace("<b>", "").replace("</b>", ""))):
        responses = [text, "blue", text]
        records = [{"id": s.id, "response": r, "finish_reason": "stop"} for s, r in zip(SAMPLES, responses)]
        path = run.paths.predictions("test", key)
        path.parent.mkdir()
        path.write_text("".join(json.dumps(record) + "\n" for record in records))
    folder = run.folder / "base"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_text("weights")
    monkeypatch.setattr(observe, "model_folder", lambda path: run.folder / path)
    return run


def test_the_base_model_is_asked_with_and_without_observation_and_clip(evaluated, monkeypatch):
    """Only vLLM is replaced: by one that is right where it sees the clip or reads that it is blue."""
    jobs = []

    def answer(job, path, log, what):
        jobs.append(job)
        for part in job.questions:
            if part.out.exists():
                continue
            lines = []
            for sample in read_samples(part.samples):
                knows = "blue" in part.form.messages(sample)[-1]["content"].partition("\n")[0] or not part.control
                said = f"<answer>{'B' if knows else 'A'}</answer>"
                lines.append(json.dumps({"id": sample.id, "response": said, "finish_reason": "stop"}) + "\n")
            part.out.write_text("".join(lines))

    monkeypatch.setattr("launch.engines.vllm.job.run_job", answer)
    observe.observe(evaluated)
    (job,) = jobs
    assert set(job.models) == {str(evaluated.folder / "base")}
    assert [part.control for part in job.questions] == [None, "blank"] * 2
    assert job.recipe.vllm.max_prompt_length > evaluated.recipe.vllm.max_prompt_length
    table = observed_table(RunFolder(evaluated.folder), "test", {"rl": "SFT + RL"}, settings_hash({}))
    assert {row.name: [value.value for value in row.values] for row in table.rows} == {
        "question alone": [1.0, 0.0],
        "with the observation of SFT + RL": [1.0, 0.5],  # the unreadable response observed nothing
        "best constant per task": [1.0, 1.0],
    }
    observe.observe(evaluated)
    assert len(list(evaluated.paths.observed("test").glob("*.*.jsonl"))) == 4  # what is there is kept


def test_questions_that_no_text_can_answer_are_not_asked(evaluated):
    graded = {model.key: model.graded() for model in models_of(evaluated.paths, name="test")}
    asked = observing(graded)
    assert list(asked) == [ALONE, "rl"]
    assert [sample.id for sample in asked["rl"]] == ["seen", "unreadable"]
    assert asked["rl"][0].question == "What was observed in the video: It is blue.\nseen?"
    assert asked["rl"][1] == SAMPLES[1]
    assert FORM.messages(asked["rl"][0])[-1]["content"].endswith("<answer> </answer>.")


def test_without_the_base_model_nothing_is_asked(evaluated):
    path: Path = evaluated.paths.set_facts("test")
    facts = json.loads(path.read_text())
    facts["models"]["base"]["is"] = "other/model"
    path.write_text(json.dumps(facts))
    with pytest.raises(LaunchError, match="set test: the base model gives the answers, .* add it to eval.models"):
        observe.observe(evaluated)
    assert observed_table(evaluated.paths, "test", {}, settings_hash({})) is None
