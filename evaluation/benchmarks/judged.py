"""Benchmarks that need a judge: DREAM-1K (AutoDQ) and VCR-Bench. The judge is ours, and named with every number."""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from data_tools.sample import Sample
from evaluation.answers import Judgement, answers
from evaluation.benchmarks.base import (
    MICRO,
    Baselines,
    Benchmark,
    Part,
    ask_each,
    choice_sample,
    make_sample,
    masks,
    means,
    need,
    no_parts,
    read_rows,
    values_of,
    with_texts,
)
from evaluation.benchmarks.choice import same_answer
from evaluation.bootstrap import Resamples, over_groups, ratio
from evaluation.table import Metric
from rewards.judge import UNJUDGED, Judge

MOST_EVENTS = 10  # of a prediction, as AutoDQ


def sentences(text: str) -> list[str]:
    """Sentences and lines of a text."""
    return [s for part in re.split(r"(?<=[.!?])\s+|\n+", text) if (s := part.strip(" -*\t"))]


def harmonic(precision: np.ndarray, recall: np.ndarray) -> np.ndarray:
    return ratio(2 * precision * recall, precision + recall, 0.0)


# ---------------------------------------------------------------- DREAM-1K


def read_dream1k(path: Path, only: Sequence[str] | None) -> list[Sample]:
    """tarsier's DREAM-1k.jsonl; ids are idx."""
    no_parts(only)
    samples = []
    for place, row in enumerate(read_rows(path)):
        where = f"{path}: record {place}"
        (user, assistant) = need(row, "messages", where)[:2]
        parts = user["content"] + assistant["content"]
        video = next((p["video"]["video_file"] for p in parts if p.get("video")), None)
        reference = next((p["reference"] for p in parts if p.get("reference")), "")
        question = next((p["text"] for p in user["content"] if p.get("text")), None)
        extra = need(row, "extra_info", where)
        subset = need(row, "dataset", where)
        samples.append(
            make_sample(
                where,
                id=str(row.get("idx", place)),
                video=video or "",
                question=question or "",
                answer=reference,
                events=need(extra, "events", where),
                duration=extra.get("duration"),
                task="caption",
                source="dream1k",
                extras={"subset": subset, "type": subset},
            )
        )
    return samples


async def ask_dream1k(judgements: Sequence[Judgement], judge: Judge) -> list[Judgement]:
    """Recall: gold events that the caption entails. Precision: sentences of the caption that the reference entails."""

    async def one(j: Judgement) -> dict[str, float] | None:
        said = sentences(j.answer)[:MOST_EVENTS]
        found = await judge.entailed(j.sample.events, j.answer)
        true = await judge.entailed(said, j.sample.answer) if said else []
        if found is UNJUDGED or true is UNJUDGED:
            return None
        recall, precision = float(np.mean(found)), float(np.mean(true)) if said else 1.0
        return {"value": recall, "recall": recall, "precision": precision}

    return await ask_each(judgements, one)


def measure_dream1k(judgements: Sequence[Judgement], resamples: Resamples) -> list[Part]:
    """Mean precision and recall per subset, over subsets; F1 of the two means."""
    columns = {name: values_of(judgements, name.partition(" ")[0]) for name in ("precision (judge)", "recall (judge)")}
    groups = masks(judgements, "subset")
    found = means(columns, groups, resamples)
    overall = {name: over_groups([of[name] for of in found.values()]) for name in columns}
    everything = np.ones(len(judgements), bool)
    parts = [Part(f"mean over {len(groups)} subsets", everything, overall, overall=True)]
    parts += [Part(name, groups[name], found[name]) for name in groups]
    return [_with_f1(part) for part in parts]


def _with_f1(part: Part) -> Part:
    f1 = harmonic(part.values["precision (judge)"], part.values["recall (judge)"])
    return Part(part.name, part.members_N, {"F1 (judge)": f1} | dict(part.values), part.overall)


def dream1k_baselines(samples: Sequence[Sample]) -> Baselines:
    """One sentence for all clips; what it earns is the judge's leniency."""
    return {"constant caption": answers({sample.id: "Something happens in the video." for sample in samples})}


DREAM1K = Benchmark(
    name="dream1k",
    title="DREAM-1K, AutoDQ with our judge",
    read=read_dream1k,
    metrics=tuple(Metric(f"{name} (judge)", "as the line says") for name in ("F1", "precision", "recall")),
    measure=measure_dream1k,
    baselines=dream1k_baselines,
    ask=ask_dream1k,
    note="Official: gpt-35-turbo-0125 extracts up to ten events and drops failed calls. Here sentences of the caption "
    "stand for its events, our judge decides, and a failure counts 0: compare under one judge only",
)


# ---------------------------------------------------------------- VCR-Bench


def read_vcrbench(path: Path, only: Sequence[str] | None) -> list[Sample]:
    """The published JSON list; ids are id."""
    no_parts(only)
    samples = []
    for place, row in enumerate(read_rows(path)):
        where = f"{path}: record {place}"
        options = [text for _, text in sorted((row.get("choices") or {}).items()) if text]
        fields = {
            "id": str(need(row, "id", where)),
            "video": need(row, "video_path", where),
            "question": need(row, "question", where),
            "duration": row.get("duration"),
            "source": "vcrbench",
            "extras": {
                "dimension": need(row, "dimension", where),
                "type": row["dimension"],
                "length": _length(row.get("duration")),
                "steps": need(row, "reasoning", where),
            },
        }
        if fields["duration"] is not None:
            fields["duration"] = float(fields["duration"])
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


async def ask_vcrbench(judgements: Sequence[Judgement], judge: Judge) -> list[Judgement]:
    """Open answers, and steps: gold ones that the response entails, its own that the gold ones entail."""

    async def one(j: Judgement) -> dict[str, float] | None:
        steps, said = j.sample.extras["steps"], sentences(_reasoning(j))[: 2 * MOST_EVENTS]
        found = await judge.entailed(steps, _reasoning(j)) if said else [False] * len(steps)
        true = await judge.entailed(said, "\n".join(steps)) if said else [False]
        right = bool(j.value)
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

    return await ask_each(judgements, one)


def _reasoning(j: Judgement) -> str:
    parts = [text for text in (j.parsed.observation, j.parsed.think) if text]
    return "\n".join(parts) or j.response.rpartition("<answer>")[0]


def measure_vcrbench(judgements: Sequence[Judgement], resamples: Resamples) -> list[Part]:
    """Answer accuracy and the means of step precision and recall, with F1 of the means; per dimension and length."""
    columns = {
        "accuracy (judge)": values_of(judgements),
        "precision (judge)": values_of(judgements, "precision"),
        "recall (judge)": values_of(judgements, "recall"),
    }
    everything = np.ones(len(judgements), bool)
    groups = {"over questions": everything, **masks(judgements, "dimension"), **masks(judgements, "length")}
    found = means(columns, groups, resamples)
    parts = [Part(name, groups[name], found[name], overall=name == "over questions") for name in groups]
    return [_with_f1(part) for part in parts]


VCRBENCH = Benchmark(
    name="vcrbench",
    title="VCR-Bench with our judge",
    read=read_vcrbench,
    metrics=tuple(
        Metric(f"{name} (judge)", f"{MICRO}; F1 of the means") for name in ("accuracy", "F1", "precision", "recall")
    ),
    measure=measure_vcrbench,
    baselines=with_texts,
    ask=ask_vcrbench,
    schema="ota",
    note="Official: GPT-4o splits and classifies steps. Here sentences of the reasoning stand for its steps, their "
    "classes are not told apart, choices are by rules, and our judge decides the rest",
)

BENCHMARKS = (DREAM1K, VCRBENCH)
