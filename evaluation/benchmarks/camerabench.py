"""CameraBench (arXiv 2504.15376): binary classification, VQA and retrieval, captions.

Official definitions: linzhiqiu/t2v_metrics, camerabench/*_evaluation.py. Official scores are P(Yes); answers of a model
that explains first are scored too, and named apart.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from data_tools.sample import Sample
from data_tools.sources import camerabench as sources
from data_tools.sources import problems
from data_tools.sources.source import Source
from evaluation import captions, metrics
from evaluation.answers import Judgement, answers
from evaluation.benchmarks.base import (
    ASKED,
    MICRO,
    Baselines,
    Benchmark,
    LabelError,
    Part,
    ask_each,
    from_source,
    grouped,
    masks,
    means,
    no_parts,
    option_baselines,
    values_of,
)
from evaluation.bootstrap import Resamples, over_groups
from evaluation.table import Metric
from rewards.judge import UNJUDGED, Judge

PRIMITIVES = tuple(  # files of binary_classification
    "Move_In Move_Out Move_Up Move_Down Move_Right Move_Left Zoom_In Zoom_Out Pan_Right Pan_Left Tilt_Up Tilt_Down "
    "Roll_Clockwise Roll_Counterclockwise Static".split()
)
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
_DECISIONS = ("balanced accuracy", "precision", "recall", "F1", "MCC", "accuracy")


# ---------------------------------------------------------------- binary


def read_binary(path: Path, only: Sequence[str] | None) -> list[Sample]:
    """The official folder of one file per primitive, one such file, or CamReasoner's camerabench_binary.json.

    Raises:
        LabelError: a file of the folder is missing (name the ones to score with `only`), or a bad record.
    """
    if path.is_file():
        samples = from_source(sources.SOURCES[0] if path.suffix == ".jsonl" else camreasoner_eval(), path)
        return [sample for sample in samples if not only or _primitive(sample) in only]
    wanted = tuple(only or PRIMITIVES)
    absent = [f"{name}.jsonl" for name in wanted if not (path / f"{name}.jsonl").is_file()]
    if absent:
        raise LabelError(
            f"{path}: {', '.join(absent)} missing; a mean over fewer primitives is another number: complete the "
            f"folder, or name the primitives to score with only=..."
        )
    return [sample for name in wanted for sample in from_source(sources.SOURCES[0], path / f"{name}.jsonl")]


def camreasoner_eval() -> Source:
    return next(source for source in problems.SOURCES if source.name == "camreasoner_eval")


def _primitive(sample: Sample) -> str:
    """Official name with underscores: "Pan_Left"."""
    named = sample.extras.get("primitive") or sample.id.rpartition("_")[0]
    return named.replace(" ", "_")


def yes_scores(judgements: Sequence[Judgement]) -> np.ndarray | None:
    """P(Yes) of every item, NaN where it is missing; None where no prediction has one."""
    scores = [j.probability(_option(j.sample, "yes")) for j in judgements]
    return None if all(s is None for s in scores) else np.array([np.nan if s is None else s for s in scores])


def _option(sample: Sample, text: str) -> str:
    return next(option for option in sample.options if option.casefold() == text)


def measure_binary(judgements: Sequence[Judgement], resamples: Resamples) -> list[Part]:
    """AP and ROC-AUC from scores, the rest from answers: mean over primitives, pooled, and per primitive."""
    gold = np.array([j.sample.answer_text.casefold() == "yes" for j in judgements])
    right = np.array([j.right for j in judgements])
    scores = yes_scores(judgements)
    asked = np.array([_primitive(j.sample) for j in judgements], dtype=object)
    groups = {name: asked == name for name in sorted(set(asked))}
    one_class = [name for name, members in groups.items() if gold[members].all() or not gold[members].any()]
    if one_class:
        raise LabelError(f"{', '.join(one_class)}: all labels are the same answer, so that nothing can be told from it")
    columns = np.stack([gold, gold & right, ~gold, ~gold & right], axis=1)
    found = {}
    for name, members in {"micro": np.ones(len(gold), bool), **groups}.items():
        values = metrics.decisions(*resamples.sums(columns * members[:, None]).T)
        if scores is not None:
            weights = resamples.weights_RN[:, members]
            values["AP"], values["ROC-AUC"] = metrics.ranking(weights, gold[members], scores[members])
        found[name] = values
    everything = np.ones(len(gold), bool)
    macro = {key: over_groups([found[name][key] for name in groups]) for key in found["micro"]}
    return [
        Part(f"macro over {len(groups)} primitives", everything, macro, overall=True),
        Part("micro over questions", everything, found["micro"], overall=True),
        *(Part(name.replace("_", " "), members, found[name]) for name, members in groups.items()),
    ]


BINARY = Benchmark(
    name="camerabench_binary",
    title="CameraBench, binary classification",
    read=read_binary,
    metrics=(
        Metric("AP", "from P(Yes), per primitive, then as the line says; macro is official"),
        Metric("ROC-AUC", "from P(Yes), per primitive, then as the line says; macro is official"),
        *(Metric(m, "from answers, as the line says; class Yes", 1 if m == "MCC" else 100) for m in _DECISIONS),
    ),
    measure=measure_binary,
    baselines=option_baselines,
    note="No item is dropped: without a score a Yes is never found and a No comes first; an unreadable answer is the "
    "wrong one. A constant score's AP is the prevalence",
)


# ---------------------------------------------------------------- VQA and retrieval


def read_vqa(path: Path, only: Sequence[str] | None) -> list[Sample]:
    """The official folder `vqa_and_retrieval`: four samples per pair.

    Raises:
        LabelError: a skill is missing or incomplete (name the skills to score with `only`), or a bad record.
    """
    wanted = tuple(only or TASKS_PER_SKILL)
    for skill in wanted:
        found, expected = len(list((path / skill).glob("*.jsonl"))), TASKS_PER_SKILL.get(skill)
        if not found or (expected and found != expected):
            raise LabelError(
                f"{path / skill}: holds {found} of {expected or 'its'} task files; complete the folder, or name "
                f"the skills to score with only=..."
            )
    return [sample for skill in wanted for sample in from_source(sources.SOURCES[1], path / skill)]


def _places(samples: Sequence[Sample]) -> np.ndarray:
    """Places of the four answers of each pair, shape [pairs, 4] in the order of CORNERS."""
    places: dict[str, dict[tuple[str, str], int]] = {}
    for place, sample in enumerate(samples):
        corner = sample.extras["asks"], sample.extras["shows"]
        places.setdefault(sample.extras["pair"], {})[corner] = place
    for pair, found in places.items():
        if len(found) != len(CORNERS):
            raise LabelError(f"pair {pair}: has {len(found)} of its 4 questions")
    return np.array([[found[corner] for corner in CORNERS] for found in places.values()])


def _pair_videos(samples: Sequence[Sample], corners: np.ndarray) -> list[tuple[str, str]]:
    return [(samples[row[0]].video, samples[row[1]].video) for row in corners]


def _clusters(samples: Sequence[Sample]) -> list[tuple[str, str]]:
    corners, clusters = _places(samples), [("", "")] * len(samples)
    for row, videos in zip(corners, _pair_videos(samples, corners)):
        for place in row:
            clusters[place] = videos
    return clusters


def _acc_and_q_acc(right_P4: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Per pair: share of the four answers that are right, and of its two questions that are right on both videos."""
    both = (right_P4[:, 0] & right_P4[:, 1]).astype(float) + (right_P4[:, 2] & right_P4[:, 3])
    return right_P4.mean(1), both / 2


def measure_vqa(judgements: Sequence[Judgement], resamples: Resamples) -> list[Part]:
    """Accuracy and question accuracy from answers; from scores these too, and retrieval (strict >, a tie is wrong)."""
    samples = [j.sample for j in judgements]
    corners = _places(samples)
    answered = np.array([j.right for j in judgements])[corners]
    columns = dict(zip(("Acc", "Q-Acc"), _acc_and_q_acc(answered)))
    yes = yes_scores(judgements)
    if yes is not None:
        no = np.array([p if (p := j.probability(_option(j.sample, "no"))) is not None else np.nan for j in judgements])
        y, n = yes[corners], no[corners]  # comparisons with NaN are False: wrong
        by_score = np.stack([y[:, 0] > n[:, 0], n[:, 1] > y[:, 1], n[:, 2] > y[:, 2], y[:, 3] > n[:, 3]], axis=1)
        text = (y[:, 0] > y[:, 2]) & (y[:, 3] > y[:, 1])
        image = (y[:, 0] > y[:, 1]) & (y[:, 3] > y[:, 2])
        columns |= dict(zip(("Acc (scores)", "Q-Acc (scores)"), _acc_and_q_acc(by_score)))
        columns |= {"Text": text, "Image": image, "Group": text & image}
    # Everything is counted per pair; the draws of a pair's first answer are those of the pair.
    pairs = [judgements[place] for place in corners[:, 0]]
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
        whole = np.zeros(len(judgements), bool)
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
    note="Official overall is the mean over skills; CamReasoner's Table 2 is over questions. A pair is drawn as often "
    "as both its videos. No pair is dropped: a missing score is wrong",
)


# ---------------------------------------------------------------- captions


def read_captions(path: Path, only: Sequence[str] | None) -> list[Sample]:
    """`caption_data.json`."""
    no_parts(only)
    return from_source(sources.SOURCES[2], path)


def measure_captions(judgements: Sequence[Judgement], resamples: Resamples) -> list[Part]:
    """Nearness of every caption to its reference by words, and whether the judge finds it entailed."""
    told = ["" if j.outcome in ("failed", "missing") else j.answer for j in judgements]
    references = [j.sample.answer for j in judgements]
    by_words = [captions.camerabench(*texts) for texts in zip(told, references)]
    columns = {name: np.array([of[name] for of in by_words]) for name in by_words[0]}
    columns["CIDEr-D"] = captions.cider_d(told, references)
    if any(ASKED in j.marks for j in judgements):
        columns["matched (judge)"] = values_of(judgements, "matched")
    return grouped(columns, judgements, resamples)


async def ask_captions(judgements: Sequence[Judgement], judge: Judge) -> list[Judgement]:
    """Whether the reference says what the caption says."""

    async def one(j: Judgement) -> dict[str, float] | None:
        verdict = await judge.entailed([j.answer], j.sample.answer)
        return None if verdict is UNJUDGED else {"matched": float(verdict[0])}

    return await ask_each(judgements, one)


def caption_baselines(samples: Sequence[Sample]) -> Baselines:
    return {"constant caption": answers({sample.id: "The camera is static." for sample in samples})}


CAPTIONS = Benchmark(
    name="camerabench_captions",
    title="CameraBench, captions",
    read=read_captions,
    metrics=(
        Metric("ROUGE-L", "official: rouge-score with stems; mean over captions"),
        Metric("BLEU-2", "official: nltk, smoothed by method 1; mean over captions"),
        Metric("METEOR-like", "official stand-in: sets of words and word pairs, no synonyms; mean over captions"),
        Metric("CIDEr-like", "official stand-in: cosine of word counts; mean over captions"),
        Metric("SPICE-like", "official stand-in: F1 of word sets; mean over captions"),
        Metric("CIDEr-D", "as defined, 0 to 10, document frequencies of these references; mean over captions", 1),
        Metric("matched (judge)", MICRO),
    ),
    measure=measure_captions,
    baselines=caption_baselines,
    ask=ask_captions,
    note="The official script calls its stand-ins METEOR, CIDEr and SPICE, and drops failures, which count 0 here. "
    "METEOR and SPICE as defined are not computed: they need WordNet's files and a Java parser. matched: our judge "
    "instead of GPT-4o",
)

BENCHMARKS = (BINARY, VQA, CAPTIONS)
