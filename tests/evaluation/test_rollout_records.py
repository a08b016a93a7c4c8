"""Rollout records: read by file and line, and the collapse of advantages in them."""

from pathlib import Path

import pytest

from evaluation.rollouts.records import RecordError, Rollout, advantage_collapse, read_rollouts


def rollout(step: int, group: str, **rewards) -> Rollout:
    fields = {"id": "s", "task": "binary", "prompt": "p", "response": "r", "response_tokens": 1, "sample": {}}
    return Rollout(step=step, rollout=f"{group}_0_0", group=group, advantage=0.0, truncated=False, **fields, **rewards)


def test_advantage_collapse_counts_groups_without_a_difference():
    records = [
        rollout(1, "a", score=1.0, perception=0.0, reasoning=1.0),
        rollout(1, "a", score=1.0, perception=1.0, reasoning=0.0),
        rollout(1, "b", score=2.0, perception=1.0, reasoning=1.0),
        rollout(1, "b", score=2.0, perception=1.0, reasoning=1.0),
        rollout(2, "a", score=2.0, perception=1.0, reasoning=1.0),
        rollout(2, "a", score=1.0, perception=1.0, reasoning=0.0),
    ]
    # Step 1: both groups are flat in their sum, but group a differs in each segment.
    assert advantage_collapse(records) == [
        {"step": 1, "groups": 2, "score": 1.0, "perception": 0.5, "reasoning": 0.5, "both": 0.5},
        {"step": 2, "groups": 1, "score": 0.0, "perception": 1.0, "reasoning": 0.0, "both": 0.0},
    ]


def test_broken_rollouts_are_named(tmp_path: Path):
    good = rollout(1, "a", score=0.5, accuracy=1.0)
    for bad, field in (('{"step": 1}', "rollout"), ("{", "line"), (good.line().replace("1.0", '"x"'), "accuracy")):
        (tmp_path / "1.jsonl").write_text(good.line() + bad + "\n")
        with pytest.raises(RecordError, match=rf"1.jsonl:2: not a rollout record: {field}"):
            read_rollouts(tmp_path)


def test_a_rollout_record_reads_back(tmp_path: Path):
    records = [rollout(1, "a", score=0.5, accuracy=1.0), rollout(1, "a", score=float("nan"), accuracy=0.0)]
    (tmp_path / "1.jsonl").write_text("".join(record.line() for record in records))
    assert [repr(record) for record in read_rollouts(tmp_path)] == [repr(record) for record in records]
    assert records[0].components == {"score": 0.5, "accuracy": 1.0}
    assert "malformed" not in records[0].line()
