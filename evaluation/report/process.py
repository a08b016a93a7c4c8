"""VideoP2R's analyses (section 5): does the thought lead to the answer, and does the observation alone suffice?"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from evaluation.grading import Graded, counts
from evaluation.measures.bootstrap import Estimate, Resamples, estimate
from evaluation.table import Metric, Row, Table
from rewards.judges.protocol import UNJUDGED, Judge, Unjudged
from rewards.judges.rules import RuleJudge, has_rule
from rewards.judges.sufficiency import why_insufficient
from rewards.tasks import TEXT_TASKS

ASKED = 1000  # questions of a set that a language model judges, at most


@dataclass(frozen=True)
class Verdicts:
    """Per response 1, 0, or NaN where the judge could not decide or there was nothing to ask.

    Attributes:
        seen: the observation alone suffices for the right answer.
        leads: the thought leads to the answer given.
        undecided: bool; one of the verdicts that the judge was asked for is missing.
    """

    seen: np.ndarray
    leads: np.ndarray
    undecided: np.ndarray


async def _verdicts(graded: Sequence[Graded], judge: Judge, sufficiency: Mapping[str, Any]) -> Verdicts:
    """Of readable answers; an unreadable one has no observation that suffices."""
    observes, thinks = (any(tag in j.parsed.parts for j in graded) for tag in ("observation", "think"))

    async def seen(j: Graded) -> float:
        if not observes or not _readable(j):
            return 0.0 if observes else np.nan
        reason = await why_insufficient(j.parsed.observation or "", vars(j.sample), judge, **sufficiency)
        return np.nan if isinstance(reason, Unjudged) else float(reason is None)

    async def leads(j: Graded) -> float:
        if not thinks or not _readable(j):
            return 0.0 if thinks else np.nan
        verdict = await judge.consistent(j.parsed.think or "", j.answer, vars(j.sample))
        return np.nan if verdict is UNJUDGED else float(verdict)

    found = np.array(await asyncio.gather(*map(seen, graded), *map(leads, graded)), float).reshape(2, -1)
    asked = np.array([observes, thinks])[:, None]
    return Verdicts(found[0], found[1], (np.isnan(found) & asked).any(axis=0))


def _readable(j: Graded) -> bool:
    return j.parsed.ok and (j.chosen is not None or not j.sample.options)


def _exchanged(graded: Sequence[Graded], seed: int) -> list[Graded]:
    """Every response with the observation and thought of another one: the agreement that chance gives."""
    order: list[int] = np.random.default_rng(seed).permutation(len(graded)).tolist()
    donors = dict(zip(order, [order[-1], *order[:-1]]))
    mixed = []
    for i, j in enumerate(graded):
        other = graded[donors[i]].parsed.parts
        parts = j.parsed.parts | {tag: other[tag] for tag in ("observation", "think") if tag in other}
        mixed.append(replace(j, parsed=replace(j.parsed, parts=parts)))
    return mixed


def judged(graded: Sequence[Graded], judge: Judge, seed: int = 0) -> list[Graded]:
    """The responses that the judge is asked about: to TEXT_TASKS, and by rule where there is a rule for them.

    A language model is asked four times a response: of more than ASKED questions it gets as many, drawn by the seed.
    """
    if isinstance(judge, RuleJudge):
        return [j for j in graded if has_rule(vars(j.sample))]
    found = [j for j in graded if j.sample.task in TEXT_TASKS]
    drawn = np.random.default_rng(seed).permutation(len(found))[:ASKED]
    return [found[index] for index in sorted(drawn.tolist())]


async def process_table(
    models: Mapping[str, Sequence[Graded]],
    judge: Judge,
    judge_name: str,
    settings: str,
    seed: int = 0,
    sufficiency: Mapping[str, Any] | None = None,
) -> Table | None:
    """Does the observation alone give the right answer, does the thought lead to the answer given; per model.

    Only questions that the judge is asked about (`judged`), of models that observe or think; None where there are none.

    Args:
        sufficiency: the study's settings of `why_insufficient`.

    Raises:
        JudgeError: the judge could not answer.
    """
    rows, interval, undecided = [], "", 0
    for name, graded in models.items():
        asked = judged(graded, judge, seed)
        if any(j.parsed.observation or j.parsed.think for j in asked):
            resamples = Resamples([j.sample.shown for j in asked], seed)
            interval = resamples.caption("clips")
            of_model, missing = await _rows(name, asked, judge, resamples, sufficiency or {})
            rows += of_model
            undecided += missing
    if not rows:
        return None
    texts = "Texts exchanged: observation and thought of another response, what chance gives"
    of = max(map(len, models.values()))
    left_out = f" {undecided} responses without a verdict count as failures and are left out of its numbers."
    return Table(
        name="process",
        title="Observation, thought and answer",
        metrics=(
            Metric("accuracy", "micro: over the questions that the judge is asked about"),
            Metric("observation suffices", "the right answer from the observation text alone; micro, all questions"),
            Metric("mismatch", "thought does not lead to the answer; over readable answers"),
            Metric("mismatch, right answers", "the same over right answers"),
        ),
        rows=tuple(rows),
        interval=interval,
        settings=settings,
        note=f"Judge: {judge_name}, asked about {rows[0].n} of {of} questions.{left_out if undecided else ''} {texts}",
    )


async def _rows(
    name: str, graded: Sequence[Graded], judge: Judge, resamples: Resamples, sufficiency: Mapping[str, Any]
) -> tuple[list[Row], int]:
    """A model's line, that of the same responses with their texts exchanged, one per task; and the undecided."""
    readable = np.array([_readable(j) for j in graded])
    right = np.array([j.right for j in graded])
    tasks = np.array([j.sample.task for j in graded], dtype=object)

    def mean(column: np.ndarray, members: np.ndarray) -> Estimate | None:
        members = members & ~np.isnan(column)
        return estimate(resamples.means(np.nan_to_num(column), members[:, None])[:, 0])

    def values(found: Verdicts, of: np.ndarray) -> list[Estimate | None]:
        mismatch = 1 - found.leads
        return [mean(found.seen, of), mean(mismatch, of & readable), mean(mismatch, of & readable & right)]

    verdicts = await _verdicts(graded, judge, sufficiency)

    def line(label: str, of: np.ndarray) -> Row:
        count = counts(j for j, member in zip(graded, of) if member)
        cells = (mean(right.astype(float), of), *values(verdicts, of))
        return Row(label, cells, count.n, count.failures + int(verdicts.undecided[of].sum()), count.malformed)

    everything = np.ones(len(graded), bool)
    by_chance = values(await _verdicts(_exchanged(graded, resamples.seed), judge, sufficiency), everything)
    plain = (None, *(value and Estimate(value.value) for value in by_chance))
    rows = [line(name, everything), Row(f"texts exchanged · {name}", plain, len(graded), 0, 0, "baseline")]
    names = sorted(set(tasks.tolist()))
    if len(names) > 1:
        rows += [line(f"{name} · {task.replace('_', ' ')}", tasks == task) for task in names]
    return rows, int(verdicts.undecided.sum())
