"""NExT-GQA: grounded question answering."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from data_tools.sample import Sample
from evaluation.benchmarks.baselines import option_baselines
from evaluation.benchmarks.benchmark import MICRO, Baselines, Benchmark, Part
from evaluation.benchmarks.labels import LabelError, from_source
from evaluation.benchmarks.measures import grouped, values_of
from evaluation.benchmarks.official import first_answer, first_letter
from evaluation.grading import Graded
from evaluation.measures.bootstrap import Resamples
from evaluation.table import Metric
from rewards.geometry import temporal_iou, union_iou
from rewards.reading import Span, spans


def read_nextgqa(path: Path, only: Sequence[str] | None) -> list[Sample]:
    """VideoChat-R1's JSON list; or the official folder or CSV file, with gsub_<split>.json beside it."""
    if path.is_dir():
        files = sorted(file for file in path.glob("*.csv") if not only or file.stem in only)
        if len(files) != 1:
            raise LabelError(
                f"{path}: holds {[f.name for f in files]}: name one with labels=FOLDER/test.csv or only=test"
            )
        path = files[0]
    return from_source("nextgqa_official" if path.suffix == ".csv" else "nextgqa", path)


def iop(predicted: Span, gold: Span) -> float:
    """Intersection over the predicted span; 0 for one without length (the official scorer gives 1 to one inside)."""
    length = predicted[1] - predicted[0]
    return max(0.0, min(predicted[1], gold[1]) - max(predicted[0], gold[0])) / length if length > 0 else 0.0


def measure_nextgqa(graded: Sequence[Graded], resamples: Resamples) -> list[Part]:
    """Best IoU and IoP over the gold spans, answers, and both together; a missing span counts 0."""
    found = [_spans(j) for j in graded]
    best_iou = np.array([_best(temporal_iou, f, j) for f, j in zip(found, graded)])
    best_iop = np.array([_best(iop, f, j) for f, j in zip(found, graded)])
    right = values_of(graded)
    columns = {
        "Acc@QA": right,
        "Acc@GQA": right * (best_iop >= 0.5),
        "mIoP": best_iop,
        "IoP@0.3": best_iop >= 0.3,
        "IoP@0.5": best_iop >= 0.5,
        "mIoU": best_iou,
        "IoU@0.3": best_iou >= 0.3,
        "IoU@0.5": best_iou >= 0.5,
        "mIoU of unions": np.array([union_iou(f, j.sample.spans) if f else 0.0 for f, j in zip(found, graded)]),
    }
    return grouped(columns, graded, resamples, ["type"])


def _spans(j: Graded) -> Sequence[Span]:
    glue = j.parsed.parts.get("glue")
    return (spans(glue) or []) if glue and j.outcome not in ("failed", "missing") else []


def _best(metric: Callable[[Span, Span], float], found: Sequence[Span], j: Graded) -> float:
    golds = j.sample.extras.get("before_zero") or j.sample.spans  # the official scorer takes the labels as they are
    return max(metric(found[0], gold) for gold in golds) if found else 0.0


def nextgqa_baselines(samples: Sequence[Sample]) -> Baselines:
    """Each option always, and the majority, with the whole clip as the span."""
    whole = {sample.id: f"<glue>[[0, {sample.duration}]]</glue>" for sample in samples if sample.duration}
    found = option_baselines(samples)
    for said in found.values():
        for id, prediction in said.items():
            prediction.response = f"<answer>{prediction.response}</answer>{whole.get(id, '')}"
    return {f"{name}, whole clip": said for name, said in found.items()}


def read_officially(response: str, sample: Sample) -> str:
    """As VideoChat-R1's evaluate_gqa.py: the first capital of A to G in <answer>, and <glue> as a list of tuples."""
    leads = ("The best option is", "The correct option is", "Best answer:Best option:")
    letter = first_letter(first_answer(response) or "", "ABCDEFG", leads)
    glue = re.search(r"<glue>(.*?)</glue>", response, re.DOTALL)
    valid = glue is not None and _TUPLES.fullmatch(glue[1])
    return f"<answer>{letter or 'none'}</answer><glue>{glue[1] if glue and valid else ''}</glue>"


_PAIR = r"\(\d+(?:\.\d+)?,\s*\d+(?:\.\d+)?\)"
_TUPLES = re.compile(rf"\[{_PAIR}(?:,\s*{_PAIR})*,?\]")

NEXTGQA = Benchmark(
    name="nextgqa",
    title="NExT-GQA, grounded question answering",
    sources=("nextgqa", "nextgqa_official"),
    read=read_nextgqa,
    metrics=tuple(
        Metric(name, MICRO)
        for name in "Acc@QA Acc@GQA mIoP IoP@0.3 IoP@0.5 mIoU IoU@0.3 IoU@0.5".split() + ["mIoU of unions"]
    ),
    measure=measure_nextgqa,
    baselines=nextgqa_baselines,
    official=read_officially,
    note="official: VideoChat-R1's evaluate_gqa.py reads <answer> and <glue>; NExT-GQA's own scorer reads no texts. "
    "The metrics deviate from it: a missing or unreadable span counts 0 (officially skipped), one without "
    "length has IoP 0 (officially 1), of several spans the first counts, a gold start before 0 s is 0 s, and of equal "
    "options either is right. 'mIoU of unions' is VideoChat-R1's mIoU",
)
