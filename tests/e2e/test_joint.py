"""VideoChat-R1's joint demo in the real engines, with online filtering, broken off and resumed."""

import json
import shutil
from pathlib import Path

import pytest
from chain import lines, run

SPLIT = "{clips: 15, binary: 30, choice: 6, confusable: 0.5, grounding: 30, tracking: 30}"
JOINT = [
    "experiment=demo_videochat_r1",
    *(f"data.rendered.{split}={SPLIT}" for split in ("rl", "test")),
    "data.rendered.sft={clips: 60, binary: 120, choice: 30, confusable: 0.5, grounding: 60, tracking: 180}",
    "model.warm_up.steps=10",
    "sft.num_train_epochs=4",
    "rl.start_epoch=4",
    "rl.steps=3",
    "rl.temperature=1.1",
    "rl.keep_checkpoints=3",
    "rl.save_every=1",
    # What a model that has learnt next to nothing differs in is the format.
    "rl.filter={enabled: true, mode: mean, metric: format, low: 0.01, high: 0.99, max_rounds: 3}",
]


@pytest.fixture(scope="module")
def joint(tmp_path_factory) -> Path:
    runs = tmp_path_factory.mktemp("joint")
    for stage in ("data", "model", "sft", "rl"):
        run(stage, runs, "main", *JOINT)
    return runs / "demo_videochat_r1" / "main"


def test_every_task_is_rewarded_and_filtered(joint):
    tasks, carried = set(), []
    for step, line in enumerate(lines(joint / "rl" / "metrics.jsonl"), 1):
        data = line["data"]
        records = lines(joint / "rl" / "rollouts" / f"{step}.jsonl")
        kept = 8 - data["filter/missing"]
        assert len(records) == kept * 4 and 0 < data["filter/keep_rate"] <= 1
        groups = {record["group"] for record in records}
        assert all(0.01 < _mean(records, group, "format") < 0.99 for group in groups)
        assert sum(not group.startswith(f"step{step:06d}.") for group in groups) == (carried[-1] if carried else 0)
        carried.append(data["filter/carried_over"])
        tasks |= {record["task"] for record in records}
        assert {f"reward/accuracy/{task}" for task in {record["task"] for record in records}} <= set(data)
    assert {"temporal_grounding", "tracking"} <= tasks


def _mean(records: list[dict], group: str, component: str) -> float:
    values = [record[component] for record in records if record["group"] == group]
    return sum(values) / len(values)


def test_a_resumed_run_trains_on_the_groups_that_were_carried_over(joint):
    """As if it had been killed after the checkpoint of step 1."""
    resumed = joint.with_name("resumed")
    shutil.copytree(joint, resumed)
    (resumed / "stages" / "rl.json").unlink()
    checkpoints = resumed / "rl" / "checkpoints"
    for step in (2, 3):
        shutil.rmtree(checkpoints / f"global_step_{step}")
    (checkpoints / "latest_checkpointed_iteration.txt").write_text("1")
    assert "resuming after step 1" in run("rl", joint.parents[1], "resumed", *JOINT)
    for step in (1, 2, 3):
        one, two = (lines(folder / "rl" / "rollouts" / f"{step}.jsonl") for folder in (joint, resumed))
        assert one == two
    one, two = (
        [{k: v for k, v in line["data"].items() if k.startswith(("filter/", "reward/", "groups/"))} for line in kept]
        for kept in (lines(joint / "rl" / "metrics.jsonl"), lines(resumed / "rl" / "metrics.jsonl"))
    )
    assert json.dumps(one) == json.dumps(two)
