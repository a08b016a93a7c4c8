"""Predictions + samples -> honest numbers. Pure functions: no engine, no video, no model.

`python -m evaluation.score SAMPLES.jsonl PREDICTIONS.jsonl [--out scores.json]`
"""

import json
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import typer
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from rich.console import Console
from rich.table import Table

from data_tools.sample import Sample, SampleError, read_samples
from rewards.motions import stated_motion
from rewards.response import ParsedResponse, parse
from rewards.tasks import chosen_option

RESAMPLES = 1000
INTERVAL = (2.5, 97.5)  # percentiles of a 95 % interval
NONE_STATED = "none"  # column of the motion matrix: no response, no well-formed one, or none that states a motion
Outcome = Literal["right", "wrong", "no_option", "malformed", "failed", "missing"]
OUTCOMES: tuple[Outcome, ...] = ("right", "wrong", "no_option", "malformed", "failed", "missing")


class PredictionError(ValueError):
    """A prediction that breaks the contract; the message names file and line."""


class Prediction(BaseModel):
    """What a model said to one sample.

    Attributes:
        id: id of the sample.
        response: text of the response, without its prompt.
        finish_reason: `length` means that the response was cut at its token limit.
        error: why there is no response; None where there is one.
    """

    model_config = ConfigDict(extra="forbid", strict=True)

    id: str = Field(min_length=1)
    response: str
    finish_reason: Literal["stop", "length", "error"]
    error: str | None = None


@dataclass(frozen=True)
class Judgement:
    """One sample with what became of it.

    Attributes:
        outcome: exactly one of OUTCOMES; all but `right` count as wrong.
        reason: why a response is malformed, failed or missing; None elsewhere.
        response: its text; empty where there is none.
        parsed: the response as the parser saw it.
        chosen: text of the option that the response chose, or None.
        stated: motion that the observation states, or None.
        truncated: whether the response was cut at its token limit.
    """

    sample: Sample
    outcome: Outcome
    reason: str | None
    response: str
    parsed: ParsedResponse
    chosen: str | None
    stated: str | None
    truncated: bool

    @property
    def right(self) -> bool:
        return self.outcome == "right"

    @property
    def said_yes(self) -> bool:
        return self.chosen is not None and self.chosen.casefold() == "yes"


def read_predictions(path: Path, ids: Collection[str]) -> dict[str, Prediction]:
    """Read the predictions for the samples `ids`, keyed by sample id. Samples may lack one; see `score`.

    Raises:
        PredictionError: naming file and line of the first bad record, unknown id or repeated id.
    """
    predictions: dict[str, Prediction] = {}
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            try:
                prediction = Prediction.model_validate_json(line)
            except ValidationError as error:
                first = error.errors()[0]
                where = ".".join(map(str, first["loc"])) or "record"
                raise PredictionError(f"{path}:{number}: {where}: {first['msg']}") from error
            if prediction.id not in ids:
                raise PredictionError(
                    f"{path}:{number}: id: {prediction.id!r} is no sample; are these its predictions?"
                )
            if prediction.id in predictions:
                raise PredictionError(f"{path}:{number}: id: {prediction.id!r} stands twice")
            predictions[prediction.id] = prediction
    return predictions


def judge(sample: Sample, prediction: Prediction | None) -> Judgement:
    """Judge one response. Never raises on what the model said.

    Raises:
        SampleError: a binary sample whose options are not Yes and No.
    """
    if sample.task == "binary" and {option.casefold() for option in sample.options} != {"yes", "no"}:
        raise SampleError(f"sample {sample.id!r}: options: binary needs Yes and No, got {sample.options}")
    response = prediction.response if prediction else ""
    parsed = parse(response)
    chosen = stated = reason = None
    if prediction is None:
        outcome, reason = "missing", "no prediction"
    elif prediction.error is not None or prediction.finish_reason == "error":
        outcome, reason = "failed", prediction.error or "failed without a reason"
    elif not parsed.ok:
        outcome, reason = "malformed", parsed.error
    else:
        stated = stated_motion(parsed.observation)
        index = chosen_option(parsed.answer, sample.options)
        chosen = None if index is None else sample.options[index]
        outcome = "no_option" if chosen is None else "right" if chosen == sample.answer_text else "wrong"
    truncated = prediction is not None and prediction.finish_reason == "length"
    return Judgement(sample, outcome, reason, response, parsed, chosen, stated, truncated)


def judge_all(samples: Iterable[Sample], predictions: Mapping[str, Prediction]) -> list[Judgement]:
    """Judgements in the order of `samples`."""
    return [judge(sample, predictions.get(sample.id)) for sample in samples]


def score(samples: Iterable[Sample], predictions: Mapping[str, Prediction], seed: int = 0) -> dict[str, Any]:
    """All numbers of one model. See `score_judgements`."""
    return score_judgements(judge_all(samples, predictions), seed)


def score_judgements(judgements: Sequence[Judgement], seed: int = 0) -> dict[str, Any]:
    """All numbers of one model, ready for JSON. A share without a denominator is None.

    Over all responses: `n`, one count per outcome (they add up to `n`), `truncated` (which cuts across them),
    `format_rate` (well formed / n), `observation_fidelity` (observation states extras["motion"] / `n_motion`, the
    samples that know it; a malformed or absent response is not faithful) beside `constant_observation_fidelity` (always
    stating the most frequent motion) and `motion_matrix`.
    Over the Yes/No questions: `n_binary`, `balanced_accuracy` = (yes_recall + no_recall) / 2 with its 95 % interval,
    `accuracy` beside `always_no_accuracy` and `always_yes_accuracy`, `per_primitive` and `confusable`.
    Over the choice questions: `choice`.
    """
    binary = [j for j in judgements if j.sample.task == "binary"]
    choice = [j for j in judgements if j.sample.task == "choice"]
    known = [j for j in judgements if "motion" in j.sample.extras]
    outcomes = Counter(j.outcome for j in judgements)
    motions = Counter(j.sample.extras["motion"] for j in known)
    gold_yes = sum(map(_gold_yes, binary))
    return {
        "n": len(judgements),
        "n_clips": len({j.sample.video for j in judgements}),
        **{outcome: outcomes[outcome] for outcome in OUTCOMES},
        "truncated": sum(j.truncated for j in judgements),
        "format_rate": _share(outcomes["right"] + outcomes["wrong"] + outcomes["no_option"], len(judgements)),
        "n_motion": len(known),
        "observation_fidelity": _share(sum(j.stated == j.sample.extras["motion"] for j in known), len(known)),
        "constant_observation_fidelity": _share(max(motions.values(), default=0), len(known)),
        "motion_matrix": _motion_matrix(known),
        "n_binary": len(binary),
        **_recalls(binary),
        "balanced_accuracy_ci": _interval(_clip_sums(binary), seed),
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
    sums_MC4 = np.stack([_clip_sums([j for j in js if j.sample.task == "binary"]) for js in (before, after)])
    if not _defined(sums_MC4[0]):
        return None
    low_high = _percentiles(np.diff(_balanced(_weights_RC(sums_MC4.shape[1], seed) @ sums_MC4), axis=0)[0])
    return float(np.diff(_balanced(sums_MC4.sum(1)))[0]), low_high


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


def _clip_sums(binary: Sequence[Judgement]) -> np.ndarray:
    """Per clip: Yes-gold questions, of these right, No-gold questions, of these right. Shape [clips, 4]."""
    clips = sorted({j.sample.video for j in binary})
    row = {clip: i for i, clip in enumerate(clips)}
    sums_C4 = np.zeros((len(clips), 4))
    for j in binary:
        column = 0 if _gold_yes(j) else 2
        sums_C4[row[j.sample.video], column : column + 2] += 1, j.right
    return sums_C4


def _balanced(sums: np.ndarray) -> np.ndarray:
    """Balanced accuracy of sums [..., 4]; NaN where there is no Yes-gold or no No-gold question."""
    with np.errstate(invalid="ignore"):
        return (sums[..., 1] / sums[..., 0] + sums[..., 3] / sums[..., 2]) / 2


def _weights_RC(clips: int, seed: int) -> np.ndarray:
    """How often each resample (rows) draws each clip (columns), clips drawn with replacement."""
    return np.random.default_rng(seed).multinomial(clips, np.full(clips, 1 / clips), size=RESAMPLES)


def _defined(sums_C4: np.ndarray) -> bool:
    return bool(sums_C4[:, 0].any() and sums_C4[:, 2].any())


def _percentiles(values_R: np.ndarray) -> list[float]:
    # A resample without one of the two gold answers has no balanced accuracy; it is left out.
    return [float(value) for value in np.nanpercentile(values_R, INTERVAL)]


def _interval(sums_C4: np.ndarray, seed: int) -> list[float] | None:
    """95 % percentile bootstrap interval over clips, not questions: those of one clip stand or fall together."""
    return _percentiles(_balanced(_weights_RC(len(sums_C4), seed) @ sums_C4)) if _defined(sums_C4) else None


def write_scores(path: Path, scores: Mapping[str, Any]) -> None:
    """Write scores as JSON, whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(scores, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    partial.replace(path)


def _tables(scores: Mapping[str, Any]) -> Iterable[Table]:
    def number(value: float | None) -> str:
        return "–" if value is None else f"{value:.3f}"

    interval = scores["balanced_accuracy_ci"]
    choice = scores["choice"]
    table = Table("metric", "value", "trivial baseline", "n", title="Scores")
    for row in (
        ("balanced accuracy (mean of both recalls)", "balanced_accuracy", "0.500 constant answer", "n_binary"),
        ("accuracy", "accuracy", f"{number(scores['always_no_accuracy'])} always No", "n_binary"),
        ("", None, f"{number(scores['always_yes_accuracy'])} always Yes", None),
        ("Yes recall", "yes_recall", "", "n_binary"),
        ("No recall", "no_recall", "", "n_binary"),
        ("format rate", "format_rate", "", "n"),
        (
            "observation fidelity",
            "observation_fidelity",
            f"{number(scores['constant_observation_fidelity'])} constant motion",
            "n_motion",
        ),
    ):
        name, key, baseline, n = row
        value = number(scores[key]) if key else ""
        if key == "balanced_accuracy" and interval:
            value += f"  [{interval[0]:.3f}, {interval[1]:.3f}]"
        table.add_row(name, value, baseline, str(scores[n]) if n else "")
    table.add_row("choice accuracy", number(choice["accuracy"]), f"{number(choice['chance'])} chance", str(choice["n"]))
    table.caption = (
        f"Interval: 95 % bootstrap over {scores['n_clips']} clips, {RESAMPLES} resamples. Of {scores['n']} responses: "
        + ", ".join(f"{scores[key]} {key.replace('_', ' ')}" for key in (*OUTCOMES, "truncated"))
        + ". All but right count as wrong; truncated cuts across."
    )
    yield table

    if scores["per_primitive"]:
        table = Table("asked motion", "n", "balanced accuracy", "Yes recall", "No recall", title="Per primitive")
        for asked, s in scores["per_primitive"].items():
            table.add_row(asked, str(s["n"]), *(number(s[k]) for k in ("balanced_accuracy", "yes_recall", "no_recall")))
        yield table
    if scores["confusable"]:
        table = Table("true motion", "asked motion", "n", "said Yes (wrongly)", title="Confusable pairs")
        for pair in scores["confusable"]:
            table.add_row(pair["motion"], pair["asked"], str(pair["n"]), number(pair["said_yes"]))
        yield table


def main(
    samples_file: Annotated[Path, typer.Argument(metavar="SAMPLES.jsonl")],
    predictions_file: Annotated[Path, typer.Argument(metavar="PREDICTIONS.jsonl")],
    out: Annotated[Path | None, typer.Option(help="Also write the scores there, as JSON.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the bootstrap.")] = 0,
) -> None:
    """Score the predictions of one model."""
    try:
        samples = list(read_samples(samples_file))
        scores = score(samples, read_predictions(predictions_file, {sample.id for sample in samples}), seed)
        if out:
            write_scores(out, scores)
    except (SampleError, PredictionError, OSError) as error:
        Console(stderr=True).print(f"error: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(1) from error
    console = Console()
    for table in _tables(scores):
        console.print(table)


if __name__ == "__main__":
    typer.run(main)
