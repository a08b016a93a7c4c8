import asyncio
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from rewards.response import parse
from rewards.scorer import RewardError, Scorer, names, require_scorable, schema_for
from rewards.tasks import TaskError

ROOT = Path(__file__).parents[2]


def test_every_recipe_has_its_reward():
    recipes = {path.stem: yaml.safe_load(path.read_text()) for path in (ROOT / "recipes/reward").glob("*.yaml")}
    assert set(recipes) == set(names())
    for name, recipe in recipes.items():
        assert Scorer(recipe).settings["name"] == name  # takes every setting
    for unknown in ("os", "response", "judges", "../os"):
        with pytest.raises(RewardError, match="choose from camreasoner, videochat_r1, videop2r"):
            Scorer({"name": unknown})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "camreasoner", "format_wieght": 0.1}, "reward.format_wieght: unknown setting; camreasoner has"),
        ({"name": "camreasoner", "format_weight": float("nan")}, "reward.format_weight=nan: .*finite number"),
        ({"name": "camreasoner", "format_weight": -0.1}, "reward.format_weight=-0.1: .*greater than or equal to 0"),
        ({"name": "camreasoner", "format_weight": "much"}, "reward.format_weight='much': .*valid number"),
        ({"name": "camreasoner", "formula": "other"}, "reward.formula='other': .*'interpolated' or 'additive'"),
        ({"name": "camreasoner", "schema": "poem"}, "reward.schema='poem'"),
        ({"name": "videop2r", "perception_length": [3]}, "reward.perception_length"),
        ({"name": "videochat_r1", "prompt": "loud"}, "reward.prompt='loud': .*'thinking' or 'direct'"),
        ({"name": "videochat_r1", "schema": "ota"}, "reward.schema: unknown setting; videochat_r1 has prompt"),
    ],
)
def test_a_wrong_setting_is_refused_by_name(settings, message):
    with pytest.raises(RewardError, match=message):
        Scorer(settings)


def test_each_reward_knows_its_schema_by_task():
    assert schema_for({}, "choice") == schema_for({"name": "camreasoner"}, "choice") == "ota"
    assert schema_for({"name": "camreasoner", "schema": "think_answer"}, "choice") == "think_answer"
    assert schema_for({"name": "videochat_r1"}, "tracking") == "think_answer"
    assert schema_for({"name": "videochat_r1"}, "grounded_qa") == "think_answer_glue"
    assert Scorer({"name": "videochat_r1", "prompt": "direct"}).schema("grounded_qa") == "answer_glue"


def test_a_text_and_its_parsed_response_score_the_same():
    sample = {"id": "s", "task": "temporal_grounding", "spans": [[1.0, 4.0]], "options": [], "answer": ""}
    scorer, text = Scorer({"name": "videochat_r1"}), "<think>t</think><answer>1 to 3</answer>"
    scores = [asyncio.run(scorer.score(response, sample)) for response in (text, parse(text, "think_answer"))]
    assert scores[0] == scores[1] and scores[0]["score"] == pytest.approx(1 + 2 / 3)


def test_rewards_import_quickly_and_without_torch():
    """0.3 s is the aim; the limit leaves room for a busy machine."""
    code = """
import sys, time
begin = time.process_time()
import rewards.scorer, rewards.camreasoner, rewards.videop2r, rewards.videochat_r1, rewards.response, rewards.tasks
seconds = time.process_time() - begin
heavy = {"torch", "numpy", "jiwer", "rouge_score", "nltk", "math_verify", "sympy", "pydantic"} & set(sys.modules)
sys.exit(f"imports {heavy}" if heavy else f"{seconds:.2f} s" if seconds > 0.3 else 0)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_samples_that_a_reward_cannot_score_are_named():
    caption = {"id": "c9", "task": "caption", "events": ["a"], "answer": "", "options": []}
    require_scorable(caption, "videochat_r1")
    with pytest.raises(TaskError, match="'c9'.*videochat_r1"):
        require_scorable(caption, "camreasoner")
    with pytest.raises(TaskError, match="'c9'"):
        require_scorable(caption | {"events": []}, "videochat_r1")
