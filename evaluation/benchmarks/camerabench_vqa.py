"""CameraBench (arXiv 2504.15376), VQA and retrieval: each pair of videos is asked two opposite questions.

Official definitions: linzhiqiu/t2v_metrics, camerabench/*_evaluation.py. Official scores are P(Yes); the answers of a
model that explains first are scored too, under other names.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from data_tools.sample import Sample
from evaluation.benchmarks.baselines import option_baselines
from evaluation.benchmarks.benchmark import Benchmark, Part
from evaluation.benchmarks.labels import LabelError, from_source
from evaluation.benchmarks.measures import masks, means
from evaluation.benchmarks.yes_scores import option_scores
from evaluation.grading import Graded
from evaluation.measures.bootstrap import Resamples, over_groups
from evaluation.table import Metric

TASKS_PER_SKILL = {  # files of each folder of vqa_and_retrieval
    "motion_and_steadiness": 4,
    "scene_dynamics": 2,
    "motion_speed": 2,
    "motion_direction": 12,
    "confusable_motion": 10,
    "has_motion": 24,
    "tracking_shot": 12,
    "only_motion": 14,
    "complex_description": 1,
}
CORNERS = (("pos", "pos"), ("pos", "neg"), ("neg", "pos"), ("neg", "neg"))  # (question, video); Yes where they agree


def read_vqa(path: Path, only: Sequence[str] | None) -> list[Sample]:
    """The official folder `vqa_and_retrieval`: four samples per pair.

    Raises:
        LabelError: a skill is missing or incomplete (name the skills to score with `only`), or a bad record.
    """
    if path.is_file():
        raise LabelError(
            f"{path}: is a file; pairs of videos are read from the official folder vqa_and_retrieval, a folder per "
            f"skill (CamReasoner's camerabench_vqa.json does not say which questions form a pair)"
        )
    wanted = tuple(only or TASKS_PER_SKILL)
    for skill in wanted:
        found, expected = len(list((path / skill).glob("*.jsonl"))), TASKS_PER_SKILL.get(skill)
        if not found or (expected and found != expected):
            raise LabelError(
                f"{path / skill}: holds {found} of {expected or 'its'} task files; complete the folder, or name "
                f"the skills to score with only=..."
            )
    return [sample for skill in wanted for sample in from_source("camerabench_vqa", path / skill)]


def _pairs(samples: Sequence[Sample]) -> np.ndarray:
    """Indices of the four answers of each pair, shape [pairs, 4] in the order of CORNERS."""
    indices: dict[str, dict[tuple[str, str], int]] = {}
    for index, sample in enumerate(samples):
        corner = sample.extras["asks"], sample.extras["shows"]
        indices.setdefault(sample.extras["pair"], {})[corner] = index
    for pair, found in indices.items():
        if len(found) != len(CORNERS):
            raise LabelError(f"pair {pair}: has {len(found)} of its 4 questions")
    return np.array([[found[corner] for corner in CORNERS] for found in indices.values()])


def _pair_videos(samples: Sequence[Sample], corners: np.ndarray) -> list[tuple[str, str]]:
    return [(samples[row[0]].shown, samples[row[1]].shown) for row in corners]


def _clusters(samples: Sequence[Sample]) -> list[tuple[str, str]]:
    corners, clusters = _pairs(samples), [("", "")] * len(samples)
    for row, videos in zip(corners, _pair_videos(samples, corners)):
        for index in row:
            clusters[index] = videos
    return clusters


def _acc_and_q_acc(right_P4: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Per pair: share of the four answers that are right, and of its two questions that are right on both videos."""
    both = (right_P4[:, 0] & right_P4[:, 1]).astype(float) + (right_P4[:, 2] & right_P4[:, 3])
    return right_P4.mean(1), both / 2


def measure_vqa(graded: Sequence[Graded], resamples: Resamples) -> list[Part]:
    """Accuracy and question accuracy from answers; from scores these too, and retrieval (strict >, a tie is wrong)."""
    samples = [j.sample for j in graded]
    corners = _pairs(samples)
    answered = np.array([j.right for j in graded])[corners]
    columns = dict(zip(("Acc", "Q-Acc"), _acc_and_q_acc(answered)))
    yes, no = option_scores(graded, "yes"), option_scores(graded, "no")
    if yes is not None:
        no = np.full(len(yes), np.nan) if no is None else no
        y, n = yes[corners], no[corners]  # comparisons with NaN are False: wrong
        by_score = np.stack([y[:, 0] > n[:, 0], n[:, 1] > y[:, 1], n[:, 2] > y[:, 2], y[:, 3] > n[:, 3]], axis=1)
        text = (y[:, 0] > y[:, 2]) & (y[:, 3] > y[:, 1])
        image = (y[:, 0] > y[:, 1]) & (y[:, 3] > y[:, 2])
        columns |= dict(zip(("Acc (scores)", "Q-Acc (scores)"), _acc_and_q_acc(by_score)))
        columns |= {"Text": text, "Image": image, "Group": text & image}
    # Everything is counted per pair; the draws of a pair's first answer are those of the pair.
    pairs = [graded[index] for index in corners[:, 0]]
    at = Resamples(_pair_videos(samples, corners), resamples.seed, resamples.count)
    skills = masks(pairs, "skill")
    named = np.array([j.sample.extras["pair"].rpartition("-")[0] for j in pairs], dtype=object)
    tasks = {name: named == name for name in sorted(set(named))}
    everything = np.ones(len(pairs), bool)
    groups = {"all": everything, **skills, **tasks}
    found = means(columns, groups, at)

    def over(names: Sequence[str]) -> dict[str, np.ndarray]:
        return {column: over_groups([found[name][column] for name in names]) for column in columns}

    def members(mask: np.ndarray) -> np.ndarray:
        whole = np.zeros(len(graded), bool)
        whole[corners[mask].ravel()] = True
        return whole

    whole = members(everything)
    return [
        Part(f"mean over {len(skills)} skills", whole, over(list(skills)), overall=True),
        Part(f"mean over {len(tasks)} tasks", whole, over(list(tasks)), overall=True),
        Part("over questions", whole, found["all"], overall=True),
        *(Part(name.replace("_", " "), members(mask), found[name]) for name, mask in skills.items()),
    ]


VQA = Benchmark(
    name="camerabench_vqa",
    title="CameraBench, VQA and retrieval",
    sources=("camerabench_vqa",),
    read=read_vqa,
    metrics=(
        Metric("Acc", "right answers, as the line says"),
        Metric("Q-Acc", "questions right on both videos of the pair, as the line says"),
        Metric("Acc (scores)", "official: P(Yes) against P(No), as the line says"),
        Metric("Q-Acc (scores)", "official: P(Yes) against P(No), as the line says"),
        *(
            Metric(name, "official retrieval from P(Yes), over pairs, as the line says")
            for name in ("Text", "Image", "Group")
        ),
    ),
    measure=measure_vqa,
    baselines=option_baselines,
    clusters=_clusters,
    extras=("skill", "pair", "asks", "shows"),
    note="Official overall is the mean over skills; CamReasoner's Table 2 is over questions. A pair is drawn as often "
    "as both its videos. No pair is dropped: a missing score is wrong",
)
