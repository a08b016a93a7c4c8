"""Our own samples of any task (the test split of a run): accuracy per task, Yes/No questions as they deserve."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from data_tools.sample import BY_OPTION, Sample, read_samples
from evaluation import metrics
from evaluation.answers import PLAIN, Judgement, Prediction, answers, judge_all
from evaluation.benchmarks.base import Baselines, Benchmark, Part, masks, means, option_baselines, values_of
from evaluation.benchmarks.grounding import moment_baselines, tracking_baselines
from evaluation.bootstrap import Resamples
from evaluation.table import Metric
from rewards.motions import observation


def read_own(path: Path, only: Sequence[str] | None) -> list[Sample]:
    """Samples as JSON Lines; `only`: tasks."""
    return [sample for sample in read_samples(path) if not only or sample.task in only]


def measure_own(judgements: Sequence[Judgement], resamples: Resamples) -> list[Part]:
    """Balanced accuracy of Yes/No questions, mean accuracy and well-formed share of all, per task and asked motion."""
    task = np.array([j.sample.task for j in judgements], dtype=object)
    groups = {name: task == name for name in sorted(set(task))}
    ok = np.array([j.outcome in ("right", "wrong", "no_option") for j in judgements], float)
    columns = {"accuracy": values_of(judgements), "well formed": ok}
    if (known := np.array([j.motion is not None for j in judgements])).any():
        columns["observation fidelity"] = np.array(
            [k and j.stated == j.motion for k, j in zip(known, judgements)], float
        )
    everything = np.ones(len(judgements), bool)
    found = means(columns, {"all": everything, **groups}, resamples)
    if not known.all():
        for values in found.values():  # the share of a part in which not every clip's motion is known says nothing
            values.pop("observation fidelity", None)
    parts = [Part("all questions", everything, found["all"], overall=True)]
    for name, members in groups.items():
        values = dict(found[name])
        if name == "binary":
            values |= _decisions(judgements, members, resamples)
        elif name in ("temporal_grounding", "spatial_grounding", "tracking"):
            for m in (0.5, 0.7):
                values[f"R@{m}"] = resamples.means(columns["accuracy"] >= m, members[:, None])[:, 0]
        parts.append(Part(name.replace("_", " "), members, values, overall=True))
    for asked, members in masks(judgements, "asked").items():
        members = members & (task == "binary")
        if members.any():
            parts.append(Part(asked.replace("_", " "), members, _decisions(judgements, members, resamples)))
    return parts


def _decisions(judgements: Sequence[Judgement], members: np.ndarray, resamples: Resamples) -> dict[str, np.ndarray]:
    gold = np.array([j.sample.answer_text.casefold() == "yes" if m else False for j, m in zip(judgements, members)])
    right = np.array([j.right for j in judgements])
    columns = np.stack([gold, gold & right, ~gold, ~gold & right], axis=1) * members[:, None]
    found = metrics.decisions(*resamples.sums(columns).T)
    return {name: found[name] for name in ("balanced accuracy", "accuracy", "F1", "MCC")}


def own_baselines(samples: Sequence[Sample]) -> Baselines:
    """Constants of each task for the questions of that task; and for all questions the best constant of each task.

    Every one of them states the most frequent motion as its observation, where motions are known.
    """
    found: Baselines = {}
    everything: dict[str, Prediction] = {}
    for task in dict.fromkeys(sample.task for sample in samples):
        of = [sample for sample in samples if sample.task == task]
        made = _constants(task, of)
        for name, said in made.items():
            found.setdefault(name, {}).update(said)
        everything |= max(made.values(), key=lambda said: sum(j.value for j in judge_all(of, said, PLAIN)))
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
    return {"most frequent answer": answers({sample.id: max(sorted(common), key=common.get) for sample in samples})}


SAMPLES = Benchmark(
    name="samples",
    title="Held-out questions",
    read=read_own,
    metrics=(
        Metric("balanced accuracy", "Yes/No questions, mean of both recalls, micro"),
        Metric("accuracy", "mean over the line's questions; IoU, MRA ... where the task has degrees"),
        Metric("F1", "Yes/No questions, class Yes, micro"),
        Metric("MCC", "Yes/No questions, micro", 1),
        Metric("R@0.5", "micro: over the line's questions"),
        Metric("R@0.7", "micro: over the line's questions"),
        Metric("well formed", "micro: over the line's questions"),
        Metric("observation fidelity", "share of observations that state what the camera does"),
    ),
    measure=measure_own,
    baselines=own_baselines,
    schema="ota",
    note="A trivial baseline stands only where it answers all questions of the line",
)

BENCHMARKS = (SAMPLES,)
