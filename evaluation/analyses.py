"""VideoP2R's analyses (section 5): advantage collapse, think-answer mismatch, whether the observation suffices."""

import asyncio
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from data_tools.sample import BY_OPTION
from evaluation.answers import Judgement
from evaluation.bootstrap import Estimate, Resamples, estimate
from evaluation.table import Metric, Row, Table
from rewards.judge import UNJUDGED, Judge

EQUAL = 1e-6  # rewards of a group that differ by less leave no advantage
REWARDS = {"score": "whole reward", "perception": "perception", "reasoning": "reasoning"}


class RecordError(ValueError):
    """Rollout records that cannot be read; the message names file and line."""


def read_rollouts(folder: Path) -> list[dict[str, Any]]:
    """Rollout records of a run (`rl/rollouts/*.jsonl`), by step.

    Raises:
        RecordError: naming file and line of the first bad record.
    """
    records = []
    for path in sorted(folder.glob("*.jsonl"), key=lambda path: (len(path.stem), path.stem)):
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            try:
                record = json.loads(line)
            except json.JSONDecodeError as error:
                raise RecordError(f"{path}:{number}: no JSON ({error.msg})") from error
            if not isinstance(record, dict) or not {"step", "score"} <= record.keys():
                raise RecordError(f"{path}:{number}: no rollout record: step and score are needed")
            records.append(record)
    return records


def advantage_collapse(records: Iterable[Mapping[str, Any]]) -> list[dict[str, float]]:
    """Per step, the share of groups whose rewards are all equal, so that GRPO's advantage is 0 for all (figure 6c).

    Of the whole reward, and of perception and reasoning where they are rewarded apart: PA-GRPO learns from a group as
    long as one of them differs (`both`).

    Returns:
        One row per step: `step`, `groups`, and a share per reward.
    """
    groups: dict[tuple[int, str], list[Mapping[str, Any]]] = defaultdict(list)
    for record in records:
        # A rollout's name is prompt_rollout_output.
        group = record["group"] if "group" in record else record["rollout"].rsplit("_", 2)[0]
        groups[record["step"], group].append(record)
    steps: dict[int, list[dict[str, bool]]] = defaultdict(list)
    for (step, _), of in groups.items():
        flat = {
            name: bool(np.ptp([float(record[name]) for record in of]) < EQUAL)
            for name in REWARDS
            if all(name in record for record in of)
        }
        if "perception" in flat:
            flat["both"] = flat["perception"] and flat["reasoning"]
        steps[step].append(flat)
    return [
        {"step": step, "groups": len(of), **{name: float(np.mean([flat[name] for flat in of])) for name in of[0]}}
        for step, of in sorted(steps.items())
    ]


async def _verdicts(judgements: Sequence[Judgement], judge: Judge) -> np.ndarray:
    """Per judgement: observation gives the right answer, thought leads to the answer, both asked of well-formed ones.

    Shape [N, 3]; the last column tells whether the judge gave both verdicts.
    """

    async def one(j: Judgement) -> tuple[float, float, float]:
        if not j.parsed.ok or j.chosen is None:
            return 0.0, 0.0, 1.0
        fields = vars(j.sample)
        seen, leads = await asyncio.gather(
            judge.answer_from_text(j.parsed.observation or "", fields),
            judge.consistent(j.parsed.think or "", j.answer, fields),
        )
        if seen is UNJUDGED or leads is UNJUDGED:
            return 0.0, 0.0, 0.0
        return float(seen == j.sample.answer), float(leads), 1.0

    return np.array(await asyncio.gather(*map(one, judgements)), float).reshape(-1, 3)


def _exchanged(judgements: Sequence[Judgement], seed: int) -> list[Judgement]:
    """Every response with the observation and thought of another one: what agreement is worth by chance."""
    order = np.random.default_rng(seed).permutation(len(judgements))
    donors = dict(zip(order, np.roll(order, 1)))
    mixed = []
    for place, j in enumerate(judgements):
        of = judgements[donors[place]].parsed
        parts = {**j.parsed.parts, **{tag: of.parts[tag] for tag in ("observation", "think") if tag in of.parts}}
        mixed.append(replace(j, parsed=replace(j.parsed, parts=parts)))
    return mixed


async def process_table(
    models: Mapping[str, Sequence[Judgement]], judge: Judge, judge_name: str, settings: str, seed: int = 0
) -> Table | None:
    """Does the observation alone give the right answer, does the thought lead to the answer given; per model.

    Only questions with options of responses that have an observation and a thought; None where there are none.

    Raises:
        JudgeError: the judge could not answer.
    """
    rows, resamples = [], None
    for name, judgements in models.items():
        asked = [j for j in judgements if j.sample.task in BY_OPTION and j.sample.task != "quality"]
        if not asked or not any(j.parsed.observation and j.parsed.think for j in asked):
            continue
        resamples = Resamples([j.sample.video for j in asked], seed)
        everything = np.ones((len(asked), 1), bool)
        well_formed = np.array([[j.parsed.ok and j.chosen is not None] for j in asked])
        verdicts = await _verdicts(asked, judge)
        right = np.array([j.right for j in asked], float)
        mismatch = (1 - verdicts[:, 1]) * well_formed[:, 0]

        def of(column: np.ndarray, members: np.ndarray = everything, at: Resamples = resamples) -> Estimate | None:
            return estimate(at.means(column, members)[:, 0])

        values = (
            of(right),
            of(verdicts[:, 0]),
            of(mismatch, well_formed),
            of(mismatch * right, well_formed & (right > 0)[:, None]),
        )
        unjudged = int((verdicts[:, 2] == 0).sum())
        failures = sum(j.outcome in ("missing", "failed") for j in asked) + unjudged
        malformed = sum(j.outcome in ("malformed", "no_option") for j in asked)
        rows.append(Row(name, values, len(asked), failures, malformed))
        chance = await _verdicts(_exchanged(asked, seed), judge)
        lost = (1 - chance[:, 1]) * well_formed[:, 0]
        by_chance = [of(chance[:, 0]), of(lost, well_formed), of(lost * right, well_formed & (right > 0)[:, None])]
        plain = [None, *(e and Estimate(e.value) for e in by_chance)]
        rows.append(Row(f"texts exchanged · {name}", tuple(plain), len(asked), 0, 0, "baseline"))
    if not rows:
        return None
    return Table(
        name="process",
        title="Observation, thought and answer",
        metrics=(
            Metric("accuracy", "micro: over questions with options"),
            Metric("observation suffices", "the right answer from the observation text alone; micro, all questions"),
            Metric("mismatch", "thought does not lead to the answer; over readable answers"),
            Metric("mismatch, right answers", "the same over right answers"),
        ),
        rows=tuple(rows),
        interval=resamples.caption("clips"),
        settings=settings,
        note=f"Judge: {judge_name}. Texts exchanged: observation and thought of another response, what chance gives",
    )
