"""Samples of any task (a run's test split): accuracy per task, and balanced accuracy of Yes/No questions."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from data_tools.sample import BY_OPTION, Sample, read_samples
from evaluation.benchmarks import temporal_grounding
from evaluation.benchmarks.baselines import option_baselines
from evaluation.benchmarks.benchmark import Baselines, Benchmark, Part
from evaluation.benchmarks.got10k import tracking_baselines
from evaluation.benchmarks.measures import masks, means, values_of
from evaluation.benchmarks.official import answered
from evaluation.benchmarks.temporal_grounding import moment_baselines
from evaluation.grading import PLAIN, Graded, grade_all
from evaluation.measures import yes_no
from evaluation.measures.bootstrap import Resamples, ratio
from evaluation.predictions import Prediction, answers
from evaluation.table import Metric
from rewards.motions import observation


def read_tasks(path: Path, only: Sequence[str] | None) -> list[Sample]:
    """Samples as JSON Lines; `only`: tasks."""
    return [sample for sample in read_samples(path) if not only or sample.task in only]


def measure_samples(graded: Sequence[Graded], resamples: Resamples) -> list[Part]:
    """Balanced accuracy of Yes/No questions, mean accuracy and well-formed share of all, per task and motion asked for.

    `accuracy` is that of a part's questions, as the reward grades them. `observation fidelity` covers the questions
    whose motion is known and whose schema has an observation; a response without a readable one is not faithful.
    `pair accuracy` is over pairs of a question and a twin of it, which has another answer (`grading.paired`).
    """
    task = np.array([j.sample.task for j in graded], dtype=object)
    known = np.array([j.motion is not None for j in graded], bool)
    columns = {"accuracy": values_of(graded), "well formed": np.array([j.well_formed for j in graded], float)}
    faithful = np.array([j.stated == j.motion for j in graded], float)
    everything = np.ones(len(graded), bool)
    by_task = {str(name): task == name for name in sorted(set(task))}
    groups = {"all questions": everything, **by_task}
    found = means(columns, groups, resamples)
    parts = []
    for name, members in groups.items():
        values = found[name] | _pairs(graded, members, resamples)
        if (members & known).any():
            values["observation fidelity"] = resamples.means(faithful, (members & known)[:, None])[:, 0]
        if name == "binary":
            values |= _decisions(graded, members, resamples)
        elif name in ("temporal_grounding", "spatial_grounding", "tracking"):
            for m in (0.5, 0.7):
                values[f"R@{m}"] = resamples.means(columns["accuracy"] >= m, members[:, None])[:, 0]
        parts.append(Part(name.replace("_", " "), members, values, overall=True))
    for asked, members in masks(graded, "asked").items():
        members = members & (task == "binary")
        if members.any():
            parts.append(Part(asked.replace("_", " "), members, _decisions(graded, members, resamples)))
    return parts


def _pairs(graded: Sequence[Graded], members: np.ndarray, resamples: Resamples) -> dict[str, np.ndarray]:
    """Share of pairs of which both answers are right; empty where no member has a twin."""
    columns = np.array([[j.marks.get(name, 0.0) for name in ("pairs", "pairs right")] for j in graded], float)
    columns *= members[:, None]
    if not columns.any():
        return {}
    pairs, right = resamples.sums(columns).T
    return {"pair accuracy": ratio(right, pairs)}


def _decisions(graded: Sequence[Graded], members: np.ndarray, resamples: Resamples) -> dict[str, np.ndarray]:
    gold = np.array([j.sample.answer_text.casefold() == "yes" if m else False for j, m in zip(graded, members)])
    right = np.array([j.right for j in graded])
    columns = np.stack([gold, gold & right, ~gold, ~gold & right], axis=1) * members[:, None]
    yes, yes_right, no, no_right = resamples.sums(columns).T
    found = yes_no.decisions(yes, yes_right, no, no_right)
    values = {name: found[name] for name in ("balanced accuracy", "accuracy", "F1", "MCC")}
    if not any(j.outcome in ("right", "wrong") for j, member in zip(graded, members) if member):
        values["MCC"] = np.full_like(found["MCC"], np.nan)  # no answer was read: none that disagrees with the labels
    return values | {"yes recall": ratio(yes_right, yes), "no recall": ratio(no_right, no)}


def samples_baselines(samples: Sequence[Sample]) -> Baselines:
    """Constant answers of each task for its own questions, and the best constant of each task for all questions.

    Where motions are known, each baseline states the most frequent motion as its observation.
    """
    found: Baselines = {}
    everything: dict[str, Prediction] = {}
    for task in dict.fromkeys(sample.task for sample in samples):
        questions = [sample for sample in samples if sample.task == task]
        constants = _constants(task, questions)
        for name, said in constants.items():
            found.setdefault(name, {}).update(said)
        totals = {name: sum(j.value for j in grade_all(questions, said, PLAIN)) for name, said in constants.items()}
        everything |= constants[max(totals, key=lambda name: totals[name])]
    found["best constant per task"] = everything
    motions = Counter(sample.extras["motion"] for sample in samples if "motion" in sample.extras)
    if motions:
        stated = observation(min(motions, key=lambda motion: (-motions[motion], motion)))
        for prediction in {id(p): p for said in found.values() for p in said.values()}.values():
            prediction.response = f"<observation>{stated}</observation><answer>{prediction.response}</answer>"
    return found


def _constants(task: str, samples: Sequence[Sample]) -> Baselines:
    if task in BY_OPTION:
        return option_baselines(samples)
    if task == "temporal_grounding":
        return moment_baselines(samples)
    if task == "tracking":
        return tracking_baselines(samples)
    if task in ("numerical", "regression"):
        median = float(np.median([float(sample.answer.replace(",", "")) for sample in samples]))
        return {"median number": answers({sample.id: repr(median) for sample in samples})}
    common = Counter(str(sample.boxes[0]) if sample.boxes else sample.answer for sample in samples)
    return {
        "most frequent answer": answers(
            {sample.id: max(sorted(common), key=lambda text: common[text]) for sample in samples}
        )
    }


def read_officially(response: str, sample: Sample) -> str:
    """Moments as the grounding benchmarks' scripts find them in a text; other answers as the schema "none" does."""
    moment = temporal_grounding.read_officially(response, sample) if sample.task == "temporal_grounding" else ""
    return moment or answered(response)


SAMPLES = Benchmark(
    name="samples",
    title="Held-out questions",
    sources=(),  # any
    read=read_tasks,
    metrics=(
        Metric("balanced accuracy", "Yes/No questions, mean of both recalls, micro"),
        Metric("accuracy", "mean over the line's questions; IoU, MRA ... where the task has degrees"),
        Metric("F1", "Yes/No questions, class Yes, micro"),
        Metric("MCC", "Yes/No questions, micro; a dash where no answer could be read", 1),
        Metric("R@0.5", "micro: over the line's questions"),
        Metric("R@0.7", "micro: over the line's questions"),
        Metric("well formed", "micro: over the line's questions"),
        Metric("observation fidelity", "observation states the true motion; over questions whose motion is known"),
        Metric(
            "pair accuracy",
            "both answers right, of pairs of a question and its twin: the same question about the clip mirrored or "
            "backwards, where its answer is another one, so that a fixed answer gets 0",
        ),
    ),
    measure=measure_samples,
    baselines=samples_baselines,
    schema="ota",
    official=read_officially,
    note="A trivial baseline is shown only where it answers all questions of the line",
)
