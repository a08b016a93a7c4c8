"""VCR-Bench: multiple choice and judged reasoning steps."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from data_tools.sample import Sample
from evaluation.benchmarks.baselines import with_texts
from evaluation.benchmarks.benchmark import MICRO, Benchmark, Part
from evaluation.benchmarks.judged import MOST_EVENTS, ask_each, same_answer, sentences, with_f1
from evaluation.benchmarks.labels import choice_sample, make_sample, need, no_parts, optional, read_rows
from evaluation.benchmarks.measures import masks, means, values_of
from evaluation.grading import Graded
from evaluation.measures.bootstrap import Resamples
from evaluation.table import Metric
from rewards.judges.protocol import UNJUDGED, Judge


def read_vcrbench(path: Path, only: Sequence[str] | None) -> list[Sample]:
    """The published JSON list; ids are id."""
    no_parts(only)
    samples = []
    for index, row in enumerate(read_rows(path)):
        where = f"{path}: record {index}"
        seconds = optional(row, "duration", where, int | float)
        options = [text for _, text in sorted(optional(row, "choices", where, dict, {}).items()) if text]
        fields = {
            "id": str(need(row, "id", where)),
            "video": need(row, "video_path", where),
            "question": need(row, "question", where),
            "duration": seconds,
            "source": "vcrbench",
            "extras": {
                "dimension": need(row, "dimension", where),
                "type": row["dimension"],
                "length": _length(seconds),
                "steps": need(row, "reasoning", where),
            },
        }
        right = str(need(row, "answer", where))
        if row.get("multiple-choice") and len(options) > 1:
            samples.append(choice_sample(where, options, right, task="choice", **fields))
        else:
            samples.append(make_sample(where, answer=right, task="open_ended", **fields))
    return samples


def _length(duration: float | None) -> str:
    if duration is None:
        return "unknown length"
    return "up to 60 s" if duration <= 60 else "up to 300 s" if duration <= 300 else "longer"


async def ask_vcrbench(graded: Sequence[Graded], judge: Judge) -> list[Graded]:
    """Open answers, and steps: gold ones that the response entails, its own that the gold ones entail."""

    async def one(j: Graded) -> dict[str, float] | None:
        steps, said = j.sample.extras["steps"], sentences(_reasoning(j))[: 2 * MOST_EVENTS]
        found = await judge.entailed(steps, _reasoning(j)) if said else [False] * len(steps)
        true = await judge.entailed(said, "\n".join(steps)) if said else [False]
        right: bool | None = bool(j.value)
        if j.sample.task != "choice":
            right = await same_answer(judge, j.sample.question, j.sample.answer, j.answer)
        if found is UNJUDGED or true is UNJUDGED or right is None:
            return None
        return {
            "value": float(right),
            "recall": float(np.mean(found)),
            "precision": float(np.mean(true)),
            "judged": 1.0,
        }

    return await ask_each(graded, one)


def _reasoning(j: Graded) -> str:
    parts = [text for text in (j.parsed.observation, j.parsed.think) if text]
    return "\n".join(parts) or j.response.rpartition("<answer>")[0]


def measure_vcrbench(graded: Sequence[Graded], resamples: Resamples) -> list[Part]:
    """Answer accuracy and the means of step precision and recall, with F1 of the means; per dimension and length."""
    columns = {
        "accuracy (judge)": values_of(graded),
        "precision (judge)": values_of(graded, "precision"),
        "recall (judge)": values_of(graded, "recall"),
    }
    everything = np.ones(len(graded), bool)
    groups = {"over questions": everything, **masks(graded, "dimension"), **masks(graded, "length")}
    found = means(columns, groups, resamples)
    parts = [Part(name, groups[name], found[name], overall=name == "over questions") for name in groups]
    return [with_f1(part) for part in parts]


VCRBENCH = Benchmark(
    name="vcrbench",
    title="VCR-Bench with the named judge",
    sources=("vcrbench",),
    read=read_vcrbench,
    metrics=tuple(
        Metric(f"{name} (judge)", f"{MICRO}; F1 of the means") for name in ("accuracy", "F1", "precision", "recall")
    ),
    measure=measure_vcrbench,
    baselines=with_texts,
    ask=ask_vcrbench,
    needs_judge=True,
    extras=("steps",),
    note="Official: GPT-4o splits and classifies steps. Here the reasoning's sentences are its steps, which are "
    "not classified; choices are graded by rule, and the named judge decides the rest",
)
