"""A study without a test split of its own: `data.files.test=null`, as recipes/data/files.yaml offers it."""

import json
from pathlib import Path

import numpy as np
import pytest

from data_tools.rendered.scene import write_clip
from data_tools.sample import Sample, write_samples
from evaluation.predictions import Prediction
from evaluation.report.page import write_report
from launch import data, evaluate, plan, publish, rl, sets
from launch.engines.verl import config as verl
from launch.errors import LaunchError
from launch.planning.prompts import check_prompts
from launch.planning.show import plan_table
from launch.run import Run, run_of, stage


def question(id: str, split: str) -> Sample:
    fields = {"question": f"Does it pan in {id}?", "options": ["No", "Yes"], "answer": "A", "task": "binary"}
    return Sample(id=id, video=f"{split}.mp4", source="mine", split=split, **fields)


@pytest.fixture
def overrides(tmp_path: Path) -> list[str]:
    """Labels of RL alone, and a benchmark about another video."""
    for seed, split in enumerate(("rl", "test")):
        noise = np.random.default_rng(seed).integers(0, 255, (16, 64, 96, 3), np.uint8)
        write_clip(tmp_path / f"{split}.mp4", noise, fps=8.0)
        write_samples(tmp_path / f"{split}.jsonl", [question(f"{split}{number}", split) for number in range(4)])
    return [
        "data=files",
        f"data.media_root={tmp_path}",
        f"data.files={{sft: null, rl: '{tmp_path}/rl.jsonl', test: null}}",
        "rl.start_epoch=0",
        "rl.rollout_batch_size=4",
        "rl.global_batch_size=4",
        "rl.micro_batch_size_per_gpu=4",
    ]


def other(tmp_path: Path) -> list[str]:
    return ["eval.sets.test=null", f"+eval.sets.other={{files: '{tmp_path}/test.jsonl', media_root: '{tmp_path}'}}"]


def answered(run: Run, monkeypatch) -> None:
    """Stage evaluate, with an engine that answers at once."""

    def answer(job, path, log, what):
        for part in job.questions:
            said = "<observation>o</observation><think>t</think><answer>A</answer>"
            part.out.write_text(
                "".join(
                    Prediction(id=f"test{number}", response=said).model_dump_json(exclude_none=True) + "\n"
                    for number in range(4)
                )
            )

    monkeypatch.setattr("launch.engines.vllm.job.run_job", answer)
    monkeypatch.setattr(evaluate, "model_folder", lambda path: Path(path))
    evaluate.check(run)
    evaluate.evaluate(run)


def test_every_stage_does_without_a_test_split(tiny_recipe, overrides, tmp_path, monkeypatch):
    recipe = tiny_recipe(*overrides, *other(tmp_path))
    check_prompts(recipe)
    plan.render(recipe)
    plan_table(recipe, [])
    run = run_of(recipe)
    data.check(run)
    with stage(run, "data"):
        assert data.prepare(run) == {"rl": 4}
    sets.check(run)
    with stage(run, "sets"):
        sets.prepare(run)
    rl.check(run)
    rendered = verl.render(run, "/models/base", 1)
    assert Path(rendered.data.val_files).is_file() and rendered.trainer.test_freq == -1
    for name in ("model", "rl", "merge"):
        with stage(run, name):
            pass
    for folder in (run.paths.model, run.merged):
        folder.mkdir(exist_ok=True)
        (folder / "config.json").write_text("{}")
        (folder / "model.safetensors").write_text("weights")
    run.paths.rl.mkdir()
    metrics = {"reward/accuracy": 0.5, "reward/format": 1.0, "reward/overall": 0.5, "response_length/mean": 9.0}
    lines = [json.dumps({"step": step, "data": metrics}) + "\n" for step in (1, 2)]
    run.paths.rl_metrics.write_text("".join(lines))
    with stage(run, "evaluate"):
        answered(run, monkeypatch)
    write_report(run.paths, run.recipe.judge.model_dump())
    assert "other" in (run.paths.report / "index.html").read_text()
    summary = json.loads((run.paths.report / "summary.json").read_text())
    assert list(summary["sets"]) == ["other"]
    assert "other" in publish.card(run)


def test_the_test_split_is_asked_for_by_evaluation_alone_which_says_what_to_leave_out(tiny_recipe, overrides):
    run = run_of(tiny_recipe(*overrides))
    data.check(run)
    data.prepare(run)
    rl.check(run)
    with pytest.raises(LaunchError, match=r"data\.files\.test is null: give other sets, and eval\.sets\.test=null"):
        evaluate.check(run)
