"""VSI-Bench: multiple choice and numbers (mean relative accuracy)."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from data_tools.sample import Sample
from evaluation.benchmarks.baselines import option_baselines
from evaluation.benchmarks.benchmark import Baselines, Benchmark, Part
from evaluation.benchmarks.labels import choice_sample, make_sample, need, read_rows
from evaluation.benchmarks.measures import masks, means, values_of
from evaluation.benchmarks.multiple_choice import NO_GUESS
from evaluation.benchmarks.official import answered
from evaluation.grading import Graded
from evaluation.measures.bootstrap import Resamples, over_groups
from evaluation.predictions import answers
from evaluation.table import Metric
from rewards.reading import number

VSI_NUMBERS = ("object_counting", "object_abs_distance", "object_size_estimation", "room_size_estimation")
_DIRECTION = "object_rel_direction"


def read_vsibench(path: Path, only: Sequence[str] | None) -> list[Sample]:
    """Rows of the hub; ids are `id`, or the row's number."""
    samples = []
    for index, row in enumerate(read_rows(path)):
        where = f"{path}: record {index}"
        kind = need(row, "question_type", where, str)
        fields = {
            "id": str(row.get("id", index)),
            "video": f"{need(row, 'dataset', where)}/{need(row, 'scene_name', where)}.mp4",
            "question": need(row, "question", where),
            "source": "vsibench",
            # The three difficulties of direction are one task.
            "extras": {"task": _DIRECTION if kind.startswith(_DIRECTION) else kind, "type": kind},
        }
        right = str(need(row, "ground_truth", where))
        if kind in VSI_NUMBERS:
            samples.append(make_sample(where, answer=right, task="regression", **fields))
        else:
            samples.append(choice_sample(where, need(row, "options", where, list), right, task="choice", **fields))
    return [sample for sample in samples if not only or sample.extras["task"] in only]


def official_mra(predicted: float, gold: float) -> float:
    """Mean relative accuracy as in VSI-Bench's code: <= where the paper and the reward have <.

    Example:
        >>> official_mra(5, 4)  # off by 25 %: within 6 of the 10 tolerances
        0.6
    """
    error = abs(predicted - gold) / abs(gold) if gold else (0.0 if predicted == gold else np.inf)
    return float(sum(error <= 1 - theta for theta in np.linspace(0.5, 0.95, 10)) / 10)


def _official_value(j: Graded) -> float:
    if j.sample.task != "regression" or not j.answer or j.outcome in ("failed", "missing"):
        return j.value
    predicted, gold = number(j.answer), number(j.sample.answer)
    return 0.0 if predicted is None or gold is None else official_mra(predicted, gold)


def measure_vsibench(graded: Sequence[Graded], resamples: Resamples) -> list[Part]:
    """Mean over tasks (direction is the mean of its three), and per type."""
    columns = {"score": np.array([_official_value(j) for j in graded]), "score, MRA with <": values_of(graded)}
    types = masks(graded, "type")
    found = means(columns, types, resamples)
    tasks: dict[str, list[str]] = {}
    for kind in types:
        tasks.setdefault(_DIRECTION if kind.startswith(_DIRECTION) else kind, []).append(kind)
    over_tasks = {
        name: over_groups([over_groups([found[k][name] for k in kinds]) for kinds in tasks.values()])
        for name in columns
    }
    everything = np.ones(len(graded), bool)
    over_all = means(columns, {"all": everything}, resamples)["all"]
    return [
        Part(f"mean over {len(tasks)} tasks", everything, over_tasks, overall=True),
        Part("over questions", everything, over_all, overall=True),
        *(Part(kind, types[kind], found[kind]) for kind in types),
    ]


def vsibench_baselines(samples: Sequence[Sample]) -> Baselines:
    """Always each letter, and the majority letter per type, each with the median number per type."""
    numbers = [sample for sample in samples if sample.task == "regression"]
    medians = {
        kind: float(np.median([number(s.answer) for s in numbers if s.extras["type"] == kind]))
        for kind in {sample.extras["type"] for sample in numbers}
    }
    median = answers({sample.id: repr(medians[sample.extras["type"]]) for sample in numbers})
    options = option_baselines(samples) or {"median per type": {}}
    return {f"{name}, median number per type" if numbers else name: said | median for name, said in options.items()}


def read_officially(response: str, sample: Sample) -> str:
    """As utils.py of the publisher's lmms-eval: the first word, without a full stop, is the letter or the number."""
    word = answered(response).split(" ")[0].rstrip(".").strip()
    return word if sample.task == "regression" or len(word) == 1 else ""


VSIBENCH = Benchmark(
    name="vsibench",
    title="VSI-Bench",
    sources=("vsibench",),
    read=read_vsibench,
    metrics=(
        Metric("score", "accuracy, or MRA (official code: <=) for numbers; as the line says"),
        Metric("score, MRA with <", "accuracy, or MRA (paper: <) for numbers; as the line says"),
    ),
    measure=measure_vsibench,
    baselines=vsibench_baselines,
    extras=("type",),
    official=read_officially,
    note=f"{NO_GUESS}. official: the first word is the letter or the number; strict: a number is the whole answer",
)
