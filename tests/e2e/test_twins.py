"""RL on questions and their twins, in one step, and on questions whose contrasts are answered and not trained on."""

from collections import defaultdict

import pytest
import yaml
from chain import copy_before, lines, run

from evaluation.rollouts.replay import replay
from rewards.relation import pair_of

WEIGHT = 0.5


def test_both_branches_of_a_pair_are_in_one_step_and_their_relation_is_paid(demo):
    folder = copy_before("rl", demo, "twins")
    twins = ("rl.twins.turns=[mirrored,reversed]", f"rl.twins.relation_weight={WEIGHT}", "rl.held_out.every=0")
    run("rl", demo.parents[1], folder.name, *twins, "rl.steps=2")
    files = sorted((folder / "rl" / "rollouts").glob("*.jsonl"))
    records = [record for path in files for record in lines(path)]
    branches = defaultdict(set)
    for record in records:
        branches[record["step"], pair_of(record["group"])].add(
            (record["id"], record["sample"]["extras"].get("twin_of"))
        )
    assert len(branches) == 2 * 4  # 8 prompts a step
    for pair in branches.values():
        (origin, none), (twin, of) = sorted(pair, key=lambda branch: branch[1] is not None)
        assert none is None and of == origin and twin.startswith(origin + "~")
    assert all(0 <= record["relation"] <= 1 for record in records)
    metrics = lines(folder / "rl" / "metrics.jsonl")
    assert {"reward/relation", "reward/overall"} <= metrics[-1]["data"].keys()
    reward = yaml.safe_load((folder / "recipe.yaml").read_text())["reward"]
    again = replay(files, reward, {"name": "grpo"}, relation_weight=WEIGHT)
    assert [one["score"] for one in again.components] == pytest.approx([record["score"] for record in records])


def test_the_contrast_is_answered_and_only_the_question_is_trained_on(demo):
    folder = copy_before("rl", demo, "contrast")
    temporal = {"bonus": 0.3, "ratio": 0.8}
    shuffled = ("rl.twins.turns=[shuffled]", "rl.twins.temporal_bonus=0.3", "rl.held_out.every=0")
    run("rl", demo.parents[1], folder.name, *shuffled, "rl.steps=2")
    assert len(list((folder / "data" / "twins" / "shuffled").rglob("*.mp4"))) > 0
    files = sorted((folder / "rl" / "rollouts").glob("*.jsonl"))
    records = [record for path in files for record in lines(path)]
    asked = {(record["step"], record["id"]) for record in records}
    assert len(asked) == 2 * 8 and not any("~" in name for _, name in asked)  # 8 prompts a step
    assert all(record["temporal"] in (0, 1) and 0 <= record["shuffled_accuracy"] <= 1 for record in records)
    metrics = lines(folder / "rl" / "metrics.jsonl")[-1]["data"]
    assert metrics["filter/rounds"] == 2 and {"reward/temporal", "reward/shuffled_accuracy"} <= metrics.keys()
    reward = yaml.safe_load((folder / "recipe.yaml").read_text())["reward"]
    again = replay(files, reward, {"name": "grpo"}, temporal=temporal)
    assert [one["score"] for one in again.components] == pytest.approx([record["score"] for record in records])
