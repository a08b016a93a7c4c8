"""Rollouts with clips, as Weights & Biases takes them; offline."""

import json
import logging
from pathlib import Path

import numpy as np
import pytest

from data_tools.rendered.scene import write_clip
from evaluation.rollouts.records import Rollout
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
