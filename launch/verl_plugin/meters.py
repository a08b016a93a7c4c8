"""What is logged of a step beyond verl's own metrics. docs/rewards.md lists the names."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

_NO_COMPONENT = ("id", "task", "group", "malformed", "mismatch")


def step_meters(records: Sequence[Mapping[str, Any]], truncated: int) -> dict[str, float]:
    """All meters of the rollouts of a step.

    Args:
        records: of each rollout `task`, `group`, the reward's components, and `malformed`, `mismatch` and `judge/...`
            where it has them.
        truncated: how many of them were cut at the token limit.
    """
    malformed = Counter(record["malformed"] for record in records if "malformed" in record)
    compared = [record["mismatch"] for record in records if "mismatch" in record]
    judge = {name for record in records for name in record if name.startswith("judge/")}
    return {
        **reward_meters(records),
        **group_meters(records),
        "response/truncated": truncated / len(records),
        "response/malformed": malformed.total() / len(records),
        **{f"response/malformed/{reason}": count / len(records) for reason, count in sorted(malformed.items())},
        **({"response/mismatch": float(np.mean(compared))} if compared else {}),
        "response/mismatch_compared": float(len(compared)),
        **{name: max(record.get(name, 0.0) for record in records) for name in sorted(judge)},  # totals so far
    }


def reward_meters(records: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Means of the reward's components, over all rollouts and by task."""
    values: dict[str, list[float]] = defaultdict(list)
    for record in records:
        for name, value in components(record).items():
            name = "overall" if name == "score" else name
            values[f"reward/{name}"].append(value)
            values[f"reward/{name}/{record['task']}"].append(value)
    return {name: float(np.mean(numbers)) for name, numbers in sorted(values.items())}


def group_meters(records: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Share of groups whose rollouts all earn the same, and so teach nothing, also by task; number of the others."""
    scores: dict[tuple[str, str], set[float]] = defaultdict(set)
    for record in records:
        scores[record["group"], record["task"]].add(record["score"])
    collapsed: dict[str, list[bool]] = defaultdict(list)
    for (_, task), values in scores.items():
        for name in ("groups/collapsed", f"groups/collapsed/{task}"):
            collapsed[name].append(len(values) == 1)
    effective = {"groups/effective": float(sum(not flag for flag in collapsed["groups/collapsed"]))}
    return {name: float(np.mean(flags)) for name, flags in sorted(collapsed.items())} | effective


def components(record: Mapping[str, Any]) -> dict[str, float]:
    """The reward's components among the entries of a record."""
    return {
        name: value for name, value in record.items() if name not in _NO_COMPONENT and not name.startswith("judge/")
    }
