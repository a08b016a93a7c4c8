"""Accuracy of an answer by task, in [0, 1]. Reward and evaluation call the same functions.

An answer that cannot be read is worth 0, whatever it holds; a sample that cannot be scored is an error. Metrics and
answer formats are those of the data sets' own papers; docs/rewards.md lists them.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from math import isfinite
from string import ascii_uppercase
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rewards.judge import Judge, Unjudged

MAX_ANSWER = 10_000  # characters; a longer text is no answer, and bounds the time that scoring takes

Span = Sequence[float]  # [start, end] in seconds
Box = Sequence[float]  # [x0, y0, x1, y1]


class TaskError(ValueError):
    """A sample that cannot be scored; the message names its id."""


def accuracy(answer: str, sample: Mapping[str, Any], glue: str | None = None) -> float:
    """How right `answer` is, in [0, 1], by the sample's task.

    Args:
        answer: the text of <answer>.
        sample: a sample's fields: `task`, and what its task needs of `answer`, `options`, `spans`, `boxes`.
        glue: the text of <glue> (`grounded_qa`); None where the schema has none, and the answer alone counts.

    Raises:
        ValueError, KeyError: a malformed sample, or a task that needs a judge; never because of `answer` or `glue`.
    """
    if sample["task"] not in _BY_TASK:
        raise ValueError(f"task {sample['task']!r} has no rule that scores it (choose of {', '.join(_BY_TASK)})")
    if len(answer) > MAX_ANSWER:
        answer = ""
    right = _BY_TASK[sample["task"]](answer, sample)
    if sample["task"] == "grounded_qa" and glue is not None:
        return (right + glue_iou(glue, sample)) / 2
    return right


async def event_recall(caption: str, sample: Mapping[str, Any], judge: "Judge") -> "float | Unjudged":
    """Share of the sample's events that `caption` entails by `judge` (VideoChat-R1, equation 6); or UNJUDGED."""
    from rewards.judge import UNJUDGED

    verdicts = await judge.entailed(sample["events"], caption[:MAX_ANSWER])
    return UNJUDGED if verdicts is UNJUDGED else sum(verdicts) / len(sample["events"])


def check_sample(sample: Mapping[str, Any]) -> None:
    """Check, before any training, that the sample can be scored: its own answer must be worth 1.

    Raises:
        TaskError: naming the sample and what is wrong.
    """
    try:
        if sample["task"] == "caption":
            right = 1.0 if sample["events"] and all(event.strip() for event in sample["events"]) else 0.0
        else:
            gold = gold_answer(sample)
            glue = json.dumps(sample["spans"]) if sample["task"] == "grounded_qa" else None
            right = accuracy(gold, sample, glue)
            if right == 1 and sample.get(
                "options"
            ):  # options that differ in case or spacing alone cannot be told apart
                right = accuracy(sample["options"][ascii_uppercase.index(gold)], sample, glue)
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise TaskError(f"sample {sample.get('id')!r}: {error}") from error
    if right != 1:
        raise TaskError(f"sample {sample['id']!r}: its own answer is worth {right:g} instead of 1 as {sample['task']}")


def gold_answer(sample: Mapping[str, Any]) -> str:
    """An answer that is worth 1."""
    field = {"temporal_grounding": "spans", "spatial_grounding": "boxes", "tracking": "boxes"}.get(sample["task"])
    return json.dumps(sample[field]) if field else sample["answer"]


# ---------------------------------------------------------------- options

_LETTER = re.compile(r"\(?([A-Za-z])\)?(?:[.):].*)?", re.DOTALL)


def chosen_option(answer: str, options: Sequence[str]) -> int | None:
    """Index of the option that `answer` names by letter ("B", "(b)", "B. Yes") or by its text; None when it names none.

    A letter followed by the text of another option names none.
    """
    texts = [_bare(option) for option in options]
    if (bare := _bare(answer)) and bare in texts:
        return texts.index(bare)
    match = _LETTER.fullmatch(answer.strip())
    if match is None or (index := ascii_uppercase.index(match[1].upper())) >= len(options):
        return None
    rest = _bare(answer.strip()[match.end(1) :].lstrip(").: "))
    return index if rest in ("", texts[index]) else None


def _bare(text: str) -> str:
    """Without case, outer white space and a full stop at its end."""
    return text.strip().casefold().rstrip(".")


def _option(answer: str, sample: Mapping[str, Any]) -> float:
    gold, options = sample["answer"], sample["options"]
    if len(gold) != 1 or gold not in ascii_uppercase[: len(options)]:
        raise ValueError(f"gold answer {gold!r} is no letter of the {len(options)} options")
    return float(chosen_option(answer, options) == ascii_uppercase.index(gold))


# ---------------------------------------------------------------- numbers

_NUMBER = re.compile(r"[-+]?(?=\.?[0-9])(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]{1,3})?")


def number(text: str) -> float | None:
    """The one number that `text` is, with or without thousands separators; None when it is none, or infinite."""
    text = text.strip().removesuffix(".")
    if _NUMBER.fullmatch(text) is None:
        return None
    value = float(text.replace(",", ""))
    return value if isfinite(value) else None


def mra(predicted: float, gold: float) -> float:
    """Mean relative accuracy: share of theta in .50, .55, ..., .95 with |predicted - gold| / |gold| < 1 - theta.

    Strictly less, as the papers write it (VSI-Bench's code has <=). A gold of 0 is met by 0 alone.
    """
    if gold == 0:
        return float(predicted == 0)
    twentieths = 20 * (abs(predicted - gold) / abs(gold))
    return sum(twentieths < threshold for threshold in range(1, 11)) / 10


def _number_of(sample: Mapping[str, Any]) -> float:
    gold = number(sample["answer"])
    if gold is None:
        raise ValueError(f"gold answer {sample['answer']!r} is no number")
    return gold


def _numerical(answer: str, sample: Mapping[str, Any]) -> float:
    """Equal to two decimals (Video-R1, which also asks for the same notation: here 3.0 equals 3)."""
    gold, predicted = _number_of(sample), number(answer)
    return 0.0 if predicted is None else float(round(predicted, 2) == round(gold, 2))


def _regression(answer: str, sample: Mapping[str, Any]) -> float:
    gold, predicted = _number_of(sample), number(answer)
    return 0.0 if predicted is None else mra(predicted, gold)


# ---------------------------------------------------------------- texts


def _ocr(answer: str, sample: Mapping[str, Any]) -> float:
    """1 - word error rate, at least 0."""
    from jiwer import wer

    if not sample["answer"].strip():
        raise ValueError("the gold answer is empty")
    return max(0.0, 1.0 - wer(sample["answer"], answer))


def _open_ended(answer: str, sample: Mapping[str, Any]) -> float:
    """Mean F of ROUGE-1, ROUGE-2 and ROUGE-L (Video-R1); without ROUGE-2 where the gold answer is a single word."""
    scorer, words = _rouge()
    size = len(words.tokenize(sample["answer"]))
    if size == 0:
        raise ValueError(f"gold answer {sample['answer']!r} holds no word that ROUGE can count")
    scores = scorer.score(sample["answer"], answer)
    names = ("rouge1", "rouge2", "rougeL") if size > 1 else ("rouge1", "rougeL")
    return sum(scores[name].fmeasure for name in names) / len(names)


@cache
def _rouge() -> tuple[Any, Any]:
    from rouge_score.rouge_scorer import RougeScorer
    from rouge_score.tokenizers import DefaultTokenizer

    words = DefaultTokenizer(use_stemmer=False)  # the Porter stemmer recurses: a word of a thousand y's overflows it
    return RougeScorer(["rouge1", "rouge2", "rougeL"], tokenizer=words), words


def _math(answer: str, sample: Mapping[str, Any]) -> float:
    from rewards.maths import equal

    return float(equal(answer, sample["answer"]))


# ---------------------------------------------------------------- spans and boxes

_TO = re.compile(r"([0-9.]+) ?(?:s|sec|seconds)? ?(?:to|-|–|,) ?([0-9.]+) ?(?:s|sec|seconds)?")
_AS_JSON = str.maketrans("()'", '[]"')  # Python's tuples and quotes


def spans(text: str) -> list[Span] | None:
    """The spans that `text` is: "12.5 to 17.8", "[(5.2, 10.4), (12, 13)]", '{"time": [5.2, 10.4]}'.

    None when it is none, or one of them is no 0 <= start < end.
    """
    if match := _TO.fullmatch(" ".join(text.lower().split()).removesuffix(".")):
        found = [[number(match[1]), number(match[2])]]
    else:
        found = _literal(text)
        if isinstance(found, dict):
            found = found.get("time")
        if _numbers(found, 2):
            found = [found]
    if not isinstance(found, list) or not found or not all(_numbers(span, 2) for span in found):
        return None
    return found if all(0 <= start < end for start, end in found) else None


def temporal_iou(predicted: Span, gold: Span) -> float:
    """Intersection over union of two spans (VideoChat-R1, equation 4)."""
    return union_iou([predicted], [gold])


def union_iou(predicted: Sequence[Span], gold: Sequence[Span]) -> float:
    """Intersection over union of all that `predicted` covers and all that `gold` covers, in seconds."""
    predicted, gold = _merged(predicted), _merged(gold)
    common = sum(max(0.0, min(p[1], g[1]) - max(p[0], g[0])) for p in predicted for g in gold)
    covered = sum(end - start for start, end in predicted) + sum(end - start for start, end in gold) - common
    return min(1.0, common / covered)


def _merged(spans: Sequence[Span]) -> list[Span]:
    merged: list[list[float]] = []
    for start, end in sorted(spans):
        if merged and start <= merged[-1][1]:
            merged[-1][1] = max(end, merged[-1][1])
        else:
            merged.append([start, end])
    return merged


def boxes(text: str, count: int) -> list[Box | None] | None:
    """The `count` boxes that `text` is, in order: "[[x0, y0, x1, y1], ...]" or '{"boxes": {"1": [...], ...}}'.

    A single one may also be "[x0, y0, x1, y1]" or '{"boxes": [...]}'. In a list of `count` all must be there; by frame
    number (from 1) the missing ones are None. None when it is none of these.
    """
    found = _literal(text)
    if isinstance(found, dict):
        found = found.get("boxes")
    if isinstance(found, dict):
        found = [found.get(str(frame)) for frame in range(1, count + 1)]
    elif _numbers(found, 4):
        found = [found]
    if not isinstance(found, list) or len(found) != count:
        return None
    return [box if _numbers(box, 4) else None for box in found]


def box_iou(predicted: Box, gold: Box) -> float:
    """Intersection over union of two boxes; 0 where `predicted` has no area."""
    width, height = predicted[2] - predicted[0], predicted[3] - predicted[1]
    if width <= 0 or height <= 0:
        return 0.0
    common = max(0.0, min(predicted[2], gold[2]) - max(predicted[0], gold[0]))
    common *= max(0.0, min(predicted[3], gold[3]) - max(predicted[1], gold[1]))
    covered = width * height + (gold[2] - gold[0]) * (gold[3] - gold[1]) - common
    return min(1.0, common / covered)


def glue_iou(glue: str, sample: Mapping[str, Any]) -> float:
    """IoU of unions of the spans in <glue> and the sample's (VideoChat-R1, grounded QA); 0 when it is no spans."""
    predicted = spans(glue) if len(glue) <= MAX_ANSWER else None
    return union_iou(predicted, sample["spans"]) if predicted else 0.0


def _temporal(answer: str, sample: Mapping[str, Any]) -> float:
    return glue_iou(answer, sample)


def _boxes(answer: str, sample: Mapping[str, Any]) -> float:
    """Mean IoU over the gold boxes: one, or one per frame. A frame without a box counts 0."""
    gold = sample["boxes"]
    if not gold:
        raise ValueError("there is no gold box")
    predicted = boxes(answer, len(gold)) or [None] * len(gold)
    return sum(box_iou(p, g) for p, g in zip(predicted, gold) if p is not None) / len(gold)


def _literal(text: str) -> Any:
    """JSON, or the same in Python's tuples and quotes, all numbers as floats; None when it is neither."""
    try:
        return json.loads(
            text.translate(_AS_JSON), parse_int=float, parse_constant=_refuse, object_pairs_hook=_without_repetition
        )
    except (ValueError, RecursionError):
        return None


def _refuse(constant: str) -> None:
    raise ValueError(constant)  # NaN, Infinity


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) < len(pairs):
        raise ValueError("a key stands twice")
    return dict(pairs)


def _numbers(value: Any, count: int) -> bool:
    """Whether `value` is a list of `count` finite numbers."""
    return isinstance(value, list) and len(value) == count and all(type(v) is float and isfinite(v) for v in value)


_BY_TASK: dict[str, Callable[[str, Mapping[str, Any]], float]] = {
    "binary": _option,
    "choice": _option,
    "numerical": _numerical,
    "regression": _regression,
    "ocr": _ocr,
    "open_ended": _open_ended,
    "math": _math,
    "temporal_grounding": _temporal,
    "spatial_grounding": _boxes,
    "tracking": _boxes,
    "grounded_qa": _option,
    "quality": _option,
}
