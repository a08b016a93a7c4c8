"""MMVU: multiple choice and judged open answers."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from data_tools.sample import Sample
from evaluation.benchmarks.baselines import with_texts
from evaluation.benchmarks.benchmark import MICRO, Benchmark, Part
from evaluation.benchmarks.judged import ASKED, ask_each, same_answer
from evaluation.benchmarks.labels import choice_sample, make_sample, need, of_kind, optional, read_rows
from evaluation.benchmarks.measures import masks, means, values_of
from evaluation.grading import Graded
from evaluation.measures.bootstrap import Resamples
from evaluation.table import Metric
from rewards.judges.protocol import Judge


def read_mmvu(path: Path, only: Sequence[str] | None) -> list[Sample]:
    """`validation.json`; ids are `id`."""
    samples = []
    for index, row in enumerate(read_rows(path)):
        where = f"{path}: record {index}"
        kind = need(row, "question_type", where)
        choices = optional(row, "choices", where, dict, {})
        options = _options(choices, where) if kind == "multiple-choice" else []
        fields = {
            "id": str(need(row, "id", where)),
            "video": "/".join(str(need(row, "video", where)).split("/")[-2:]),
            "question": need(row, "question", where),
            "source": "mmvu",
            "extras": {"type": kind, "subject": optional(row, "metadata", where, dict, {}).get("subject", "")},
        }
        if options:
            samples.append(choice_sample(where, options, need(row, "answer", where), task="choice", **fields))
        else:
            samples.append(make_sample(where, answer=str(need(row, "answer", where)), task="open_ended", **fields))
    return [sample for sample in samples if not only or sample.extras["type"] in only]


def _options(choices: Mapping[str, str], where: str = "") -> list[str]:
    """Texts in the order of their keys, which are the letters asked for: a few texts bring other letters of their own.

    Example:
        >>> _options({"A": "A. a key", "B": "B. a lock", "C": "D. a door", "D": ""})
        ['a key', 'a lock', 'a door']
    """
    texts = [of_kind(text, str, f"{where}: choices") for _, text in sorted(choices.items()) if text]
    lettered = [re.fullmatch(r"[A-Z]\.\s*(.+)", text, re.DOTALL) for text in texts]
    return [match[1] for match in lettered if match] if all(lettered) else texts


async def ask_mmvu(graded: Sequence[Graded], judge: Judge) -> list[Graded]:
    """Open-ended answers by the judge; multiple choice stays with the rules."""

    async def one(j: Graded) -> dict[str, float] | None:
        if j.sample.task != "open_ended":
            return {"value": j.value}
        same = await same_answer(judge, j.sample.question, j.sample.answer, j.answer)
        return None if same is None else {"value": float(same)}

    return await ask_each(graded, one)


def measure_mmvu(graded: Sequence[Graded], resamples: Resamples) -> list[Part]:
    """Multiple choice by rules; open-ended and all only where a judge was asked."""
    groups = masks(graded, "type")
    judged = any(ASKED in j.marks for j in graded)
    if judged:
        groups = {"all questions": np.ones(len(graded), bool)} | groups
    found = means({"accuracy (judge)" if judged else "accuracy": values_of(graded)}, groups, resamples)
    shown = [name for name in groups if judged or name == "multiple-choice"]
    return [Part(name, groups[name], found[name], overall=True) for name in shown]


MMVU = Benchmark(
    name="mmvu",
    title="MMVU, validation",
    sources=("mmvu",),
    read=read_mmvu,
    metrics=(Metric("accuracy", "multiple choice by rules, over questions"), Metric("accuracy (judge)", MICRO)),
    measure=measure_mmvu,
    baselines=with_texts,
    ask=ask_mmvu,
    note="Officially GPT-4o judges both kinds; here multiple choice is by rules, and open-ended questions count only "
    "where a judge is named. Video-R1 and VideoP2R report the multiple-choice part",
)
