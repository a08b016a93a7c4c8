"""Rollout records: one line per response, written by the trainer, read by replay, counterfactual and report."""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from rewards.errors import UserError, problems

EQUAL = 1e-6  # rewards of a group that differ by less leave no advantage
REWARDS = {"score": "whole reward", "perception": "perception", "reasoning": "reasoning"}


class RecordError(UserError):
    """A line that is not a rollout record; the message names file, line and field."""


class Rollout(BaseModel):
    """One response of a training step. In the file, the reward's components are fields of the record.

    Attributes:
        rollout: its name, prompt_rollout_output.
        id, task: of the sample.
        group: name of the prompt; the responses of a group are compared with each other.
        malformed: slug of the reason; None for a well-formed response.
        mismatch: 1 where the reasoning leads to another answer, else 0; None where that is unknown.
        advantage: of its last token; under PA-GRPO that of its reasoning.
        advantage_perception: under PA-GRPO, of its perception; None where it has no such tokens.
        sample: the sample's fields, without its chain.
    """

    model_config = ConfigDict(extra="allow", frozen=True, ser_json_inf_nan="constants")
    __pydantic_extra__: dict[str, float]

    step: int
    rollout: str
    id: str
    task: str
    group: str
    score: float
    malformed: str | None = None
    mismatch: float | None = None
    advantage: float
    advantage_perception: float | None = None
    prompt: str
    response: str
    response_tokens: int
    truncated: bool
    sample: dict[str, Any]

    @property
    def components(self) -> dict[str, float]:
        """Of the reward, `score` among them."""
        return {"score": self.score, **self.__pydantic_extra__}

    def line(self) -> str:
        """As a line of a rollout file."""
        absent = {name for name in ("malformed", "mismatch", "advantage_perception") if getattr(self, name) is None}
        return self.model_dump_json(exclude=absent) + "\n"


def parse_rollouts(path: Path) -> Iterator[Rollout | RecordError]:
    """The records of a file, in order; in place of a bad one the error that names file, line and field."""
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            try:
                yield Rollout.model_validate_json(line)
            except ValidationError as error:
                yield RecordError(f"{path}:{number}: not a rollout record: {problems(error, 'line')[0]}")


def read_rollouts(folder: Path) -> list[Rollout]:
    """The rollout records of a run (`rl/rollouts/*.jsonl`), by step.

    Raises:
        RecordError: of the first bad record.
    """
    records = []
    for path in sorted(folder.glob("*.jsonl"), key=lambda path: (len(path.stem), path.stem)):
        for record in parse_rollouts(path):
            if isinstance(record, RecordError):
                raise record
            records.append(record)
    return records


def advantage_collapse(records: Iterable[Rollout]) -> list[dict[str, float]]:
    """Per step, the share of zero-variance groups: all rewards are equal, so GRPO's advantage is 0 (figure 6c).

    Of the whole reward, and of perception and reasoning where they are rewarded apart: PA-GRPO learns from a group as
    long as one of them differs (`both`).

    Returns:
        One row per step: `step`, `groups`, and a share per reward.
    """
    groups: dict[tuple[int, str], list[dict[str, float]]] = defaultdict(list)
    for record in records:
        groups[record.step, record.group].append(record.components)
    steps: dict[int, list[dict[str, bool]]] = defaultdict(list)
    for (step, _), rows in groups.items():
        flat = {
            name: bool(np.ptp([row[name] for row in rows]) < EQUAL)
            for name in REWARDS
            if all(name in row for row in rows)
        }
        if "perception" in flat:
            flat["both"] = flat["perception"] and flat["reasoning"]
        steps[step].append(flat)
    return [
        {"step": step, "groups": len(flags), **{name: float(np.mean([f[name] for f in flags])) for name in flags[0]}}
        for step, flags in sorted(steps.items())
    ]
