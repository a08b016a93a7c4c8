"""Accuracy of an answer by task, in [0, 1]. Reward and evaluation call the same functions.

An answer that cannot be read is worth 0; a sample that cannot be scored is an error. Metrics and
answer formats are those of the data sets' own papers; docs/rewards.md lists them.
"""

import json
from collections.abc import Callable, Mapping
from functools import cache
from string import ascii_uppercase
from typing import Any, Literal

from rewards.errors import UserError
from rewards.geometry import box_iou, union_iou
from rewards.reading import MAX_ANSWER, boxes, chosen_option, number, spans

Regression = Literal["mra", "relative_error"]


class TaskError(UserError):
    """A sample that cannot be scored; the message names its id."""


def accuracy(
    answer: str,
    sample: Mapping[str, Any],
    glue: str | None = None,
    stemmer: bool = False,
    regression: Regression = "mra",
) -> float:
    """Accuracy of `answer`, in [0, 1], by the sample's task.

    Args:
        answer: the text of <answer>.
        sample: a sample's fields: `task`, and what its task needs of `answer`, `options`, `spans`, `boxes`.
        glue: the text of <glue> (`grounded_qa`); None if the schema has none: then the answer alone counts.
        stemmer: whether ROUGE (`open_ended`) compares the stems of English words, as Video-R1's code has it.
        regression: rule of that task: `mra`, which evaluations take, or `relative_error`, Video-R1's training reward.

    Raises:
        ValueError, KeyError: a malformed sample, or a task that needs a judge; never because of `answer` or `glue`.

    Example:
        >>> accuracy("B. Yes", {"task": "binary", "options": ["No", "Yes"], "answer": "B"})
        1.0
        >>> accuracy("5", {"task": "regression", "answer": "4"})
        0.5
    """
    if sample["task"] not in RULES:
        raise ValueError(f"task {sample['task']!r} has no rule that scores it (choose from {', '.join(RULES)})")
    if len(answer) > MAX_ANSWER:
        answer = ""
    settings: dict[str, dict[str, Any]] = {"open_ended": {"stemmer": stemmer}, "regression": {"rule": regression}}
    right = RULES[sample["task"]](answer, sample, **settings.get(sample["task"], {}))
    if sample["task"] == "grounded_qa" and glue is not None:
        return (right + glue_iou(glue, sample)) / 2
    return right


# Tasks whose answer a text about the clip can support; spans, boxes, captions and grades of quality are none.
TEXT_TASKS = ("binary", "choice", "grounded_qa", "numerical", "regression", "ocr", "open_ended", "math")

# What the rules below read, in the words of an instruction ("give ... in <answer> </answer>").
_LETTER = "the letter of the right option"
_BOXES = "in the units of the question"
ANSWER_FORMS: Mapping[str, str] = {
    "binary": _LETTER,
    "choice": _LETTER,
    "grounded_qa": _LETTER,
    "quality": _LETTER,
    "numerical": "the number alone, without a unit",
    "regression": "the number alone, without a unit",
    "ocr": "the text alone, as it is written in the video",
    "open_ended": "the answer in a short phrase or sentence",
    "math": "the result alone, as a number or formula",
    "temporal_grounding": "start and end in seconds, as in 12.5 to 17.8",
    "spatial_grounding": f"the box as [x0, y0, x1, y1], {_BOXES}",
    "tracking": f"the boxes in order as [[x0, y0, x1, y1], ...], one for each moment asked for, {_BOXES}",
    "caption": "the description",
}


def check_sample(sample: Mapping[str, Any]) -> None:
    """Check, before any training, that the sample can be scored: its own answer must be worth 1.

    Raises:
        TaskError: naming the sample and what is wrong.
    """
    if (count := len(sample.get("options") or ())) > len(ascii_uppercase):
        raise TaskError(f"sample {sample.get('id')!r}: {count} options, which 26 letters cannot name")
    try:
        if sample["task"] == "caption":
            right = 1.0 if sample["events"] and all(event.strip() for event in sample["events"]) else 0.0
        else:
            gold = gold_answer(sample)
            glue = json.dumps(sample["spans"]) if sample["task"] == "grounded_qa" else None
            right = accuracy(gold, sample, glue)
            if right == 1 and sample.get("options"):  # options must differ in more than case and spacing
                text = sample["options"][ascii_uppercase.index(gold)]
                right = accuracy(text, sample, glue) if text.strip().upper() not in tuple(ascii_uppercase) else right
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise TaskError(f"sample {sample.get('id')!r}: {error}") from error
    if right != 1:
        raise TaskError(f"sample {sample['id']!r}: its own answer is worth {right:g} instead of 1 as {sample['task']}")


def gold_answer(sample: Mapping[str, Any]) -> str:
    """An answer that is worth 1."""
    field = {"temporal_grounding": "spans", "spatial_grounding": "boxes", "tracking": "boxes"}.get(sample["task"])
    return json.dumps(sample[field]) if field else sample["answer"]


def _option(answer: str, sample: Mapping[str, Any]) -> float:
    gold, options = sample["answer"], sample["options"]
    if len(gold) != 1 or gold not in ascii_uppercase[: len(options)]:
        raise ValueError(f"gold answer {gold!r} is not a letter of the {len(options)} options")
    chosen = chosen_option(answer, options)
    # Of equal options (a few questions of published sets have some) either counts.
    return float(chosen is not None and options[chosen] == options[ascii_uppercase.index(gold)])


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
        raise ValueError(f"gold answer {sample['answer']!r} is not a number")
    return gold


def _numerical(answer: str, sample: Mapping[str, Any]) -> float:
    """Equal to two decimals (Video-R1, which also asks for the same notation: here 3.0 equals 3)."""
    gold, predicted = _number_of(sample), number(answer)
    return 0.0 if predicted is None else float(round(predicted, 2) == round(gold, 2))


def closeness(predicted: float, gold: float) -> float:
    """1 - |predicted - gold| / |gold|, at least 0 (Video-R1's training reward). A gold of 0 is met by 0 alone.

    Example:
        >>> [closeness(said, 4) for said in (4, 5, 0.5, 9)]
        [1.0, 0.75, 0.125, 0.0]
    """
    return float(predicted == 0) if gold == 0 else max(0.0, 1.0 - abs(predicted - gold) / abs(gold))


def _regression(answer: str, sample: Mapping[str, Any], rule: Regression = "mra") -> float:
    gold, predicted = _number_of(sample), number(answer)
    if predicted is None:
        return 0.0
    return mra(predicted, gold) if rule == "mra" else closeness(predicted, gold)


# ---------------------------------------------------------------- texts


def _ocr(answer: str, sample: Mapping[str, Any]) -> float:
    """1 - word error rate, at least 0."""
    from jiwer import wer

    if not sample["answer"].strip():
        raise ValueError("the gold answer is empty")
    return max(0.0, 1.0 - float(wer(sample["answer"], answer)))


def _open_ended(answer: str, sample: Mapping[str, Any], stemmer: bool = False) -> float:
    """Mean F of ROUGE-1, ROUGE-2 and ROUGE-L (Video-R1); without ROUGE-2 where the gold answer is a single word."""
    scorer, words = _rouge(stemmer)
    size = len(words.tokenize(sample["answer"]))
    if size == 0:
        raise ValueError(f"gold answer {sample['answer']!r} has no word that ROUGE can count")
    scores = scorer.score(sample["answer"], answer)
    names = ("rouge1", "rouge2", "rougeL") if size > 1 else ("rouge1", "rougeL")
    return float(sum(scores[name].fmeasure for name in names) / len(names))


@cache
def _rouge(stemmer: bool) -> tuple[Any, Any]:
    from rouge_score.rouge_scorer import RougeScorer

    from rewards.words import Words

    words = Words(stemmer)
    return RougeScorer(["rouge1", "rouge2", "rougeL"], tokenizer=words), words


def _math(answer: str, sample: Mapping[str, Any]) -> float:
    from rewards.maths import equal

    return float(equal(answer, sample["answer"]))


def glue_iou(glue: str, sample: Mapping[str, Any]) -> float:
    """IoU of unions of the spans in <glue> and the sample's (VideoChat-R1, grounded QA); 0 if it is not spans."""
    predicted = spans(glue) if len(glue) <= MAX_ANSWER else None
    return union_iou(predicted, sample["spans"]) if predicted else 0.0


def _temporal(answer: str, sample: Mapping[str, Any]) -> float:
    return glue_iou(answer, sample)


def _boxes(answer: str, sample: Mapping[str, Any]) -> float:
    """Mean IoU over the gold boxes: one, or one per frame (by `extras.seconds`, if any). A missing one counts 0."""
    gold = sample["boxes"]
    if not gold:
        raise ValueError("the sample has no gold box")
    numbers = sample.get("extras", {}).get("seconds")
    predicted = boxes(answer, len(gold), numbers) or [None] * len(gold)
    return sum(box_iou(p, g) for p, g in zip(predicted, gold) if p is not None) / len(gold)


RULES: dict[str, Callable[..., float]] = {
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
