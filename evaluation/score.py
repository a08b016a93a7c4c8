"""Predictions + labels -> honest numbers. No engine, no video, no model.

python -m evaluation.score benchmark=NAME labels=PATH predictions=FILE.jsonl [key=value ...]

  benchmark    samples (our own records, the default), or one of those listed by benchmark=list
  labels       the benchmark's own file or folder, or our samples made from it
  predictions  JSON Lines: id, response and, where the model gave them, p_yes or option_probs
  schema       of the responses: ota, think_answer, think_answer_glue, answer, or none (other people's: the last
               <answer>, or the whole text where there is none); the default is the benchmark's
  only         parts to score where not all are there, with commas between them
  judge        rules or endpoint, for what rules on answers cannot tell; judge.KEY=VALUE: its settings
  before       predictions without the video (video_mmmu: knowledge gain)
  votes        true: the majority of each prediction's `samples` answers, and their shares are the scores
  seed         of the bootstrap (0)
  out          a folder for scores.json and every table as Markdown, CSV and LaTeX
  samples      a file for the benchmark's questions as our samples, for launch.evaluate to answer
"""

import asyncio
import hashlib
import json
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from data_tools.sample import Sample, SampleError, write_samples
from evaluation.answers import (
    OUTCOMES,
    Judgement,
    Prediction,
    PredictionError,
    Schema,
    by_votes,
    judge,
    judge_all,
    read_predictions,
)
from evaluation.bootstrap import INTERVAL, RESAMPLES, Resamples, ratio
from evaluation.cli import UsageError, key_values, truth, whole_number
from evaluation.table import TableError, rich, settings_hash, write_tables

__all__ = [
    "OUTCOMES",
    "RESAMPLES",
    "Judgement",
    "Prediction",
    "PredictionError",
    "judge",
    "judge_all",
    "read_predictions",
]
NONE_STATED = "none"  # column of the motion matrix: no response, no well-formed one, or none that states a motion


def score(
    samples: Iterable[Sample], predictions: Mapping[str, Prediction], seed: int = 0, schema: Schema = "ota"
) -> dict[str, Any]:
    """All numbers of one model. See `score_judgements`."""
    return score_judgements(judge_all(samples, predictions, schema), seed)


def score_judgements(judgements: Sequence[Judgement], seed: int = 0) -> dict[str, Any]:
    """All numbers of one model, ready for JSON. A share without a denominator is None.

    Over all responses: `n`, one count per outcome (they add up to `n`), `truncated` (which cuts across them),
    `format_rate` (well formed / n), `observation_fidelity` (observation states extras["motion"] / `n_motion`, the
    samples that know it and ask for an observation; a malformed or absent response is not faithful) beside
    `constant_observation_fidelity` (always stating the most frequent motion) and `motion_matrix`.
    Over the Yes/No questions: `n_binary`, `balanced_accuracy` = (yes_recall + no_recall) / 2 with its 95 % interval,
    `accuracy` beside `always_no_accuracy` and `always_yes_accuracy`, `per_primitive` and `confusable`.
    Over the choice questions: `choice`. Over the questions of each task: `tasks`, mean accuracy as the reward has it.
    """
    binary = [j for j in judgements if j.sample.task == "binary"]
    choice = [j for j in judgements if j.sample.task == "choice"]
    known = [j for j in judgements if j.motion is not None]
    outcomes = Counter(j.outcome for j in judgements)
    motions = Counter(j.motion for j in known)
    gold_yes = sum(map(_gold_yes, binary))
    return {
        "n": len(judgements),
        "n_clips": len({j.sample.video for j in judgements}),
        **{outcome: outcomes[outcome] for outcome in OUTCOMES},
        "truncated": sum(j.truncated for j in judgements),
        "malformed_reasons": dict(Counter(j.reason for j in judgements if j.outcome == "malformed").most_common()),
        "format_rate": _share(sum(j.parsed.ok and j.outcome != "failed" for j in judgements), len(judgements)),
        "n_motion": len(known),
        "observation_fidelity": _share(sum(j.stated == j.motion for j in known), len(known)),
        "constant_observation_fidelity": _share(max(motions.values(), default=0), len(known)),
        "motion_matrix": _motion_matrix(known),
        "n_binary": len(binary),
        **_recalls(binary),
        "balanced_accuracy_ci": _interval(binary, seed),
        "accuracy": _share(sum(j.right for j in binary), len(binary)),
        "always_no_accuracy": _share(len(binary) - gold_yes, len(binary)),
        "always_yes_accuracy": _share(gold_yes, len(binary)),
        "per_primitive": {
            asked: {"n": len(group), **_recalls(group)} for (asked,), group in _grouped(binary, "asked").items()
        },
        "confusable": _confusable(binary),
        "choice": {
            "n": len(choice),
            "accuracy": _share(sum(j.right for j in choice), len(choice)),
            "chance": _share(sum(1 / len(j.sample.options) for j in choice), len(choice)),
        },
        "tasks": {
            task: {"n": len(group), "accuracy": _share(sum(j.value for j in group), len(group))}
            for task, group in sorted(_by_task(judgements).items())
        },
        "bootstrap": {"unit": "clip", "resamples": RESAMPLES, "seed": seed},
    }


def balanced_accuracy_gain(
    before: Sequence[Judgement], after: Sequence[Judgement], seed: int = 0
) -> tuple[float, list[float]] | None:
    """Balanced accuracy of `after` minus that of `before` with its 95 % interval; None where it is undefined.

    Both models answered the same samples, so both are resampled by the same clips: what makes a clip hard cancels.

    Raises:
        ValueError: the two lists judge different samples.
    """
    if {j.sample.id for j in before} != {j.sample.id for j in after}:
        raise ValueError("a gain needs two models that answered the same samples")
    order = {j.sample.id: place for place, j in enumerate(before)}
    after = sorted(after, key=lambda j: order[j.sample.id])
    was, now = (_balanced([j for j in js if j.sample.task == "binary"], seed) for js in (before, after))
    return None if was is None else (float(now[0] - was[0]), _percentiles(now[1:] - was[1:]))


def _gold_yes(j: Judgement) -> bool:
    return j.sample.answer_text.casefold() == "yes"


def _share(part: float, whole: int) -> float | None:
    return part / whole if whole else None


def _recalls(binary: Sequence[Judgement]) -> dict[str, float | None]:
    yes = [j.right for j in binary if _gold_yes(j)]
    no = [j.right for j in binary if not _gold_yes(j)]
    yes_recall, no_recall = _share(sum(yes), len(yes)), _share(sum(no), len(no))
    both = yes_recall is not None and no_recall is not None
    balanced = (yes_recall + no_recall) / 2 if both else None
    return {"balanced_accuracy": balanced, "yes_recall": yes_recall, "no_recall": no_recall}


def _grouped(judgements: Iterable[Judgement], *keys: str) -> dict[tuple[str, ...], list[Judgement]]:
    """Judgements by the values of their extras `keys`, sorted; those without one of the keys are left out."""
    groups = defaultdict(list)
    for j in judgements:
        if all(key in j.sample.extras for key in keys):
            groups[tuple(j.sample.extras[key] for key in keys)].append(j)
    return dict(sorted(groups.items()))


def _confusable(binary: Iterable[Judgement]) -> list[dict[str, Any]]:
    """Negatives that ask for the partner of the true motion: how often the model says Yes, by (true, asked) pair."""
    negatives = [j for j in binary if j.sample.extras.get("confusable") is True and not _gold_yes(j)]
    return [
        {
            "motion": motion,
            "asked": asked,
            "n": len(group),
            "said_yes": _share(sum(j.said_yes for j in group), len(group)),
        }
        for (motion, asked), group in _grouped(negatives, "motion", "asked").items()
    ]


def _motion_matrix(known: Iterable[Judgement]) -> dict[str, dict[str, int]]:
    """True motion -> motion stated in the observation -> count; a row adds up to the responses to that motion."""
    return {
        motion: dict(sorted(Counter(j.stated or NONE_STATED for j in group).items()))
        for (motion,), group in _grouped(known, "motion").items()
    }


def _by_task(judgements: Iterable[Judgement]) -> dict[str, list[Judgement]]:
    groups: dict[str, list[Judgement]] = defaultdict(list)
    for j in judgements:
        groups[j.sample.task].append(j)
    return groups


def _balanced(binary: Sequence[Judgement], seed: int) -> np.ndarray | None:
    """Balanced accuracy, and that of each resample of the clips, shape [1 + R]; None without a gold Yes or No.

    Clips are drawn, not questions: those of one clip stand or fall together.
    """
    gold, right = (np.array([f(j) for j in binary], bool) for f in (_gold_yes, lambda j: j.right))
    if not gold.any() or gold.all():
        return None
    columns = np.stack([gold, gold & right, ~gold, ~gold & right], axis=1)
    yes, yes_right, no, no_right = Resamples([j.sample.video for j in binary], seed).sums(columns).T
    return (ratio(yes_right, yes) + ratio(no_right, no)) / 2


def _percentiles(values_R: np.ndarray) -> list[float]:
    # A resample without one of the two gold answers has no balanced accuracy; it is left out.
    return [float(value) for value in np.nanpercentile(values_R, INTERVAL)]


def _interval(binary: Sequence[Judgement], seed: int) -> list[float] | None:
    balanced = _balanced(binary, seed)
    return None if balanced is None else _percentiles(balanced[1:])


def write_scores(path: Path, scores: Mapping[str, Any]) -> None:
    """Write scores as JSON, whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(scores, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    partial.replace(path)


def run(options: Mapping[str, str], judge_settings: Mapping[str, Any], console: Console) -> None:
    """Score one file of predictions, print its tables and write them."""
    from evaluation.benchmarks import BENCHMARKS, NEED_A_JUDGE, evaluate, read_labels
    from rewards.judge import build

    name = options.get("benchmark", "samples")
    if name == "list":
        for benchmark in BENCHMARKS.values():
            console.print(f"{benchmark.name:22}{benchmark.title}", markup=False)
        return
    if name not in BENCHMARKS:
        raise UsageError(f"benchmark={name}: choose one of {', '.join(BENCHMARKS)}")
    if "labels" not in options:
        raise UsageError("labels=... is missing: the benchmark's own file or folder, or our samples")
    benchmark, labels = BENCHMARKS[name], Path(options["labels"])
    only = options["only"].split(",") if "only" in options else None
    samples = read_labels(benchmark, labels, only)
    if "samples" in options:
        count = write_samples(Path(options["samples"]), samples)
        console.print(f"{count} questions: {options['samples']}", markup=False)
    if "predictions" not in options:
        if "samples" in options:
            return
        raise UsageError("predictions=... is missing: JSON Lines with id and response")
    if "before" in options and name != "video_mmmu":
        raise UsageError(f"before=...: the knowledge gain is video_mmmu's, not {name}'s")
    settings = {"name": options["judge"], **judge_settings} if "judge" in options else None
    if settings is None and name in NEED_A_JUDGE:
        raise UsageError(f"{name} needs a judge: judge=endpoint judge.url=... judge.model=...")
    path, ids = Path(options["predictions"]), {sample.id for sample in samples}
    seed, schema = whole_number(options, "seed", 0), options.get("schema", benchmark.schema)
    predictions = read_predictions(path, ids)
    votes = truth(options, "votes")
    if votes:
        predictions = {s.id: by_votes(s, predictions[s.id], schema) for s in samples if s.id in predictions}
    judge = build(settings) if settings else None
    fixed = {"benchmark": name, "schema": schema, "seed": seed, "resamples": RESAMPLES, "judge": settings}
    fixed["votes"] = votes
    hashes = {"labels": labels_hash(samples), "predictions": file_hash(path)}
    result = asyncio.run(
        evaluate(
            benchmark,
            samples,
            predictions,
            settings=settings_hash(fixed | hashes),
            schema=schema,
            judge=judge,
            seed=seed,
        )
    )
    scores = {"settings": fixed | hashes, "counts": dict(Counter(j.outcome for j in result.judgements))}
    scores["parts"] = result.scores()
    if judge:
        scores["judge"] = judge.meters()
    if "before" in options:
        from evaluation.benchmarks.choice import knowledge_gain
        from evaluation.bootstrap import estimate

        before = judge_all(samples, read_predictions(Path(options["before"]), ids), schema)
        gain = estimate(knowledge_gain(before, result.judgements, seed))
        scores["knowledge_gain"] = gain and {"value": gain.value, "ci": [gain.low, gain.high]}
    for table in result.tables:
        console.print(rich(table, console.width))
    if gain := scores.get("knowledge_gain"):
        console.print(f"Delta knowledge {gain['value']:.1f} [{gain['ci'][0]:.1f}, {gain['ci'][1]:.1f}]", markup=False)
    if "out" in options:
        out = Path(options["out"])
        write_tables(out, result.tables)
        write_scores(out / "scores.json", scores)
        console.print(f"scores and tables: {out}", markup=False)


def labels_hash(samples: Iterable[Sample]) -> str:
    """Of what the labels say, whatever file it came from."""
    digest = hashlib.sha256()
    for sample in samples:
        digest.update(sample.model_dump_json().encode())
    return digest.hexdigest()[:12]


def file_hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:12]


KEYS = ("benchmark", "labels", "predictions", "schema", "only", "judge", "before", "votes", "seed", "out", "samples")


def main(arguments: Sequence[str]) -> int:
    from evaluation.benchmarks import LabelError
    from rewards.judge import JudgeError

    if not arguments or {"-h", "--help"} & set(arguments):
        sys.stdout.write(__doc__)
        return 0
    try:
        _, options = key_values(arguments, (*KEYS, "judge."))
        judged = {key[6:]: value for key, value in options.items() if key.startswith("judge.")}
        run({key: value for key, value in options.items() if not key.startswith("judge.")}, judged, Console())
    except (SampleError, PredictionError, LabelError, TableError, JudgeError, UsageError, OSError) as error:
        Console(stderr=True).print(f"error: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
