"""CameraBench (arXiv 2504.15376), binary classification.

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
from evaluation.benchmarks.yes_scores import option_scores
from evaluation.grading import Graded
from evaluation.measures import yes_no
from evaluation.measures.bootstrap import Resamples, over_groups
from evaluation.table import Metric

PRIMITIVES = tuple(  # files of binary_classification
    "Move_In Move_Out Move_Up Move_Down Move_Right Move_Left Zoom_In Zoom_Out Pan_Right Pan_Left Tilt_Up Tilt_Down "
    "Roll_Clockwise Roll_Counterclockwise Static".split()
)
_DECISIONS = ("balanced accuracy", "precision", "recall", "F1", "MCC", "accuracy")


def read_binary(path: Path, only: Sequence[str] | None) -> list[Sample]:
    """The official folder of one file per primitive, one such file, or CamReasoner's camerabench_binary.json.

    Raises:
        LabelError: a file of the folder is missing (name the ones to score with `only`), or a bad record.
    """
    if path.is_file():
        samples = from_source("camerabench_binary" if path.suffix == ".jsonl" else "camreasoner_eval", path)
        return [sample for sample in samples if not only or _primitive(sample) in only]
    wanted = tuple(only or PRIMITIVES)
    absent = [f"{name}.jsonl" for name in wanted if not (path / f"{name}.jsonl").is_file()]
    if absent:
        raise LabelError(
            f"{path}: {', '.join(absent)} missing; a mean over fewer primitives is another number: complete the "
            f"folder, or name the primitives to score with only=..."
        )
    return [sample for name in wanted for sample in from_source("camerabench_binary", path / f"{name}.jsonl")]


def _primitive(sample: Sample) -> str:
    """Official name with underscores: "Pan_Left"."""
    named = sample.extras.get("primitive") or sample.id.rpartition("_")[0]
    return named.replace(" ", "_")


def measure_binary(graded: Sequence[Graded], resamples: Resamples) -> list[Part]:
    """AP and ROC-AUC from scores, the rest from answers: mean over primitives, pooled, and per primitive."""
    gold = np.array([j.sample.answer_text.casefold() == "yes" for j in graded])
    right = np.array([j.right for j in graded])
    scores = option_scores(graded, "yes")
    asked = np.array([_primitive(j.sample) for j in graded], dtype=object)
    groups = {name: asked == name for name in sorted(set(asked))}
    one_class = [name for name, members in groups.items() if gold[members].all() or not gold[members].any()]
    if one_class:
        raise LabelError(f"{', '.join(one_class)}: all labels are the same answer, so that no score is defined")
    columns = np.stack([gold, gold & right, ~gold, ~gold & right], axis=1)
    found = {}
    for name, members in {"micro": np.ones(len(gold), bool), **groups}.items():
        values = yes_no.decisions(*resamples.sums(columns * members[:, None]).T)
        if scores is not None:
            weights = resamples.weights_RN[:, members]
            values["AP"], values["ROC-AUC"] = yes_no.ranking(weights, gold[members], scores[members])
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
    sources=("camerabench_binary", "camreasoner_eval"),
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
