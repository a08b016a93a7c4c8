"""CameraBench's VQA as CamReasoner asks it (arXiv 2602.00181; github.com/wuhang03/CamReasoner, 8b71188).

Each pair gives four questions: "Which of the following options is more likely to have the answer 'yes'?" about its two
questions and one of its two videos, or 'no'. The published label is A with 'yes' and B with 'no'; by CameraBench's own
labels A is right in all four. So every number stands beside what the words alone, or a constant A, would score.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from data_tools.sample import Sample
from evaluation.benchmarks.baselines import option_baselines
from evaluation.benchmarks.benchmark import Baselines, Benchmark, Part
from evaluation.benchmarks.camerabench_vqa import read_vqa
from evaluation.benchmarks.labels import from_source, make_sample
from evaluation.benchmarks.measures import grouped, values_of
from evaluation.grading import Graded
from evaluation.measures.bootstrap import Resamples
from evaluation.predictions import answers
from evaluation.table import Metric

_ASKED = "Which of the following options is more likely to have the answer '{}'?"


def read_pairings(path: Path, only: Sequence[str] | None) -> list[Sample]:
    """CamReasoner's camerabench_vqa.json, or CameraBench's folder vqa_and_retrieval, which also knows the skills.

    Raises:
        LabelError: see `camerabench_vqa.read_vqa`, or a bad record.
    """
    if path.is_file():
        samples = from_source("camreasoner_vqa", path)
        return [sample for sample in samples if not only or sample.extras["task"] in only]
    found = read_vqa(path, only)
    return [_pairing(found[start : start + 4], place) for start in range(0, len(found), 4) for place in range(4)]


def _pairing(four: Sequence[Sample], place: int) -> Sample:
    """The published question of one corner of a pair; `four`: its answers in the order of CORNERS."""
    sample = four[place]
    skill, asks = sample.extras["skill"], sample.extras["asks"]
    task, _, pair = sample.extras["pair"].removeprefix(f"{skill}-").rpartition("-")
    agree = asks == sample.extras["shows"]
    other = four[2 if place < 2 else 0]
    return make_sample(
        sample.extras["pair"],
        id=f"{task}-{4 * (int(pair) - 1) + place + 1}",
        video=sample.video,
        question=_ASKED.format("yes" if agree else "no"),
        options=[sample.question, other.question],
        answer="A" if agree else "B",
        task="choice",
        source="camreasoner_vqa",
        extras={"skill": skill, "task": task},
    )


def measure_pairings(graded: Sequence[Graded], resamples: Resamples) -> list[Part]:
    """Accuracy by the published labels and by CameraBench's: over questions, and in each skill."""
    true = np.array([j.chosen == j.sample.options[0] for j in graded], float)
    columns = {"Acc (published labels)": values_of(graded), "Acc (CameraBench's labels)": true}
    return grouped(columns, graded, resamples, ("skill",))


def pairing_baselines(samples: Sequence[Sample]) -> Baselines:
    """The constants, and the word alone: A where the question says yes, B where it says no."""
    by_word = {sample.id: "A" if "'yes'" in sample.question else "B" for sample in samples}
    return option_baselines(samples) | {"by the word yes or no": answers(by_word)}


PAIRINGS = Benchmark(
    name="camreasoner_vqa",
    title="CameraBench, VQA as CamReasoner asks it",
    sources=("camreasoner_vqa",),
    read=read_pairings,
    metrics=(
        Metric("Acc (published labels)", "micro: over questions; CamReasoner's Table 2"),
        Metric("Acc (CameraBench's labels)", "micro: over questions"),
    ),
    measure=measure_pairings,
    baselines=pairing_baselines,
    note="The published label is A for yes and B for no, and half of these labels contradict CameraBench's, by which A "
    "is right throughout: camerabench_vqa measures the same pairs without either",
)
