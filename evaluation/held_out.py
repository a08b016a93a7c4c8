"""Answers to the val split while RL trains: one record per evaluation, the best of them, and when it goes down."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from data_tools.files import whole_lines
from data_tools.sample import Sample
from evaluation.grading import Schema
from evaluation.predictions import Prediction
from evaluation.run_scores import score_run
from rewards.errors import UserError

Record = dict[str, Any]
Records = Sequence[Mapping[str, Any]]


class HeldOutError(UserError):
    """A metric that the val split has no questions for; the message says what to do."""


def read_held_out(path: Path) -> list[Record]:
    """The records of rl/held_out.jsonl, by step; none where there is no such file."""
    return [json.loads(line) for line in whole_lines(path)] if path.exists() else []


def scored(
    step: int,
    samples: Sequence[Sample],
    predictions: Mapping[str, Prediction],
    schema: Schema,
    reward: float | None,
    seed: int = 0,
) -> Record:
    """The record of an evaluation, by the one scorer (`score_run`).

    Args:
        reward: mean training reward since the evaluation before.

    Returns:
        `step`, `n`, `balanced_accuracy` with `ci`, `accuracy`, `format`, `fidelity` (of the questions whose motion is
        known) and `reward`; None where there are no such questions.
    """
    scores = score_run(samples, predictions, seed, schema)
    ours = {"balanced_accuracy": "balanced_accuracy", "ci": "balanced_accuracy_ci", "accuracy": "accuracy"}
    ours |= {"format": "format_rate", "fidelity": "observation_fidelity"}
    return {"step": step, "n": scores["n"], **{name: scores[key] for name, key in ours.items()}, "reward": reward}


def best_of(records: Records, metric: str) -> Mapping[str, Any]:
    """The first record with the highest metric.

    Raises:
        HeldOutError: no question of the split has it.

    Example:
        >>> best_of([{"step": 8, "accuracy": 0.7}, {"step": 16, "accuracy": 0.7}], "accuracy")
        {'step': 8, 'accuracy': 0.7}
    """
    known = [record for record in records if record.get(metric) is not None]
    if not known:
        others = [name for name in ("balanced_accuracy", "accuracy") if records and records[-1].get(name) is not None]
        raise HeldOutError(
            f"rl.held_out.metric={metric}: no question of the val split has it; choose {' or '.join(others)}"
        )
    return max(known, key=lambda record: (record[metric], -record["step"]))


def decline(records: Records, metric: str, patience: int, rule: str = "no_better") -> str | None:
    """What to say where the last `patience` evaluations brought no new best; None where they did.

    Args:
        rule: `no_better`, or `reward_up`, which asks besides that the training reward rose since the best one.
    """
    best = best_of(records, metric)
    after = [record for record in records if record["step"] > best["step"]]
    if len(after) < patience:
        return None
    before, now = best["reward"], after[-1]["reward"]
    before = next((record["reward"] for record in after), None) if before is None else before
    rose = None not in (before, now) and now > before
    if rule == "reward_up" and not rose:
        return None
    said = f"no better {metric} on the val split for {len(after)} evaluations: {best[metric]:.3f} at step "
    said += f"{best['step']}, {after[-1][metric]:.3f} now"
    return said + (f", while the training reward rose from {before:.3f} to {now:.3f}" if rose else "")
