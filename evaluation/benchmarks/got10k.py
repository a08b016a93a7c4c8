"""GOT-10k as VideoChat-R1 asks it: eight boxes per sequence."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from data_tools.sample import Sample
from evaluation.benchmarks.benchmark import Baselines, Benchmark, Part
from evaluation.benchmarks.labels import from_source, no_parts
from evaluation.benchmarks.measures import grouped, values_of
from evaluation.benchmarks.official import first_answer
from evaluation.grading import Graded
from evaluation.measures.bootstrap import Resamples
from evaluation.predictions import answers
from evaluation.table import Metric
from rewards.geometry import box_iou
from rewards.reading import boxes


def read_got10k(path: Path, only: Sequence[str] | None) -> list[Sample]:
    """VideoChat-R1's got_val.json: eight boxes per sequence, the first one given in the prompt."""
    no_parts(only)
    return from_source("got10k", path)


def measure_tracking(graded: Sequence[Graded], resamples: Resamples) -> list[Part]:
    """Mean IoU over the 8 boxes of each sequence, then over sequences; also without the box that the prompt gives."""
    iou = values_of(graded)
    columns = {"8-frame mean IoU": iou} | {f"R@{m}": iou >= m for m in (0.5, 0.7)}
    columns["without the given box"] = np.array([_after_first(j) for j in graded])
    return grouped(columns, graded, resamples)


def _after_first(j: Graded) -> float:
    gold = j.sample.boxes[1:]
    found = boxes(j.answer, len(j.sample.boxes)) if j.answer else None
    if not found or not gold or j.outcome in ("failed", "missing"):
        return 0.0
    return sum(box_iou(p, g) for p, g in zip(found[1:], gold) if p is not None) / len(gold)


def tracking_baselines(samples: Sequence[Sample]) -> Baselines:
    """The given box stays where it is; the whole picture."""
    return {
        "first box kept": answers({s.id: str([s.boxes[0]] * len(s.boxes)) for s in samples}),
        "whole picture": answers({s.id: str([[0.0, 0.0, 1.0, 1.0]] * len(s.boxes)) for s in samples}),
    }


def read_officially(response: str, sample: Sample) -> str:
    """As evaluate_track.py: the first <answer>, which must be a list of eight boxes."""
    return first_answer(response) or ""


GOT10K = Benchmark(
    name="got10k",
    title="GOT-10k, 8 frames (VideoChat-R1's form)",
    sources=("got10k",),
    read=read_got10k,
    metrics=tuple(
        Metric(name, "over sequences") for name in ("8-frame mean IoU", "R@0.5", "R@0.7", "without the given box")
    ),
    measure=measure_tracking,
    baselines=tracking_baselines,
    official=read_officially,
    note="Not the official AO and SR (benchmark=got10k_official): eight frames of each sequence, the first box given "
    "and counted. A list of another length counts 0",
)
