"""scores.json of a run's model: the numbers that the console, the model card, the sweep and the report show."""

import asyncio
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from math import isnan
from pathlib import Path
from typing import Any

from data_tools.files import write_text
from data_tools.sample import Sample
from evaluation.benchmarks import benchmark_for, benchmark_named
from evaluation.benchmarks.benchmark import Benchmark, evaluate, part_scores
from evaluation.benchmarks.samples import SAMPLES
from evaluation.grading import OUTCOMES, PLAIN, Graded, Schema, grade_all, paired
from evaluation.measures.bootstrap import RESAMPLES, Resamples
from evaluation.predictions import Prediction
from evaluation.table import settings_hash
from rewards.judges.protocol import Judge

NO_TWINS = "no question was asked again about a turned clip: eval.twins is empty, or no answer would change"
NONE_STATED = "none"  # column of the motion matrix: no response, no well-formed one, or none that states a motion


def score_run(
    samples: Sequence[Sample],
    predictions: Mapping[str, Prediction],
    seed: int = 0,
    schema: Schema = "ota",
    twins: Sequence[Graded] = (),
) -> dict[str, Any]:
    """All numbers of one model of a run, ready for JSON: scores.json, and through it the console, card and report.

    Every score is one of benchmark `samples`, as in the tables; a score without questions is None. The rest are counts:
    `n`, one per outcome (they add up to `n`), `truncated` (across outcomes), and what a constant answer would score.
    `accuracy` is over all questions, `binary_accuracy` over the Yes/No questions alone. `format_rate` and
    `observation_fidelity` (of the `n_motion` questions whose motion is known) count an absent response as wrong.
    `pair_accuracy` is over the `n_pairs` of a question and one of its `twins`; `pair_accuracy_missing`: why it is None.
    """
    graded = paired(grade_all(samples, predictions, schema), twins)
    scores = part_scores(SAMPLES.measure(graded, Resamples(SAMPLES.clusters(samples), seed)), graded)
    constant = grade_all(samples, SAMPLES.baselines(samples)["best constant per task"], PLAIN)
    binary = [j for j in graded if j.sample.task == "binary"]
    choice_of = [len(j.sample.options) for j in graded if j.sample.task == "choice"]
    golds = Counter("yes" if _gold_yes(j) else "no" for j in binary)
    known = Counter(j.motion for j in graded if j.motion is not None)
    outcomes = Counter(j.outcome for j in graded)
    asked = {j.sample.extras["asked"] for j in binary if "asked" in j.sample.extras}

    def of(part: str, metric: str, key: str = "value") -> Any:
        return (scores.get(part.replace("_", " "), {}).get(metric) or {}).get(key)

    def task(name: str) -> dict[str, Any]:
        return {"n": scores.get(name.replace("_", " "), {"n": 0})["n"], "accuracy": of(name, "accuracy")}

    def recalls(part: str) -> dict[str, float | None]:
        return {name: of(part, name.replace("_", " ")) for name in ("balanced_accuracy", "yes_recall", "no_recall")}

    return {
        "n": len(graded),
        "n_clips": len({sample.shown for sample in samples}),
        **{outcome: outcomes[outcome] for outcome in OUTCOMES},
        "truncated": sum(j.truncated for j in graded),
        "malformed_reasons": dict(Counter(j.reason for j in graded if j.outcome == "malformed").most_common()),
        "accuracy": of("all questions", "accuracy"),
        "constant_accuracy": _share(sum(j.value for j in constant), len(constant)),
        "format_rate": of("all questions", "well formed"),
        "n_pairs": (n_pairs := int(sum(j.marks.get("pairs", 0) for j in graded))),
        "pair_accuracy": of("all questions", "pair accuracy"),
        "pair_accuracy_ci": of("all questions", "pair accuracy", "ci"),
        "pair_accuracy_missing": None if n_pairs else NO_TWINS,
        "n_motion": known.total(),
        "observation_fidelity": of("all questions", "observation fidelity"),
        "constant_observation_fidelity": _share(max(known.values(), default=0), known.total()),
        "motion_matrix": _motion_matrix(graded),
        "n_binary": len(binary),
        **recalls("binary"),
        "balanced_accuracy_ci": of("binary", "balanced accuracy", "ci"),
        "binary_accuracy": of("binary", "accuracy"),
        **{f"always_{word}_accuracy": _share(golds[word], len(binary)) for word in ("no", "yes")},
        "per_primitive": {name: {"n": scores[name.replace("_", " ")]["n"], **recalls(name)} for name in sorted(asked)},
        "confusable": _confusable(binary),
        "choice": task("choice") | {"chance": _share(sum(1 / count for count in choice_of), len(choice_of))},
        "tasks": {name: task(name) for name in sorted({sample.task for sample in samples})},
        "bootstrap": {"unit": "clip", "resamples": RESAMPLES, "seed": seed},
        "parts": scores,
    }


def official_benchmark(samples: Sequence[Sample], name: str | None = None) -> Benchmark:
    """The benchmark of that name, or the one that all samples' source belongs to, or `samples`.

    Raises:
        LabelError: an unknown name.
    """
    if name is not None:
        return benchmark_named(name)
    found = {benchmark_for(source).name: benchmark_for(source) for source in {sample.source for sample in samples}}
    return next(iter(found.values())) if len(found) == 1 else SAMPLES


def score_set(
    benchmark: Benchmark,
    samples: Sequence[Sample],
    predictions: Mapping[str, Prediction],
    seed: int = 0,
    schema: Schema = "ota",
    judge: Judge | None = None,
    twins: Sequence[Graded] = (),
) -> dict[str, Any]:
    """`score_run`, and under `official` the parts of the set's official benchmark.

    `official` is None where that benchmark needs a judge and there is none; `official_missing` says so.
    `official_baselines`: trivial baseline -> part -> metric -> number.
    """
    scores = score_run(samples, predictions, seed, schema, twins)
    scores |= {"benchmark": benchmark.name, "official_missing": None, "official_baselines": {}}
    if benchmark is SAMPLES:
        constant = {"all questions": {"accuracy": scores["constant_accuracy"]}}
        return scores | {"official": scores["parts"], "official_baselines": {"best constant per task": constant}}
    if benchmark.needs_judge and judge is None:
        return scores | {"official": None, "official_missing": f"{benchmark.name} needs a judge: judge=endpoint"}
    hashed = settings_hash({"benchmark": benchmark.name, "seed": seed})
    scored = evaluate(benchmark, samples, predictions, settings=hashed, schema=schema, judge=judge, seed=seed)
    result = asyncio.run(scored)
    baselines = {
        name: {
            part: {metric: float(values[0]) for metric, values in found.values.items() if not isnan(values[0])}
            for part, found in parts.items()
        }
        for name, parts in result.baselines.items()
    }
    return scores | {"official": result.scores(), "official_baselines": baselines}


def summary(scores: Mapping[str, Any]) -> str:
    """A line about a model: the first part of the official benchmark, each of several tasks, the well-formed share.

    Example:
        >>> part = {"n": 3, "failures": 0, "malformed": 1, "accuracy": {"value": 0.5, "ci": [0.2, 0.8]}, "AP": None}
        >>> summary({"official": {"all": part, "half": part}, "format_rate": 0.75, "n": 4, "tasks": {}})
        'all: accuracy 0.500 [0.200, 0.800] · well formed 75.0 %'
    """
    if scores["official"] is None:
        shown = [f"no official score: {scores['official_missing']}"]
    else:
        name, part = next(iter(scores["official"].items()))
        values = {metric: value for metric, value in part.items() if isinstance(value, Mapping)}
        shown = [f"{metric} {_with_interval(value)}" for metric, value in values.items()]
        shown[:1] = [f"{name}: {shown[0]}" if shown else f"{name}: no score"]
    if len(scores["tasks"]) > 1:
        shown += [f"{task.replace('_', ' ')} {of['accuracy']:.3f}" for task, of in scores["tasks"].items()]
    return " · ".join([*shown, f"well formed {100 * scores['format_rate']:.1f} %"])


def _with_interval(value: Mapping[str, Any]) -> str:
    low, high = value["ci"]
    return f"{value['value']:.3f}" + ("" if low is None or high is None else f" [{low:.3f}, {high:.3f}]")


def _gold_yes(j: Graded) -> bool:
    return j.sample.answer_text.casefold() == "yes"


def _share(part: float, whole: int) -> float | None:
    return part / whole if whole else None


def _confusable(binary: Iterable[Graded]) -> list[dict[str, Any]]:
    """No questions that ask for the confusable motion: how often the model says Yes, by (true motion, motion asked)."""
    said: dict[tuple[str, str], list[bool]] = defaultdict(list)
    for j in binary:
        extras = j.sample.extras
        if extras.get("confusable") is True and not _gold_yes(j) and {"motion", "asked"} <= extras.keys():
            said[extras["motion"], extras["asked"]].append((j.chosen or "").casefold() == "yes")
    return [
        {"motion": motion, "asked": asked, "n": len(yes), "said_yes": sum(yes) / len(yes)}
        for (motion, asked), yes in sorted(said.items())
    ]


def _motion_matrix(graded: Iterable[Graded]) -> dict[str, dict[str, int]]:
    """True motion -> motion stated in the observation -> count; a row adds up to the responses to that motion."""
    stated: dict[str, Counter[str]] = defaultdict(Counter)
    for j in graded:
        if j.motion is not None:
            stated[j.motion][j.stated or NONE_STATED] += 1
    return {motion: dict(sorted(counts.items())) for motion, counts in sorted(stated.items())}


def write_scores(path: Path, scores: Mapping[str, Any]) -> None:
    """Write scores as JSON, whole or not at all."""
    write_text(path, json.dumps(scores, indent=2, allow_nan=False) + "\n")
