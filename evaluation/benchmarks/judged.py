"""What the benchmarks that ask a judge share. Their numbers are marked (judge): compare them under one judge only."""

import asyncio
import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

import numpy as np

from evaluation.benchmarks.benchmark import Part
from evaluation.grading import RIGHT, Graded, Outcome
from evaluation.measures.bootstrap import ratio
from rewards.judges.protocol import UNJUDGED, Judge

ASKED = "asked"  # mark of every response of a set that a judge was asked about
MOST_EVENTS = 10  # of a prediction, as AutoDQ


def sentences(text: str) -> list[str]:
    """Sentences and lines of a text."""
    return [s for part in re.split(r"(?<=[.!?])\s+|\n+", text) if (s := part.strip(" -*\t"))]


def harmonic(precision: np.ndarray, recall: np.ndarray) -> np.ndarray:
    return ratio(2 * precision * recall, precision + recall, 0.0)


def with_f1(part: Part) -> Part:
    f1 = harmonic(part.values["precision (judge)"], part.values["recall (judge)"])
    return Part(part.name, part.members_N, {"F1 (judge)": f1} | dict(part.values), part.overall)


async def same_answer(judge: Judge, question: str, gold: str, answer: str) -> bool | None:
    """Whether the judge takes `answer` for the gold answer; None where it gave no verdict."""
    verdict = await judge.entailed(
        [f"The answer to {question!r} is: {gold}"], f"The answer to {question!r} is: {answer}"
    )
    return None if verdict is UNJUDGED else verdict[0]


async def ask_each(
    graded: Sequence[Graded], one: Callable[[Graded], Awaitable[dict[str, float] | None]]
) -> list[Graded]:
    """Responses with the marks that `one` gives, all asked at once (the judge bounds its own concurrency).

    Those without an answer are not asked. None is a verdict that could not be had: `unjudged`, counted as wrong.
    """

    async def marked(j: Graded) -> Graded:
        if not j.answer or j.outcome in ("failed", "missing", "malformed"):
            return replace(j, marks={ASKED: 1.0})
        marks = await one(j)
        if marks is None:
            return replace(j, outcome="unjudged", reason="the judge gave no verdict", value=0.0, marks={ASKED: 1.0})
        outcome: Outcome = "right" if marks.get("value", j.value) >= RIGHT else "wrong"
        return replace(j, outcome=outcome, reason=None, value=marks.get("value", j.value), marks=marks | {ASKED: 1.0})

    return list(await asyncio.gather(*map(marked, graded)))
