"""Rollouts with clips, as Weights & Biases and trackio take them; offline."""

import json
import logging
import sqlite3
from pathlib import Path

import numpy as np
import pytest

from data_tools.rendered.scene import write_clip
from evaluation.rollouts.records import Rollout
from launch.engines.llamafactory import config as llamafactory
from launch.engines.verl import config as verl
from launch.run import Run
from launch.verl_plugin.media_table import PROMPTS, log_rollouts


def rollout(prompt: int, number: int, score: float) -> Rollout:
    sample = {"id": f"q{prompt}", "video": f"clips/{prompt}.mp4", "question": "Does it pan?", "options": ["No", "Yes"]}
    return Rollout(
        step=4,
        rollout=f"step000004.{prompt:05d}_{number}_0",
        id=f"q{prompt}",
        task="binary",
        group=f"step000004.{prompt:05d}",
        score=score,
        advantage=score,
        prompt="Does it pan?",
        response="<script>",
        response_tokens=3,
        truncated=False,
        sample=sample | {"answer": "B", "task": "binary", "source": "rendered", "split": "rl"},
        accuracy=score,
    )


def test_a_table_holds_the_prompts_whose_rewards_are_most_apart_each_with_its_clip(tmp_path: Path, monkeypatch, caplog):
    wandb = pytest.importorskip("wandb")
    for name in ("WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "staged"))
    prompts = range(PROMPTS + 2)
    (tmp_path / "data/clips").mkdir(parents=True)
    for prompt in prompts[:-1]:  # the last clip is missing
        frames = np.random.default_rng(prompt).integers(0, 255, (4, 56, 56, 3), np.uint8)
        write_clip(tmp_path / f"data/clips/{prompt}.mp4", frames, 2.0)
    rollouts = [rollout(prompt, number, prompt * number / 10) for prompt in prompts for number in (0, 1)]
    with wandb.init(project="test", mode="offline", dir=tmp_path, settings=wandb.Settings(silent=True)):
        with caplog.at_level(logging.WARNING):
            log_rollouts(wandb, rollouts, tmp_path / "data", 4)
    table = json.loads(next(tmp_path.glob("wandb/*/files/media/table/*.json")).read_text())
    rows = [dict(zip(table["columns"], row)) for row in table["data"]]
    assert [row["id"] for row in rows[::2]] == [f"q{prompt}" for prompt in reversed(prompts[2:])]
    assert rows[3] == rows[2] | {"reward": 0.8, "advantage": 0.8, "accuracy": 0.8}
    assert (rows[2]["response"], rows[2]["right"], rows[2]["step"]) == ("<script>", "Yes", 4)
    clips = [path for path in (tmp_path / "staged").rglob("*") if path.is_file() and b"ftyp" in path.read_bytes()[:12]]
    assert len(clips) == PROMPTS - 1
    assert f"{prompts[-1]}.mp4" in caplog.text


def test_trackio_gets_the_clips_and_shows_what_models_write_as_it_is(tmp_path: Path, monkeypatch):
    """trackio reads Markdown. It is not among the project's packages: skipped where it is not installed."""
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    trackio = pytest.importorskip("trackio")
    frames = np.random.default_rng(0).integers(0, 255, (4, 56, 56, 3), np.uint8)
    write_clip(tmp_path / "data/clips/0.mp4", frames, 2.0)
    trackio.init(project="test", name="run")
    log_rollouts(trackio, [rollout(0, number, float(number)) for number in (0, 1)], tmp_path / "data", 4)
    trackio.finish()
    assert b"ftyp" in next((tmp_path / "trackio/media").rglob("*.mp4")).read_bytes()[:12]
    with sqlite3.connect(tmp_path / "trackio/test.db") as database:
        metrics = [bytes(row[0]) for row in database.execute("select cast(metrics as blob) from metrics")]
    (logged,) = (json.loads(row)["rollouts"] for row in metrics if b"rollouts" in row)
    rows = logged["_value"]
    assert [(row["response"], row["reward"], row["right"]) for row in rows] == [
        ("&#60;script&#62;", 0.0, "Yes"),
        ("&#60;script&#62;", 1.0, "Yes"),
    ]
    assert {row["clip"]["_type"] for row in rows} == {"trackio.video"}


def test_trackio_gets_nothing_of_sft_which_would_be_published(tiny_recipe, tmp_path):
    run = Run(tiny_recipe("tracking=[wandb,trackio]"), tmp_path)
    assert llamafactory.render(run)["report_to"] == ["wandb"]
    assert "trackio" in verl.render(run, "model", total_steps=1).trainer.logger
