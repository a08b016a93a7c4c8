import subprocess
import sys
from pathlib import Path

import pytest

from rewards.registry import REWARDS, check_sample
from rewards.tasks import TaskError

ROOT = Path(__file__).parents[2]


def test_every_recipe_has_its_reward():
    assert {path.stem for path in (ROOT / "recipes/reward").glob("*.yaml")} == set(REWARDS)
    for name in REWARDS:
        assert REWARDS[name].__module__ == f"rewards.{name}"
    with pytest.raises(KeyError):
        REWARDS["os"]


def test_rewards_import_quickly_and_without_torch():
    """0.3 s is the aim; the limit leaves room for a busy machine."""
    code = """
import sys, time
begin = time.process_time()
import rewards.registry, rewards.camreasoner, rewards.videop2r, rewards.videochat_r1, rewards.response, rewards.tasks
seconds = time.process_time() - begin
heavy = {"torch", "numpy", "jiwer", "rouge_score", "nltk", "math_verify", "sympy", "pydantic"} & set(sys.modules)
sys.exit(f"imports {heavy}" if heavy else f"{seconds:.2f} s" if seconds > 0.3 else 0)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_samples_that_a_reward_cannot_score_are_named():
    caption = {"id": "c9", "task": "caption", "events": ["a"], "answer": "", "options": []}
    check_sample(caption, "videochat_r1")
    with pytest.raises(TaskError, match="'c9'.*videochat_r1"):
        check_sample(caption, "camreasoner")
    with pytest.raises(TaskError, match="'c9'"):
        check_sample(caption | {"events": []}, "videochat_r1")
