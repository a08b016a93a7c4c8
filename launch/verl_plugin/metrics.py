"""Metrics of a step beyond verl's own. docs/rewards.md lists the names."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Scored:
    """A rollout as the reward worker scored it.

    Attributes:
        id, task: of the sample.
        group: name of the prompt.
        components: of the reward.
        malformed: slug of the reason; None where the response is well formed.
        mismatch: 1 where the reasoning leads to another answer, else 0; None where that is unknown.
        judge: the judge's totals so far, as `judge/<name>`.
        chosen: index of the option that a question with a twin was answered with; None: none.
        bonus: what the answers to the twin, or to the contrast, add to the score.
    """

    id: str
    task: str
    group: str
    components: dict[str, float]
    malformed: str | None = None
    mismatch: float | None = None
    judge: Mapping[str, float] | None = None
    chosen: int | None = None
    bonus: float = 0.0

    @classmethod
    def of(cls, id: str, task: str, group: str, found: Mapping[str, Any]) -> "Scored":
        """`found` is what `RewardManager.score` returns."""
        judge = {name: value for name, value in found.items() if name.startswith("judge/")}
        others = judge.keys() | {"malformed", "mismatch", "chosen"}
        components = {name: value for name, value in found.items() if name not in others}
        malformed, mismatch, chosen = (found.get(name) for name in ("malformed", "mismatch", "chosen"))
        return cls(id, task, group, components, malformed, mismatch, judge, chosen)

    def paid(self, name: str, value: float | None, weight: float) -> "Scored":
        """With a further component, unless it is None, and `weight` times it in the score."""
        if value is None:
            return self
        bonus = weight * value
        components = self.components | {name: value, "score": self.components["score"] + bonus}
        return replace(self, components=components, bonus=bonus)


def step_metrics(scored: Sequence[Scored], truncated: int) -> dict[str, float]:
    """All metrics of the rollouts of a step, of which `truncated` were cut at the token limit."""
    malformed = Counter(row.malformed for row in scored if row.malformed is not None)
    compared = [row.mismatch for row in scored if row.mismatch is not None]
    judge: dict[str, float] = {}
    for row in scored:  # totals so far
        judge |= {name: max(total, judge.get(name, 0.0)) for name, total in (row.judge or {}).items()}
    return {
        **reward_metrics(scored),
        **group_metrics(scored),
        "response/truncated": truncated / len(scored),
        "response/malformed": malformed.total() / len(scored),
        **{f"response/malformed/{reason}": count / len(scored) for reason, count in sorted(malformed.items())},
        **({"response/mismatch": float(np.mean(compared))} if compared else {}),
        "response/mismatch_compared": float(len(compared)),
        **dict(sorted(judge.items())),
    }


def reward_metrics(scored: Iterable[Scored]) -> dict[str, float]:
    """Means of the reward's components, over all rollouts and by task; `fidelity` where the motion is known."""
    values: dict[str, list[float]] = defaultdict(list)
    for row in scored:
        for name, value in row.components.items():
            if name == "fidelity" and not row.components.get("motion_known", 1.0):
                continue
            name = "overall" if name == "score" else name
            values[f"reward/{name}"].append(value)
            values[f"reward/{name}/{row.task}"].append(value)
    return {name: float(np.mean(numbers)) for name, numbers in sorted(values.items())}


def group_metrics(scored: Iterable[Scored]) -> dict[str, float]:
    """Share of zero-variance groups (all rollouts earn the same), also by task; number of the other groups."""
    scores: dict[tuple[str, str], set[float]] = defaultdict(set)
    for row in scored:
        scores[row.group, row.task].add(row.components["score"])
    collapsed: dict[str, list[bool]] = defaultdict(list)
    for (_, task), values in scores.items():
        for name in ("groups/collapsed", f"groups/collapsed/{task}"):
            collapsed[name].append(len(values) == 1)
    effective = {"groups/effective": float(sum(not flag for flag in collapsed["groups/collapsed"]))}
    return {name: float(np.mean(flags)) for name, flags in sorted(collapsed.items())} | effective
