"""DREAM-1K: captions, scored by a judge's event precision and recall."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_tools.sample import Sample
from evaluation.benchmarks.benchmark import Baselines, Benchmark, Part
from evaluation.benchmarks.judged import MOST_EVENTS, ask_each, sentences, with_f1
from evaluation.benchmarks.labels import make_sample, need, no_parts, of_kind, read_rows
from evaluation.benchmarks.measures import masks, means, values_of
from evaluation.grading import Graded
from evaluation.measures.bootstrap import Resamples, over_groups
from evaluation.predictions import answers
from evaluation.table import Metric
from rewards.judges.protocol import UNJUDGED, Judge

UNNAMED = "<placeholder>"  # the published file's videos, until someone fills them in; `vid` tells them


def read_dream1k(path: Path, only: Sequence[str] | None) -> list[Sample]:
    """tarsier's DREAM-1k.jsonl; ids are idx, videos `<vid>.mp4` as in its fill_in_video_file.ipynb."""
    no_parts(only)
    samples = []
    for index, row in enumerate(read_rows(path)):
        where = f"{path}: record {index}"
        asked, *said = [_parts(turn, where) for turn in need(row, "messages", where, list)[:2]] or [[]]
        parts = [part for turn in (asked, *said) for part in turn]
        video = next((need(part["video"], "video_file", where) for part in parts if part.get("video")), None)
        if video == UNNAMED:
            video = f"{need(row, 'vid', where)}.mp4"
        reference = next((part["reference"] for part in parts if part.get("reference")), "")
        question = next((part["text"] for part in asked if part.get("text")), None)
        extra = need(row, "extra_info", where, dict)
        subset = need(row, "dataset", where)
        samples.append(
            make_sample(
                where,
                id=str(row.get("idx", index)),
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


def _parts(turn: Any, where: str) -> list[dict[str, Any]]:
    """What a turn of the conversation holds."""
    return [of_kind(part, dict, f"{where}: content") for part in need(turn, "content", where, list)]


async def ask_dream1k(graded: Sequence[Graded], judge: Judge) -> list[Graded]:
    """Recall: gold events that the caption entails. Precision: sentences of the caption that the reference entails."""

    async def one(j: Graded) -> dict[str, float] | None:
        said = sentences(j.answer)[:MOST_EVENTS]
        found = await judge.entailed(j.sample.events, j.answer) if j.sample.events else [True]  # official: recall 1
        true = await judge.entailed(said, j.sample.answer) if said else []
        if found is UNJUDGED or true is UNJUDGED:
            return None
        recall, precision = float(np.mean(found)), float(np.mean(true)) if said else 1.0
        return {"value": recall, "recall": recall, "precision": precision}

    return await ask_each(graded, one)


def measure_dream1k(graded: Sequence[Graded], resamples: Resamples) -> list[Part]:
    """Mean precision and recall per subset, over subsets; F1 of the two means."""
    columns = {name: values_of(graded, name.partition(" ")[0]) for name in ("precision (judge)", "recall (judge)")}
    groups = masks(graded, "subset")
    found = means(columns, groups, resamples)
    overall = {name: over_groups([of[name] for of in found.values()]) for name in columns}
    everything = np.ones(len(graded), bool)
    parts = [Part(f"mean over {len(groups)} subsets", everything, overall, overall=True)]
    parts += [Part(name, groups[name], found[name]) for name in groups]
    return [with_f1(part) for part in parts]


def dream1k_baselines(samples: Sequence[Sample]) -> Baselines:
    """One sentence for all clips; what it earns is the judge's leniency."""
    return {"constant caption": answers({sample.id: "Something happens in the video." for sample in samples})}


DREAM1K = Benchmark(
    name="dream1k",
    title="DREAM-1K, AutoDQ with the named judge",
    sources=("dream1k",),
    read=read_dream1k,
    metrics=tuple(Metric(f"{name} (judge)", "as the line says") for name in ("F1", "precision", "recall")),
    measure=measure_dream1k,
    baselines=dream1k_baselines,
    ask=ask_dream1k,
    needs_judge=True,
    note="Official: gpt-35-turbo-0125 extracts up to ten events and drops failed calls. Here the "
    "caption's sentences are its events, the named judge decides, and a failure counts 0: compare under one judge only",
)
